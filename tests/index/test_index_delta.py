"""What a cursor is worth: tombstones, their collection, streams beside commits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ghostfs.index import CursorTooOld, Index
from ghostfs.model import NEVER, ROOT, Inode, InodeId, Seq

MakeFile = Callable[..., Inode]


@pytest.fixture
def index(index: Index, make_file: MakeFile) -> Index:
    """root 1; a 2, 3; b 4, 5; a removed 6."""
    for id_, name in ((10, b"a"), (11, b"b")):
        with index.commit() as commit:
            commit.put_inode(make_file(id_), attrs=True, content=True)
            commit.put_dirent(ROOT, name, InodeId(id_))
    with index.commit() as commit:
        commit.put_dirent(ROOT, b"a", None)
        commit.drop_orphans()
    assert index.head() == 6
    return index


def test_a_delta_holds_what_changed_and_tombstones(index: Index) -> None:
    delta = index.delta_since(Seq(4))
    assert (delta.epoch, delta.since, delta.head) == (index.epoch, 4, 6)
    assert (delta.fingerprint, delta.committed_ns) == (index.fingerprint(), index.committed_ns())
    assert delta.inodes == []
    assert [(d.name, d.inode, d.seq) for d in delta.dirents] == [(b"b", 11, 5), (b"a", None, 6)]
    assert index.delta_since(Seq(6)).dirents == []


def test_after_collection_older_cursors_are_too_old(index: Index, path: Path) -> None:
    assert index.collect_tombstones(Seq(5)) == 0
    index.delta_since(Seq(1))
    fingerprint = index.fingerprint()
    assert index.collect_tombstones(Seq(100)) == 1
    assert index.collect_tombstones(Seq(100)) == 0
    assert index.fingerprint() == fingerprint
    assert index.counts().tombstones == 0
    for ask in (index.delta_since, lambda seq: index.stream_since(seq).__enter__()):
        with pytest.raises(CursorTooOld, match="5 is older than 6"):
            ask(Seq(5))
        ask(Seq(6))
    index.close()
    with Index.open(path) as again:
        with pytest.raises(CursorTooOld):
            again.delta_since(Seq(1))
        # Whoever has nothing has nothing to remove.
        assert [d.name for d in again.delta_since(NEVER).dirents] == [b"b"]
        with again.commit() as commit:
            commit.put_dirent(ROOT, b"b", None)
        assert len(again.delta_since(Seq(6)).dirents) == 1


def test_a_cursor_above_the_head_is_of_another_history(index: Index) -> None:
    with pytest.raises(CursorTooOld, match="above the head"):
        index.delta_since(Seq(7))


def test_a_stream_keeps_to_its_moment_while_others_commit(index: Index, make_file: MakeFile) -> None:
    with index.stream_since(NEVER) as stream:
        dirents = stream.dirents
        assert next(dirents).seq == 5
        with index.commit() as commit:
            commit.put_inode(make_file(12), attrs=True, content=True)
            commit.put_dirent(ROOT, b"c", InodeId(12))
        assert stream.head == 6
        assert [d.seq for d in dirents] == [6]
        assert [i.id for i in stream.inodes] == [ROOT, 11]
        assert [cell.seq for cell in stream.cells()] == [1, 4, 5, 6]
    with pytest.raises(ValueError, match="not open"):
        next(stream.inodes)
    assert index.head() == 8


def test_a_stream_holds_one_cell_at_a_time(index: Index, make_file: MakeFile) -> None:
    import tracemalloc

    with index.commit() as commit:
        for id_ in range(100, 120):
            commit.put_inode(make_file(id_, blocks=10_000), attrs=True, content=True)
            commit.put_dirent(ROOT, b"%d" % id_, InodeId(id_))
    tracemalloc.start()
    try:
        with index.stream_since(NEVER) as stream:
            total = sum(len(cell.blocks) for cell in stream.cells() if isinstance(cell, Inode))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total > 20 * 160_000
    assert peak < 3 * 160_000
