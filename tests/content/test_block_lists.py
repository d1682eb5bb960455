"""Block lists: digests, holes, lengths, and the one encoding of each."""

from __future__ import annotations

import random

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from ghostfs.content import (
    BLOCK_SIZE,
    DIGEST_SIZE,
    EMPTY,
    SIZE_MAX,
    BlockList,
    block_digest,
    file_digest,
    is_zero,
)
from ghostfs.errors import InvalidCell

D1, D2, D3 = (bytes([n]) * DIGEST_SIZE for n in (1, 2, 3))


def run(holes: int, *digests: bytes) -> bytes:
    return bytes([holes, len(digests)]) + b"".join(digests)


digests = st.binary(min_size=DIGEST_SIZE, max_size=DIGEST_SIZE)


@st.composite
def block_lists(draw: st.DrawFn) -> BlockList:
    spread = draw(st.sampled_from([4, 300, 2**20, SIZE_MAX // BLOCK_SIZE - 1]))
    blocks = draw(st.dictionaries(st.integers(0, spread), digests, max_size=12))
    last = max(blocks, default=0)
    return BlockList(last * BLOCK_SIZE + draw(st.integers(1, BLOCK_SIZE * 3 // 2)), blocks)


def test_the_digest_of_a_block_is_canonical_xxh3_128() -> None:
    assert block_digest(b"abc").hex() == "06b05ab6733a618578af5f94892f3950"
    assert block_digest(memoryview(b"xabc")[1:]) == block_digest(bytearray(b"abc"))
    assert len(block_digest(b"")) == DIGEST_SIZE


def test_the_digest_of_a_file_covers_size_and_blocks() -> None:
    one = BlockList(5, {0: D1})
    expected = xxhash.xxh3_128(b"ghostfs-file-1" + (5).to_bytes(8, "big") + b"\x00\x01" + D1).digest()
    assert one.digest() == expected == file_digest(5, one.encode())
    assert (
        len({EMPTY.digest(), one.digest(), BlockList(6, {0: D1}).digest(), BlockList(5, {0: D2}).digest()})
        == 4
    )


def test_lengths_and_count() -> None:
    blocks = BlockList(2 * BLOCK_SIZE + 7, {2: D1})
    assert blocks.count == 3
    assert [blocks.length_of(index) for index in range(5)] == [BLOCK_SIZE, BLOCK_SIZE, 7, 0, 0]
    assert blocks.get(0) is None
    assert blocks.get(2) == D1
    assert (EMPTY.count, EMPTY.length_of(0), EMPTY.encode()) == (0, 0, b"")
    assert BlockList(BLOCK_SIZE, {}).count == 1


@pytest.mark.parametrize("length", [1, 17, 4096, BLOCK_SIZE - 1, BLOCK_SIZE])
def test_zeros_are_known_by_their_digest(length: int) -> None:
    assert is_zero(block_digest(bytes(length)), length)
    assert not is_zero(block_digest(bytes(length - 1) + b"\1"), length)
    assert length == BLOCK_SIZE or not is_zero(block_digest(bytes(length)), length + 1)


def test_the_encoding_is_as_documented() -> None:
    blocks = BlockList(1000 * BLOCK_SIZE, {0: D1, 1: D2, 302: D3})
    assert blocks.encode() == b"\x00\x02" + D1 + D2 + b"\xac\x02\x01" + D3


def test_data_blocks_ascend_whatever_the_order_of_the_mapping() -> None:
    numbers = list(range(50))
    random.Random(1).shuffle(numbers)
    blocks = BlockList(50 * BLOCK_SIZE, dict.fromkeys(numbers, D1))
    assert [index for index, _ in blocks.data_blocks()] == sorted(numbers)
    assert BlockList.decode(blocks.size, blocks.encode()) == blocks
    assert hash(blocks) == hash(BlockList.decode(blocks.size, blocks.encode()))


@given(block_lists())
def test_an_encoding_decodes_to_the_same_list(blocks: BlockList) -> None:
    encoded = blocks.encode()
    again = BlockList.decode(blocks.size, encoded)
    assert again == blocks
    assert list(again.data_blocks()) == sorted(blocks.digests.items())
    assert again.digest() == blocks.digest()


@given(block_lists(), st.data())
def test_bytes_that_decode_are_what_encode_would_have_made(blocks: BlockList, data: st.DataObject) -> None:
    """Any damage is refused, or is itself the encoding of another list: none has two."""
    encoded = bytearray(blocks.encode())
    at = data.draw(st.integers(0, len(encoded)))
    cut = data.draw(st.integers(0, 3))
    encoded[at : at + cut] = data.draw(st.binary(max_size=3))
    size = data.draw(st.sampled_from([blocks.size, blocks.size // 2]))
    try:
        decoded = BlockList.decode(size, bytes(encoded))
    except InvalidCell:
        return
    assert decoded.encode() == encoded
    assert max(decoded.digests, default=0) < max(1, decoded.count)


ZERO_BLOCK = block_digest(bytes(BLOCK_SIZE))
FULL = 10 * BLOCK_SIZE


@pytest.mark.parametrize(
    ("size", "encoded"),
    [
        pytest.param(-1, b"", id="negative-size"),
        pytest.param(SIZE_MAX + 1, b"", id="size-beyond-off_t"),
        pytest.param(0, run(0, D1), id="data-in-an-empty-file"),
        pytest.param(FULL, run(0, D1) + run(0, D2), id="two-runs-that-are-one"),
        pytest.param(FULL, run(2), id="run-of-nothing"),
        pytest.param(FULL, run(0, D1) + run(3), id="run-of-nothing-at-the-end"),
        pytest.param(FULL, run(0, D1) + b"\x09", id="holes-at-the-end"),
        pytest.param(FULL, run(0, D1)[:-1], id="digest-cut-off"),
        pytest.param(FULL, run(0, D1) + b"\x81", id="number-cut-off"),
        pytest.param(FULL, run(10, D1), id="beyond-the-end"),
        pytest.param(FULL, run(9, D1, D2), id="half-beyond-the-end"),
        pytest.param(FULL, b"\x81\x00\x01" + D1, id="needless-byte"),
        pytest.param(FULL, b"\x00\x81\x80\x00" + D1, id="needless-bytes"),
        pytest.param(FULL, b"\x80" * 10 + b"\x01\x01" + D1, id="number-too-long"),
        pytest.param(FULL, b"\x00" + b"\xff" * 8 + b"\x7f" + D1, id="count-of-all-the-world"),
        pytest.param(FULL, run(0, D1, ZERO_BLOCK), id="digest-of-zeros"),
        pytest.param(FULL, run(9, ZERO_BLOCK), id="digest-of-zeros-in-a-full-last-block"),
        pytest.param(100, run(0, block_digest(bytes(100))), id="digest-of-zeros-in-a-short-last-block"),
    ],
)
def test_what_is_not_canonical_is_refused(size: int, encoded: bytes) -> None:
    with pytest.raises(InvalidCell):
        BlockList.decode(size, encoded)


def test_the_largest_file_has_the_longest_number() -> None:
    blocks = BlockList(SIZE_MAX, {SIZE_MAX // BLOCK_SIZE: D1})
    assert BlockList.decode(SIZE_MAX, blocks.encode()) == blocks
