"""Deleted names are remembered for exactly as long as a member may need them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ghostfs.index import Index, Members
from ghostfs.mirror.live.retention import Retention
from ghostfs.model import ROOT, Cursor, Epoch, Inode, InodeId, Kind, Seq

WEEK = 7 * 86400.0


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """Ten names made and deleted: ten tombstones, the last sequences of the index."""
    with Index.create(tmp_path / "index.db") as index:
        with index.commit() as commit:
            commit.put_inode(Inode(ROOT, Kind.DIRECTORY, 0o755, 0, 0, 0), attrs=True, content=True)
            for number in range(10):
                inode = InodeId(100 + number)
                commit.put_inode(Inode(inode, Kind.FIFO, 0o644, 0, 0, 0), attrs=True, content=True)
                commit.put_dirent(ROOT, b"name%d" % number, inode)
        with index.commit() as commit:
            for number in range(10):
                commit.put_dirent(ROOT, b"name%d" % number, None)
            commit.drop_orphans()
        yield index


def member(path: Path, name: str, index: Index, seq: int, *, epoch: int | None = None) -> None:
    with Members.open(path) as members:
        node = name.encode().ljust(16, b".")
        members.enrol(node, name)
        members.join("work", node)
        members.acknowledge("work", node, Cursor(Epoch(epoch or index.epoch), Seq(seq)), None)


def test_nobody_needs_them_without_members(tmp_path: Path, index: Index) -> None:
    assert Retention(tmp_path / "hub.db", "work", WEEK).collect(index) == 10
    assert index.counts().tombstones == 0


def test_the_slowest_member_decides(tmp_path: Path, index: Index) -> None:
    head = index.head()
    member(tmp_path / "hub.db", "quick", index, head)
    member(tmp_path / "hub.db", "slow", index, head - 4)
    assert Retention(tmp_path / "hub.db", "work", WEEK).collect(index) == 6
    assert len(index.delta_since(Seq(head - 4)).dirents) == 4


def test_a_first_sync_under_way_counts_until_it_is_through(tmp_path: Path, index: Index) -> None:
    path, node = tmp_path / "hub.db", b"n" * 16
    head = index.head()
    with Members.open(path) as members:
        members.enrol(node, "new")
        members.join("work", node)
        members.lease("work", node, Cursor(Epoch(index.epoch), Seq(head - 4)))
        assert Retention(path, "work", WEEK).collect(index) == 6
        assert len(index.delta_since(Seq(head - 4)).dirents) == 4
        members.acknowledge("work", node, Cursor(Epoch(index.epoch), head))
        assert members.leases("work") == []
    assert Retention(path, "work", WEEK).collect(index) == 4


def test_a_first_sync_given_up_counts_for_the_retention_time(tmp_path: Path, index: Index) -> None:
    with Members.open(tmp_path / "hub.db") as members:
        members.lease("work", b"n" * 16, Cursor(Epoch(index.epoch), Seq(1)))
    assert Retention(tmp_path / "hub.db", "work", 0.0).collect(index) == 10


def test_a_member_of_another_epoch_needs_a_snapshot_anyway(tmp_path: Path, index: Index) -> None:
    member(tmp_path / "hub.db", "old", index, 1, epoch=index.epoch + 1)
    assert Retention(tmp_path / "hub.db", "work", WEEK).collect(index) == 10


def test_a_member_that_was_silent_for_the_retention_time_does_not_count(
    tmp_path: Path, index: Index
) -> None:
    member(tmp_path / "hub.db", "gone", index, index.head() - 4)
    assert Retention(tmp_path / "hub.db", "work", 0.0).collect(index) == 10


@pytest.mark.allows_log("tombstones_kept")
def test_an_unreadable_hub_keeps_them_all(tmp_path: Path, index: Index) -> None:
    (tmp_path / "hub.db").write_bytes(b"not a database" * 100)
    assert Retention(tmp_path / "hub.db", "work", WEEK).collect(index) == 0
    assert index.counts().tombstones == 10
