"""hub.db: identities that stay, cursors that are kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghostfs.errors import GhostError, IndexDamaged, IndexTooNew, NameTaken
from ghostfs.index import Members
from ghostfs.model import Cursor, Epoch, Seq

ONE, TWO, THREE = (bytes([n]) * 16 for n in (1, 2, 3))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hub.db"


@pytest.fixture
def members(path: Path) -> Iterator[Members]:
    with Members.open(path) as opened:
        yield opened


def test_a_hub_keeps_its_identity(members: Members, path: Path, tmp_path: Path) -> None:
    assert len(members.hub_id) == 16
    with Members.open(path, readonly=True) as again:
        assert again.hub_id == members.hub_id
    with Members.open(tmp_path / "other.db") as other:
        assert other.hub_id != members.hub_id
    with pytest.raises(FileNotFoundError):
        Members.open(tmp_path / "nothing.db", readonly=True)


def test_a_node_keeps_its_number_and_nobody_gets_it_again(members: Members, path: Path) -> None:
    assert members.enrol(ONE, "one") == 1
    assert members.enrol(TWO, "two") == 2
    first = members.node(ONE)
    assert first is not None
    assert members.enrol(ONE, "renamed") == 1
    again = members.node(ONE)
    assert again is not None
    assert (again.name, again.replica, again.first_seen_ns) == ("renamed", 1, first.first_seen_ns)
    assert again.last_seen_ns >= first.last_seen_ns
    assert members.remove_node(TWO)
    assert not members.remove_node(TWO)
    members.close()
    with Members.open(path) as reopened:
        assert reopened.enrol(THREE, "three") == 3
        assert reopened.enrol(TWO, "two") == 4
        assert [(n.name, n.replica) for n in reopened.nodes()] == [("renamed", 1), ("three", 3), ("two", 4)]


def test_a_name_has_one_holder(members: Members) -> None:
    members.enrol(ONE, "one")
    with pytest.raises(NameTaken, match=r"`ghostfs forget one`") as told:
        members.enrol(TWO, "one")
    assert ONE.hex()[:8] in str(told.value)
    assert "--name" in str(told.value)
    assert members.node(TWO) is None
    assert members.enrol(TWO, "two") == 2
    with pytest.raises(NameTaken):
        members.enrol(ONE, "two")  # nor by being called otherwise
    assert members.enrol(ONE, "three") == 1
    assert members.enrol(TWO, "one") == 2
    assert [node.name for node in members.named("one")] == ["one"]


def test_two_that_share_a_name_from_before_go_on(members: Members, path: Path) -> None:
    members.enrol(ONE, "one")
    members.enrol(TWO, "two")
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE node SET name = 'same'")
    raw.close()
    assert (members.enrol(ONE, "same"), members.enrol(TWO, "same")) == (1, 2)
    assert [node.node_id for node in members.named("same")] == [ONE, TWO]
    with pytest.raises(NameTaken):
        members.enrol(THREE, "same")
    assert members.remove_node(ONE)
    assert members.enrol(TWO, "same") == 2


def test_numbers_run_out_with_a_word(members: Members) -> None:
    members._execute("UPDATE hub SET next_replica = 65535")
    assert members.enrol(ONE, "one") == 65535
    with pytest.raises(GhostError, match="have been given"):
        members.enrol(TWO, "two")
    assert members.enrol(ONE, "one") == 65535


@pytest.mark.parametrize("durable", [True, False])
def test_a_cursor_is_kept(members: Members, path: Path, durable: bool) -> None:
    members.enrol(ONE, "one")
    members.join("s", ONE)
    assert members.cursor("s", ONE) is None
    members.acknowledge("s", ONE, Cursor(Epoch(2**63 - 1), Seq(12)), b"f" * 16, durable=durable)
    members.join("s", ONE)
    members.close()
    with Members.open(path) as again:
        member = again.membership("s", ONE)
        assert member is not None
        assert member.cursor == again.cursor("s", ONE) == Cursor(Epoch(2**63 - 1), Seq(12))
        assert (member.session, member.node.name, member.fingerprint) == ("s", "one", b"f" * 16)
        assert member.acked_ns > 0
        again.acknowledge("s", ONE, Cursor(Epoch(3), Seq(1)), b"")
        member = again.membership("s", ONE)
        assert member is not None
        assert member.fingerprint is None


def test_only_members_have_cursors(members: Members) -> None:
    with pytest.raises(GhostError, match="let it enrol first"):
        members.join("s", ONE)
    members.enrol(ONE, "one")
    members.acknowledge("s", ONE, Cursor(Epoch(1), Seq(1)))
    assert members.cursor("s", ONE) is None
    assert members.membership("s", ONE) is None


def test_members_come_and_go(members: Members) -> None:
    for node_id, name in ((ONE, "b"), (TWO, "a"), (THREE, "c")):
        members.enrol(node_id, name)
        members.join("s", node_id)
    members.join("t", ONE)
    assert [m.node.name for m in members.members("s")] == ["a", "b", "c"]
    assert members.sessions() == ["s", "t"]
    assert members.leave("s", TWO)
    assert not members.leave("s", TWO)
    assert members.remove_node(THREE)
    assert [m.node.name for m in members.members("s")] == ["b"]
    assert members.remove_session("s") == 1
    assert members.sessions() == ["t"]


def test_tombstones_are_needed_by_the_slowest_of_the_epoch(members: Members) -> None:
    assert members.least_cursor("s", Epoch(1)) is None
    for node_id, cursor in ((ONE, Cursor(Epoch(1), Seq(9))), (TWO, Cursor(Epoch(1), Seq(4)))):
        members.enrol(node_id, f"n{node_id[0]}")
        members.join("s", node_id)
        members.acknowledge("s", node_id, cursor)
    members.enrol(THREE, "new")
    members.join("s", THREE)
    assert members.least_cursor("s", Epoch(1)) == 4
    members.acknowledge("s", TWO, Cursor(Epoch(2), Seq(1)))
    assert members.least_cursor("s", Epoch(1)) == 9


def test_damaged_and_newer_files_are_refused(members: Members, path: Path) -> None:
    members.close()
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version=99")
    raw.close()
    with pytest.raises(IndexTooNew, match="hub database of version 99"):
        Members.open(path)
    path.write_bytes(b"nonsense" * 1000)
    with pytest.raises(IndexDamaged):
        Members.open(path)
