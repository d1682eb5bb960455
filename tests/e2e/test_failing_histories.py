"""Random work in a mount whose disk fails now and then, in random ways: the mount lives, and the index is right after.

`LONG_RUNS=100` makes more of them.
"""

from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from failing import CHANGES, FailingDisk
from stack import Stack

SEEDS = 3
STEPS = 120
OPERATIONS = (*CHANGES, *("lookup", "getattr", "readlink", "open", "read", "opendir", "readdir", "statfs"))
SIZES = (0, 10, 1000, 300_000)


class Worker:
    """Somebody who does random things below `mount`, to whom any call may fail."""

    def __init__(self, mount: Path, chance: random.Random) -> None:
        self.mount = mount
        self.chance = chance
        self.fds: list[int] = []
        self.calls: list[Callable[[], object]] = [
            lambda: self.name().write_bytes(self.content()),
            lambda: self.name().write_bytes(self.content()),
            lambda: self.fds.append(os.open(self.name(), os.O_RDWR | os.O_CREAT, 0o644)),
            lambda: os.pwrite(self.fd(), self.content(), chance.choice((0, 7, 262_144))),
            lambda: os.ftruncate(self.fd(), chance.choice(SIZES)),
            lambda: os.fsync(self.fd()),
            lambda: self.close(self.fd()),
            lambda: self.name().rename(self.name()),
            lambda: self.name().unlink(),
            lambda: self.name().mkdir(),
            lambda: self.name().rmdir(),
            lambda: os.link(self.name(), self.name()),
            lambda: self.name().symlink_to("target"),
            lambda: self.name().chmod(chance.choice((0o600, 0o644, 0o755))),
            lambda: os.truncate(self.name(), chance.choice(SIZES)),
            lambda: self.name().read_bytes(),
            lambda: [path.lstat() for path in mount.iterdir()],
        ]

    def name(self) -> Path:
        return self.mount / f"name{self.chance.randrange(8)}"

    def content(self) -> bytes:
        return self.chance.randbytes(self.chance.choice(SIZES))

    def fd(self) -> int:
        if not self.fds:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self.chance.choice(self.fds)

    def close(self, fd: int) -> None:
        self.fds.remove(fd)
        os.close(fd)

    def step(self) -> None:
        with suppress(OSError):
            self.chance.choice(self.calls)()

    def close_all(self) -> None:
        for fd in list(self.fds):
            with suppress(OSError):
                self.close(fd)


def fail_somehow(disk: FailingDisk, chance: random.Random) -> None:
    operations = CHANGES if chance.random() < 0.3 else chance.sample(OPERATIONS, chance.randrange(1, 6))
    disk.fail(chance.choice((errno.EIO, errno.EROFS)), *operations)


@pytest.mark.parametrize("killed", [False, True], ids=["goes on", "killed"])
def test_index_and_files_agree_after_it(tmp_path: Path, long: int, *, killed: bool) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "stack" / "hub").mkdir(parents=True)
    with (
        FailingDisk(tmp_path / "below", tmp_path / "stack" / "hub") as disk,
        Stack(tmp_path / "stack", log_file=tmp_path / "log") as stack,
    ):
        for seed in range(max(SEEDS, long)):
            chance = random.Random(seed)
            mount = stack.mount("work", *(["--writeback"] if seed % 3 == 2 else []))
            pid = stack.mount_pid("work")
            worker = Worker(mount, chance)
            try:
                for _ in range(STEPS):
                    if chance.random() < 0.1:
                        fail_somehow(disk, chance)
                    elif chance.random() < 0.15:
                        disk.mend()
                    worker.step()
                if killed:
                    os.kill(pid, signal.SIGKILL)
            finally:
                disk.mend()
                worker.close_all()
            if killed:
                stack.mounts.remove(mount)
                mount = stack.mount("work")
            said = stack.run("verify", "work")
            assert "index and files agree" in said, f"seed {seed}: {said}"
            stack.umount(mount)
            log = (tmp_path / "log").read_text()
            for event in ("handler_failed", "capture_failed", "index_damaged", "cell_refused"):
                assert event not in log, f"seed {seed}: {log}"
