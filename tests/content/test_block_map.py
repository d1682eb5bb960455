"""The block map, case by case: what is hashed, what is read back, what a settle in two halves keeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import xxhash

from ghostfs.content import BLOCK_SIZE, EMPTY, BlockList, BlockMap, block_digest
from ghostfs.errors import Superseded

HALF = BLOCK_SIZE // 2


class File:
    """A file in memory, and the map that follows it; every read is noted."""

    def __init__(self, content: bytes = b"", *, base: BlockList = EMPTY) -> None:
        self.content = bytearray(content)
        self.map = BlockMap(base)
        self.reads: list[tuple[int, int]] = []

    def write(self, offset: int, data: bytes) -> None:
        self.content.extend(bytes(max(0, offset - len(self.content))))
        self.content[offset : offset + len(data)] = data
        self.map.write(offset, data)

    def append(self, data: bytes) -> None:
        self.write(len(self.content), data)

    def truncate(self, size: int) -> None:
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))
        self.map.truncate(size)

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return bytes(self.content[offset : offset + length])

    def settle(self) -> BlockList:
        blocks = self.map.settle(self.read)
        assert blocks == from_scratch(self.content)
        assert not self.map.unsettled
        return blocks


def from_scratch(content: bytes | bytearray) -> BlockList:
    blocks = {}
    for index in range(-(-len(content) // BLOCK_SIZE)):
        block = bytes(content[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE])
        if any(block):
            blocks[index] = xxhash.xxh3_128(block).digest()
    return BlockList(len(content), blocks)


def no_read(offset: int, length: int) -> bytes:
    raise AssertionError(f"read {length} bytes at {offset}")


def settled(content: bytes) -> File:
    return File(content, base=from_scratch(content))


def test_a_new_map_is_settled() -> None:
    file = settled(b"abc")
    assert not file.map.unsettled
    assert file.map.settle(no_read) is file.map.settle(no_read)
    assert (file.map.size, file.map.version, file.map.bytes_hashed) == (3, 0, 0)


@pytest.mark.parametrize("chunk", [1000, 4096, 4097, HALF, BLOCK_SIZE, BLOCK_SIZE + 1, 4 * BLOCK_SIZE])
def test_sequential_writes_are_never_read_back(chunk: int) -> None:
    file = File()
    for number in range(3 * BLOCK_SIZE // chunk + 2):
        file.append(bytes([number % 251 + 1]) * chunk)
    file.settle()
    assert file.reads == []
    assert file.map.bytes_hashed == len(file.content)
    assert file.map.bytes_reread == 0


def test_appends_go_on_after_every_settle_without_reading() -> None:
    file = File()
    for _ in range(40):
        file.append(b"line\n" * 3000)
        file.settle()
    assert file.reads == []
    assert file.map.bytes_hashed == len(file.content)


def test_the_tail_of_a_known_file_is_read_once_however_often_it_is_appended_to() -> None:
    file = settled(b"x" * (BLOCK_SIZE + 100))
    for _ in range(5):
        file.append(b"more")
        file.settle()
    assert file.reads == [(BLOCK_SIZE, 104)]


def test_a_whole_file_is_written_again_without_reading() -> None:
    file = settled(b"x" * 5000)
    file.write(0, b"y" * 5000)
    file.settle()
    assert file.reads == []


def test_a_file_is_overwritten_in_order_without_reading() -> None:
    file = settled(b"x" * (3 * BLOCK_SIZE))
    for offset in range(0, 3 * BLOCK_SIZE, HALF):
        file.write(offset, b"y" * HALF)
    file.settle()
    assert file.reads == []


def test_an_overwritten_byte_costs_one_block() -> None:
    file = settled(b"x" * (5 * BLOCK_SIZE))
    for offset in (3 * BLOCK_SIZE + 5, 3 * BLOCK_SIZE + 90):
        file.write(offset, b"y")
    file.settle()
    assert file.reads == [(3 * BLOCK_SIZE, BLOCK_SIZE)]
    assert file.map.bytes_hashed == file.map.bytes_reread == BLOCK_SIZE


def test_a_write_into_what_the_stream_was_fed_is_seen() -> None:
    file = File()
    file.append(b"x" * 5000)
    file.write(100, b"y")
    file.append(b"z" * 10)
    file.settle()
    assert file.reads == [(0, 5010)]
    file.append(b"more")
    file.settle()
    assert len(file.reads) == 1


@pytest.mark.parametrize("back", [1, 2, 100])
def test_the_last_bytes_written_are_written_again(back: int) -> None:
    file = File()
    file.append(b"x" * 100)
    file.write(100 - back, b"y" * back)
    file.settle()


@pytest.mark.parametrize("size", [98, 99])
def test_the_last_bytes_written_are_cut_off_and_come_back_as_zeros(size: int) -> None:
    file = File()
    file.append(b"x" * 100)
    file.truncate(size)
    file.truncate(100)
    file.settle()


def test_a_tail_left_behind_by_a_write_far_beyond_is_another_block() -> None:
    file = settled(b"x" * 100)
    file.write(3 * BLOCK_SIZE, b"far")
    assert list(file.settle().digests) == [0, 3]


def test_writing_beyond_a_hole_is_streamed() -> None:
    file = File()
    file.append(b"x" * 100)
    for offset in (0, 100, 200):
        file.write(BLOCK_SIZE + offset, b"y" * 100)
    file.settle()
    assert file.reads == [(0, BLOCK_SIZE)]


@pytest.mark.parametrize("size", [BLOCK_SIZE - 5, BLOCK_SIZE + 5])
def test_a_block_overwritten_with_zeros_changes_its_length_without_reading(size: int) -> None:
    file = settled(b"x" * (size - size % BLOCK_SIZE or BLOCK_SIZE))
    file.write(0, bytes(BLOCK_SIZE))
    file.truncate(size)
    assert file.settle().digests == {}
    assert file.reads == []


def test_a_header_rewritten_leaves_the_stream_at_the_end() -> None:
    file = File()
    file.append(b"x" * (BLOCK_SIZE + 100))
    for _ in range(3):
        file.write(0, b"header")
        file.append(b"record")
    file.settle()
    assert file.reads == [(0, BLOCK_SIZE)]


def test_writing_ahead_of_the_stream_does_not_break_it() -> None:
    file = File()
    file.append(b"x" * 100)
    file.write(HALF, b"far")
    file.write(100, b"y" * (BLOCK_SIZE - 100))
    file.settle()
    assert file.reads == []


def test_a_block_cut_back_to_where_the_stream_stands_is_not_read() -> None:
    file = File()
    file.append(b"x" * 100)
    file.write(HALF, b"far")
    file.truncate(100)
    file.settle()
    assert file.reads == []


def test_truncation_into_the_stream_reads_the_tail() -> None:
    file = File()
    file.append(b"x" * 100)
    file.truncate(60)
    file.append(b"y" * 40)
    file.settle()
    assert file.reads == [(0, 100)]


def test_truncation_and_growth_bring_no_old_block_back() -> None:
    file = settled(b"x" * (4 * BLOCK_SIZE))
    file.truncate(BLOCK_SIZE + 10)
    file.truncate(4 * BLOCK_SIZE)
    blocks = file.settle()
    assert [index for index, _ in blocks.data_blocks()] == [0, 1]
    assert file.reads == [(BLOCK_SIZE, BLOCK_SIZE)]


def test_truncation_to_nothing_and_a_new_content() -> None:
    file = settled(b"x" * (2 * BLOCK_SIZE))
    file.truncate(0)
    file.append(b"new")
    file.settle()
    assert file.reads == []


@pytest.mark.parametrize("length", [10, BLOCK_SIZE, BLOCK_SIZE + 10])
def test_written_zeros_are_holes(length: int) -> None:
    file = File()
    file.append(bytes(length))
    assert file.settle().digests == {}
    file.append(bytes(7))
    assert file.settle().digests == {}
    file.append(b"x")
    assert len(file.settle().digests) == 1
    assert file.reads == []


def test_zeros_read_back_are_holes() -> None:
    file = settled(b"x" * (BLOCK_SIZE + 1))
    file.write(0, bytes(BLOCK_SIZE - 5))
    file.write(BLOCK_SIZE - 5, bytes(6))
    assert file.settle().digests == {}


def test_a_hole_that_grows_or_shrinks_is_not_read() -> None:
    file = File()
    for size in (100, 3 * BLOCK_SIZE + 5, BLOCK_SIZE + 1, 2 * BLOCK_SIZE):
        file.truncate(size)
        assert file.settle().digests == {}
    assert file.reads == []


def test_a_terabyte_of_nothing_is_free() -> None:
    size = 1 << 40
    blocks = BlockMap()
    blocks.truncate(size)
    blocks.write(size - 3 * BLOCK_SIZE, b"x" * BLOCK_SIZE)
    blocks.truncate(size // 2)
    blocks.write(2 * size, b"x")
    blocks.truncate(4 * size)
    blocks.truncate(2 * size + 1)
    result = blocks.settle(no_read)
    assert dict(result.data_blocks()) == {2 * size // BLOCK_SIZE: block_digest(b"x")}
    assert blocks.bytes_hashed == BLOCK_SIZE + 1
    assert BlockList.decode(result.size, result.encode()) == result


def test_nothing_written_changes_nothing() -> None:
    file = settled(b"abc")
    file.map.write(100, b"")
    file.map.truncate(3)
    file.map.touch(3, 100)
    file.map.touch(0, 0)
    assert not file.map.unsettled
    assert file.map.size == 3


def test_every_change_has_a_version() -> None:
    blocks = BlockMap()
    seen = [blocks.version]
    changes: list[Callable[[], None]] = [
        lambda: blocks.write(0, b"abc"),
        lambda: blocks.write(3, b"abc"),
        lambda: blocks.truncate(2),
        lambda: blocks.touch(0, 1),
        lambda: blocks.resize_seen(4),
    ]
    for change in changes:
        change()
        seen.append(blocks.version)
    assert seen == sorted(set(seen))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(kind: type) -> None:
    data = b"abc" * BLOCK_SIZE
    blocks = BlockMap()
    blocks.write(0, kind(data))
    blocks.write(len(data), kind(b"tail"))
    assert blocks.settle(no_read) == from_scratch(data + b"tail")


def test_touched_blocks_are_read() -> None:
    file = settled(b"x" * (4 * BLOCK_SIZE))
    file.content[BLOCK_SIZE : BLOCK_SIZE + 1] = b"y"
    file.map.touch(BLOCK_SIZE, BLOCK_SIZE + 1)
    file.settle()
    assert file.reads == [(BLOCK_SIZE, BLOCK_SIZE), (2 * BLOCK_SIZE, BLOCK_SIZE)]


def test_a_touch_under_the_stream_is_seen() -> None:
    file = File()
    file.append(b"x" * 100)
    file.content[0:1] = b"y"
    file.map.touch(0, 1)
    file.append(b"z")
    file.settle()
    assert file.reads == [(0, 101)]


@pytest.mark.parametrize("content", [b"y" * 10, b"x" * 3000, b"x" * 5000 + b"z" * BLOCK_SIZE, b""])
def test_a_size_that_changed_unseen(content: bytes) -> None:
    file = File()
    file.append(b"x" * 5000)
    file.settle()
    file.content[:] = content
    file.map.resize_seen(len(content))
    file.map.touch(0, len(content))
    file.settle()


def test_growth_unseen_is_read() -> None:
    file = settled(b"x" * 5000)
    file.content.extend(b"y" * BLOCK_SIZE)
    file.map.resize_seen(len(file.content))
    file.settle()


def test_a_write_between_the_halves_of_a_settle_loses_nothing() -> None:
    file = settled(b"x" * (3 * BLOCK_SIZE + 9))
    file.write(5, b"y")
    file.append(b"tail")
    settlement = file.map.begin_settle()
    assert settlement.pending == 2
    settlement.read(file.read)
    file.write(BLOCK_SIZE, b"z" * BLOCK_SIZE)
    assert file.map.finish_settle(settlement) is None
    assert file.map.unsettled
    assert file.map.bytes_reread == BLOCK_SIZE + 13
    file.settle()


def test_a_write_while_it_reads_loses_nothing() -> None:
    file = settled(b"x" * BLOCK_SIZE)
    file.write(5, b"y")
    settlement = file.map.begin_settle()

    def torn(offset: int, length: int) -> bytes:
        before = file.read(offset, length)
        file.write(100, b"late")
        return before

    settlement.read(torn)
    assert file.map.finish_settle(settlement) is None
    file.settle()


def test_a_settlement_that_is_not_read_finishes_nothing() -> None:
    file = settled(b"x" * BLOCK_SIZE)
    file.write(5, b"y")
    assert file.map.finish_settle(file.map.begin_settle()) is None
    assert file.map.unsettled
    file.settle()


def test_a_settlement_without_reading_need_not_be_read() -> None:
    file = File()
    file.append(b"abc")
    settlement = file.map.begin_settle()
    assert settlement.pending == 0
    assert file.map.finish_settle(settlement) == from_scratch(b"abc")


def test_two_settlements_of_one_version_agree() -> None:
    file = settled(b"x" * BLOCK_SIZE)
    file.write(5, b"y")
    first, second = file.map.begin_settle(), file.map.begin_settle()
    first.read(file.read)
    second.read(file.read)
    assert file.map.finish_settle(second) is file.map.finish_settle(first)
    file.write(6, b"y")
    assert file.map.finish_settle(first) is None
    file.settle()


def test_a_file_that_shrank_unseen_does_not_settle() -> None:
    file = settled(b"x" * (2 * BLOCK_SIZE))
    file.write(5, b"y")
    file.write(BLOCK_SIZE + 5, b"y")
    del file.content[BLOCK_SIZE + 100 :]
    settlement = file.map.begin_settle()
    settlement.read(file.read)
    assert settlement.short
    assert file.map.finish_settle(settlement) is None
    with pytest.raises(Superseded):
        file.map.settle(file.read)
    assert file.map.unsettled
    file.map.resize_seen(len(file.content))
    file.settle()


def test_a_reader_that_fails_loses_nothing_and_can_go_on() -> None:
    file = settled(b"x" * (2 * BLOCK_SIZE))
    file.write(5, b"y")
    file.write(BLOCK_SIZE + 5, b"y")
    settlement = file.map.begin_settle()

    def broken(offset: int, length: int) -> bytes:
        if offset:
            raise OSError(5, "Input/output error")
        return file.read(offset, length)

    with pytest.raises(OSError, match="Input/output"):
        settlement.read(broken)
    assert file.map.finish_settle(settlement) is None
    settlement.read(file.read)
    assert file.map.finish_settle(settlement) == from_scratch(file.content)
    assert file.reads == [(0, BLOCK_SIZE), (BLOCK_SIZE, BLOCK_SIZE)]
    assert file.map.bytes_reread == 2 * BLOCK_SIZE


def test_a_settled_list_does_not_change_with_the_map() -> None:
    file = File()
    file.append(b"x" * BLOCK_SIZE)
    before = file.settle()
    digests = dict(before.digests)
    file.write(0, b"y" * (2 * BLOCK_SIZE))
    file.truncate(10)
    file.settle()
    assert before == BlockList(BLOCK_SIZE, digests)
