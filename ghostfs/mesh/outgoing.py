"""A delta or a snapshot chunk on its way to one node: read from the index at once, sent at the node's pace.

The cells are encoded while the index's transaction is open and put into a spool: memory while small, an
unlinked temporary file beyond that. So a node that stops in the middle costs the hub a file and not
memory, and holds no transaction open. Content is read from the tree only when its cell is sent.
"""

from __future__ import annotations

__all__ = ["Outgoing", "Scope"]

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile

from ghostfs.content import BLOCK_SIZE, BlockList
from ghostfs.errors import Superseded
from ghostfs.mesh.blocks import BlockReader, BlockUnavailable
from ghostfs.mesh.codec import encode_dirent, encode_fingerprint, encode_inode
from ghostfs.mesh.compression import Compressor
from ghostfs.model import Dirent, Inode, InodeId, Kind
from ghostfs.v1 import mesh_pb2 as pb

_SPOOL_MEMORY = 1 << 20
_RECORD_BYTES = 64 << 10
_EVENT_BYTES = 512 << 10
"""A message is closed when it is this long; one more inode, with its block list and a block inline, leaves it
below 2 MiB."""

_TURN_BYTES = 1 << 20
_TURNS_AHEAD = 4
"""What is read while the node is busy with an earlier batch, and then waits for it in memory: about 4 MiB."""

_PART_BYTES = 1 << 20
"""A longer block list travels in parts of this size."""

_INLINE_BUDGET = 32 << 20
"""Content inline in one batch, which the node holds in memory; beyond it the node fetches."""

_LENGTH_SIZE = 4
_INODE_OVERHEAD = 96
_DIRENT_OVERHEAD = 32


@dataclass(frozen=True, slots=True)
class Scope:
    """What a batch covers: a delta, or one chunk of a snapshot; `fingerprint` is the hub's at `head`."""

    epoch: int
    since: int
    head: int
    fingerprint: int
    committed_ns: int
    snapshot: pb.SnapshotChunk | None = None


