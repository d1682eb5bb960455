"""When files settle, and what is put aside of those that never rest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ghostfs import private
from ghostfs.content import BLOCK_SIZE, BlockList, block_digest
from ghostfs.mirror.live.settle import SettleRule
from ghostfs.mirror.live.spool import Spool

RULE = SettleRule(quiet=1.0, max_age=5.0, spacing=0.25)
NEVER = float("-inf")


@pytest.mark.parametrize(
    ("changed_at", "settled_at", "synced", "due"),
    [
        (10.0, NEVER, False, 11.0),  # quiet since the only write
        (14.5, NEVER, False, 15.0),  # written to all the time
        (10.0, NEVER, True, NEVER),  # fsynced: now
        (10.0, 9.9, True, 10.15),  # fsynced all the time
        (10.0, 10.9, False, 11.15),
    ],
)
def test_the_rule(changed_at: float, settled_at: float, synced: bool, due: float) -> None:
    found = RULE.due_at(first_dirty_at=10.0, changed_at=changed_at, settled_at=settled_at, synced=synced)
    assert found == due or found == pytest.approx(due)


def test_open_files_settle_when_quiet_synced_or_old(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    live.owned.capture._gatherer._rule = RULE
    handle = live.create("file", b"0")
    gatherer = live.owned.capture._gatherer
    assert gatherer.next_due() == 1001.0
    live.step()
    assert b"/file" not in live.indexed()
    for second in range(1, 6):
        now[0] = 1000.9 + second - 1
        live.mirror.write(handle, second, b"x")
        live.step()
        assert b"/file" not in live.indexed()
    now[0] = 1005.0
    live.step()
    assert live.indexed()[b"/file"][5] == 6
    live.mirror.write(handle, 6, b"y")
    now[0] = 1006.0
    live.step()
    assert live.indexed()[b"/file"][5] == 7
    live.mirror.write(handle, 7, b"z")
    live.mirror.fsync(handle, datasync=True)
    live.step()
    assert live.indexed()[b"/file"][5] == 7, "not twice within the spacing"
    now[0] = 1006.25
    live.step()
    assert live.indexed()[b"/file"][5] == 8
    live.mirror.release(handle)
    monkeypatch.undo()
    live.settled()


def test_the_thread_settles_by_itself(new_live: Callable[..., Any]) -> None:
    live = new_live(threaded=True, settle_quiet=0.05)
    states: list[Any] = []
    live.owned.capture.listeners.append(states.append)
    handle = live.create("file", b"content")
    deadline = time.monotonic() + 10
    while b"/file" not in live.indexed():
        assert time.monotonic() < deadline
    live.mirror.release(handle)
    live.settled()
    assert states[-1].head == live.owned._lookups.head()


def test_a_capture_can_be_stopped_at_any_moment(new_live: Callable[..., Any]) -> None:
    for _ in range(30):
        live = new_live(threaded=True)
        live.write("file", b"x")
        live.kill()
        live.open()
        live.check()
        live.close()


def test_blocks_of_a_hot_file_are_put_aside(live: Any) -> None:
    handle = live.create("hot", b"a" * BLOCK_SIZE + b"b" * 10)
    live.drain()
    row = live.owned._lookups.inode(handle.inode)
    spool: Path = live.layout.spool
    digests = [digest for _, digest in BlockList.decode(row.size, row.blocks).data_blocks()]
    assert sorted(path.name for path in spool.iterdir()) == sorted(d.hex() for d in digests)
    assert all(block_digest((spool / d.hex()).read_bytes()) == d for d in digests)
    live.mirror.write(handle, BLOCK_SIZE, b"c" * 10)
    live.drain()
    assert len(list(spool.iterdir())) == 3, "only what has changed is put aside"
    live.mirror.release(handle)
    live.write("closed", b"d" * 100)
    live.drain()
    assert len(list(spool.iterdir())) == 3
    live.close()
    live.open()
    assert not list(spool.iterdir())


def test_the_spool_is_bounded(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    spool = Spool(folder, 100)
    blocks = {bytes([number]) * 16: bytes([number]) * 40 for number in range(4)}
    for number in (0, 1):
        spool.keep(bytes([number]) * 16, blocks[bytes([number]) * 16])
    spool.keep(bytes(16), blocks[bytes(16)])
    for digest in list(blocks)[2:3]:
        spool.keep(digest, blocks[digest])
    assert {path.name for path in folder.iterdir()} == {(bytes([n]) * 16).hex() for n in (0, 2)}
    spool.keep(b"\x09" * 16, b"x" * 101)
    assert len(list(folder.iterdir())) == 2
    assert spool.limit == 100


def test_a_block_that_cannot_be_put_aside_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool", 100)

    def full(path: str, flags: int) -> int:
        os.close(os.open(path, flags, 0o600))
        return os.open("/dev/full", os.O_WRONLY)

    with monkeypatch.context() as patch:
        patch.setattr(private, "opener", full)
        with pytest.raises(OSError, match="No space"):
            spool.keep(b"\1" * 16, b"x")
    assert not list((tmp_path / "spool").iterdir())
    spool.keep(b"\1" * 16, b"x")
