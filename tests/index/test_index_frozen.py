"""Snapshots: order, completeness, resumption from anywhere, bounded chunks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ghostfs.errors import IndexDamaged
from ghostfs.index import Chunk, Frozen, Index
from ghostfs.model import HELD, ROOT, Dirent, Inode, InodeId, Kind, Seq

MakeFile = Callable[..., Inode]


def chunks(frozen: Frozen, position: int = 0, cells: int = 7, size: int = 1 << 20) -> Iterator[Chunk]:
    while True:
        chunk = frozen.chunk(position, cells, size)
        yield chunk
        if chunk.last:
            return
        assert chunk.position > position
        position = chunk.position


@pytest.fixture
def grown(index: Index, make_file: MakeFile) -> Index:
    """A tree of random shape, with hard links, tombstones, a held file and an inode nobody names."""
    source = random.Random(4)
    directories = [ROOT]
    with index.commit() as commit:
        # Ids grow downwards, so that tree order is not the order of ids.
        for id_ in range(5000, 4500, -1):
            parent = source.choice(directories[-20:])
            if id_ % 4 == 0:
                inode = Inode(InodeId(id_), Kind.DIRECTORY, 0o755, 0, 0, 0)
                directories.append(inode.id)
            else:
                inode = make_file(id_, blocks=id_ % 3)
            commit.put_inode(inode, attrs=True, content=True)
            commit.put_dirent(parent, b"\xff%d" % id_, inode.id)
            if id_ % 5 == 1 and inode.kind is Kind.FILE:
                for _ in range(2):
                    commit.put_dirent(
                        source.choice(directories), b"link%d" % source.getrandbits(40), inode.id
                    )
            commit.put_dirent(ROOT, b"t%d" % id_, inode.id)
            commit.put_dirent(ROOT, b"t%d" % id_, None)
        commit.put_inode(make_file(9000), attrs=True, content=True)
    with index.adopt() as adopt:
        adopt.store_inode(make_file(9001))
        adopt.store_dirent(Dirent(HELD, b"h", InodeId(9001)))
    return index


def test_every_cell_comes_once_and_parents_first(grown: Index, tmp_path: Path) -> None:
    grown.freeze(tmp_path / "snapshot")
    seen: set[int] = set()
    dirents: list[Dirent] = []
    inodes: list[Inode] = []
    with Frozen.open(tmp_path / "snapshot") as frozen:
        assert frozen.state == grown.state()
        assert len(frozen.snapshot_id) == 16
        for number, chunk in enumerate(chunks(frozen)):
            assert 1 <= len(chunk.inodes) + len(chunk.dirents) <= 7
            new = {inode.id for inode in chunk.inodes}
            assert new.isdisjoint(seen)
            assert (ROOT in new) == (number == 0)
            seen |= new
            for dirent in chunk.dirents:
                assert dirent.parent in seen
                assert dirent.inode in seen
            inodes += chunk.inodes
            dirents += chunk.dirents
        assert frozen.entries == len(dirents) + 1
    assert len(dirents) == len({(d.parent, d.name) for d in dirents})
    assert sorted(dirents, key=lambda d: (d.parent, d.name)) == [
        d for d in grown.all_dirents() if d.parent != HELD
    ]
    by_id = {inode.id: inode for inode in grown.all_inodes(light=False)}
    assert {inode.id: inode for inode in inodes} == {
        id_: i for id_, i in by_id.items() if id_ not in (9000, 9001)
    }
    assert not (tmp_path / "snapshot.partial").exists()
    assert not list(tmp_path.glob("snapshot*-wal"))


def test_it_goes_on_from_any_position(grown: Index, tmp_path: Path) -> None:
    grown.freeze(tmp_path / "snapshot")
    with Frozen.open(tmp_path / "snapshot") as frozen:
        whole = list(chunks(frozen, cells=1 << 30, size=1 << 40))
        assert len(whole) == 1
        for start in range(0, frozen.entries, 37):
            head = frozen.chunk(0, start * 2, 1 << 40) if start else Chunk(0, False, [], [])
            rest = list(chunks(frozen, head.position, cells=91))
            assert head.inodes + [i for chunk in rest for i in chunk.inodes] == whole[0].inodes
            assert head.dirents + [d for chunk in rest for d in chunk.dirents] == whole[0].dirents
        end = frozen.chunk(frozen.entries, 10, 10)
        assert end == Chunk(frozen.entries, True, [], [])


def test_a_chunk_stays_below_its_bytes(index: Index, make_file: MakeFile, tmp_path: Path) -> None:
    with index.commit() as commit:
        for id_ in range(100, 140):
            commit.put_inode(make_file(id_, blocks=2000 if id_ == 120 else 100), attrs=True, content=True)
            commit.put_dirent(ROOT, b"%d" % id_, InodeId(id_))
    index.freeze(tmp_path / "snapshot")
    with Frozen.open(tmp_path / "snapshot") as frozen:
        for chunk in chunks(frozen, cells=1000, size=10_000):
            size = sum(len(i.blocks) for i in chunk.inodes)
            assert size <= 10_000 or [i.id for i in chunk.inodes] == [120]


def test_the_session_goes_on_while_a_snapshot_is_kept(grown: Index, tmp_path: Path) -> None:
    grown.freeze(tmp_path / "one")
    state = grown.state()
    with grown.commit() as commit:
        for name, _ in grown.children(ROOT):
            commit.put_dirent(ROOT, name, None)
        commit.drop_orphans()
    grown.freeze(tmp_path / "two")
    with Frozen.open(tmp_path / "one") as one, Frozen.open(tmp_path / "two") as two:
        assert (one.state, two.state) == (state, grown.state())
        assert one.snapshot_id != two.snapshot_id
        assert two.entries == 1
    grown.freeze(tmp_path / "one")
    with Frozen.open(tmp_path / "one") as again:
        assert again.state == grown.state()


def test_an_index_without_a_root_has_an_empty_snapshot(path: Path, tmp_path: Path) -> None:
    with Index.create(path) as index:
        index.freeze(tmp_path / "snapshot")
    with Frozen.open(tmp_path / "snapshot") as frozen:
        assert frozen.chunk(0, 10, 10) == Chunk(0, True, [], [])


@pytest.mark.parametrize("broken", ["cycle", "dangling"])
def test_what_is_no_tree_is_refused(index: Index, make_file: MakeFile, tmp_path: Path, broken: str) -> None:
    with index.adopt() as adopt:
        adopt.store_inode(Inode(InodeId(10), Kind.DIRECTORY, 0, 0, 0, 0))
        adopt.store_dirent(Dirent(ROOT, b"a", InodeId(10), Seq(1)))
        child = 10 if broken == "cycle" else 11
        adopt.store_dirent(Dirent(InodeId(10), b"b", InodeId(child), Seq(1)))
    with pytest.raises(IndexDamaged):
        index.freeze(tmp_path / "snapshot")
    assert not list(tmp_path.glob("snapshot*"))


def test_something_else_is_no_snapshot(index: Index, path: Path) -> None:
    with pytest.raises(IndexDamaged, match="not a GhostFS snapshot"):
        Frozen.open(path)
    with pytest.raises(FileNotFoundError):
        Frozen.open(path.with_name("nothing"))
