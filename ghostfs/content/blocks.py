"""Blocks and block lists: what one version of a file consists of.

A file is cut into blocks of `BLOCK_SIZE` bytes; the last may be shorter. A block is known by the
xxh3-128 of its bytes (https://github.com/Cyan4973/xxHash), in canonical (big-endian) form. A block whose
bytes are all zero, the short last one included, is a *hole* and has no digest: sparse and dense copies
of a file are the same content, and a hole costs nothing to keep, send or compare.

The encoding of a block list, kept in the index and sent on the wire, is a sequence of runs in order:

    holes   uvarint   blocks without data before the run; 0 in the first run only
    count   uvarint   blocks in the run, at least 1
    digests count * 16 bytes

A hole at the end is left out, so the encoding of a file without data is empty. A uvarint is LEB128:
7 bits a byte, low bits first, the high bit set on all but the last byte, in the fewest bytes. There is
one encoding for one content; everything else is refused.
"""

from __future__ import annotations

__all__ = [
    "BLOCK_SIZE",
    "DIGEST_SIZE",
    "EMPTY",
    "SIZE_MAX",
    "BlockList",
    "block_digest",
    "file_digest",
    "is_zero",
]

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from xxhash import xxh3_128_digest

from ghostfs.errors import InvalidCell

BLOCK_SIZE = 262144
"""Bytes in a block, except perhaps the last of a file."""

DIGEST_SIZE = 16
"""Bytes in a digest."""

SIZE_MAX = 2**63 - 1
"""The largest size of a file: what `off_t` and an SQLite integer hold."""

_UVARINT_MAX = 9
"""Bytes in the longest uvarint: 63 bits, enough for any count of blocks."""

_FILE_TAG = b"ghostfs-file-1"

_ZEROS = memoryview(bytes(BLOCK_SIZE))

block_digest = xxh3_128_digest
"""block_digest(data) -> bytes: the digest of one block's bytes, any bytes-like object, not copied."""

_ZERO_DIGEST = block_digest(_ZEROS)


_FIRST_BLOCK_ONLY = bytes((0, 1))
"""How the encoding of most files begins: no holes, one block."""


def is_zero(digest: bytes, length: int) -> bool:
    """Whether `digest` is that of `length` zero bytes, `length` at most `BLOCK_SIZE`."""
    if length == BLOCK_SIZE:
        return digest == _ZERO_DIGEST
    return digest == block_digest(_ZEROS[:length])


def file_digest(size: int, encoded: bytes) -> bytes:
    """The digest of a whole file, from its size and the encoding of its block list."""
    return xxh3_128_digest(_FILE_TAG + size.to_bytes(8, "big") + encoded)


@dataclass(frozen=True, slots=True)
class BlockList:
    """The content of one version of a file: its size, and a digest for each block that is no hole.

    `digests` maps block numbers to digests, in any order; whoever makes a list hands the mapping over
    and does not change it again. Space and time follow the blocks that hold data, never `size`.
    """

    size: int
    digests: Mapping[int, bytes] = field(hash=False)

    @property
    def count(self) -> int:
        """How many blocks the file has, holes included."""
        return -(-self.size // BLOCK_SIZE)

    def get(self, index: int) -> bytes | None:
        """The digest of block `index`; None for a hole and beyond the end."""
        return self.digests.get(index)

    def length_of(self, index: int) -> int:
        """The length of block `index` in bytes; 0 beyond the end."""
        return max(0, min(BLOCK_SIZE, self.size - index * BLOCK_SIZE))

    def data_blocks(self) -> Iterator[tuple[int, bytes]]:
        """Number and digest of each block that is no hole, ascending."""
        digests = self.digests
        return ((index, digests[index]) for index in sorted(digests))

    def encode(self) -> bytes:
        """The canonical encoding; see the head of this module."""
        digests = self.digests
        if not digests:
            return b""
        if len(digests) == 1 and 0 in digests:
            return _FIRST_BLOCK_ONLY + digests[0]
        parts: list[bytes] = []
        run: list[bytes] = []
        first = expected = end = 0
        for index in sorted(digests):
            if index != expected and run:
                parts += (_uvarint(first - end), _uvarint(len(run)), *run)
                end = expected
                run.clear()
            if not run:
                first = index
            run.append(digests[index])
            expected = index + 1
        if run:
            parts += (_uvarint(first - end), _uvarint(len(run)), *run)
        return b"".join(parts)

    @staticmethod
    def decode(size: int, encoded: bytes) -> BlockList:
        """The list that `encode` made these bytes of.

        Raises:
            InvalidCell: `size` is out of range, or `encoded` is not the canonical encoding of the block
                list of a file of that size.
        """
        if not 0 <= size <= SIZE_MAX:
            raise InvalidCell(f"not a file size: {size}")
        count = -(-size // BLOCK_SIZE)
        digests: dict[int, bytes] = {}
        index = position = 0
        while position < len(encoded):
            holes, position = _read_uvarint(encoded, position)
            if holes == 0 and digests:
                raise InvalidCell("block list: two runs that are one")
            length, position = _read_uvarint(encoded, position)
            index += holes
            end = position + length * DIGEST_SIZE
            if length == 0 or index + length > count or end > len(encoded):
                raise InvalidCell("block list: a run that is empty, cut off or beyond the end of the file")
            for at in range(position, end, DIGEST_SIZE):
                digests[index] = encoded[at : at + DIGEST_SIZE]
                index += 1
            position = end
        blocks = BlockList(size, digests)
        blocks._check_holes()
        return blocks

    def digest(self) -> bytes:
        """The digest of the whole file: equal for equal contents, whoever wrote them in whatever order."""
        return file_digest(self.size, self.encode())

    def _check_holes(self) -> None:
        """Refuse digests of blocks that are all zero: those are holes."""
        digests = self.digests
        last = self.count - 1
        # Hashing zeros for each block would cost more than all the rest; only these can be holes.
        suspects = [index for index, digest in digests.items() if digest == _ZERO_DIGEST or index == last]
        if any(is_zero(digests[index], self.length_of(index)) for index in suspects):
            raise InvalidCell("block list: a hole that has a digest")


def _uvarint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_uvarint(data: bytes, position: int) -> tuple[int, int]:
    """The number at `position`, and the position behind it."""
    if position < len(data) and data[position] < 0x80:
        return data[position], position + 1
    value = 0
    for length, byte in enumerate(data[position : position + _UVARINT_MAX]):
        value |= (byte & 0x7F) << (7 * length)
        if byte < 0x80:
            if byte == 0 and length:
                raise InvalidCell("block list: a number with needless bytes")
            return value, position + length + 1
    raise InvalidCell("block list: a number that is cut off or too large")


EMPTY = BlockList(0, {})
"""The content of an empty file."""
