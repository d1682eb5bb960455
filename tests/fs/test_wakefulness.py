"""Processors are kept awake while a client is busy, no longer, and only where that was allowed."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from stack import eventually

from ghostfs.fs.polling import PollingTrio
from ghostfs.fs.wakefulness import Wakefulness

if TYPE_CHECKING:
    from conftest import Workspaces

DEVICE = Path("/dev/cpu_dma_latency")
MANY = 1 << 20


def wishes(device: Path) -> list[int]:
    """What was written to a file that stands for the device."""
    return [number for (number,) in struct.iter_unpack("=i", device.read_bytes())]


def wished_here() -> int:
    """The shortest latency that anybody on this machine has asked for, in microseconds."""
    return int(struct.unpack("=i", DEVICE.read_bytes()[:4])[0])


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "device"
    path.touch()
    return path


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


async def requests(adapter: PollingTrio, pipe: tuple[int, int], count: int) -> None:
    for _ in range(count):
        os.write(pipe[1], b"x")
        await adapter.wait_readable(pipe[0])
        os.read(pipe[0], 1)


def test_they_are_awake_while_requests_follow_each_other_and_sleep_after_a_pause(
    device: Path, pipe: tuple[int, int]
) -> None:
    adapter = PollingTrio(30, Wakefulness.open(MANY, device))

    async def main() -> None:
        for busy_times in (1, 2):
            await requests(adapter, pipe, 1000)
            await trio.lowlevel.checkpoint()
            assert adapter.wakefulness.held
            with trio.fail_after(10):
                while adapter.wakefulness.held:
                    await trio.sleep(0.001)
            first, last = wishes(device)[-2:]
            assert first == 0
            assert last >= 1_000_000
            assert len(wishes(device)) == 2 * busy_times

    trio.run(main)


def test_requests_with_pauses_keep_nobody_awake(device: Path, pipe: tuple[int, int]) -> None:
    adapter = PollingTrio(30, Wakefulness.open(MANY, device))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(adapter.wait_readable, pipe[0])
                await trio.sleep(0.003)  # the pause that is tested
                os.write(pipe[1], b"x")
                await trio.testing.wait_all_tasks_blocked()
                os.read(pipe[0], 1)

    trio.run(main)
    assert adapter.requests == 50
    assert wishes(device) == []


def test_whoever_ends_in_the_middle_lets_go(device: Path, pipe: tuple[int, int]) -> None:
    adapter = PollingTrio(30, Wakefulness.open(MANY, device))

    async def main() -> None:
        await requests(adapter, pipe, 1000)
        await trio.lowlevel.checkpoint()
        assert adapter.wakefulness.held

    trio.run(main)
    assert not adapter.wakefulness.held
    assert wishes(device)[-1] >= 1_000_000


def test_not_on_machines_of_more_processors(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert not Wakefulness.open(0, device).possible
    assert not Wakefulness.open(2, device).possible  # also those that this process may not use count
    allowed = Wakefulness.open(3, device)
    assert allowed.possible
    allowed.close()
    allowed.close()
    assert not allowed.possible


def test_without_the_device_nothing_happens(tmp_path: Path, pipe: tuple[int, int]) -> None:
    adapter = PollingTrio(30, Wakefulness.open(MANY, tmp_path / "none"))
    trio.run(requests, adapter, pipe, 1000)
    assert not adapter.wakefulness.held


@pytest.mark.allows_log("processors_may_sleep")
def test_a_device_that_refuses_is_given_up_and_requests_go_on(pipe: tuple[int, int]) -> None:
    adapter = PollingTrio(30, Wakefulness(os.open("/dev/full", os.O_WRONLY)))
    trio.run(requests, adapter, pipe, 1000)
    assert not adapter.wakefulness.possible


def holds_device(pid: int) -> bool:
    """Whether a process has the device open."""
    return any(os.readlink(entry.path) == str(DEVICE) for entry in os.scandir(f"/proc/{pid}/fd"))


def keep_busy(fd: int, until: Callable[[], bool]) -> None:
    """Writes a byte after the other; fails if that is not to change anything. On a machine whose processors others
    need, no client gets its answers without pauses at first."""
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline
        for _ in range(64):
            os.write(fd, b"x")


@pytest.mark.allows_log("stale_mount_cleared")
@pytest.mark.parametrize("ending", ["idle", "killed", "unmounted"])
def test_a_mount_asks_for_it_while_it_is_busy_and_no_longer(workspaces: Workspaces, ending: str) -> None:
    workspace = workspaces.make(awake_cpus=MANY)
    workspace.mount()
    pid = workspace.pid()
    may = os.access(DEVICE, os.W_OK) and len(os.sched_getaffinity(0)) > 1
    assert holds_device(pid) == may
    if not may:
        (workspace.path / "f").write_bytes(b"x" * 10_000)
        return
    eventually(lambda: wished_here() > 0, what="somebody else keeps processors awake")
    fd = os.open(workspace.path / "f", os.O_WRONLY | os.O_CREAT)
    try:
        keep_busy(fd, lambda: wished_here() == 0)
        if ending == "killed":
            os.kill(pid, signal.SIGKILL)
    finally:
        with suppress(OSError):  # of a mount that was killed
            os.close(fd)
    if ending == "unmounted":
        workspace.unmount()
    eventually(lambda: wished_here() > 0, what="processors are still kept awake")


def test_a_mount_that_is_not_to_does_not(workspaces: Workspaces) -> None:
    workspace = workspaces.make(awake_cpus=0)
    workspace.mount()
    assert not holds_device(workspace.pid())
