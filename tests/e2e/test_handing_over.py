"""What the kernel holds of a mount (memory maps, the writeback cache) is written when it is settled, and when it ends.

And if it cannot be, that is said: to whoever syncs, and to whoever has it settled.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from failing import FailingDisk
from stack import Stack, eventually

from ghostfs.mirror.control import ControlClient
from ghostfs.mirror.live.verify import verify
from ghostfs.v1 import control_pb2 as pb

MODES = pytest.mark.parametrize("options", [(), ("--writeback",)], ids=["write-through", "writeback"])
SIZE = 4 << 20
PAGES = range(0, SIZE // mmap.PAGESIZE, 5)


def settle(stack: Stack) -> str:
    """Settles; why it could not be done, or nothing."""
    with ControlClient(stack.session("work").control_socket, timeout=60) as client:
        return client.request(pb.ControlRequest(settle=pb.Settle())).error


@contextmanager
def mapped(mount: Path, names: list[str]) -> Iterator[dict[str, mmap.mmap]]:
    """Files of `SIZE` zeros, and maps of them."""
    with ExitStack() as opened:
        maps = {}
        for name in names:
            file = opened.enter_context((mount / name).open("wb+"))
            file.truncate(SIZE)
            maps[name] = opened.enter_context(mmap.mmap(file.fileno(), SIZE))
        yield maps


def scatter(pages: mmap.mmap, value: int) -> None:
    """Changes every fifth page: more requests than the kernel makes at once."""
    for page in PAGES:
        pages[page * mmap.PAGESIZE] = value


def arrived(stack: Stack, maps: dict[str, mmap.mmap]) -> bool:
    tree = stack.session("work").tree
    return all((tree / name).read_bytes() == pages[:] for name, pages in maps.items())


@MODES
def test_everything_that_was_mapped_is_there_when_it_is_settled(
    stack: Stack, options: tuple[str, ...]
) -> None:
    mount = stack.mount("work", *options)
    (mount / "d").mkdir()
    with mapped(mount, ["a", "b", "d/c", "d/d", "e"]) as maps:
        for turn in range(1, 5):
            for pages in maps.values():
                scatter(pages, turn)
            assert settle(stack) == ""
            assert arrived(stack, maps)
            report = verify(stack.session("work"))
            assert report.ok, report.problems
            assert report.changed_meanwhile == 0
    stack.umount(mount)


def truncated(path: Path) -> None:
    os.truncate(path, SIZE)


def synced(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def written(path: Path) -> None:
    (path.parent / "other").write_bytes(os.urandom(1 << 20))


def renamed(path: Path) -> None:
    os.rename(path, path.parent / "away")
    os.rename(path.parent / "away", path)


@MODES
@pytest.mark.parametrize("disturb", [truncated, synced, written, renamed])
def test_also_while_others_use_it(
    stack: Stack, options: tuple[str, ...], disturb: Callable[[Path], None]
) -> None:
    mount = stack.mount("work", *options)
    names = ["a", "b", "c"]
    ended = threading.Event()

    def others() -> None:
        chance = random.Random(5)
        while not ended.is_set():
            disturb(mount / chance.choice(names))

    with mapped(mount, names) as maps:
        thread = threading.Thread(target=others)
        thread.start()
        try:
            for turn in range(1, 6):
                for pages in maps.values():
                    scatter(pages, turn)
                assert settle(stack) == ""
                if disturb is not renamed:  # then they are not all where they are looked for
                    assert arrived(stack, maps)
        finally:
            ended.set()
            thread.join()
        assert settle(stack) == ""
        assert arrived(stack, maps)
    stack.umount(mount)


HOLDS = """
import mmap, os, sys
kept = []
for number in range(60):
    fd = os.open(f"{sys.argv[1]}/file{number}", os.O_RDWR | os.O_CREAT)
    if sys.argv[2] == "map":
        os.ftruncate(fd, 65536)
        pages = mmap.mmap(fd, 65536)
        pages[:] = b"k" * 65536
        kept.append(pages)
    else:
        os.write(fd, b"k" * 65536)
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["map", "write"])
@MODES
def test_an_orderly_end_leaves_nothing_with_the_kernel(
    stack: Stack, options: tuple[str, ...], how: str
) -> None:
    mount = stack.mount("work", *options)
    pid = stack.mount_pid("work")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, mount, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: not Path(f"/proc/{pid}").exists(), what="it does not end")
        holder.communicate()
    stack.mounts.remove(mount)
    tree = stack.session("work").tree
    assert {path.read_bytes() for path in tree.glob("file*")} == {b"k" * 65536}
    assert len(list(tree.glob("file*"))) == 60
    assert verify(stack.session("work")).ok


