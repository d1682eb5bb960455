"""The part of a settle that reads: done without the lock that guards the file's map.

A *guarded* settlement is one whose file may be written meanwhile: whoever is about to change a block that is
still to be read says so before (`save`, `save_cut`), and has it read at once. So the settlement comes to an end
whatever is written, and what it finds is the content at its beginning.
"""

from __future__ import annotations

__all__ = ["Aside", "Reader", "Settlement"]

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from xxhash import xxh3_128

from ghostfs.content.blocks import BLOCK_SIZE, is_zero

Reader: TypeAlias = Callable[[int, int], bytes]
"""reader(offset, length): those bytes of the file, fewer only where the file ends. Like `os.pread`."""

Aside: TypeAlias = Callable[[bytes, bytes], object]
"""aside(digest, data): a block that was read, and is no hole."""

_TAKEN = object()


class Settlement:
    """What one settle of a `BlockMap` must read, and what it found.

    Made by `BlockMap.begin_settle`; `read` it, then hand it to `BlockMap.finish_settle`. It holds nothing
    that the map would miss: one that is dropped, fails halfway or comes too late costs only its reading.

    `read` may run in one thread while `save` and `save_cut` are called in another.
    """

    __slots__ = (
        "_bytes_saved",
        "_counted",
        "_pending",
        "aside",
        "base",
        "bytes_read",
        "changed",
        "found",
        "fresh",
        "guarded",
        "kept",
        "short",
        "size",
        "spoiled",
        "tail",
        "version",
    )

    def __init__(
        self,
        version: int,
        size: int,
        reads: Iterable[int],
        found: dict[int, bytes | None],
        *,
        guarded: bool,
        base: Mapping[int, bytes],
        fresh: Mapping[int, bytes | None],
    ) -> None:
        self.version = version
        """`BlockMap.version` when it began."""
        self.size = size
        """The size of the file then."""
        self.found = found
        """Block number → digest, or None for a hole."""
        self.bytes_read = 0
        """Bytes that `read` has read and hashed."""
        self.short = False
        """The reader gave fewer bytes than the map says there are: the file shrank unseen."""
        self.tail: xxh3_128 | None = None
        """The hasher that has taken in the short last block, if that had to be read: appends go on with it."""
        self.guarded = guarded
        """Nobody changes a block that is still to be read without saying so before."""
        self.spoiled = False
        """Somebody did all the same: this settlement leads to nothing."""
        self.base = base
        """The blocks of the last settled version that were still there."""
        self.fresh = fresh
        """Those with a digest since, as they were when this began."""
        self.changed: set[int] = set()
        """Blocks that have changed since this began. Kept by the map."""
        self.kept = -(-size // BLOCK_SIZE)
        """Blocks from this number on were cut off since. Kept by the map."""
        self.aside: Aside | None = None
        """Gets each block that is read and differs from the last settled version."""
        self._pending: dict[int, None] = dict.fromkeys(reads)
        self._bytes_saved = 0
        self._counted = 0

    @property
    def pending(self) -> int:
        """How many blocks are still to be read; with 0, `read` need not be called."""
        return len(self._pending)

    def read(self, reader: Reader) -> None:
        """Read and hash what must be, a block at a time, ascending; stops where the reader runs short.

        Whatever `reader` raises passes through; called again, it goes on where it stopped.
        """
        self.short = False
        for index in tuple(self._pending):
            # It may have been saved since.
            if index in self._pending and not self._read_one(index, reader):
                return

    def save(self, offset: int, length: int, reader: Reader) -> None:
        """This range is about to be written: what is still to be read of it is read now. With the lock held.

        Whatever `reader` raises passes through, and the settlement is then spoiled.
        """
        end = min(offset + length, self.size)
        self._save([index for index in _blocks(offset, end) if index in self._pending], reader)

    def save_cut(self, size: int, reader: Reader, *, most: int) -> None:
        """The file is about to be cut to `size`: as `save`, but for more than `most` blocks this settlement is
        given up instead, for so much less is left to be settled."""
        first = size // BLOCK_SIZE
        lost = [index for index in tuple(self._pending) if index >= first] if size < self.size else []
        if len(lost) > most:
            self.spoiled = True
        else:
            self._save(lost, reader)

    def touches(self, offset: int, length: int) -> bool:
        """Whether something of this range is still to be read."""
        pending = self._pending
        return bool(pending) and any(
            index in pending for index in _blocks(offset, min(offset + length, self.size))
        )

    def take_count(self) -> int:
        """The bytes read since this was last asked."""
        total = self.bytes_read + self._bytes_saved
        count = total - self._counted
        self._counted = total
        return count

    def _save(self, indexes: list[int], reader: Reader) -> None:
        for index in indexes:
            before = self.spoiled
            self.spoiled = True
            if self._read_one(index, reader, saved=True):
                self.spoiled = before

    def _read_one(self, index: int, reader: Reader, *, saved: bool = False) -> bool:
        """Whether the block was there, as long as it was said to be."""
        offset = index * BLOCK_SIZE
        length = min(BLOCK_SIZE, self.size - offset)
        data = reader(offset, length)
        if len(data) != length:
            self.short = True
            return False
        hasher = xxh3_128(data)
        # Who takes it out first has it: what the other has read may be what was written next.
        if self._pending.pop(index, _TAKEN) is _TAKEN:
            return True
        if saved:
            self._bytes_saved += length
        else:
            self.bytes_read += length
        digest = hasher.digest()
        hole = is_zero(digest, length)
        self.found[index] = None if hole else digest
        if length < BLOCK_SIZE:
            self.tail = hasher
        if self.aside is not None and not hole and self.base.get(index) != digest:
            self.aside(digest, data)
        return True


def _blocks(offset: int, end: int) -> range:
    return range(offset // BLOCK_SIZE, -(-end // BLOCK_SIZE))
