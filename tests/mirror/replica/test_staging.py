"""Staged parts, the journal of a plan, the encoding of user attributes: what is on disk for a while."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostfs.errors import IndexDamaged, InvalidCell
from ghostfs.mirror.replica import steps
from ghostfs.mirror.replica.planlog import Objects, Outcome, PlanLog, PlanRecord
from ghostfs.mirror.replica.staging import Staging, staged_name
from ghostfs.mirror.replica.steps import Place
from ghostfs.mirror.xattrs import decode_xattrs, encode_xattrs
from ghostfs.model import HELD, ROOT, Cursor, Dirent, Epoch, Inode, InodeId, Kind, Replica, Seq


def cell(number: int, kind: Kind = Kind.FILE, **fields: object) -> Inode:
    fields.setdefault("digest", b"\x01" * 16 if kind is Kind.FILE else b"")
    return Inode(InodeId(number), kind, 0o644, 1, 2, 3, **fields)  # type: ignore[arg-type]


def test_parts_are_found_again(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "staging")
    one = cell(0xABC, size=1000)
    assert staged_name(one) == b"abc-0101010101010101"
    fd, was_there = staging.open_part(one)
    assert not was_there
    os.pwrite(fd, b"here", 10)
    os.close(fd)
    staging.close()
    staging.close()
    again = Staging(tmp_path / "staging")
    fd, was_there = again.open_part(one)
    assert was_there
    assert os.pread(fd, 4, 10) == b"here"
    os.close(fd)
    other = cell(0xABC, size=1000, digest=b"\x02" * 16)
    (older,) = again.older_parts(other)
    os.close(older)
    again.clean({InodeId(0xABC)})
    assert os.listdir(tmp_path / "staging/new") == ["abc-0101010101010101"]
    again.clean(frozenset())
    assert os.listdir(tmp_path / "staging/new") == []
    again.close()


@pytest.mark.parametrize("what", ["symlink", "other size", "directory"])
def test_parts_that_cannot_be_used_are_replaced(tmp_path: Path, what: str) -> None:
    one = cell(5, size=10)
    Staging(tmp_path / "staging").close()
    path = tmp_path / "staging/new" / os.fsdecode(staged_name(one))
    outside = tmp_path / "outside"
    outside.write_bytes(b"0123456789")
    match what:
        case "symlink":
            path.symlink_to(outside)
        case "directory":
            path.mkdir()
        case _:
            path.write_bytes(b"short")
    staging = Staging(tmp_path / "staging")
    fd, was_there = staging.open_part(one)
    assert not was_there
    os.pwrite(fd, b"x", 0)
    os.close(fd)
    assert outside.read_bytes() == b"0123456789"
    staging.close()


def test_foreign_files_in_staging_go(tmp_path: Path) -> None:
    Staging(tmp_path).close()
    (tmp_path / "new/not ours").write_bytes(b"")
    (tmp_path / "new/dir").mkdir()
    staging = Staging(tmp_path)
    staging.clean(frozenset())
    assert os.listdir(tmp_path / "new") == []
    staging.close()


names = st.binary(min_size=1, max_size=20).filter(lambda name: b"/" not in name and b"\0" not in name)
places = st.builds(Place, st.sampled_from([HELD, ROOT, InodeId(2**62)]), names)
ids = st.integers(1, 2**63 - 1).map(InodeId)
all_steps = st.one_of(
    st.builds(steps.Create, ids, places),
    st.builds(steps.Replace, ids, places, ids),
    st.builds(steps.LinkAt, ids, places, places),
    st.builds(steps.ReplaceWithLink, ids, places, places, ids),
    st.builds(steps.Move, ids, places, places),
    st.builds(steps.MoveOver, ids, places, places, ids),
    st.builds(steps.Exchange, places, places, ids, ids),
    st.builds(steps.Hold, ids, places),
    st.builds(steps.Remove, ids, places),
    st.builds(steps.RemoveDirectory, ids, places),
    st.builds(steps.SetAttributes, ids, st.none() | places),
)
inodes = st.builds(
    Inode,
    ids,
    st.sampled_from(Kind),
    st.integers(0, 0o7777),
    st.integers(0, 2**32 - 2),
    st.integers(0, 2**32 - 2),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 1),
    *[st.binary(max_size=40)] * 4,
    st.integers(0, 2**63 - 1).map(Seq),
    st.integers(0, 2**63 - 1).map(Seq),
    st.integers(0, 65535).map(Replica),
)
dirents = st.builds(Dirent, ids, names, st.none() | ids, st.integers(0, 9).map(Seq), st.just(Replica(7)))
cursors = st.none() | st.builds(Cursor, ids.map(Epoch), st.integers(0, 99).map(Seq))
records = st.builds(
    PlanRecord,
    st.lists(all_steps, max_size=8).map(tuple),
    st.dictionaries(ids, st.builds(Objects, st.none() | ids, st.none() | ids), max_size=4),
    st.builds(
        Outcome,
        st.lists(inodes, max_size=3).map(tuple),
        st.lists(dirents, max_size=3).map(tuple),
        st.lists(places, max_size=3).map(tuple),
        st.lists(st.tuples(ids, st.integers(0, 9).map(Seq)), max_size=3).map(tuple),
        st.lists(ids, max_size=3).map(tuple),
        st.lists(dirents, max_size=3).map(tuple),
        cursors,
        st.none() | st.tuples(st.binary(min_size=16, max_size=16), st.integers(0, 99)),
        cursors,
    ),
)


@given(record=records)
def test_a_plan_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, record: PlanRecord
) -> None:
    fd = os.open(tmp_path_factory.getbasetemp(), os.O_RDONLY)
    journal = PlanLog(fd)
    journal.write(record, sync=False)
    assert journal.read() == record
    journal.clear()
    journal.clear()
    assert journal.read() is None
    os.close(fd)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"format":99}', b'{"format":1,"steps":[["Nonsense"]]}']
)
def test_a_plan_that_is_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "plan.journal").write_bytes(data)
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(IndexDamaged, match=r"plan\.journal"):
        PlanLog(fd).read()
    os.close(fd)


@given(
    st.dictionaries(
        st.binary(min_size=1, max_size=9).filter(lambda n: b"\0" not in n), st.binary(max_size=99)
    )
)
def test_user_attributes_are_read_as_they_were_written(attributes: dict[bytes, bytes]) -> None:
    ours = {b"user." + name: value for name, value in attributes.items()}
    assert decode_xattrs(encode_xattrs(ours)) == ours
    assert encode_xattrs({b"security." + name: value for name, value in attributes.items()}) == b""


@given(st.binary(max_size=60))
def test_one_set_of_attributes_has_one_encoding(data: bytes) -> None:
    try:
        attributes = decode_xattrs(data)
    except InvalidCell:
        return
    assert encode_xattrs(attributes) == data


@pytest.mark.allows_log("xattr_left_out")
def test_too_many_attributes_go_without_the_largest() -> None:
    attributes = {b"user.%d" % number: bytes(60000 + number) for number in range(18)}
    decoded = decode_xattrs(encode_xattrs(attributes))
    del attributes[b"user.17"]
    assert decoded == attributes


def test_too_many_attributes_are_refused() -> None:
    one = encode_xattrs({b"user.a": bytes(600_000)})
    with pytest.raises(InvalidCell, match="too many"):
        decode_xattrs(one + one.replace(b"user.a", b"user.b"))
