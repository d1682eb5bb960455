"""A mount that is not, or not only, where it was mounted: taken away, covered, moved with a directory above it.

Whoever ends it ends it, and nothing else that is at that place by now.
"""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from stack import GHOSTFS, Stack, eventually

from ghostfs.fs.mounts import find, mounted
from ghostfs.mirror.control import ControlClient
from ghostfs.mirror.live.verify import verify
from ghostfs.v1 import control_pb2 as pb


def settle(stack: Stack) -> str:
    """Settles; why it could not be done, or nothing."""
    with ControlClient(stack.session("work").control_socket, timeout=60) as client:
        return client.request(pb.ControlRequest(settle=pb.Settle())).error


def end(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), timeout=30, what=f"process {pid} did not end")


@contextmanager
def tmpfs(place: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "cover", place], check=True)
    yield
    subprocess.run(["umount", place], check=True)


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """A map of a new file of one page, whose mount may have gone when it is closed."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        os.ftruncate(fd, mmap.PAGESIZE)
        with mmap.mmap(fd, mmap.PAGESIZE) as pages:
            yield pages
    finally:
        with suppress(OSError):
            os.close(fd)


def events(stack: Stack) -> list[str]:
    """What the mount process logged; every line is a structured one."""
    lines = stack.session("work").log_file.read_text().splitlines()
    assert all(line.startswith("{") for line in lines), lines
    return lines


def test_one_that_was_detached_goes_on_for_who_is_in_it_and_can_be_ended(stack: Stack) -> None:
    mount = stack.mount("work")
    pid = stack.mount_pid("work")
    below = stack.session("work").tree / "file"
    with mapped(mount / "file") as pages:
        subprocess.run(["umount", "-l", mount], check=True)
        stack.mounts.remove(mount)
        pages[:5] = b"later"
        assert settle(stack) == ""
        assert below.read_bytes()[:5] == b"later"
        pages[:5] = b"still"
        end(pid)
    assert below.read_bytes()[:5] == b"still"
    assert not any('"detach_failed"' in line for line in events(stack))
    assert verify(stack.session("work")).ok


def test_one_that_was_detached_ends_with_its_last_user(stack: Stack) -> None:
    mount = stack.mount("work")
    pid = stack.mount_pid("work")
    with mapped(mount / "file") as pages:
        subprocess.run(["umount", "-l", mount], check=True)
        stack.mounts.remove(mount)
        pages[:5] = b"later"
    eventually(lambda: not Path(f"/proc/{pid}").exists(), timeout=30, what="it did not end")
    assert (stack.session("work").tree / "file").read_bytes()[:5] == b"later"
    assert verify(stack.session("work")).ok


def test_ending_one_that_was_detached_leaves_its_successor(stack: Stack) -> None:
    mount = stack.mount("work")
    pid = stack.mount_pid("work")
    with mapped(mount / "file"):
        subprocess.run(["umount", "-l", mount], check=True)
        stack.mounts.remove(mount)
        stack.run("mount", "--create", "other", mount)
        stack.mounts.append(mount)
        (mount / "mine").write_text("other's")
        end(pid)
        assert (mount / "mine").read_text() == "other's"
    stack.umount(mount)


def test_ending_one_that_is_covered_leaves_the_cover(stack: Stack) -> None:
    mount = stack.mount("work")
    pid = stack.mount_pid("work")
    (mount / "file").write_text("content")
    with tmpfs(mount):
        (mount / "precious").write_text("not ours")
        done = subprocess.run(
            [*GHOSTFS, "umount", mount], env=stack.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        assert "tmpfs" in done.stderr
        end(pid)
        assert (mount / "precious").read_text() == "not ours"
    assert any('"mount_covered"' in line for line in events(stack))
    stack.mounts.remove(mount)
    assert stack.mount("work") == mount  # what was left of it is cleared
    assert (mount / "file").read_text() == "content"
    stack.umount(mount)


@pytest.mark.parametrize("way", ["settle", "end"])
def test_one_below_a_covered_directory_says_so_and_ends(stack: Stack, way: str) -> None:
    mount = stack.mount("work")
    pid = stack.mount_pid("work")
    below = stack.session("work").tree / "file"
    with mapped(mount / "file") as pages, tmpfs(mount.parent):
        mount.mkdir()
        pages[:5] = b"below"
        if way == "settle":
            assert settle(stack) == ""
        else:
            end(pid)
        assert below.read_bytes()[:5] == b"below"
    if way == "settle":
        stack.umount(mount)
    else:
        subprocess.run(["umount", "-l", mount], check=True)
        stack.mounts.remove(mount)


@pytest.mark.parametrize("way", ["umount", "end"])
def test_one_below_a_renamed_directory_is_found(stack: Stack, tmp_path: Path, way: str) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    (before / "mnt").mkdir(parents=True)
    stack.run("mount", "--create", "work", before / "mnt")
    pid = stack.mount_pid("work")
    before.rename(after)
    mount = after / "mnt"
    (mount / "file").write_text("content")
    assert settle(stack) == ""
    if way == "umount":
        stack.run("umount", mount)
    else:
        end(pid)
    assert find(mount) is None
    assert (stack.session("work").tree / "file").read_text() == "content"


def test_a_part_of_it_mounted_over_it_is_not_taken_for_it(stack: Stack) -> None:
    mount = stack.mount("work")
    (mount / "sub").mkdir()
    with mapped(mount / "file") as pages:
        subprocess.run(["mount", "--bind", mount / "sub", mount], check=True)
        pages[:5] = b"below"
        assert settle(stack) == ""
        assert (stack.session("work").tree / "file").read_bytes()[:5] == b"below"
    stack.umount(mount)
    assert find(mount) is None


@pytest.mark.parametrize("way", ["umount", "end"])
def test_a_mount_that_was_bound_to_itself_is_taken_away_whole(stack: Stack, way: str) -> None:
    mount = stack.mount("work")
    subprocess.run(["mount", "--bind", mount, mount], check=True)
    (mount / "file").write_text("content")
    if way == "umount":
        stack.umount(mount)
    else:
        end(stack.mount_pid("work"))
        stack.mounts.remove(mount)
    assert find(mount) is None
    assert (stack.session("work").tree / "file").read_text() == "content"


def test_what_lies_below_another_filesystem_is_had_all_the_same(stack: Stack) -> None:
    mount = stack.mount("work")
    (mount / "sub").mkdir()
    with mapped(mount / "sub" / "file") as pages, tmpfs(mount / "sub"):
        (mount / "sub" / "file").write_text("not ours")
        pages[:5] = b"below"
        assert settle(stack) == ""
        assert (stack.session("work").tree / "sub" / "file").read_bytes()[:5] == b"below"
    stack.umount(mount)


def test_unmounting_ends_it_though_another_namespace_has_it(small: Stack) -> None:
    # Nothing is passed on between namespaces of what is mounted below this one.
    subprocess.run(["mount", "--make-private", small.base.parent], check=True)
    mount = small.mount("work")
    (mount / "file").write_text("content")
    with subprocess.Popen(
        ["unshare", "-m", "--propagation", "unchanged", "sh", "-c", "echo; read _"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        small.umount(mount)
        assert not any(entry.path == mount for entry in mounted())
        other.communicate(b"\n")
    assert any('"mounted_elsewhere"' in line for line in events(small))
    assert verify(small.session("work")).ok
