"""Cells from afar are refused, whole batch and all, when they break a rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ghostfs.content import BLOCK_SIZE, scan
from ghostfs.errors import InvalidCell
from ghostfs.mirror.replica.batch import Batch, SnapshotChunk, checked
from ghostfs.model import HELD, ROOT, Backing, Dirent, Epoch, Inode, InodeId, Kind, Seq

DATA = b"content"
BLOCKS = scan(lambda offset, length: DATA, len(DATA), [(0, len(DATA))])
FILE = Inode(
    InodeId(2),
    Kind.FILE,
    0o644,
    0,
    0,
    0,
    size=len(DATA),
    digest=BLOCKS.digest(),
    blocks=BLOCKS.encode(),
    attr_seq=Seq(5),
    content_seq=Seq(5),
)
LINK = Inode(InodeId(3), Kind.SYMLINK, 0o777, 0, 0, 0, target=b"x")
NAMED = Dirent(ROOT, b"f", InodeId(2), Seq(5))


def batch(*cells: Inode | Dirent, **fields: Any) -> Batch:
    inodes = [cell for cell in cells if isinstance(cell, Inode)]
    dirents = [cell for cell in cells if isinstance(cell, Dirent)]
    return Batch(Epoch(1), Seq(0), Seq(9), inodes=inodes, dirents=dirents, **fields)


def test_what_is_right_passes() -> None:
    found = checked(batch(FILE, LINK, NAMED, Dirent(ROOT, b"g", None, Seq(9)), inline={FILE.id: DATA}))
    assert found.blocks == {FILE.id: BLOCKS}
    assert found.refused == 0


@pytest.mark.parametrize(
    "cells",
    [
        (FILE, FILE),
        (replace(FILE, id=HELD),),
        (replace(FILE, id=InodeId(2**63)),),
        (replace(FILE, mode=0o10000),),
        (replace(FILE, uid=2**32 - 1),),
        (replace(FILE, gid=-1),),
        (replace(FILE, mtime_ns=2**63),),
        (replace(FILE, content_seq=Seq(10)),),
        (replace(FILE, backing=Backing(1, 1)),),
        (replace(FILE, size=3),),
        (replace(FILE, size=BLOCK_SIZE * 2),),
        (replace(FILE, blocks=b""),),
        (replace(FILE, blocks=b"\xff"),),
        (replace(FILE, digest=bytes(16)),),
        (replace(FILE, target=b"x"),),
        (replace(FILE, xattrs=b"x"),),
        (replace(LINK, target=b""),),
        (replace(LINK, target=b"a\0b"),),
        (replace(LINK, target=b"a" * 4096),),
        (replace(LINK, size=1),),
        (replace(LINK, kind=Kind.FIFO),),
        (replace(LINK, kind=Kind.CHAR, target=b"", rdev=-1),),
        (replace(LINK, id=ROOT),),
        (NAMED, NAMED),
        (replace(NAMED, parent=HELD),),
        (replace(NAMED, inode=ROOT),),
        (replace(NAMED, inode=HELD),),
        (replace(NAMED, parent=InodeId(2)),),
        (replace(NAMED, seq=Seq(10)),),
        *((replace(NAMED, name=name),) for name in (b"", b".", b"..", b"a/b", b"a\0", b"a" * 256)),
    ],
)
def test_what_breaks_a_rule_is_refused(cells: tuple[Inode | Dirent, ...]) -> None:
    with pytest.raises(InvalidCell):
        checked(batch(*cells))


def test_content_beside_the_cells() -> None:
    with pytest.raises(InvalidCell, match="inline"):
        checked(batch(FILE, inline={FILE.id: DATA + b"x"}))
    with pytest.raises(InvalidCell, match="tombstone"):
        checked(
            batch(Dirent(ROOT, b"f", None), snapshot=SnapshotChunk(bytes(16), 1, first=True, last=True))
        )


@pytest.mark.allows_log("reserved_name_refused")
def test_the_overlays_name_at_the_root_only() -> None:
    found = checked(batch(*(replace(NAMED, name=name) for name in (b".skills", b".SKILLS", b"ok"))))
    assert [dirent.name for dirent in found.dirents] == [b"ok"]
    assert found.refused == 2
    assert checked(batch(replace(NAMED, parent=InodeId(7), name=b".skills"))).refused == 0


def test_cells_that_contradict_what_is_there(world: Any) -> None:
    d = world.hub.mkdir(ROOT, b"d")
    f = world.hub.file(d, b"f", b"x")
    sub = world.hub.mkdir(d, b"sub")
    world.node.sync(world.hub)
    replica = world.node.replica
    head = world.hub.index.head()
    epoch = world.hub.index.epoch

    def refused(*cells: Inode | Dirent) -> None:
        with pytest.raises(InvalidCell):  # noqa: PT012 - either of the two may see it
            replica.begin(Batch(epoch, head, Seq(head + 9), None, None, *_split(cells)))
            replica.publish()
        replica.abandon()

    refused(Inode(f, Kind.FIFO, 0, 0, 0, 0))
    refused(Dirent(f, b"below a file", d))
    refused(Dirent(d, b"itself", d))
    refused(Dirent(sub, b"below itself", d), Dirent(ROOT, b"d", None))
    world.hub.write(f, b"goes on")
    world.node.sync(world.hub)
    world.assert_equal()


def _split(cells: tuple[Inode | Dirent, ...]) -> tuple[list[Inode], list[Dirent]]:
    return [c for c in cells if isinstance(c, Inode)], [c for c in cells if isinstance(c, Dirent)]
