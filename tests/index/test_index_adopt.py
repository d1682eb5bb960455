"""What a node does with cells from the hub: held entries, snapshots, rebinding, parking, holders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ghostfs.content import BLOCK_SIZE, BlockList
from ghostfs.errors import DriftError
from ghostfs.index import Index, SnapshotPosition
from ghostfs.model import (
    HELD,
    ROOT,
    Backing,
    Cursor,
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


def store(index: Index, inode: Inode, *places: tuple[int, bytes]) -> None:
    with index.adopt() as adopt:
        adopt.store_inode(inode)
        for parent, name in places:
            adopt.store_dirent(Dirent(InodeId(parent), name, inode.id, inode.seq))


def move(index: Index, inode: InodeId, source: tuple[int, bytes], to: tuple[int, bytes]) -> None:
    with index.adopt() as adopt:
        adopt.forget_dirent(InodeId(source[0]), source[1])
        adopt.store_dirent(Dirent(InodeId(to[0]), to[1], inode, Seq(9)))


def test_cells_are_stored_as_given(index: Index, make_file: MakeFile) -> None:
    file = make_file(
        FILE, attr_seq=Seq(40), content_seq=Seq(41), origin=Replica(3), backing=Backing(2**63, 1)
    )
    store(index, file, (ROOT, b"a"))
    assert index.inode(FILE) == file
    changed = replace(make_file(FILE, attr_seq=Seq(42), content_seq=Seq(43)), backing=Backing(7, 8))
    store(index, changed)
    assert index.inode(FILE) == changed
    assert index.by_backing(7) == [changed]
    assert index.by_backing(2**63) == []
    index.check()


def test_the_cursor_is_set_with_the_cells(index: Index, path: Path, make_file: MakeFile) -> None:
    with index.adopt() as adopt:
        adopt.store_inode(make_file(FILE, attr_seq=Seq(8), content_seq=Seq(8)))
        adopt.store_dirent(Dirent(ROOT, b"a", FILE, Seq(9)))
        adopt.set_cursor(Epoch(77), Seq(9))
    index.close()
    with Index.open(path) as again:
        assert again.cursor() == Cursor(Epoch(77), Seq(9))
        assert (again.epoch, again.head()) == (77, 9)


def test_a_snapshot_in_progress_leaves_no_usable_cursor(index: Index) -> None:
    with index.adopt() as adopt:
        adopt.set_cursor(Epoch(77), Seq(9))
    with index.adopt() as adopt:
        adopt.mark_stale()
        adopt.set_snapshot(b"s" * 16, 12)
    assert index.cursor() is None
    assert index.snapshot() == SnapshotPosition(b"s" * 16, 12)
    with index.adopt(Seq(20)) as adopt:
        adopt.set_cursor(Epoch(78), Seq(20))
    assert index.snapshot() is None
    assert index.cursor() == Cursor(Epoch(78), Seq(20))


def test_drift_that_is_expected_not_to_be_rolls_back(index: Index, make_file: MakeFile) -> None:
    before = index.state()
    with (
        pytest.raises(DriftError, match="nothing was adopted"),
        index.adopt(fingerprint_expected=1) as adopt,
    ):
        adopt.store_inode(make_file(FILE))
    assert index.state() == before
    with index.adopt(fingerprint_expected=before.fingerprint):
        pass


def test_what_is_held_is_not_in_the_fingerprint(index: Index, make_file: MakeFile) -> None:
    empty = index.fingerprint()
    store(index, make_file(FILE), (ROOT, b"a"))
    with_file = index.fingerprint()
    move(index, FILE, (ROOT, b"a"), (HELD, b"64"))
    assert index.fingerprint() == empty
    assert index.links(FILE) == [(HELD, b"64")]
    index.check()
    # What happens to it while it is held does not show either.
    store(index, make_file(FILE, mode=0))
    assert index.fingerprint() == empty
    with index.commit() as commit:
        commit.put_inode(make_file(FILE, mode=0o600), attrs=True, content=True)
    assert index.fingerprint() == empty
    index.check()
    move(index, FILE, (HELD, b"64"), (ROOT, b"b"))
    assert index.fingerprint() not in (empty, with_file)
    index.check()
    move(index, FILE, (ROOT, b"b"), (HELD, b"64"))
    with index.adopt() as adopt:
        adopt.store_dirent(Dirent(HELD, b"64", None))
        assert adopt.orphans() == [FILE]
        adopt.drop_inode(FILE)
        assert adopt.fingerprint == empty
    assert index.fingerprint() == empty
    assert index.counts().tombstones == 0
    index.check()


def test_a_held_name_beside_another_one_changes_nothing_but_the_name(
    index: Index, make_file: MakeFile
) -> None:
    store(index, make_file(FILE), (ROOT, b"a"))
    with_one = index.fingerprint()
    store(index, make_file(101), (HELD, b"65"))
    store(index, index.inode(FILE) or make_file(FILE), (HELD, b"64"))
    assert index.fingerprint() == with_one
    with index.adopt() as adopt:
        adopt.forget_dirent(ROOT, b"a")
        adopt.store_dirent(Dirent(ROOT, b"a", FILE))
    assert index.fingerprint() == with_one
    index.check()


def test_stale_is_what_a_snapshot_did_not_mention(index: Index, make_file: MakeFile) -> None:
    for id_, name in ((100, b"kept"), (101, b"gone"), (102, b"held")):
        store(index, make_file(id_), (ROOT, name))
    with index.adopt() as adopt:
        adopt.store_dirent(Dirent(ROOT, b"old tombstone", None, Seq(5)))
        assert adopt.stale_dirents() == []
    with index.adopt() as adopt:
        adopt.mark_stale()
        adopt.forget_dirent(ROOT, b"held")
        adopt.store_dirent(Dirent(HELD, b"66", InodeId(102)))
        adopt.store_dirent(Dirent(ROOT, b"kept", InodeId(100)))
        assert [d.name for d in adopt.stale_dirents()] == [b"gone"]
    assert index.counts().tombstones == 0
    with index.adopt() as adopt:
        adopt.store_dirent(Dirent(ROOT, b"new", InodeId(100)))
        for stale in adopt.stale_dirents(limit=5):
            adopt.forget_dirent(stale.parent, stale.name)
        assert adopt.drop_orphans() == [101]
        assert adopt.stale_dirents() == []
    assert [name for name, _ in index.children(ROOT)] == [b"kept", b"new"]
    index.check()


def test_rebinding_changes_every_mention(path: Path, make_file: MakeFile) -> None:
    with Index.create(path, holders=True) as index:
        directory = Inode(InodeId(50), Kind.DIRECTORY, 0o755, 0, 0, 0)
        file = make_file(60)
        (digest,) = BlockList.decode(file.size, file.blocks).digests.values()
        store(index, directory, (ROOT, b"dir"))
        store(index, file, (50, b"one"), (50, b"two"))
        with index.adopt() as adopt:
            adopt.store_dirent(Dirent(InodeId(50), b"tomb", None, Seq(3)))
            adopt.park(InodeId(60), Seq(1))
        with index.adopt() as adopt:
            adopt.rebind(InodeId(50), InodeId(500))
            adopt.rebind(InodeId(60), InodeId(600))
            with pytest.raises(ValueError, match="already known"):
                adopt.rebind(InodeId(500), InodeId(600))
            with pytest.raises(ValueError, match="root"):
                adopt.rebind(ROOT, InodeId(601))
        assert index.children(ROOT) == [(b"dir", 500)]
        assert index.children(InodeId(500)) == [(b"one", 600), (b"two", 600)]
        assert index.inode(InodeId(60)) is None
        assert index.inode(InodeId(600)) == replace(file, id=InodeId(600))
        assert index.parked() == {600}
        assert index.holders(digest) == [(600, 0)]
        index.check()


def test_parking_lasts_until_the_inode_goes(index: Index, path: Path, make_file: MakeFile) -> None:
    store(index, make_file(FILE), (ROOT, b"a"))
    with index.adopt() as adopt:
        adopt.park(FILE, Seq(4))
        adopt.park(FILE, Seq(5))
        adopt.park(InodeId(101), Seq(5))
    with Index.open(path) as other:
        assert other.parked() == {FILE, 101}
    with index.adopt() as adopt:
        adopt.unpark(InodeId(101))
        adopt.unpark(InodeId(102))
        adopt.drop_inode(FILE)
    assert index.parked() == set()


def test_holders_follow_the_block_lists(path: Path) -> None:
    def cell(id_: int, *digests: bytes) -> Inode:
        listed = BlockList(len(digests) * BLOCK_SIZE, {i: d for i, d in enumerate(digests) if d})
        return Inode(
            InodeId(id_),
            Kind.FILE,
            0,
            0,
            0,
            0,
            size=listed.size,
            digest=listed.digest(),
            blocks=listed.encode(),
        )

    a, b, c = (letter * 16 for letter in (b"a", b"b", b"c"))
    with Index.create(path, holders=True) as index:
        store(index, cell(10, a, b"", a, b))
        store(index, cell(11, b))
        assert index.holders(a) == [(10, 0), (10, 2)]
        assert index.holders(b) == [(10, 3), (11, 0)]
        store(index, cell(10, c, b""))
        assert index.holders(a) == []
        assert index.holders(b) == [(11, 0)]
        with index.adopt() as adopt:
            adopt.drop_inode(InodeId(10))
        assert index.holders(c) == []
        with index.commit() as commit:
            commit.put_inode(cell(11, a), attrs=True, content=True)
        assert (index.holders(a), index.holders(b)) == ([(11, 0)], [])
    with Index.open(path) as index:
        store(index, cell(12, b))
        assert index.holders(b) == []
