"""A mount never waits for its own answers: it can be ended and killed at any moment, and its users with it.

In particular while the kernel writes back what programs have mapped, or what the writeback cache has gathered.
"""

from __future__ import annotations

import errno
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from failing import FailingDisk
from stack import Stack

from ghostfs.errors import PeerError
from ghostfs.fs.mounts import find
from ghostfs.mirror.control import ControlClient
from ghostfs.mirror.live.verify import verify
from ghostfs.v1 import control_pb2 as pb

MODES = pytest.mark.parametrize("options", [(), ("--writeback",)], ids=["write-through", "writeback"])
TURNS = int(os.environ.get("LONG_RUNS", "4"))
SIZE = 32 << 20

DIRTIES = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
size = int(sys.argv[2])
os.ftruncate(fd, size)
pages = mmap.mmap(fd, size)
print(flush=True)
while True:
    try:
        for at in range(0, size, 4096):
            pages[at] = (pages[at] + 1) % 256
        pages.flush()
    except OSError:
        if not os.path.ismount(sys.argv[3]):
            break
"""
"""Writes to each page of a map again and again, whatever comes of it, until the mount has gone."""


@contextmanager
def writers(mount: Path, count: int) -> Iterator[None]:
    """So many processes that write through memory maps, from before the block is entered."""
    with ExitStack() as started:
        for number in range(count):
            command = [
                sys.executable,
                "-c",
                DIRTIES,
                str(mount / f"file{number}"),
                str(SIZE // 8),
                str(mount),
            ]
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            started.enter_context(process)
            started.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
        yield


def ends(pid: int, device: str, place: Path) -> bool:
    """Whether a mount process ends. If it does not, its connection is aborted: it would stay for ever, and all its
    users with it."""
    with ExitStack() as opened:
        poller = select.poll()
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        opened.callback(os.close, process)
        poller.register(process, select.POLLIN)
        if poller.poll(30_000):
            return True
        control = place / "fusectl"
        control.mkdir()
        subprocess.run(["mount", "-t", "fusectl", "fusectl", control], check=True)
        opened.callback(subprocess.run, ["umount", control], check=True)
        (control / device.partition(":")[2] / "abort").write_text("1")
        poller.poll(30_000)
        return False


def served(stack: Stack, mount: Path) -> tuple[int, str]:
    """The process of a mount, and its device."""
    entry = find(mount)
    assert entry is not None
    return stack.mount_pid("work"), entry.device


def settle_on(control_socket: Path) -> None:
    """Settles again and again until nobody answers any more."""
    with ControlClient(control_socket) as client, suppress(OSError, PeerError):
        while True:
            assert not client.request(pb.ControlRequest(settle=pb.Settle())).error


@MODES
def test_it_ends_while_the_disk_refuses_what_was_mapped(
    stack: Stack, tmp_path: Path, options: tuple[str, ...]
) -> None:
    stack.run("session", "create", "work")
    moments = random.Random(7)
    (tmp_path / "below").mkdir()
    with FailingDisk(tmp_path / "below", stack.session("work").tree) as disk:
        for _ in range(TURNS):
            mount = stack.mount("work", *options)
            pid, device = served(stack, mount)
            with writers(mount, 3):
                disk.fail(errno.EIO, "write")
                time.sleep(moments.uniform(0, 0.3))  # some moment of it
                os.kill(pid, signal.SIGTERM)
                assert ends(pid, device, tmp_path)
            disk.mend()
            stack.mounts.remove(mount)
    assert '"event": "unmounted"' in stack.session("work").log_file.read_text()


@MODES
def test_it_can_be_killed_while_it_settles(stack: Stack, tmp_path: Path, options: tuple[str, ...]) -> None:
    stack.run("session", "create", "work")
    moments = random.Random(7)
    for _ in range(TURNS):
        mount = stack.mount("work", *options)
        pid, device = served(stack, mount)
        with writers(mount, 2), ThreadPoolExecutor(2) as settling:
            ended = [settling.submit(settle_on, stack.session("work").control_socket) for _ in range(2)]
            time.sleep(moments.uniform(0.1, 0.6))  # some moment of it
            os.kill(pid, signal.SIGKILL)
            assert ends(pid, device, tmp_path)
            subprocess.run(["umount", "-l", mount], check=True)
            for each in ended:
                each.result(30)
        stack.mounts.remove(mount)
    stack.umount(stack.mount("work", *options))
    assert verify(stack.session("work")).ok
