"""Files that are written all the time: they settle all the same, nobody waits long for it, and nodes get them."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ghostfs.content import BLOCK_SIZE, BlockList, block_digest, scan
from ghostfs.errors import Superseded
from ghostfs.mesh.blocks import BlockReader
from ghostfs.mesh.indexpool import IndexPool
from ghostfs.mirror.live import changed, settling
from ghostfs.mirror.syscalls import pread_exactly

BLOCKS = 24
FEW = 4
"""Blocks that may be read in one hold of the lock."""


class Hot:
    """A file that is open for writing and patched in all its blocks, and what it holds."""

    def __init__(self, live: Any, blocks: int = BLOCKS) -> None:
        self.live = live
        self.content = bytearray(random.Random(1).randbytes(blocks * BLOCK_SIZE))
        self.handle = live.create("hot", bytes(self.content))
        live.drain()
        self.patch_all(1)

    def write(self, offset: int, data: bytes) -> None:
        assert self.live.mirror.write(self.handle, offset, data) == len(data)
        self.content.extend(bytes(max(0, offset - len(self.content))))
        self.content[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        self.live.mirror.setattr(self.handle.inode, size=size)
        del self.content[size:]

    def patch_all(self, stamp: int) -> None:
        for start in range(0, len(self.content), BLOCK_SIZE):
            self.write(start + 5, b"%d" % stamp)

    def blocks(self) -> BlockList:
        content = bytes(self.content)
        return scan(lambda at, length: content[at : at + length], len(content), [(0, len(content))])

    def indexed(self) -> BlockList:
        row = self.live.owned._lookups.inode(self.handle.inode)
        return BlockList.decode(row.size, row.blocks)

    def due(self) -> None:
        self.live.owned.working.settle(self.handle.record)


@pytest.fixture
def reads_under_the_lock(live: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many blocks were read back in each hold of the lock in which any were."""
    lock = live.owned.working.lock
    counts: list[int] = []
    before: list[int] = [0]
    real = lock

    class Counting:
        def __enter__(self) -> None:
            real.acquire()
            before[0] = 0

        def __exit__(self, *_: object) -> None:
            if before[0]:
                counts.append(before[0])
            real.release()

    def reading(fd: int, length: int, offset: int) -> bytes:
        before[0] += real.locked()
        return pread_exactly(fd, length, offset)

    counting = Counting()
    monkeypatch.setattr(live.owned.working, "lock", counting)
    monkeypatch.setattr(live.mirror, "_lock", counting)
    for module in (settling, changed):
        monkeypatch.setattr(module, "pread_exactly", reading, raising=False)
    yield counts
    monkeypatch.undo()


def test_a_writer_of_everything_at_every_moment_delays_nothing(
    live: Any, reads_under_the_lock: list[int]
) -> None:
    hot = Hot(live)
    for stamp in range(2, 8):
        hot.due()
        then = hot.blocks()
        live.at("hash", lambda at=stamp: hot.patch_all(at))
        live.at("seal", lambda at=stamp: hot.patch_all(10 * at))
        live.step()
        assert hot.indexed() == then, "what it was when the settle began, at the first try"
    assert max(reads_under_the_lock) <= FEW
    live.mirror.release(hot.handle)
    live.settled()


def test_attributes_are_of_the_moment_that_the_content_is_of(live: Any) -> None:
    hot = Hot(live)
    hot.due()
    live.mirror.setattr(hot.handle.inode, mtime_ns=1000)

    def later() -> None:
        hot.write(len(hot.content), b"longer")
        live.mirror.setattr(hot.handle.inode, mtime_ns=2000, mode=0o600)

    live.at("hash", later)
    live.step()
    row = live.owned._lookups.inode(hot.handle.inode)
    assert (row.size, row.mtime_ns) == (BLOCKS * BLOCK_SIZE, 1000)
    live.mirror.release(hot.handle)
    live.settled()


def cut_short(hot: Hot) -> None:
    hot.truncate(100)


def cut_a_little(hot: Hot) -> None:
    hot.truncate(len(hot.content) - 10)


def cut_and_written_anew(hot: Hot) -> None:
    hot.truncate(0)
    hot.write(3 * BLOCK_SIZE + 5, b"again")


def grown(hot: Hot) -> None:
    hot.write(len(hot.content) + 3 * BLOCK_SIZE, b"far out")


def closed(hot: Hot) -> None:
    hot.write(7, b"last")
    hot.live.mirror.release(hot.handle)


def unlinked(hot: Hot) -> None:
    hot.live.unlink("hot")
    hot.write(7, b"nobody's")


def moved(hot: Hot) -> None:
    hot.live.mkdir("dir")
    hot.live.rename("hot", "dir/hot")
    hot.write(7, b"moved")


def synced(hot: Hot) -> None:
    hot.write(7, b"synced")
    hot.live.mirror.fsync(hot.handle, datasync=True)


