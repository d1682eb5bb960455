"""Much of everything: cycles of mounting and ending, a large directory, many open files, many processes.

`GHOSTFS_TEST_MANY=1` does all of it in full: 1,000 cycles, 200,000 entries, 10,000 open files, 1,000,000 files.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from stack import Stack, eventually

from ghostfs.fs.mounts import find
from ghostfs.mirror.control import ControlClient
from ghostfs.mirror.live.verify import verify
from ghostfs.v1 import control_pb2 as pb

pytestmark = pytest.mark.timeout(6 * 3600)

IN_FULL = bool(int(os.environ.get("GHOSTFS_TEST_MANY", "0")))
CYCLES = 1_000 if IN_FULL else 8
ENTRIES = 200_000 if IN_FULL else 3_000
OPEN_FILES = 10_000 if IN_FULL else 800
FILES = 1_000_000 if IN_FULL else 30_000
PROCESSES = 64

USE = """
import os, sys
from pathlib import Path
root, name = Path(sys.argv[1]), sys.argv[2]
for number in range(20):
    path = root / f"{name}-{number}"
    path.write_bytes(name.encode() * 100)
    assert path.read_bytes() == name.encode() * 100
    path.rename(root / f"{name}-{number}-moved")
    with open(root / "all", "ab") as together:
        together.write(b"%s-%d\\n" % (name.encode(), number))
(root / f"{name}-0-moved").unlink()
"""


def ways() -> list[Callable[[Stack, Path], None]]:
    """How a mount ends."""
    return [umount, fusermount, terminated, killed, killed_and_left]


def umount(stack: Stack, here: Path) -> None:
    stack.umount(here)


def fusermount(stack: Stack, here: Path) -> None:
    pid = stack.mount_pid("work")
    subprocess.run(["fusermount3", "-u", here], check=True)
    stack.mounts.remove(here)
    gone(pid)


def terminated(stack: Stack, here: Path) -> None:
    pid = stack.mount_pid("work")
    os.kill(pid, signal.SIGTERM)
    stack.mounts.remove(here)
    gone(pid)


def killed(stack: Stack, here: Path) -> None:
    pid = stack.mount_pid("work")
    os.kill(pid, signal.SIGKILL)
    gone(pid)
    stack.umount(here)


def killed_and_left(stack: Stack, here: Path) -> None:
    """The next mount finds the stale mountpoint and clears it."""
    pid = stack.mount_pid("work")
    os.kill(pid, signal.SIGKILL)
    stack.mounts.remove(here)
    gone(pid)


def gone(pid: int) -> None:
    def ended() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    eventually(ended, timeout=60, what=f"process {pid} did not end", every=0.002)


def test_mounts_that_come_and_go_leave_nothing(stack: Stack) -> None:
    chance = random.Random(3)
    here = stack.base / "mnt" / "work"
    for cycle in range(CYCLES):
        assert stack.mount("work") == here
        (here / "one").write_bytes(b"%d" % cycle)
        with (here / f"file{cycle % 50}").open("wb") as file:
            file.write(b"content %d" % cycle)
            file.flush()
            os.fsync(file.fileno())
        end = ways()[cycle] if cycle < len(ways()) else chance.choice(ways())
        end(stack, here)
        if end is not killed_and_left:
            eventually(lambda: find(here) is None, timeout=30, what="it is still mounted", every=0.002)
    with suppress(ValueError):
        stack.mounts.remove(here)
    stack.umount(stack.mount("work"))
    assert find(here) is None
    tree = stack.session("work").tree
    assert (tree / "one").read_bytes() == b"%d" % (CYCLES - 1)
    assert verify(stack.session("work")).ok


def test_a_directory_of_many_entries(stack: Stack, mount: Callable[..., Path]) -> None:
    here = mount()
    large = here / "large"
    large.mkdir()
    for number in range(ENTRIES):
        os.mknod(large / f"entry-{number:07}")
    names = {f"entry-{number:07}" for number in range(ENTRIES)}
    assert set(os.listdir(large)) == names
    with os.scandir(large) as entries:
        assert sum(entry.stat().st_size == 0 for entry in entries) == ENTRIES
    for number in range(0, ENTRIES, 3):
        (large / f"entry-{number:07}").unlink()
    names -= {f"entry-{number:07}" for number in range(0, ENTRIES, 3)}
    assert set(os.listdir(large)) == names
    stack.umount(here)
    mount()
    assert set(os.listdir(large)) == names
    stack.umount(here)
    assert verify(stack.session("work")).ok


@contextmanager
def descriptors(wanted: int) -> Iterator[None]:
    """So many may be open in this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, before[0]), max(wanted, before[1])))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_many_open_files(stack: Stack, mount: Callable[..., Path]) -> None:
    with descriptors(OPEN_FILES + 1000):
        here = mount()
        opened = [os.open(here / f"file{number}", os.O_CREAT | os.O_RDWR) for number in range(OPEN_FILES)]
        for number, fd in enumerate(opened):
            os.write(fd, b"content %d" % number)
        for number, fd in enumerate(opened):
            if number % 2:
                (here / f"file{number}").unlink()
            assert os.pread(fd, 100, 0) == b"content %d" % number
        for fd in opened:
            os.close(fd)
        stack.umount(here)
    assert verify(stack.session("work")).ok
    assert len(os.listdir(stack.session("work").tree)) == OPEN_FILES // 2


