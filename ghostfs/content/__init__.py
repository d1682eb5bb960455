"""What files are made of: blocks, their digests, and the map of a file that is being written.

Pure: no files, no clocks, no threads. Whoever has bytes hands them in, or hands in a `Reader`.

    blocks.py     a block's digest; `BlockList`, the immutable content of one version of a file
    blockmap.py   `BlockMap`, the content of a file while it changes: the hot path of write(2)
    settlement.py `Settlement`, the reading that a settle needs and that is done without the file's lock
    scan.py       `scan`, a `BlockList` from scratch, over the parts of a file that hold data

Imported by the index and everything above it; imports `ghostfs.errors` only.
"""

from __future__ import annotations

__all__ = [
    "BLOCK_SIZE",
    "DIGEST_SIZE",
    "EMPTY",
    "SIZE_MAX",
    "BlockList",
    "BlockMap",
    "Reader",
    "Settlement",
    "block_digest",
    "file_digest",
    "is_zero",
    "scan",
]

from ghostfs.content.blockmap import BlockMap
from ghostfs.content.blocks import (
    BLOCK_SIZE,
    DIGEST_SIZE,
    EMPTY,
    SIZE_MAX,
    BlockList,
    block_digest,
    file_digest,
    is_zero,
)
from ghostfs.content.scan import scan
from ghostfs.content.settlement import Reader, Settlement
