"""Random histories of a hub, followed by a replica on a real filesystem: its tree is the hub's, always.

Each example is a list of operations with, in between, the moments at which the replica gets a delta, a
snapshot in chunks, or a hub of another epoch with the same tree; now and then some content cannot be had.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ghostfs.content import BLOCK_SIZE
from ghostfs.model import ROOT, Inode, InodeId, Kind

NAMES = (b"a", b"b", b"c", b"d\xff")
OPERATIONS = (
    "file",
    "big",
    "mkdir",
    "symlink",
    "fifo",
    "write",
    "chmod",
    "link",
    "rename",
    "exchange",
    "remove",
)


class Actor:
    """Does what a kernel would allow, chosen by a random number generator."""

    def __init__(self, hub: Any, rng: random.Random) -> None:
        self.hub = hub
        self.rng = rng

    def directories(self) -> list[InodeId]:
        return [i.id for i in self.hub.index.all_inodes() if i.kind is Kind.DIRECTORY]

    def place(self, *, free: bool) -> tuple[InodeId, bytes] | None:
        for _ in range(8):
            parent, name = self.rng.choice(self.directories()), self.rng.choice(NAMES)
            if (self.hub.index.dirent(parent, name) is None) is free:
                return parent, name
        return None

    def content(self) -> bytes:
        return b"%d" % self.rng.randrange(6) * self.rng.randrange(1, 30)

    def big(self) -> bytes:
        blocks = [bytes([self.rng.randrange(3)]) * BLOCK_SIZE for _ in range(self.rng.randrange(1, 4))]
        return b"".join(blocks) + b"tail"

    def file(self) -> Inode | None:
        files = [i for i in self.hub.index.all_inodes() if i.kind is Kind.FILE]
        return self.rng.choice(files) if files else None

    def inside(self, directory: InodeId, ancestor: InodeId) -> bool:
        while directory != ancestor:
            if directory == ROOT:
                return False
            directory = self.hub.index.links(directory)[0][0]
        return True

    def do(self, operation: str) -> None:
        getattr(self, f"do_{operation}")()

    def do_file(self) -> None:
        if place := self.place(free=True):
            self.hub.file(*place, self.content(), self.rng.choice((0o644, 0o400, 0o755)))

    def do_big(self) -> None:
        if place := self.place(free=True):
            self.hub.file(*place, self.big())

    def do_mkdir(self) -> None:
        if place := self.place(free=True):
            self.hub.mkdir(*place, self.rng.choice((0o755, 0o700, 0o555)))

    def do_symlink(self) -> None:
        if place := self.place(free=True):
            self.hub.symlink(*place, self.rng.choice((b"a", b"../b", b"/etc/passwd")))

    def do_fifo(self) -> None:
        if place := self.place(free=True):
            self.hub.special(*place, Kind.FIFO)

    def do_write(self) -> None:
        if file := self.file():
            self.hub.write(file.id, self.rng.choice((self.content, self.big))())

    def do_chmod(self) -> None:
        inode = self.rng.choice([i for i in self.hub.index.all_inodes() if i.kind is not Kind.SYMLINK])
        self.hub.chmod(inode.id, self.rng.choice((0o700, 0o644, 0o711)))

    def do_link(self) -> None:
        file, place = self.file(), self.place(free=True)
        if file and place:
            self.hub.link(file.id, *place)

    def do_rename(self) -> None:
        source = self.place(free=False)
        target = self.rng.choice(self.directories()), self.rng.choice(NAMES)
        if source is None or source == target:
            return
        inode = self.hub.index.inode(self.hub.index.dirent(*source))
        there = self.hub.index.dirent(*target)
        if there is not None:
            other = self.hub.index.inode(there)
            both = Kind.DIRECTORY in (inode.kind, other.kind)
            if there == inode.id or (
                both and (inode.kind is not other.kind or self.hub.index.children(there))
            ):
                return
        if inode.kind is not Kind.DIRECTORY or not self.inside(target[0], inode.id):
            self.hub.rename(*source, *target)

    def do_exchange(self) -> None:
        a, b = self.place(free=False), self.place(free=False)
        if a is None or b is None or a == b:
            return
        one, two = self.hub.index.dirent(*a), self.hub.index.dirent(*b)
        if not (self._holds(one, b[0]) or self._holds(two, a[0])):
            self.hub.exchange(a, b)

    def do_remove(self) -> None:
        place = self.place(free=False)
        if place and not self.hub.index.children(self.hub.index.dirent(*place)):
            self.hub.remove(*place)

    def _holds(self, inode: InodeId, directory: InodeId) -> bool:
        return self.hub.index.inode(inode).kind is Kind.DIRECTORY and self.inside(directory, inode)


def gone_files(batch: Any, rng: random.Random) -> frozenset[InodeId]:
    files = [i.id for i in batch.inodes if i.kind is Kind.FILE]
    return frozenset(i for i in files if rng.random() < 0.4)


def snapshot(world: Any, rng: random.Random, *, lossy: bool) -> None:
    for batch in world.hub.chunks(rng.randrange(2, 12), inline=rng.choice((0, BLOCK_SIZE))):
        gone = gone_files(batch, rng) if lossy else frozenset()
        inline = {i: data for i, data in batch.inline.items() if i not in gone}
        world.node.apply(world.hub, replace(batch, inline=inline), superseded=gone)
        if rng.random() < 0.2:
            world.node.close()


def delta(world: Any, rng: random.Random, *, lossy: bool) -> None:
    cursor = world.node.replica.position().cursor
    if cursor is None or cursor.epoch != world.hub.index.epoch:
        snapshot(world, rng, lossy=lossy)
        return
    batch = world.hub.delta(cursor.seq, inline=rng.choice((0, 40, BLOCK_SIZE)))
    gone = gone_files(batch, rng) if lossy else frozenset()
    inline = {i: data for i, data in batch.inline.items() if i not in gone}
    world.node.apply(world.hub, replace(batch, inline=inline), superseded=gone)


def settle(world: Any, rng: random.Random) -> None:
    """What could not be had changes once more, as it must have on a real hub; then all is equal."""
    for inode in sorted(world.node.replica.parked()):
        if world.hub.index.inode(inode) is not None:
            world.hub.write(inode, b"settled %d" % rng.randrange(1000))
    delta(world, rng, lossy=False)
    world.assert_equal()
    index = world.node.replica._index
    assert index.recomputed_fingerprint() == index.fingerprint()
    for path in (world.node.layout.staging / "new", world.node.layout.staging / "held"):
        assert list(path.iterdir()) == []


def same_tree_again(world: Any) -> None:
    """A hub of another epoch whose tree looks the same."""
    old, contents = world.hub.index, world.hub.contents
    rows = [(d.parent, d.name, d.inode) for d in old.all_dirents()]
    inodes = {i.id: i for i in old.all_inodes(light=False)}
    hub = world.new_epoch()
    fresh = {
        inode: InodeId(new) for inode, new in zip(inodes, hub.index.allocate_ids(len(inodes)), strict=True)
    }
    fresh[ROOT] = ROOT
    with hub.index.commit() as commit:
        for inode, row in inodes.items():
            commit.put_inode(replace(row, id=fresh[inode], backing=None), attrs=True, content=True)
        for parent, name, inode in rows:
            commit.put_dirent(fresh[parent], name, fresh[inode])
    hub.contents = {fresh[i]: data for i, data in contents.items() if i in fresh}


@pytest.mark.parametrize("shift", range(3))
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), count=st.integers(1, 6))
def test_histories(
    new_world: Callable[[], Any], discard: Callable[[Any], None], shift: int, seed: int, count: int
) -> None:
    rng = random.Random(seed * 3 + shift)
    world = new_world()
    try:
        for _ in range(count):
            actor = Actor(world.hub, rng)
            for _ in range(rng.randrange(1, 25)):
                actor.do(rng.choice(OPERATIONS))
            kind = rng.random()
            if kind < 0.15:
                same_tree_again(world)
            if kind < 0.3:
                snapshot(world, rng, lossy=rng.random() < 0.3)
            else:
                delta(world, rng, lossy=rng.random() < 0.3)
            if not world.node.replica.parked():
                world.assert_equal()
        settle(world, rng)
    finally:
        discard(world)
