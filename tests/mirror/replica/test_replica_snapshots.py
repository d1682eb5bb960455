"""First syncs, and snapshots over a tree that is there: only what differs is fetched, only what is gone goes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ghostfs.content import BLOCK_SIZE
from ghostfs.errors import InvalidCell
from ghostfs.mirror.replica import replica as replica_module
from ghostfs.mirror.replica.sweep import sweep
from ghostfs.model import ROOT

BIG = os.urandom(BLOCK_SIZE * 2 + 10)


def fill(hub: Any, *, variant: int = 0) -> None:
    """A tree; another variant shares most of it."""
    for number in range(6):
        directory = hub.mkdir(ROOT, b"dir%d" % number)
        for other in range(5):
            if other != 4 or number % 2 == variant:
                hub.file(directory, b"file%d" % other, b"%d in %d" % (other, number))
        sub = hub.mkdir(directory, b"sub")
        hub.file(sub, b"big", BIG + b"%d" % number)
        hub.link(hub.index.dirent(directory, b"file0"), sub, b"linked")
        hub.symlink(sub, b"link", b"target%d" % (variant if number == 3 else 0))
    hub.file(ROOT, b"moved%d" % variant, BIG[::-1])


def test_every_chunk_is_a_step_of_its_own(world: Any) -> None:
    fill(world.hub)
    for number, batch in enumerate(world.hub.chunks(5)):
        published = world.node.apply(world.hub, batch)
        if number % 3 == 0:
            world.node.close()  # goes on from its durable position
        position = world.node.replica.position()
        assert position == published.position
        if not batch.snapshot.last:
            assert position.cursor is None
            assert position.snapshot == (batch.snapshot.snapshot_id, batch.snapshot.position)
            assert published.fingerprint is None
    world.assert_equal()


def test_a_chunk_must_follow(world: Any) -> None:
    fill(world.hub)
    chunks = world.hub.chunks(5)
    with pytest.raises(InvalidCell):
        world.node.replica.begin(chunks[1])
    world.node.apply(world.hub, chunks[0])
    world.node.apply(world.hub, chunks[1])
    with pytest.raises(InvalidCell):
        world.node.replica.begin(chunks[1])
    with pytest.raises(InvalidCell):
        world.node.replica.begin(world.hub.chunks(5)[2])
    with pytest.raises(InvalidCell, match="does not follow"):
        world.node.replica.begin(world.hub.delta(world.hub.index.head()))
    for batch in world.hub.chunks(5):  # begun again, from another snapshot
        world.node.apply(world.hub, batch)
    world.assert_equal()


@pytest.mark.parametrize("cells", [3, 11, 1000])
def test_a_snapshot_of_the_same_epoch_over_a_tree(world: Any, cells: int) -> None:
    hub = world.hub
    fill(hub)
    world.node.sync(hub)
    inode = os.stat(world.node.tree / "dir1/sub/big").st_ino
    one, two = hub.index.dirent(ROOT, b"dir1"), hub.index.dirent(ROOT, b"dir2")
    hub.rename(ROOT, b"dir1", two, b"inside")
    hub.rename(two, b"sub", ROOT, b"a")
    hub.rename(ROOT, b"dir3", one, b"deeper")
    hub.exchange((ROOT, b"dir4"), (ROOT, b"moved0"))
    hub.remove(hub.index.dirent(ROOT, b"dir5"), b"file1")
    hub.file(ROOT, b"dir1", b"a file where a directory was")
    world.node.fetched = 0
    for batch in hub.chunks(cells, inline=0):
        world.node.apply(hub, batch)
    assert world.node.fetched == 1
    assert os.stat(world.node.tree / "dir2/inside/sub/big").st_ino == inode
    world.assert_equal()


@pytest.mark.parametrize("cells", [3, 11, 1000])
def test_a_snapshot_of_another_epoch_fetches_only_what_differs(world: Any, cells: int) -> None:
    fill(world.hub)
    world.node.sync(world.hub)
    inode = os.stat(world.node.tree / "dir1/sub/big").st_ino
    world.new_epoch()
    fill(world.hub, variant=1)
    different = world.hub.file(ROOT, b"different", b"content")
    world.node.fetched = 0
    for batch in world.hub.chunks(cells, inline=0):
        world.node.apply(world.hub, batch)
    assert world.node.fetched == 4  # three files that only the other variant has, and `different`
    assert os.stat(world.node.tree / "dir1/sub/big").st_ino == inode
    world.assert_equal()
    world.hub.write(different, b"goes on with deltas")
    world.node.sync(world.hub)
    world.assert_equal()


def test_links_of_another_epoch_come_apart(world: Any) -> None:
    a = world.hub.file(ROOT, b"a", BIG)
    world.hub.link(a, ROOT, b"b")
    world.node.sync(world.hub)
    world.new_epoch()
    world.hub.file(ROOT, b"a", BIG)
    world.hub.file(ROOT, b"b", BIG)
    world.node.fetched = 0
    for batch in world.hub.chunks(3, inline=0):
        world.node.apply(world.hub, batch)
    assert world.node.fetched == 0
    world.assert_equal()


def test_an_empty_session_takes_everything_away(world: Any) -> None:
    fill(world.hub)
    world.node.sync(world.hub)
    world.new_epoch()
    for batch in world.hub.chunks():
        world.node.apply(world.hub, batch)
    assert os.listdir(world.node.tree) == []
    world.assert_equal()


@pytest.mark.parametrize("piece", [1, 2, 7])
def test_the_sweep_in_small_pieces(world: Any, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world.hub)
    world.node.sync(world.hub)
    world.new_epoch()
    world.hub.file(world.hub.mkdir(ROOT, b"dir2"), b"file1", b"1 in 2")
    monkeypatch.setattr(
        replica_module,
        "sweep",
        lambda index, publisher, cursor: sweep(index, publisher, cursor, piece=piece),
    )
    for batch in world.hub.chunks():
        world.node.apply(world.hub, batch)
    world.assert_equal()


@pytest.mark.allows_log("local_change_kept")
def test_local_changes_survive_a_snapshot(world: Any) -> None:
    fill(world.hub)
    world.node.sync(world.hub)
    tree: Path = world.node.tree
    (tree / "dir0/file1").write_bytes(b"mine 1")
    (tree / "dir0/untracked").write_bytes(b"mine 2")
    (tree / "dir3/file1").write_bytes(b"mine 3")
    shutil.rmtree(tree / "dir2")
    world.new_epoch()
    fill(world.hub, variant=1)
    world.hub.write(world.hub.index.dirent(world.hub.index.dirent(ROOT, b"dir0"), b"file1"), b"newer")
    three = world.hub.index.dirent(ROOT, b"dir3")
    world.hub.rename(three, b"file1", ROOT, b"elsewhere")
    conflicts = []
    for batch in world.hub.chunks(5):
        conflicts += world.node.apply(world.hub, batch).conflicts
    kept = {(tree / os.fsdecode(change.kept)).read_bytes() for change in conflicts}
    assert kept == {b"mine 1", b"mine 3"}
    assert (tree / "dir0/untracked").read_bytes() == b"mine 2"
    assert (tree / "dir0/file1").read_bytes() == b"newer"
    assert (tree / "elsewhere").read_bytes() == b"1 in 3"


def test_a_superseded_file_in_a_snapshot_keeps_the_old_one(world: Any) -> None:
    fill(world.hub)
    world.node.sync(world.hub)
    world.new_epoch()
    fill(world.hub, variant=1)
    one = world.hub.index.dirent(ROOT, b"dir1")
    big = world.hub.index.dirent(world.hub.index.dirent(one, b"sub"), b"big")
    world.hub.write(big, os.urandom(BLOCK_SIZE))
    for batch in world.hub.chunks(9, inline=0):
        gone = frozenset({big}) & {inode.id for inode in batch.inodes}
        world.node.apply(world.hub, batch, superseded=gone)
    assert (world.node.tree / "dir1/sub/big").read_bytes() == BIG + b"1"
    assert world.node.replica.fingerprint() is None
    world.hub.write(big, os.urandom(BLOCK_SIZE))
    world.node.sync(world.hub)
    world.assert_equal()
