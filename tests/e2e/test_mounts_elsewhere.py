"""A mount that is not, or not only, where it was mounted: taken away, covered, moved with a directory above it.

Whoever ends it ends it, and nothing else that is at that place by now.
"""

from __future__ import annotations

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
def opened(path: Path) -> Iterator[int]:
    """A new file, open for writing, whose mount may have gone when it is closed."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        yield fd
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
    with opened(mount / "file") as file:
        subprocess.run(["umount", "-l", mount], check=True)
        stack.mounts.remove(mount)
        os.write(file, b"written afterwards")
        assert "was detached" in settle(stack)
        end(pid)
    assert (stack.session("work").tree / "file").read_text() == "written afterwards"
    assert not any('"detach_failed"' in line for line in events(stack))
    assert verify(stack.session("work")).ok


def test_one_that_was_detached_ends_with_its_last_user(stack: Stack) -> None:
    mount = stack.mount("work")
    pid = stack.mount_pid("work")
    with opened(mount / "file") as file:
        subprocess.run(["umount", "-l", mount], check=True)
        stack.mounts.remove(mount)
        os.write(file, b"written afterwards")
    eventually(lambda: not Path(f"/proc/{pid}").exists(), timeout=30, what="it did not end")
    assert (stack.session("work").tree / "file").read_text() == "written afterwards"
    assert verify(stack.session("work")).ok


def test_ending_one_that_was_detached_leaves_its_successor(stack: Stack) -> None:
    mount = stack.mount("work")
    pid = stack.mount_pid("work")
    with opened(mount / "file"):
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
    with opened(mount / "file") as file, tmpfs(mount.parent):
        mount.mkdir()
        if way == "settle":
            assert "Stale file handle" in settle(stack)
        else:
            os.write(file, b"content")
            end(pid)
    if way == "settle":
        assert settle(stack) == ""
        stack.umount(mount)
    else:
        subprocess.run(["umount", "-l", mount], check=True)
        stack.mounts.remove(mount)
        assert (stack.session("work").tree / "file").read_text() == "content"


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
    subprocess.run(["mount", "--bind", mount / "sub", mount], check=True)
    assert "Stale file handle" in settle(stack)
    subprocess.run(["umount", mount], check=True)
    assert settle(stack) == ""
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