@pytest.mark.parametrize(
    "action",
    [cut_short, cut_a_little, cut_and_written_anew, grown, closed, unlinked, moved, synced],
    ids=lambda action: action.__name__,
)
@pytest.mark.parametrize("moment", ["hash", "seal", "commit", "committed"])
def test_anything_while_it_settles(live: Any, action: Callable[[Hot], None], moment: str) -> None:
    hot = Hot(live)
    hot.due()
    live.at(moment, lambda: action(hot))
    live.step()
    live.settled()


@pytest.mark.allows_log("commit_failed")
def test_a_commit_that_fails_after_that_loses_nothing(live: Any) -> None:
    hot = Hot(live)
    hot.due()
    live.at("hash", lambda: hot.patch_all(2))
    capture = live.owned.capture
    real = capture._commit

    def fail(_gathered: object) -> None:
        capture._commit = real
        raise OSError(28, "full")

    capture._commit = fail
    live.step()
    hot.patch_all(3)
    live.settled()


def test_a_constant_writer_does_not_keep_its_file_from_settling(new_live: Callable[..., Any]) -> None:
    live = new_live(threaded=True, settle_max_age=0.2)
    hot = Hot(live)
    settled: set[bytes] = set()
    stop = threading.Event()

    def write() -> None:
        dice = random.Random(2)
        while not stop.is_set():
            hot.write(dice.randrange(len(hot.content) - 4), b"abcd")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while len(settled) < 4:
            assert time.monotonic() < deadline
            settled.add(live.owned._lookups.inode_light(hot.handle.inode).digest)
    finally:
        stop.set()
        thread.join()
    live.mirror.release(hot.handle)
    live.settled()


# --- for the nodes --------------------------------------------------------------------------------------


@pytest.fixture
def reader_of() -> Iterator[Callable[[Any], BlockReader]]:
    """Makes what the hub reads blocks of a session by."""
    made: list[Any] = []

    def make(live: Any) -> BlockReader:
        pool = IndexPool(live.layout.index_db, "s")
        reader = BlockReader(live.layout, pool)
        made.extend((reader, pool))
        return reader

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("moment", ["hash", "seal", "commit"])
def test_the_version_that_was_settled_can_be_fetched_though_all_of_it_is_changed(
    live: Any, moment: str, reader_of: Callable[[Any], BlockReader]
) -> None:
    hot = Hot(live)
    hot.write(3 * BLOCK_SIZE, b"w" * BLOCK_SIZE)  # hashed as it was written
    hot.due()
    then = hot.blocks()

    def change_all() -> None:
        hot.patch_all(2)
        hot.write(3 * BLOCK_SIZE, b"v" * BLOCK_SIZE)

    live.at(moment, change_all)
    live.step()
    reader = reader_of(live)
    for index, digest in then.data_blocks():
        assert block_digest(reader.read(hot.handle.inode, index, digest)) == digest
    live.mirror.release(hot.handle)
    live.settled()


@pytest.mark.allows_log("spool_too_small")
def test_what_does_not_fit_into_the_spool_is_had_when_it_rests(
    new_live: Callable[..., Any], logged: Any, reader_of: Callable[[Any], BlockReader]
) -> None:
    live = new_live(spool_bytes=(BLOCKS - 1) * BLOCK_SIZE)
    hot = Hot(live)
    small = live.create("small", b"small")
    live.drain()
    kept = sorted(os.listdir(live.layout.spool))
    for stamp in (2, 3):
        hot.patch_all(stamp)
        hot.due()
        live.step()
    assert sorted(os.listdir(live.layout.spool)) == kept, "nor does it drive out what others have put there"
    assert [fields["path"] for fields in logged.named("spool_too_small")] == ["hot"]
    committed = dict(hot.indexed().data_blocks())
    hot.patch_all(4)
    reader = reader_of(live)
    with pytest.raises(Superseded):
        reader.read(hot.handle.inode, 0, committed[0])
    live.mirror.release(hot.handle)
    live.mirror.release(small)
    live.drain()
    for index, digest in hot.blocks().data_blocks():
        assert reader.read(hot.handle.inode, index, digest)
    live.settled()


def test_a_full_disk_under_the_spool_fails_no_settle(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hot = Hot(live)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ghostfs.mirror.live.spool.Spool.keep", full)
    live.at("hash", lambda: hot.patch_all(2))
    hot.due()
    live.step()
    assert live.owned.capture.stats.failures == 0
    live.mirror.release(hot.handle)
    live.settled()


def test_a_vast_sparse_file_that_was_changed_unseen_costs_what_it_holds(live: Any) -> None:
    inode = live.write("file", b"content")
    live.drain()
    with (live.layout.tree / "file").open("r+b") as behind:
        behind.truncate(8 << 40)
        behind.seek(4 << 40)
        behind.write(b"far")
    live.write("file", b"CONTENT")
    content = live.mirror._records[inode].map
    live.drain()
    assert content.bytes_reread <= 2 * BLOCK_SIZE
    live.settled()
