"""A guarded settlement gives the content at its beginning, whatever is written before it has ended."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TypeAlias

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostfs.content import BLOCK_SIZE, BlockList, BlockMap, Settlement, block_digest

MAX_BLOCKS = 5

Operation: TypeAlias = tuple[str, *tuple[int, ...]]

near = st.sampled_from([0, 0, 1, 100, BLOCK_SIZE // 2, BLOCK_SIZE - 1])
positions = st.builds(lambda block, inside: block * BLOCK_SIZE + inside, st.integers(0, MAX_BLOCKS), near)
lengths = st.sampled_from(
    [1, 99, 100, 4096, BLOCK_SIZE // 2, BLOCK_SIZE, BLOCK_SIZE + 1, 5 * BLOCK_SIZE // 2]
)
fills = st.sampled_from([0, 0, 1, 2, 3])

operations = st.one_of(
    st.tuples(st.just("append"), lengths, fills),
    st.tuples(st.just("write"), positions, lengths, fills),
    st.tuples(st.just("write"), positions, lengths, fills),
    st.tuples(st.just("truncate"), positions),
    st.tuples(st.just("begin"), st.sampled_from([0, 1])),
    st.tuples(st.just("begin"), st.sampled_from([0, 1])),
    st.tuples(st.just("read"), st.integers(0, 3)),
    st.tuples(st.just("finish")),
    st.tuples(st.just("finish")),
)


def from_scratch(content: bytes | bytearray) -> BlockList:
    blocks = {}
    for index in range(-(-len(content) // BLOCK_SIZE)):
        block = content[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]
        if block.count(0) != len(block):
            blocks[index] = xxhash.xxh3_128(block).digest()
    return BlockList(len(content), blocks)


class Stop(Exception):
    """Enough for now."""


@dataclass
class History:
    """A file, its map, and what it was when the settlement began."""

    content: bytearray = field(default_factory=bytearray)
    map: BlockMap = field(default_factory=BlockMap)
    settlement: Settlement | None = None
    then: bytes = b""
    settled: BlockList = field(default_factory=lambda: BlockList(0, {}))
    aside: dict[bytes, bytes] = field(default_factory=dict)
    finished: int = 0

    def append(self, length: int, fill: int) -> None:
        self.write(len(self.content), length, fill)

    def write(self, offset: int, length: int, fill: int) -> None:
        if self.settlement is not None:
            self.settlement.save(offset, length, self.reader)
        data = bytes([fill]) * length
        self.content.extend(bytes(max(0, offset - len(self.content))))
        self.content[offset : offset + length] = data
        self.map.write(offset, data)

    def truncate(self, size: int) -> None:
        if self.settlement is not None:
            self.settlement.save_cut(size, self.reader, most=1)
        before = len(self.content)
        del self.content[size:]
        self.content.extend(bytes(max(0, size - before)))
        self.map.truncate(size)

    def begin(self, everything: int) -> None:
        self.aside = {}
        self.settlement = self.map.begin_settle(guarded=True, all_changed=bool(everything))
        self.settlement.aside = self.aside.__setitem__
        self.everything = everything
        self.then = bytes(self.content)

    def read(self, most: int) -> None:
        if self.settlement is None:
            return
        left = most

        def reader(offset: int, length: int) -> bytes:
            nonlocal left
            left -= 1
            if left < 0:
                raise Stop
            return self.reader(offset, length)

        try:
            self.settlement.read(reader)
        except Stop:
            assert self.settlement.pending

    def finish(self) -> None:
        settlement, self.settlement = self.settlement, None
        if settlement is None:
            return
        blocks = self.map.finish_settle(settlement)
        if settlement.pending or settlement.spoiled:
            assert blocks is None
            return
        assert blocks == from_scratch(self.then)
        self.finished += 1
        assert self.map.unsettled == (settlement.version != self.map.version)
        assert all(block_digest(data) == digest for digest, data in self.aside.items())
        if self.everything:
            new = {d for i, d in blocks.data_blocks() if self.settled.get(i) != d}
            assert new <= self.aside.keys(), "all that is new was put aside as it was"
        self.settled = blocks

    def reader(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])


@settings(max_examples=600)
@given(st.lists(operations, max_size=30))
def test_any_history(history: list[Operation]) -> None:
    file = History()
    for name, *arguments in history:
        getattr(file, name)(*arguments)
        assert file.map.size == len(file.content)
    file.finish()
    assert file.map.settle(file.reader) == from_scratch(file.content)
    assert not file.map.unsettled


def test_a_writer_of_every_block_does_not_keep_it_from_ending() -> None:
    file = History()
    file.write(0, 5 * BLOCK_SIZE, 1)
    file.map.settle(file.reader)
    for index in range(5):
        file.write(index * BLOCK_SIZE + 7, 9, 2)
    file.begin(0)
    for index in range(5):
        file.read(1)
        file.write((4 - index) * BLOCK_SIZE + 50, 9, 3)
    assert file.settlement is not None
    assert file.settlement.pending == 0
    file.finish()
    assert file.finished == 1
    assert file.map.changed_blocks == 5


def test_a_block_that_is_read_while_it_is_saved_is_as_it_was_before() -> None:
    """The thread that reads has the block's bytes from after the write, and loses."""
    file = History()
    file.write(10, 100, 1)
    file.begin(0)
    settlement = file.settlement
    assert settlement is not None
    reached, go = threading.Event(), threading.Event()

    def slowly(offset: int, length: int) -> bytes:
        reached.set()
        assert go.wait(10)
        return file.reader(offset, length)

    thread = threading.Thread(target=settlement.read, args=(slowly,))
    thread.start()
    assert reached.wait(10)
    file.write(50, 10, 3)
    go.set()
    thread.join()
    file.finish()
    assert file.finished == 1


def test_a_cut_of_much_that_is_to_be_read_gives_up() -> None:
    file = History()
    file.write(0, 4 * BLOCK_SIZE, 1)
    file.map.settle(file.reader)
    for index in range(4):
        file.write(index * BLOCK_SIZE + 1, 1, 2)
    file.begin(0)
    file.truncate(0)
    file.read(5)
    assert file.settlement is not None
    assert file.settlement.spoiled
    assert file.map.finish_settle(file.settlement) is None
    assert file.map.settle(file.reader) == from_scratch(b"")


@pytest.mark.parametrize("failing", ["short", "raising"])
def test_what_could_not_be_saved_spoils_it(failing: str) -> None:
    file = History()
    file.write(5, 100, 1)
    file.begin(0)
    settlement = file.settlement
    assert settlement is not None

    def reader(_offset: int, _length: int) -> bytes:
        if failing == "raising":
            raise OSError("unreadable")
        return b""

    if failing == "raising":
        with pytest.raises(OSError, match="unreadable"):
            settlement.save(0, 1, reader)
    else:
        settlement.save(0, 1, reader)
    file.map.write(0, b"x")
    settlement.read(file.reader)
    assert file.map.finish_settle(settlement) is None


def test_an_older_one_is_not_told_of_changes() -> None:
    file = History()
    file.write(0, 100, 1)
    first, _second = file.map.begin_settle(guarded=True), file.map.begin_settle(guarded=True)
    file.write(200, 1, 1)
    first.read(file.reader)
    assert file.map.finish_settle(first) is None
