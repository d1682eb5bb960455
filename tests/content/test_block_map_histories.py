"""Random histories of a file against a plain byte string: digests, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostfs.content import BLOCK_SIZE, BlockList, BlockMap, Settlement, scan

MAX_BLOCKS = 5

Operation: TypeAlias = tuple[str, *tuple[int, ...]]

near = st.sampled_from([0, 0, 1, 100, BLOCK_SIZE // 2, BLOCK_SIZE - 1])
positions = st.builds(lambda block, inside: block * BLOCK_SIZE + inside, st.integers(0, MAX_BLOCKS), near)
lengths = st.sampled_from(
    [0, 1, 99, 100, 4096, BLOCK_SIZE // 2, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 5 * BLOCK_SIZE // 2]
)
fills = st.sampled_from([0, 0, 1, 2, 3])

operations = st.one_of(
    st.tuples(st.just("append"), lengths, fills),
    st.tuples(st.just("append"), lengths, fills),
    st.tuples(st.just("follow"), lengths, fills),
    st.tuples(st.just("write"), positions, lengths, fills),
    st.tuples(st.just("write"), positions, lengths, fills),
    st.tuples(st.just("rewrite"), st.sampled_from([1, 2, 100]), st.sampled_from([1, 3, 200]), fills),
    st.tuples(st.just("truncate"), positions),
    st.tuples(st.just("cut"), st.sampled_from([1, 99, 100, 4096, BLOCK_SIZE])),
    st.tuples(st.just("touch"), positions, lengths, fills),
    st.tuples(st.just("resize_unseen"), positions, fills),
    st.tuples(st.just("seen_anew"), positions, positions, lengths, fills),
    st.tuples(st.just("settle")),
    st.tuples(st.just("begin")),
    st.tuples(st.just("read")),
    st.tuples(st.just("finish")),
)


def from_scratch(content: bytearray) -> BlockList:
    blocks = {}
    for index in range(-(-len(content) // BLOCK_SIZE)):
        block = content[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]
        if block.count(0) != len(block):
            blocks[index] = xxhash.xxh3_128(block).digest()
    return BlockList(len(content), blocks)


@dataclass
class History:
    """A file, its map, and a book of what the map may have hashed."""

    content: bytearray = field(default_factory=bytearray)
    map: BlockMap = field(default_factory=BlockMap)
    written: int = 0
    last_end: int = 0
    partly: set[int] = field(default_factory=set)
    readable: int = 0
    settlement: Settlement | None = None
    version: int = -1

    def append(self, length: int, fill: int) -> None:
        self.write(len(self.content), length, fill)

    def follow(self, length: int, fill: int) -> None:
        """Go on where the last write ended."""
        self.write(self.last_end, length, fill)

    def rewrite(self, back: int, length: int, fill: int) -> None:
        """Begin a little before the end of the last write."""
        self.write(max(0, self.last_end - back), length, fill)

    def write(self, offset: int, length: int, fill: int) -> None:
        data = bytes([fill]) * length
        if length:
            if offset > len(self.content):
                self.resize(offset, 0)
            self.content[offset : offset + length] = data
            self.last_end = offset + length
            self.note(offset, length)
        self.written += length
        self.map.write(offset, memoryview(data))

    def truncate(self, size: int) -> None:
        self.resize(size, 0)
        self.map.truncate(size)

    def cut(self, length: int) -> None:
        self.truncate(max(0, len(self.content) - length))

    def touch(self, offset: int, length: int, fill: int) -> None:
        end = min(offset + length, len(self.content))
        if offset < end:
            self.content[offset:end] = bytes([fill]) * (end - offset)
            self.partly.update(range(offset // BLOCK_SIZE, -(-end // BLOCK_SIZE)))
        self.map.touch(offset, length)

    def resize_unseen(self, size: int, fill: int) -> None:
        self.partly.update(range(len(self.content) // BLOCK_SIZE, -(-size // BLOCK_SIZE)))
        self.resize(size, fill)
        self.map.resize_seen(size)

    def seen_anew(self, size: int, offset: int, length: int, fill: int) -> None:
        """Somebody has put another file there: a hole, but for one range."""
        self.content = bytearray(size)
        end = min(offset + length, size)
        self.content[offset:end] = bytes([fill]) * (end - offset)
        self.partly.update(range(offset // BLOCK_SIZE, -(-end // BLOCK_SIZE)) if offset < end else ())
        self.map.seen_anew(size, [(offset, length)] if offset < end else [])

    def resize(self, size: int, fill: int) -> None:
        before = len(self.content)
        del self.content[size:]
        self.content.extend(bytes([fill]) * (size - before))
        self.partly.update(at // BLOCK_SIZE for at in (before, size) if at % BLOCK_SIZE)

    def note(self, offset: int, length: int) -> None:
        for index in range(offset // BLOCK_SIZE, -(-(offset + length) // BLOCK_SIZE)):
            whole = offset <= index * BLOCK_SIZE and offset + length >= (index + 1) * BLOCK_SIZE
            (self.partly.discard if whole else self.partly.add)(index)

    def reader(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def settle(self) -> None:
        self.readable += BLOCK_SIZE * len(self.partly)
        self.check(self.map.settle(self.reader))

    def begin(self) -> None:
        self.settlement = self.map.begin_settle()
        self.version = self.map.version
        self.readable += BLOCK_SIZE * len(self.partly)

    def read(self) -> None:
        if self.settlement:
            self.settlement.read(self.reader)

    def finish(self) -> None:
        if not self.settlement:
            return
        blocks = self.map.finish_settle(self.settlement)
        if self.map.version == self.version and not self.settlement.pending:
            assert blocks is not None
        if blocks is not None:
            assert self.map.version == self.version
            self.check(blocks)

    def check(self, blocks: BlockList) -> None:
        assert blocks == from_scratch(self.content)
        assert BlockList.decode(blocks.size, blocks.encode()) == blocks
        assert not self.map.unsettled
        self.partly.clear()


@settings(max_examples=300)
@given(st.lists(operations, max_size=25))
def test_any_history_settles_to_a_hash_from_scratch(history: list[Operation]) -> None:
    file = History()
    for name, *arguments in [*history, ("settle",)]:
        getattr(file, name)(*arguments)
        assert file.map.size == len(file.content)
        assert file.map.complete == (file.map.begin_settle().pending == 0)
        assert file.map.bytes_hashed <= file.written + file.readable
        assert file.map.bytes_reread <= file.readable


@settings(max_examples=50)
@given(st.lists(operations, max_size=10), st.lists(operations, max_size=10))
def test_a_map_made_from_a_settled_list_goes_on(first: list[Operation], second: list[Operation]) -> None:
    file = History()
    for name, *arguments in [*first, ("settle",)]:
        getattr(file, name)(*arguments)
    blocks = file.map.settle(file.reader)
    again = History(content=file.content, map=BlockMap(BlockList.decode(blocks.size, blocks.encode())))
    for name, *arguments in [*second, ("settle",)]:
        getattr(again, name)(*arguments)


@settings(max_examples=100)
@given(st.lists(st.sampled_from([1, 4096, 65537, BLOCK_SIZE, BLOCK_SIZE * 2 + 1, None]), max_size=30))
def test_appends_are_hashed_once_and_never_read(lengths: list[int | None]) -> None:
    file = History()
    for length in lengths:
        if length is None:
            file.settle()
        else:
            file.append(length, 1)
    file.settle()
    assert file.map.bytes_hashed == file.written == len(file.content)


@settings(max_examples=100)
@given(st.lists(st.tuples(positions, lengths, fills), max_size=6))
def test_a_scan_of_the_written_ranges_is_a_hash_from_scratch(writes: list[tuple[int, int, int]]) -> None:
    file = History()
    for offset, length, fill in writes:
        file.write(offset, length, fill)
    ranges = sorted((offset, length) for offset, length, _ in writes)
    assert scan(file.reader, len(file.content), ranges) == from_scratch(file.content)
