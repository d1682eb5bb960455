"""A block list from scratch: for files that nobody has watched being written."""

from __future__ import annotations

__all__ = ["scan"]

from collections.abc import Iterable

from ghostfs.content.blocks import BLOCK_SIZE, BlockList, block_digest, is_zero
from ghostfs.content.settlement import Reader
from ghostfs.errors import Superseded


def scan(reader: Reader, size: int, data_ranges: Iterable[tuple[int, int]]) -> BlockList:
    """Hash a file of `size` bytes, reading only the blocks that `data_ranges` touch; the rest is zeros.

    `data_ranges` are (offset, length) pairs, ascending by offset, as `SEEK_DATA` and `SEEK_HOLE` give
    them; they may touch, overlap and reach beyond `size`. Each block is read once.

    Raises:
        Superseded: the reader gave fewer bytes than `size` promises; the file is being changed.
        ValueError: a range begins before the one it follows.
    """
    digests: dict[int, bytes] = {}
    unread = 0
    previous = 0
    for start, length in data_ranges:
        if start < previous:
            raise ValueError(f"data ranges go back from {previous} to {start}")
        previous = start
        end = min(start + length, size)
        if start >= end:
            continue
        first, unread = max(unread, start // BLOCK_SIZE), max(unread, -(-end // BLOCK_SIZE))
        for index in range(first, unread):
            offset = index * BLOCK_SIZE
            wanted = min(BLOCK_SIZE, size - offset)
            data = reader(offset, wanted)
            if len(data) != wanted:
                raise Superseded(f"the file is shorter than the {size} bytes it had; it is being changed")
            digest = block_digest(data)
            if not is_zero(digest, wanted):
                digests[index] = digest
    return BlockList(size, digests)