class Outgoing:
    """The messages of one batch, in turns of about 1 MiB.

    `turn` and `close` block, so they belong in worker threads; they may be called from different ones.
    """

    def __init__(
        self,
        scope: Scope,
        inodes: Iterable[Inode],
        dirents: Iterable[Dirent],
        *,
        spool_dir: Path,
        reader: BlockReader,
        compressor: Compressor,
        inline_max: int,
        inline_above: int | None,
    ) -> None:
        """Content of at most `inline_max` bytes goes inline for files whose content changed after the
        sequence `inline_above`, and for none when that is None. The reader is closed with this object."""
        self.scope = scope
        self.cells = 0
        self.inline_bytes = 0
        self._reader = reader
        self._compressor = compressor
        self._inline_max = min(inline_max, BLOCK_SIZE)
        self._inline_above = inline_above
        self._budget = _INLINE_BUDGET
        self._lock = threading.Lock()
        self._ended = False
        self._events = self._messages()
        self._ready: deque[tuple[list[pb.FollowEvent], bool]] = deque()
        self._spool = SpooledTemporaryFile(max_size=_SPOOL_MEMORY, dir=str(spool_dir))  # noqa: SIM115 - closed by close
        try:
            self._fill(inodes, dirents)
        except BaseException:
            self.close()
            raise
        self._spool.seek(0)

    def turn(self) -> tuple[list[pb.FollowEvent], bool]:
        """The next messages, and whether they are the last."""
        with self._lock:
            return self._ready.popleft() if self._ready else self._turn()

    def read_ahead(self) -> None:
        """Prepares the first turns, so many that a node which waits for them gets them at once."""
        with self._lock:
            while len(self._ready) < _TURNS_AHEAD and not self._ended:
                self._ready.append(self._turn())

    def close(self) -> None:
        """Give everything back; waits for a `turn` under way."""
        with self._lock:
            self._ended = True
            self._ready.clear()
            self._spool.close()
            self._reader.close()

    def _turn(self) -> tuple[list[pb.FollowEvent], bool]:
        events: list[pb.FollowEvent] = []
        size = 0
        while size < _TURN_BYTES and not self._ended:
            event, length = next(self._events, (None, 0))
            if event is None:
                self._ended = True
            else:
                events.append(event)
                size += length
        return events, self._ended

    def _messages(self) -> Iterator[tuple[pb.FollowEvent, int]]:
        """All messages of the batch in order, each with about its size."""
        yield self._begin(), _INODE_OVERHEAD
        while (event := self._read_record()) is not None:
            if event.HasField("cells"):
                yield from self._enriched(event.cells)
            else:
                yield event, len(event.block_list.data)
        fingerprint = encode_fingerprint(self.scope.fingerprint)
        yield pb.FollowEvent(end=pb.End(fingerprint=fingerprint)), _INODE_OVERHEAD

    def _begin(self) -> pb.FollowEvent:
        scope = self.scope
        begin = pb.Begin(
            epoch=scope.epoch, since=scope.since, head=scope.head, committed_unix_ns=scope.committed_ns
        )
        if scope.snapshot is None:
            begin.delta = True
        else:
            begin.snapshot.CopyFrom(scope.snapshot)
        return pb.FollowEvent(begin=begin)

    def _fill(self, inodes: Iterable[Inode], dirents: Iterable[Dirent]) -> None:
        cells = pb.Cells()
        size = 0
        for inode in inodes:
            in_parts = len(inode.blocks) > _PART_BYTES
            cells.inodes.append(encode_inode(inode, with_blocks=not in_parts))
            self.cells += 1
            size += _INODE_OVERHEAD + len(inode.target) + len(inode.xattrs)
            size += 0 if in_parts else len(inode.blocks)
            if in_parts or size > _RECORD_BYTES:
                self._write_record(pb.FollowEvent(cells=cells))
                cells, size = pb.Cells(), 0
            if in_parts:
                self._write_parts(inode)
        for dirent in dirents:
            cells.dirents.append(encode_dirent(dirent))
            self.cells += 1
            size += _DIRENT_OVERHEAD + len(dirent.name)
            if size > _RECORD_BYTES:
                self._write_record(pb.FollowEvent(cells=cells))
                cells, size = pb.Cells(), 0
        if cells.inodes or cells.dirents:
            self._write_record(pb.FollowEvent(cells=cells))

    def _write_parts(self, inode: Inode) -> None:
        for at in range(0, len(inode.blocks), _PART_BYTES):
            part = pb.BlockListPart(inode=inode.id, data=inode.blocks[at : at + _PART_BYTES])
            self._write_record(pb.FollowEvent(block_list=part))

    def _write_record(self, event: pb.FollowEvent) -> None:
        data = event.SerializeToString()
        self._spool.write(len(data).to_bytes(_LENGTH_SIZE, "big"))
        self._spool.write(data)

    def _read_record(self) -> pb.FollowEvent | None:
        prefix = self._spool.read(_LENGTH_SIZE)
        if not prefix:
            return None
        return pb.FollowEvent.FromString(self._spool.read(int.from_bytes(prefix, "big")))

    def _enriched(self, cells: pb.Cells) -> Iterator[tuple[pb.FollowEvent, int]]:
        """The cells as messages, with content where it belongs, read only when its message is asked for."""
        message = pb.Cells()
        size = 0
        for cell in cells.inodes:
            if self._goes_inline(cell):
                self._add_content(cell)
            message.inodes.append(cell)
            size += _INODE_OVERHEAD + len(cell.blocks) + len(cell.xattrs) + len(cell.inline.data)
            if size > _EVENT_BYTES:
                yield pb.FollowEvent(cells=message), size
                message, size = pb.Cells(), 0
        message.dirents.extend(cells.dirents)
        size += sum(_DIRENT_OVERHEAD + len(cell.name) for cell in cells.dirents)
        if message.inodes or message.dirents:
            yield pb.FollowEvent(cells=message), size

    def _goes_inline(self, cell: pb.InodeCell) -> bool:
        return (
            self._inline_above is not None
            and cell.kind == Kind.FILE
            and cell.content_seq > self._inline_above
            and len(cell.blocks) > 0
            and cell.size <= self._inline_max
            and cell.size <= self._budget
        )

    def _add_content(self, cell: pb.InodeCell) -> None:
        digest = BlockList.decode(cell.size, cell.blocks).get(0)
        if digest is None:
            return
        try:
            data = self._reader.read(InodeId(cell.id), 0, digest)
        except Superseded:
            cell.superseded = True
            return
        except BlockUnavailable:
            return  # the node will fetch it, which waits for a rename to be committed
        encoding, packed = self._compressor.encode(data)
        cell.inline.encoding = encoding
        cell.inline.data = packed
        self._budget -= len(data)
        self.inline_bytes += len(packed)