def test_many_processes(stack: Stack, mount: Callable[..., Path]) -> None:
    here = mount()
    running = [
        subprocess.Popen([sys.executable, "-c", USE, here, f"process{number}"])
        for number in range(PROCESSES)
    ]
    try:
        assert [process.wait(600) for process in running] == [0] * PROCESSES
    finally:
        for process in running:
            process.kill()
            process.wait()
    lines = (here / "all").read_text().splitlines()
    assert len(lines) == len(set(lines)) == PROCESSES * 20
    assert len(os.listdir(here)) == PROCESSES * 19 + 2  # what all appended to, and .skills
    stack.umount(here)
    assert verify(stack.session("work")).ok


def test_memory_is_for_what_the_kernel_remembers(stack: Stack) -> None:
    """Looked at again and again, many files cost memory once; once they are forgotten, others cost no more."""
    here = stack.mount("work")
    halves = [here / "one", here / "other"]
    for half in halves:
        half.mkdir()
        for number in range(FILES // 2):
            if number % 1000 == 0:
                (half / f"d{number // 1000}").mkdir()
            os.mknod(half / f"d{number // 1000}" / f"file{number}")
    stack.umount(here)
    stack.mount("work")
    pid = stack.mount_pid("work")

    def look(half: Path) -> int:
        """The memory of the mount process when all files there were looked at."""
        assert sum(len(files) for top in half.iterdir() for _, _, files in os.walk(top)) == FILES // 2
        return resident()

    def resident() -> int:
        fields = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(fields.split("Private_Dirty:")[1].split()[0]) * 1024

    def forgotten() -> bool:
        """Whether the mount has heard of no more for a while."""
        with ControlClient(stack.session("work").control_socket) as client:
            ask = pb.ControlRequest(status=pb.OwnerStatusRequest())
            before = client.request(ask).status.requests
            time.sleep(0.3)  # the while
            return client.request(ask).status.requests == before

    before = resident()
    known = look(halves[0])
    cost = known - before
    assert look(halves[0]) - known < 0.2 * cost + (1 << 20)
    Path("/proc/sys/vm/drop_caches").write_text("2")
    eventually(forgotten, what="the kernel goes on forgetting")
    assert look(halves[1]) - known < 0.4 * cost
    each = cost / (FILES // 2)
    print(f"{FILES} files: {each:.0f} bytes of memory for each that the kernel remembers")
    assert each < 2000
    stack.umount(here)