@MODES
def test_what_is_left_with_the_kernel_is_said(
    stack: Stack, tmp_path: Path, options: tuple[str, ...]
) -> None:
    stack.run("session", "create", "work")
    (tmp_path / "below").mkdir()
    with FailingDisk(tmp_path / "below", stack.session("work").tree) as disk:
        mount = stack.mount("work", *options)
        with mapped(mount, ["a"]) as maps:
            disk.fail(errno.EIO, "write")
            scatter(maps["a"], 1)
            assert "does not hand over" in settle(stack)
            disk.mend()
        assert settle(stack) == ""
        stack.umount(mount)


def fill(path: Path, left: int) -> None:
    """Leaves so many bytes on a disk."""
    free = os.statvfs(path.parent)
    with path.open("wb") as file:
        file.write(bytes(free.f_bavail * free.f_frsize - left))


@pytest.mark.parametrize("how", ["map", "write"])
@MODES
def test_what_a_disk_takes_a_part_of_is_not_said_to_be_synced(
    small: Stack, options: tuple[str, ...], how: str
) -> None:
    mount = small.mount("work", *options)
    filler = small.base.parent / "filler"
    size = 600 << 10
    fd = os.open(mount / "file", os.O_RDWR | os.O_CREAT)
    codes = []
    settle(small)
    fill(filler, size // 2)
    try:
        if how == "write":
            taken = os.write(fd, b"x" * size)
            assert taken == size if options else 0 < taken < size
        else:
            os.ftruncate(fd, size)
            with mmap.mmap(fd, size) as pages:
                pages[:] = b"x" * size
                try:
                    pages.flush()
                except OSError as error:
                    codes.append(error.errno)
        try:
            os.fsync(fd)
        except OSError as error:
            codes.append(error.errno)
        assert codes[0] == errno.ENOSPC
        filler.unlink()
        # It is said once; and written again, it is there.
        os.pwrite(fd, b"y" * size, 0)
        os.fsync(fd)
    finally:
        os.close(fd)
        filler.unlink(missing_ok=True)
    assert (mount / "file").read_bytes() == b"y" * size
    small.umount(mount)
    assert (small.session("work").tree / "file").read_bytes() == b"y" * size
    report = verify(small.session("work"))
    assert report.ok, report.problems


def test_a_part_that_was_written_after_all_is_not_said_to_lack(small: Stack) -> None:
    mount = small.mount("work")
    filler = small.base.parent / "filler"
    size = 600 << 10
    with (mount / "file").open("wb", buffering=0) as file:
        settle(small)
        fill(filler, size // 2)
        taken = file.write(b"x" * size)
        assert 0 < taken < size
        filler.unlink()
        assert file.write(b"x" * (size - taken)) == size - taken
        os.fsync(file.fileno())
    small.umount(mount)
    assert (small.session("work").tree / "file").read_bytes() == b"x" * size
    assert verify(small.session("work")).ok


def test_of_two_parts_that_lack_neither_is_forgotten(small: Stack) -> None:
    mount = small.mount("work")
    filler = small.base.parent / "filler"
    size = 300 << 10
    with (mount / "file").open("wb+", buffering=0) as file:
        file.truncate(4 * size)
        settle(small)
        with mmap.mmap(file.fileno(), 4 * size) as pages:
            for begin in (0, 2 * size):
                fill(filler, size // 2)
                pages[begin : begin + size] = b"x" * size
                assert settle(small) != ""
                filler.unlink()
            # The second is there by now; the first is not.
            pages[2 * size : 3 * size] = b"y" * size
            with pytest.raises(OSError, match="No space left"):
                pages.flush()
            pages[: 3 * size] = b"z" * 3 * size
            pages.flush()
            os.fsync(file.fileno())
    small.umount(mount)
    assert (small.session("work").tree / "file").read_bytes() == b"z" * 3 * size + bytes(size)
    assert verify(small.session("work")).ok


@pytest.mark.parametrize("flags", [os.O_SYNC, os.O_DSYNC, os.O_SYNC | os.O_APPEND])
def test_a_synchronous_write_says_how_much_was_written(small: Stack, flags: int) -> None:
    mount = small.mount("work")
    filler = small.base.parent / "filler"
    size = 600 << 10
    settle(small)
    fd = os.open(mount / "file", os.O_WRONLY | os.O_CREAT | flags)
    try:
        fill(filler, size // 2)
        taken = os.write(fd, b"x" * size)
        assert 0 < taken < size
        assert os.fstat(fd).st_size == taken
        filler.unlink()
        os.fsync(fd)
    finally:
        os.close(fd)
        filler.unlink(missing_ok=True)
    small.umount(mount)
    assert verify(small.session("work")).ok


def test_what_nobody_can_sync_any_more_is_no_reason_to_fail_later(small: Stack) -> None:
    mount = small.mount("work")
    filler = small.base.parent / "filler"
    settle(small)
    fill(filler, 300 << 10)
    with (mount / "file").open("wb", buffering=0) as file:
        assert 0 < file.write(b"x" * (600 << 10)) < 600 << 10
        filler.unlink()
        assert "only a part" in settle(small)
    eventually(lambda: settle(small) == "", timeout=10, what="it goes on failing")
    small.umount(mount)
    assert verify(small.session("work")).ok
