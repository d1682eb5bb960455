"""A node's reassembly of what the hub sends into batches, within bounds that the hub must keep to."""

from __future__ import annotations

__all__ = ["Incoming"]

from dataclasses import dataclass, field

from ghostfs.errors import InvalidCell
from ghostfs.mesh.codec import check_number, decode_dirent, decode_fingerprint, decode_inode
from ghostfs.mesh.compression import decompress
from ghostfs.mirror.replica.batch import Batch, SnapshotChunk
from ghostfs.model import Dirent, Epoch, Inode, InodeId, Seq
from ghostfs.v1 import mesh_pb2 as pb

_CELLS_MAX = 4_000_000
_INLINE_MAX = 64 << 20
_BLOCK_LISTS_MAX = 1 << 30
_SNAPSHOT_ID_SIZE = 16


@dataclass(slots=True)
class _Parts:
    """An inode whose block list comes in parts."""

    cell: pb.InodeCell
    data: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class _Collected:
    begin: pb.Begin
    inodes: list[Inode] = field(default_factory=list)
    dirents: list[Dirent] = field(default_factory=list)
    inline: dict[InodeId, bytes] = field(default_factory=dict)
    superseded: set[InodeId] = field(default_factory=set)
    inline_bytes: int = 0
    list_bytes: int = 0
    parts: _Parts | None = None


class Incoming:
    """Takes the events of one Follow stream in order and gives a batch at each End."""

    def __init__(self) -> None:
        self._now: _Collected | None = None

    def feed(self, event: pb.FollowEvent) -> Batch | None:
        """The batch that this event completes, if it does.

        Raises:
            InvalidCell: the event breaks a rule of the wire; the stream is then worth nothing.
        """
        kind = event.WhichOneof("kind")
        if kind == "heartbeat":
            return None
        if kind == "begin":
            self._begin(event.begin)
            return None
        if self._now is None:
            raise InvalidCell(f"a {kind} outside of a batch")
        if kind == "block_list":
            self._part(self._now, event.block_list)
        elif kind == "cells":
            self._cells(self._now, event.cells)
        elif kind == "end":
            return self._end(self._now, event.end)
        else:
            raise InvalidCell("an event of an unknown kind")
        return None

    def _begin(self, begin: pb.Begin) -> None:
        if self._now is not None:
            raise InvalidCell("a batch inside of a batch")
        check_number("epoch", begin.epoch, 1)
        check_number("head", begin.head)
        if begin.since > begin.head:
            raise InvalidCell(f"a batch from {begin.since} back to {begin.head}")
        if begin.WhichOneof("scope") is None:
            raise InvalidCell("a batch that is neither a delta nor a snapshot chunk")
        if begin.HasField("snapshot"):
            check_number("position", begin.snapshot.position)
            if len(begin.snapshot.snapshot_id) != _SNAPSHOT_ID_SIZE:
                raise InvalidCell(f"a snapshot id of {len(begin.snapshot.snapshot_id)} bytes")
        self._now = _Collected(begin)

    def _cells(self, now: _Collected, cells: pb.Cells) -> None:
        if now.parts is not None:
            raise InvalidCell(f"inode {now.parts.cell.id}: its block list is cut off")
        if len(now.inodes) + len(now.dirents) + len(cells.inodes) + len(cells.dirents) > _CELLS_MAX:
            raise InvalidCell(f"a batch of more than {_CELLS_MAX} cells")
        for cell in cells.inodes:
            if now.parts is not None:
                raise InvalidCell(f"inode {now.parts.cell.id}: its block list does not follow it")
            if cell.blocks_length:
                now.list_bytes += cell.blocks_length
                if cell.blocks or now.list_bytes > _BLOCK_LISTS_MAX:
                    raise InvalidCell(f"inode {cell.id}: its block list is too long, or came twice")
                now.parts = _Parts(cell)
            else:
                self._inode(now, cell, None)
        head = now.begin.head
        now.dirents += [decode_dirent(cell, head) for cell in cells.dirents]

    def _inode(self, now: _Collected, cell: pb.InodeCell, blocks: bytes | None) -> None:
        inode = decode_inode(cell, now.begin.head, blocks)
        now.inodes.append(inode)
        if cell.superseded:
            now.superseded.add(inode.id)
        elif cell.HasField("inline"):
            data = decompress(cell.inline.encoding, cell.inline.data)
            now.inline_bytes += len(data)
            if len(data) != inode.size or now.inline_bytes > _INLINE_MAX:
                raise InvalidCell(f"inode {cell.id}: {len(data)} bytes inline, in all {now.inline_bytes}")
            now.inline[inode.id] = data

    def _part(self, now: _Collected, part: pb.BlockListPart) -> None:
        parts = now.parts
        if parts is None or part.inode != parts.cell.id:
            raise InvalidCell(f"a part of a block list that nobody waits for: inode {part.inode}")
        parts.data += part.data
        if len(parts.data) > parts.cell.blocks_length:
            raise InvalidCell(f"inode {part.inode}: more of a block list than was stated")
        if len(parts.data) == parts.cell.blocks_length:
            now.parts = None
            self._inode(now, parts.cell, bytes(parts.data))

    def _end(self, now: _Collected, end: pb.End) -> Batch:
        if now.parts is not None:
            raise InvalidCell(f"inode {now.parts.cell.id}: its block list is cut off")
        self._now = None
        begin = now.begin
        chunk = None
        if begin.HasField("snapshot"):
            part = begin.snapshot
            chunk = SnapshotChunk(part.snapshot_id, part.position, part.first, part.last)
        fingerprint = decode_fingerprint(end.fingerprint)
        return Batch(
            epoch=Epoch(begin.epoch),
            since=Seq(begin.since),
            head=Seq(begin.head),
            fingerprint=fingerprint if chunk is None or chunk.last else None,
            snapshot=chunk,
            inodes=now.inodes,
            dirents=now.dirents,
            inline=now.inline,
            superseded=now.superseded,
        )
