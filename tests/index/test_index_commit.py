"""Committing cells: sequences, halves, what is a change and what is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ghostfs.errors import GhostError, InvalidCell
from ghostfs.index import Index
from ghostfs.model import (
    NEVER,
    REPLICA_SHIFT,
    ROOT,
    Backing,
    Dirent,
    Epoch,
    Inode,
    InodeId,
    Kind,
    Replica,
    Seq,
)

MakeFile = Callable[..., Inode]
FILE = InodeId(100)


def test_an_empty_index_has_an_epoch_and_nothing_else(path: Path) -> None:
    with Index.create(path) as index:
        state = index.state()
        assert state.epoch > 0
        assert (state.head, state.fingerprint, state.committed_ns) == (NEVER, 0, 0)
        assert index.inode(ROOT) is None
        assert index.cursor() is None
        assert index.snapshot() is None
    with pytest.raises(FileExistsError):
        Index.create(path)


def test_what_was_committed_is_there_after_reopening(index: Index, path: Path, make_file: MakeFile) -> None:
    file = make_file(FILE, blocks=3, xattrs=b"x", origin=Replica(7), backing=Backing(2**64 - 1, -5))
    link = Inode(InodeId(101), Kind.SYMLINK, 0o777, 1, 2, -1, target=b"\xff\xfe/where")
    with index.commit() as commit:
        assert commit.put_inode(file, attrs=True, content=True) == 2
        assert commit.put_dirent(ROOT, b"caf\xe9\xff", FILE) == 3
        assert commit.put_inode(link, attrs=True, content=True) == 4
        assert commit.put_dirent(ROOT, b"link", link.id) == 5
        assert index.dirent(ROOT, b"link") == link.id
    assert commit.head == 5
    state = index.state()
    assert commit.state() == state
    index.close()
    with Index.open(path, readonly=True) as again:
        assert again.state() == state
        assert again.inode(FILE) == replace(file, attr_seq=Seq(2), content_seq=Seq(2))
        assert again.inode_light(FILE) == replace(file, blocks=b"", attr_seq=Seq(2), content_seq=Seq(2))
        assert again.inode(link.id) == replace(link, attr_seq=Seq(4), content_seq=Seq(4))
        assert again.children(ROOT) == [(b"caf\xe9\xff", FILE), (b"link", link.id)]
        assert again.links(FILE) == [(ROOT, b"caf\xe9\xff")]
        assert [found.id for found in again.by_backing(2**64 - 1)] == [FILE]
        assert [found.id for found in again.all_inodes()] == [ROOT, FILE, link.id]
        assert next(iter(again.all_inodes(light=False))).blocks == b""
        assert [found.name for found in again.all_dirents()] == [b"caf\xe9\xff", b"link"]
        assert again.dirent_cell(ROOT, b"link") == Dirent(ROOT, b"link", link.id, Seq(5))
        assert again.counts().inodes == 3
        assert again.counts().bytes == file.size
        again.check()


def test_each_half_keeps_its_own_sequence(index: Index, make_file: MakeFile) -> None:
    file = make_file(FILE)
    with index.commit() as commit:
        commit.put_inode(file, attrs=True, content=True)
    with index.commit() as commit:
        assert commit.put_inode(replace(file, mode=0o600), attrs=True, content=True) == 3
    now = index.inode(FILE)
    assert now is not None
    assert (now.attr_seq, now.content_seq, now.mode, now.blocks) == (3, 2, 0o600, file.blocks)
    other = make_file(FILE, mode=0o777)
    with index.commit() as commit:
        assert commit.put_inode(other, attrs=False, content=True) == 4
    now = index.inode(FILE)
    assert now is not None
    assert (now.attr_seq, now.content_seq, now.mode, now.blocks) == (3, 4, 0o600, other.blocks)
    index.check()


def test_putting_what_is_there_takes_no_sequence(index: Index, make_file: MakeFile) -> None:
    file = make_file(FILE, backing=Backing(1, 1))
    with index.commit() as commit:
        commit.put_inode(file, attrs=True, content=True)
        commit.put_dirent(ROOT, b"a", FILE)
    before = index.state()
    with index.commit() as commit:
        assert commit.put_inode(replace(file, backing=Backing(1, 2)), attrs=True, content=True) == 2
        assert commit.put_inode(replace(file, mode=0, backing=None), attrs=False, content=True) == 2
        assert commit.put_dirent(ROOT, b"a", FILE) == 3
        assert commit.put_dirent(ROOT, b"never there", None) == NEVER
    assert index.state() == before
    now = index.inode(FILE)
    assert now is not None
    assert now.backing == Backing(1, 2)
    assert index.by_backing(1) == [now]


def test_a_change_of_content_without_backing_makes_the_old_one_unknown(
    index: Index, make_file: MakeFile
) -> None:
    file = make_file(FILE, backing=Backing(5, 5))
    with index.commit() as commit:
        commit.put_inode(file, attrs=True, content=True)
        commit.put_inode(replace(file, mode=0, backing=None), attrs=True, content=False)
        kept = index.inode(FILE)
        assert kept is not None
        assert kept.backing == Backing(5, 5)
        commit.put_inode(make_file(FILE), attrs=True, content=True)
    now = index.inode(FILE)
    assert now is not None
    assert now.backing is None
    with index.commit() as commit:
        commit.set_backing(FILE, Backing(6, 7))
    assert [found.backing for found in index.by_backing(6)] == [Backing(6, 7)]


def test_a_tombstone_is_a_cell_but_no_name(index: Index, make_file: MakeFile) -> None:
    empty = index.fingerprint()
    with index.commit() as commit:
        commit.put_inode(make_file(FILE), attrs=True, content=True)
        commit.put_dirent(ROOT, b"a", FILE)
    with index.commit() as commit:
        assert commit.put_dirent(ROOT, b"a", None, origin=Replica(3)) == 4
        assert commit.put_dirent(ROOT, b"a", None) == 4
        assert commit.orphans() == [FILE]
        assert commit.drop_orphans() == [FILE]
    assert index.dirent(ROOT, b"a") is None
    assert index.children(ROOT) == []
    assert index.dirent_cell(ROOT, b"a") == Dirent(ROOT, b"a", None, Seq(4), Replica(3))
    assert (index.counts().dirents, index.counts().tombstones) == (0, 1)
    assert index.inode(FILE) is None
    assert index.fingerprint() == empty


def test_an_inode_with_a_name_left_is_no_orphan(index: Index, make_file: MakeFile) -> None:
    with index.commit() as commit:
        commit.put_inode(make_file(FILE), attrs=True, content=True)
        commit.put_dirent(ROOT, b"a", FILE)
        commit.put_dirent(ROOT, b"b", FILE)
    with index.commit() as commit:
        commit.put_dirent(ROOT, b"a", None)
        assert commit.orphans() == []
        commit.put_inode(make_file(200), attrs=True, content=True)
        commit.put_dirent(ROOT, b"b", InodeId(200))
        assert commit.drop_orphans() == [FILE]
    assert index.links(FILE) == []
    index.check()


def test_an_exception_takes_everything_back(index: Index, make_file: MakeFile) -> None:
    before = index.state()

    def fail() -> None:
        with index.commit() as commit:
            commit.put_inode(make_file(FILE), attrs=True, content=True)
            commit.set_meta("key", "value")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert index.state() == before
    assert index.meta("key") is None
    assert index.inode(FILE) is None
    with index.commit() as commit:
        commit.set_meta("key", "value")
    assert index.meta("key") == "value"
    assert index.state() == before


@pytest.mark.parametrize(
    "broken", [{"mtime_ns": 1 << 63}, {"mode": 1 << 16}, {"uid": -1}, {"backing": Backing(1, 1 << 64)}]
)
def test_a_number_that_does_not_fit_is_an_invalid_cell(
    index: Index, make_file: MakeFile, broken: dict[str, object]
) -> None:
    before = index.state()
    with pytest.raises(InvalidCell, match="out of range"), index.commit() as commit:
        commit.put_inode(make_file(FILE, **broken), attrs=True, content=True)
    with pytest.raises(InvalidCell, match="out of range"), index.adopt() as adopt:
        adopt.store_dirent(Dirent(ROOT, b"a", InodeId(1 << 64)))
    assert index.state() == before


def test_ids_are_never_handed_out_twice(path: Path) -> None:
    with Index.create(path, replica=Replica(9)) as index:
        first = index.allocate_ids(10)
        assert {id_ >> REPLICA_SHIFT for id_ in first} == {9}
    with Index.open(path) as index:
        assert index.replica == 9
        second = index.allocate_ids(10)
        assert second.start == first.stop
        with pytest.raises(GhostError, match="used up"):
            index.allocate_ids(1 << REPLICA_SHIFT)
        assert index.allocate_ids(1).start == second.stop


def test_another_epoch_makes_every_cursor_worthless(index: Index) -> None:
    before = index.state()
    with index.commit() as commit:
        epoch = commit.new_epoch()
    assert index.state() == replace(before, epoch=epoch)
    assert epoch != before.epoch
    with index.commit() as commit:
        assert commit.new_epoch(Epoch(5)) == 5
    assert index.epoch == 5


def test_other_connections_are_told_of_a_commit(index: Index, path: Path) -> None:
    with Index.open(path, readonly=True) as other:
        before = other.data_version()
        assert other.data_version() == before
        with index.commit() as commit:
            commit.put_dirent(ROOT, b"a", FILE)
        assert other.data_version() != before


def test_a_read_only_index_refuses_to_be_written(index: Index, path: Path) -> None:
    with Index.open(path, readonly=True) as other, pytest.raises(OSError, match="Read-only"):
        other.allocate_ids(1)
    assert index.head() == 1
