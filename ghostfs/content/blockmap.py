"""The block map: what a file consists of, while it is being written.

Every write(2) passes here with the bytes it wrote, so a file's digest is ready when the file comes to
rest, without reading it. How each block gets its digest:

    written whole by one write          hashed from the buffer at once (*fresh*)
    filled from its start, in order     fed to the stream, the one hasher that is kept open
    anything else                       *stale*: read once, when the file settles

The stream has been fed exactly the bytes from the start of its block up to `_next`. It knows its block
when `_next` is the end of the file; a block that it fills becomes fresh. It outlives a settle, so a file
that is appended to for days is never read. Bytes hashed are at most the bytes written, plus one block for
each block that is stale at a settle.
"""

from __future__ import annotations

__all__ = ["BlockMap"]

from collections.abc import Iterable, Mapping

from xxhash import xxh3_128

from ghostfs.content.blocks import BLOCK_SIZE, EMPTY, BlockList, block_digest, is_zero
from ghostfs.content.settlement import Reader, Settlement
from ghostfs.errors import Superseded


class BlockMap:
    """The content of one file that is being changed, following a known version of it.

    Not thread-safe: one lock of the caller's guards a map, and a change of the file and the call that
    reports it here happen under one hold of it. Only `Settlement.read` runs without.

    Attributes:
        size: of the file, in bytes.
        version: grows with every change; equal versions are equal contents.
        bytes_hashed: bytes that went through a hash function so far, those read at a settle included.
        bytes_reread: bytes read at settles so far.
    """

    __slots__ = (
        "_fresh",
        "_hasher",
        "_kept",
        "_limit",
        "_next",
        "_settled",
        "_settled_version",
        "_stale",
        "_watching",
        "bytes_hashed",
        "bytes_reread",
        "size",
        "version",
    )

    def __init__(self, base: BlockList = EMPTY) -> None:
        self.size = base.size
        self.version = 0
        self.bytes_hashed = 0
        self.bytes_reread = 0
        self._settled = base
        self._settled_version = 0
        # Blocks of _settled from this number on were cut off since; what is there now, if not fresh or
        # stale, is a hole.
        self._kept = base.count
        # Full blocks with a digest (None: a hole) that _settled does not have yet. No block is in both.
        self._fresh: dict[int, bytes | None] = {}
        self._stale: set[int] = set()
        self._hasher = xxh3_128()
        # Where the stream goes on, -1 without a stream; never at the start of a block.
        self._next = -1
        # End of the stream's block while that block is in _stale, else -1: then the first write must put
        # it there. So the shortest path of write() has one comparison for both.
        self._limit = -1
        # The guarded settlement that was begun last, told of every block that changes.
        self._watching: Settlement | None = None

    @property
    def changed_blocks(self) -> int:
        """How many blocks are to be read or have a new digest since the last settle."""
        return len(self._fresh) + len(self._stale)

    @property
    def unsettled(self) -> bool:
        """Whether anything has changed since the last settle."""
        return self.version != self._settled_version

    def write(self, offset: int, buffer: bytes | bytearray | memoryview) -> None:
        """`buffer` has been written at `offset`, beyond the end of the file too: a hole is then between.

        A memoryview must be one of bytes. Nothing of the buffer is kept or copied.
        """
        length = len(buffer)
        end = offset + length
        if offset == self._next and end < self._limit:
            self._hasher.update(buffer)
            self._next = end
            self.version += 1
            self.bytes_hashed += length
            if end > self.size:  # noqa: PLR1730  max() would be a fifth of this path
                self.size = end
        elif length:
            self._write(offset, end, memoryview(buffer))

    def truncate(self, size: int) -> None:
        """The file has been cut to `size`, or extended to it with zeros."""
        if size < self.size:
            self._cut(size)
        elif size > self.size:
            self._leave_tail()
        else:
            return
        self.size = size
        self.version += 1

    def touch(self, offset: int, length: int) -> None:
        """The content of this range may have changed unseen, as by mmap: its blocks will be read.

        The size is as before; what lies beyond it is ignored. The cost follows `length`.
        """
        end = min(offset + length, self.size)
        if offset >= end:
            return
        self._break_stream(offset, end)
        for index in range(offset // BLOCK_SIZE, -(-end // BLOCK_SIZE)):
            self._mark(index)
        self.version += 1

    def resize_seen(self, size: int) -> None:
        """The file was found to have another size, changed unseen: like `truncate`, but what was added is read."""
        before = self.size
        self.truncate(size)
        self.touch(before, size - before)

    def seen_anew(self, size: int, data_ranges: Iterable[tuple[int, int]]) -> None:
        """Nothing that is known counts any more: the file has this size, and is a hole but for these (offset, length)
        ranges, whose blocks will be read. The cost follows them, and not the size."""
        self._cut(0)
        self.size = size
        self.version += 1
        for offset, length in data_ranges:
            self.touch(offset, length)

    @property
    def complete(self) -> bool:
        """Whether a settle would read nothing: the digest of each block is known from what was written."""
        if not self._stale:
            return True
        return len(self._stale) == 1 and self._next == self.size and self._next // BLOCK_SIZE in self._stale

    def begin_settle(self, *, guarded: bool = False, all_changed: bool = False) -> Settlement:
        """Everything that a block list of the present version needs.

        `guarded`: it is finished although the file has changed meanwhile, for every change is told to it before
        (see `Settlement`); only the one that was begun last is. `all_changed` has also blocks read whose digest
        is known: to put them aside.
        """
        found: dict[int, bytes | None] = {}
        if self._next == self.size and (index := self._next // BLOCK_SIZE) in self._stale:
            digest = self._hasher.digest()
            found[index] = None if is_zero(digest, self.size % BLOCK_SIZE) else digest
        reads = self._stale.difference(found)
        if all_changed:
            reads |= {index for index, digest in (self._fresh | found).items() if digest is not None}
        settlement = Settlement(
            self.version,
            self.size,
            sorted(reads),
            found,
            guarded=guarded,
            base=self._settled_left(),
            fresh=self._fresh.copy() if guarded else self._fresh,
        )
        if guarded:
            self._watching = settlement
            # The first write to the stream's block must be seen.
            self._limit = -1
        return settlement

    def finish_settle(self, settlement: Settlement) -> BlockList | None:
        """The content at `settlement.version`, which is the present one; the map has then settled.

        None if it is not the present one, or not all was read: the map is then as if the settlement
        had never begun. After `settlement.short`, look at the file's size and `resize_seen` it first.

        A guarded one need not be of the present version: the map then goes on from that content, and is
        `unsettled`.
        """
        reread = settlement.take_count()
        self.bytes_hashed += reread
        self.bytes_reread += reread
        if settlement.pending or settlement.spoiled:
            return None
        if settlement.version == self.version:
            if self.unsettled:
                self._install(settlement)
            return self._settled
        if settlement is not self._watching:
            return None
        self._install_before(settlement)
        return self._settled

    def settle(self, reader: Reader) -> BlockList:
        """The present content; begins, reads and finishes under one hold of the caller's lock.

        Raises:
            Superseded: the file is shorter than the map says; see `finish_settle`.
        """
        settlement = self.begin_settle()
        settlement.read(reader)
        blocks = self.finish_settle(settlement)
        if blocks is None:
            raise Superseded(
                f"the file is shorter than the {self.size} bytes it had; it was changed unseen"
            )
        return blocks

    def _write(self, offset: int, end: int, view: memoryview) -> None:
        self.version += 1
        self._break_stream(offset, end)
        if offset > self.size:
            self._leave_tail()
        index, inside = divmod(offset, BLOCK_SIZE)
        position = 0
        if inside:
            position = min(BLOCK_SIZE - inside, end - offset)
            if offset == self._next:
                self._feed(index, view[:position])
            else:
                self._mark(index)
            index += 1
        length = end - offset
        while length - position >= BLOCK_SIZE:
            self._refresh(index, block_digest(view[position : position + BLOCK_SIZE]))
            self.bytes_hashed += BLOCK_SIZE
            position += BLOCK_SIZE
            index += 1
        if position < length:
            self._start(end, view[position:])
        self.size = max(self.size, end)

    def _start(self, end: int, piece: memoryview) -> None:
        """`piece` fills the beginning of the block in which `end` lies."""
        index = end // BLOCK_SIZE
        self._mark(index)
        if self._next == self.size >= end:
            return  # a header rewritten: the stream at the end of the file is worth more than one here
        self._hasher.reset()
        self._hasher.update(piece)
        self.bytes_hashed += len(piece)
        self._next = end
        self._limit = (index + 1) * BLOCK_SIZE

    def _feed(self, index: int, piece: memoryview) -> None:
        """`piece` goes on where the stream stands, to the end of its block at most."""
        self._hasher.update(piece)
        self.bytes_hashed += len(piece)
        self._next += len(piece)
        if self._next % BLOCK_SIZE:
            self._mark(index)
            self._limit = (index + 1) * BLOCK_SIZE
        else:
            self._refresh(index, self._hasher.digest())
            self._next = self._limit = -1

    def _break_stream(self, offset: int, end: int) -> None:
        """Give the stream up if this range touches what it has been fed."""
        if offset < self._next and end > self._next - self._next % BLOCK_SIZE:
            self._next = self._limit = -1

    def _mark(self, index: int) -> None:
        self._stale.add(index)
        self._fresh.pop(index, None)
        if self._watching is not None:
            self._watching.changed.add(index)

    def _refresh(self, index: int, digest: bytes) -> None:
        """The digest of a full block."""
        self._stale.discard(index)
        self._fresh[index] = None if is_zero(digest, BLOCK_SIZE) else digest
        if self._watching is not None:
            self._watching.changed.add(index)

    def _leave_tail(self) -> None:
        """The file grows by zeros: a short last block becomes another one, unless it is a hole."""
        if self.size % BLOCK_SIZE:
            self._mark_data(self.size // BLOCK_SIZE)

    def _mark_data(self, index: int) -> None:
        """Mark a block whose length changes; a hole stays one."""
        settled = self._settled.get(index) if index < self._kept else None
        if index in self._stale or self._fresh.get(index, settled) is not None:
            self._mark(index)

    def _cut(self, size: int) -> None:
        count = -(-size // BLOCK_SIZE)
        self._kept = min(self._kept, count)
        if self._watching is not None:
            self._watching.kept = min(self._watching.kept, count)
        gone = range(count, -(-self.size // BLOCK_SIZE))
        # Either may be the longer: a file cut byte by byte, or one of a few blocks in a terabyte.
        changed = len(self._fresh) + len(self._stale)
        for index in gone if len(gone) < changed else [*self._fresh, *self._stale]:
            if index >= count:
                self._fresh.pop(index, None)
                self._stale.discard(index)
        if size % BLOCK_SIZE:
            self._mark_data(count - 1)
        if self._next > size:
            self._next = self._limit = -1

    def _settled_left(self) -> Mapping[int, bytes]:
        """The blocks of the last settled version that were not cut off since."""
        digests = self._settled.digests
        if self._kept < self._settled.count:
            return {index: digest for index, digest in digests.items() if index < self._kept}
        return digests

    def _install_before(self, settlement: Settlement) -> None:
        """The content is known as it was; what has changed since is still to be settled."""
        changed = settlement.changed
        self._settled = _merged(settlement, settlement.fresh)
        self._settled_version = settlement.version
        self._kept = settlement.kept
        self._fresh = {index: digest for index, digest in self._fresh.items() if index in changed}
        self._stale &= changed
        if self._next // BLOCK_SIZE not in self._stale:
            self._limit = -1
        self._watching = None

    def _install(self, settlement: Settlement) -> None:
        self._settled = _merged(settlement, self._fresh)
        self._settled_version = self.version
        self._kept = self._settled.count
        self._watching = None
        self._fresh = {}
        self._stale = set()
        self._limit = -1
        if settlement.tail is not None:
            self._hasher = settlement.tail
            self._next = self.size


def _merged(settlement: Settlement, fresh: Mapping[int, bytes | None]) -> BlockList:
    """The content at the settlement's version."""
    digests = dict(settlement.base)
    for index, digest in (dict(fresh) | settlement.found).items():
        if digest is None:
            digests.pop(index, None)
        else:
            digests[index] = digest
    return BlockList(settlement.size, digests)
