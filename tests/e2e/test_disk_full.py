"""A disk that is full: the caller is told, room can be made by deleting, nothing is lost, and it goes on."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from stack import GHOSTFS, Stack, eventually
from terminal import Terminal

from ghostfs.errors import ExitCode
from ghostfs.mirror.live.verify import verify


def test_it_goes_on_when_the_disk_does(small: Stack) -> None:
    mount = small.mount("work")
    (mount / "kept").write_bytes(b"from before")
    refusal = 0
    for number in range(1000):
        try:
            (mount / f"file{number}").write_bytes(b"x" * 100_000)
        except OSError as error:
            refusal = error.errno or 0
            break
    assert refusal == errno.ENOSPC
    assert (mount / "kept").read_bytes() == b"from before"
    for path in sorted(mount.glob("file*"))[:100]:
        path.unlink()
    (mount / "after").write_bytes(b"y" * 1_000_000)
    small.settle("work")
    small.umount(mount)
    report = verify(small.session("work"))
    assert report.ok, report.problems[:5]
    assert (small.session("work").tree / "after").stat().st_size == 1_000_000


UNCOMMITTED = "changes are not committed yet: No space left on device"


def until_full(write: Callable[[int], object]) -> None:
    for number in range(100_000):
        try:
            write(number)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return
            raise
    pytest.fail("the disk is not full")


def fill(stack: Stack, mount: Path) -> Path:
    """Fills the disk behind the mount's back, and makes changes that cannot be committed then; what fills it."""
    filling = stack.base / "filling"
    for number in range(100):
        os.symlink("x" * 50, mount / f"small{number}")
    stack.settle("work")
    fd = os.open(filling, os.O_CREAT | os.O_WRONLY)
    until_full(lambda _number: os.write(fd, b"x" * 4096))
    os.close(fd)
    until_full(lambda number: os.symlink("x" * 50, mount / f"more{number}"))
    log = stack.session("work").log_file
    eventually(lambda: "commit_failed" in log.read_text(), what="commits do not fail")
    return filling


def test_umount_shows_what_it_waits_for_and_ends_when_there_is_room(small: Stack) -> None:
    mount = small.mount("work")
    filling = fill(small, mount)
    with Terminal([*GHOSTFS, "umount", mount], small.environment) as terminal:
        shown = terminal.read_until(UNCOMMITTED)
        assert f"{mount} is unmounted; " in shown
        filling.unlink()
        assert terminal.end() == ExitCode.OK
        assert "ghostfs: " not in terminal.shown
    small.mounts.remove(mount)
    assert verify(small.session("work")).ok


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_umount_says_when_the_mount_ended_without_a_commit(small: Stack, number: signal.Signals) -> None:
    mount = small.mount("work")
    filling = fill(small, mount)
    pid = small.mount_pid("work")
    with Terminal([*GHOSTFS, "umount", mount], small.environment) as terminal:
        terminal.read_until(UNCOMMITTED)
        os.kill(pid, number)
        said = terminal.read_until("ghostfs: ") + terminal.rest()
        assert terminal.end() == ExitCode.MOUNT
    assert f"{mount} is unmounted, but the index of session work is not up to date" in said
    assert "No space left on device" in said
    assert "nothing is lost, the next mount brings it up to date" in said
    small.mounts.remove(mount)
    filling.unlink()
    small.umount(small.mount("work"))
    report = verify(small.session("work"))
    assert report.ok, report.problems[:5]


def test_verify_shows_what_it_waits_for_and_goes_on_when_there_is_room(small: Stack) -> None:
    mount = small.mount("work")
    filling = fill(small, mount)
    assert UNCOMMITTED in small.run("status")
    with Terminal([*GHOSTFS, "verify", "work"], small.environment) as terminal:
        assert "session work: " in terminal.read_until(UNCOMMITTED)
        filling.unlink()
        terminal.read_until("index and files agree")
        assert terminal.end() == ExitCode.OK
    small.umount(mount)


def test_verify_says_when_the_mount_ended_without_a_commit(small: Stack) -> None:
    mount = small.mount("work")
    filling = fill(small, mount)
    with Terminal([*GHOSTFS, "verify", "work"], small.environment) as terminal:
        terminal.read_until(UNCOMMITTED)
        os.kill(small.mount_pid("work"), signal.SIGTERM)
        # The mount waits for room after it has left the tree of mounts; the second signal ends that.
        eventually(lambda: not os.path.ismount(mount), what="it is not unmounted")
        os.kill(small.mount_pid("work"), signal.SIGTERM)
        assert "was not unmounted: mount it, which recovers it" in terminal.rest()
        assert terminal.end() == ExitCode.DRIFT
    small.mounts.remove(mount)
    filling.unlink()
