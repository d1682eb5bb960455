"""The part of a settle that reads: done without the lock that guards the file's map."""

from __future__ import annotations

__all__ = ["Reader", "Settlement"]

from collections.abc import Callable
from typing import TypeAlias

from xxhash import xxh3_128

from ghostfs.content.blocks import BLOCK_SIZE, is_zero

Reader: TypeAlias = Callable[[int, int], bytes]
"""reader(offset, length): those bytes of the file, fewer only where the file ends. Like `os.pread`."""


class Settlement:
    """What one settle of a `BlockMap` must read, and what it found.

    Made by `BlockMap.begin_settle`; `read` it, then hand it to `BlockMap.finish_settle`. It holds nothing
    that the map would miss: one that is dropped, fails halfway or comes too late costs only its reading.
    """

    __slots__ = ("_counted", "_reads", "bytes_read", "found", "short", "size", "tail", "version")

    def __init__(self, version: int, size: int, reads: list[int], found: dict[int, bytes | None]) -> None:
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
        self._reads = reads
        self._counted = 0

    @property
    def pending(self) -> int:
        """How many blocks are still to be read; with 0, `read` need not be called."""
        return len(self._reads)

    def read(self, reader: Reader) -> None:
        """Read and hash what must be, a block at a time, ascending; stops where the reader runs short.

        Whatever `reader` raises passes through; called again, it goes on where it stopped.
        """
        while self._reads:
            index = self._reads[-1]
            offset = index * BLOCK_SIZE
            length = min(BLOCK_SIZE, self.size - offset)
            data = reader(offset, length)
            self.short = len(data) != length
            if self.short:
                return
            self.bytes_read += length
            hasher = xxh3_128(data)
            digest = hasher.digest()
            self.found[index] = None if is_zero(digest, length) else digest
            if length < BLOCK_SIZE:
                self.tail = hasher
            self._reads.pop()

    def take_count(self) -> int:
        """The bytes read since this was last asked."""
        count = self.bytes_read - self._counted
        self._counted = self.bytes_read
        return count
