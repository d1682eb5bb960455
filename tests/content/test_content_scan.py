"""Hashing from scratch: only the ranges that hold data, each block once."""

from __future__ import annotations

import pytest

from ghostfs.content import BLOCK_SIZE, EMPTY, BlockList, block_digest, scan
from ghostfs.errors import Superseded


class Recorder:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.reads: list[int] = []

    def __call__(self, offset: int, length: int) -> bytes:
        self.reads.append(offset // BLOCK_SIZE)
        return self.content[offset : offset + length]


def test_an_empty_file_reads_nothing() -> None:
    reader = Recorder(b"")
    assert scan(reader, 0, []) == EMPTY
    assert scan(reader, 0, [(0, 4096)]) == EMPTY
    assert reader.reads == []


def test_ranges_that_share_a_block_read_it_once() -> None:
    content = b"x" * (4 * BLOCK_SIZE + 10)
    reader = Recorder(content)
    ranges = [
        (0, 10),
        (5, 100),
        (4096, 4096),
        (BLOCK_SIZE - 1, 2),
        (2 * BLOCK_SIZE - 1, 1),
        (4 * BLOCK_SIZE, 9999),
    ]
    blocks = scan(reader, len(content), ranges)
    assert reader.reads == [0, 1, 4]
    assert dict(blocks.data_blocks()) == {
        0: block_digest(b"x" * BLOCK_SIZE),
        1: block_digest(b"x" * BLOCK_SIZE),
        4: block_digest(b"x" * 10),
    }


def test_data_that_is_zero_is_a_hole() -> None:
    content = bytes(2 * BLOCK_SIZE + 5)
    assert scan(Recorder(content), len(content), [(0, len(content))]) == BlockList(len(content), {})


def test_a_terabyte_reads_what_it_holds() -> None:
    size = 1 << 40
    reads: list[tuple[int, int]] = []

    def reader(offset: int, length: int) -> bytes:
        reads.append((offset, length))
        return b"x" * length

    scan(reader, size, iter([(size // 2 + 4096, 1), (size - 1, 1)]))
    assert reads == [(size // 2, BLOCK_SIZE), (size - BLOCK_SIZE, BLOCK_SIZE)]


def test_a_file_that_shrinks_meanwhile_is_superseded() -> None:
    with pytest.raises(Superseded):
        scan(Recorder(b"x" * 99), 100, [(0, 100)])


def test_ranges_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="go back"):
        scan(Recorder(b"x" * (2 * BLOCK_SIZE)), 2 * BLOCK_SIZE, [(BLOCK_SIZE, 1), (0, 1)])
