"""What a follower hands to a replica, and what it gets back: batches of cells, wants, positions.

Everything here comes from another machine. `checked` refuses what breaks a rule before anything is done
with it; only what it returns may be staged and planned.
"""

from __future__ import annotations

__all__ = ["Batch", "Checked", "KeptChange", "Position", "Published", "SnapshotChunk", "Want", "checked"]

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from ghostfs.content import BlockList
from ghostfs.errors import InvalidCell
from ghostfs.mirror.xattrs import decode_xattrs
from ghostfs.model import HELD, NO_DIGEST, ROOT, Cursor, Dirent, Epoch, Inode, InodeId, Kind, Seq
from ghostfs.names import check_filename, display, is_reserved

log = structlog.get_logger(__name__)

_ID_LIMIT = 1 << 63
_OWNER_LIMIT = (1 << 32) - 1
_TARGET_MAX = 4095
"""PATH_MAX without its NUL: the longest target that symlink(2) takes."""


@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """Which part of a snapshot a batch is. `position` is the snapshot's position after it."""

    snapshot_id: bytes
    position: int
    first: bool
    last: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """The cells of a delta (all with since < seq <= head), or of one chunk of a snapshot made at `head`.

    `fingerprint` is the hub's at `head`, if it said so. `inline` holds the whole content of files of at
    most one block; `superseded` names inodes whose content the hub knows to be gone.
    """

    epoch: Epoch
    since: Seq
    head: Seq
    fingerprint: int | None = None
    snapshot: SnapshotChunk | None = None
    inodes: Sequence[Inode] = ()
    dirents: Sequence[Dirent] = ()
    inline: Mapping[InodeId, bytes] = field(default_factory=dict)
    superseded: Collection[InodeId] = ()


@dataclass(frozen=True, slots=True)
class Want:
    """A block that this mirror has nowhere: block `index` of the batch's version of `inode`."""

    inode: InodeId
    index: int
    digest: bytes
    length: int


@dataclass(frozen=True, slots=True)
class Position:
    """How far a replica is: its durable cursor, and while a snapshot is half applied (id, position) of it."""

    cursor: Cursor | None
    snapshot: tuple[bytes, int] | None = None


@dataclass(frozen=True, slots=True)
class KeptChange:
    """A local change that was not overwritten. Both are paths from the root of the tree, as bytes."""

    path: bytes
    kept: bytes


@dataclass(frozen=True, slots=True)
class Published:
    """What is durable after a batch: `files` objects were put in place, `bytes` of them written.

    `fingerprint` is None while a snapshot is half applied or cells wait for content.
    """

    position: Position
    files: int
    bytes: int
    conflicts: tuple[KeptChange, ...]
    fingerprint: int | None


@dataclass(frozen=True, slots=True)
class Checked:
    """A batch that breaks no rule: cells by id, dirents in order, and the block lists of its files."""

    batch: Batch
    inodes: dict[InodeId, Inode]
    dirents: list[Dirent]
    blocks: dict[InodeId, BlockList]
    refused: int


def checked(batch: Batch) -> Checked:
    """The batch by id, without the cells at the overlay's name, which are refused, logged and counted.

    Raises:
        InvalidCell: a cell breaks a rule; nothing of the batch may be used.
    """
    if not 0 < batch.epoch < _ID_LIMIT or not 0 <= batch.since <= batch.head < _ID_LIMIT:
        raise InvalidCell(f"not a batch: epoch {batch.epoch}, {batch.since} to {batch.head}")
    inodes: dict[InodeId, Inode] = {}
    blocks: dict[InodeId, BlockList] = {}
    for inode in batch.inodes:
        if inode.id in inodes:
            raise InvalidCell(f"inode {inode.id:x} twice in a batch")
        inodes[inode.id] = inode
        _check_inode(inode, batch.head)
        if inode.kind is Kind.FILE:
            blocks[inode.id] = _check_content(inode, batch.inline.get(inode.id))
    dirents = _check_dirents(batch)
    refused = len(batch.dirents) - len(dirents)
    return Checked(batch, inodes, dirents, blocks, refused)


def _check_inode(inode: Inode, head: Seq) -> None:
    shown = f"inode {inode.id:x}"
    if not HELD < inode.id < _ID_LIMIT:
        raise InvalidCell(f"not an inode id: {inode.id}")
    if inode.id == ROOT and inode.kind is not Kind.DIRECTORY:
        raise InvalidCell("the root is not a directory")
    if (
        not 0 <= inode.mode <= 0o7777
        or not 0 <= inode.uid < _OWNER_LIMIT
        or not 0 <= inode.gid < _OWNER_LIMIT
    ):
        raise InvalidCell(f"{shown}: mode {inode.mode:o}, owner {inode.uid}:{inode.gid}")
    if not -_ID_LIMIT <= inode.mtime_ns < _ID_LIMIT or not 0 <= inode.rdev < _ID_LIMIT:
        raise InvalidCell(f"{shown}: mtime {inode.mtime_ns}, device {inode.rdev}")
    if inode.seq > head or inode.backing is not None:
        raise InvalidCell(f"{shown}: sequence {inode.seq} above head {head}, or backing from afar")
    is_file = inode.kind is Kind.FILE
    if not is_file and (inode.size or inode.blocks or inode.digest != NO_DIGEST):
        raise InvalidCell(f"{shown}: content, but not a file")
    if inode.kind is Kind.SYMLINK:
        if not 0 < len(inode.target) <= _TARGET_MAX or b"\0" in inode.target:
            raise InvalidCell(f"{shown}: not a symlink target: {inode.target!r}")
    elif inode.target:
        raise InvalidCell(f"{shown}: a target, but not a symlink")
    if inode.xattrs:
        decode_xattrs(inode.xattrs)


def _check_content(inode: Inode, inline: bytes | None) -> BlockList:
    blocks = BlockList.decode(inode.size, inode.blocks)
    if blocks.digest() != inode.digest:
        raise InvalidCell(f"inode {inode.id:x}: its digest is not that of its blocks")
    if inline is not None and (len(inline) != inode.size or blocks.count > 1):
        raise InvalidCell(f"inode {inode.id:x}: {len(inline)} bytes inline of a file of {inode.size}")
    return blocks


def _check_dirents(batch: Batch) -> list[Dirent]:
    seen: set[tuple[InodeId, bytes]] = set()
    dirents: list[Dirent] = []
    for dirent in batch.dirents:
        place = (dirent.parent, check_filename(dirent.name))
        if place in seen:
            raise InvalidCell(f"{display(dirent.name)} twice in directory {dirent.parent:x}")
        seen.add(place)
        child = dirent.inode
        if not HELD < dirent.parent < _ID_LIMIT or dirent.seq > batch.head:
            raise InvalidCell(f"not a dirent: {dirent.parent}, sequence {dirent.seq}")
        if child is None:
            if batch.snapshot is not None:
                raise InvalidCell("a tombstone in a snapshot")
        elif not ROOT < child < _ID_LIMIT or child == dirent.parent:
            raise InvalidCell(f"not an entry of a directory: {child}")
        if dirent.parent == ROOT and is_reserved(dirent.name):
            log.warning("reserved_name_refused", name=display(dirent.name), inode=child)
            continue
        dirents.append(dirent)
    return dirents
