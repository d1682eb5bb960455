"""Directories and names through a real mount."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def refusal(act: Callable[[], object]) -> int | None:
    """The errno that an action fails with."""
    try:
        act()
    except OSError as error:
        return error.errno
    return None


def test_making_and_removing(here: Path) -> None:
    (here / "d").mkdir()
    (here / "d" / "e").mkdir()
    assert (here / "d").stat().st_nlink == 3
    assert refusal((here / "d").mkdir) == errno.EEXIST
    assert refusal((here / "d").rmdir) == errno.ENOTEMPTY
    assert refusal(lambda: os.unlink(here / "d")) in (errno.EISDIR, errno.EPERM)
    (here / "d" / "e").rmdir()
    (here / "d").rmdir()
    assert os.listdir(here) == []


def test_a_missing_name_that_was_asked_for_can_be_made(here: Path) -> None:
    for _ in range(2):
        assert refusal((here / "f").stat) == errno.ENOENT
    (here / "f").write_bytes(b"x")
    assert (here / "f").stat().st_size == 1
    (here / "f").unlink()
    assert refusal((here / "f").stat) == errno.ENOENT


def test_wrong_kinds_are_refused(here: Path) -> None:
    (here / "f").write_bytes(b"")
    (here / "d").mkdir()
    assert refusal((here / "f" / "x").stat) == errno.ENOTDIR
    assert refusal((here / "f").rmdir) == errno.ENOTDIR
    assert refusal(lambda: os.rename(here / "d", here / "f")) == errno.ENOTDIR
    assert refusal(lambda: os.rename(here / "f", here / "d")) == errno.EISDIR
    assert refusal(lambda: os.rename(here / "d", here / "d" / "inner")) == errno.EINVAL
    assert refusal(lambda: os.open(here / "d", os.O_WRONLY)) == errno.EISDIR
    assert refusal(lambda: os.link(here / "d", here / "l")) == errno.EPERM


def test_directories_move_with_all_that_is_in_them(here: Path) -> None:
    (here / "a" / "b").mkdir(parents=True)
    (here / "a" / "b" / "f").write_bytes(b"deep")
    (here / "empty").mkdir()
    with (here / "a" / "b" / "f").open("r+b") as file:
        os.rename(here / "a", here / "empty")
        file.write(b"DE")
    assert (here / "empty" / "b" / "f").read_bytes() == b"DEep"
    assert sorted(os.listdir(here)) == ["empty"]


def test_all_of_a_large_directory_is_listed_once(here: Path) -> None:
    names = {f"file-{number:05}-{'x' * (number % 60)}" for number in range(3000)}
    for name in names:
        os.close(os.open(here / name, os.O_CREAT | os.O_WRONLY))
    listed = os.listdir(here)
    assert len(listed) == len(names)
    assert set(listed) == names


def test_a_directory_is_emptied_while_it_is_listed(here: Path) -> None:
    for number in range(2000):
        os.close(os.open(here / f"f{number}", os.O_CREAT | os.O_WRONLY))
    with os.scandir(here) as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert os.listdir(here) == []
    assert refusal((here / "f7").stat) == errno.ENOENT


def test_listing_tells_the_attributes_of_now(here: Path) -> None:
    """What changes while a directory is being read must not come back from the listing as it was."""
    for number in range(2000):
        (here / f"f{number:04}").write_bytes(b"x")
    with os.scandir(here) as entries:
        next(entries)
        for name in ("f1998", "f1999"):
            (here / name).write_bytes(b"longer")
        (here / "f1997").unlink()
        os.rename(here / "f1995", here / "f1996")
        for _ in entries:
            pass
    assert [(here / name).stat().st_size for name in ("f1998", "f1999")] == [6, 6]
    with (here / "f1999").open("ab") as file:
        file.write(b"er")
    assert (here / "f1999").read_bytes() == b"longerer"
    assert refusal((here / "f1997").stat) == errno.ENOENT
    assert refusal((here / "f1995").stat) == errno.ENOENT


def test_seeking_in_a_directory_finds_the_same_names(here: Path) -> None:
    for number in range(500):
        (here / f"f{number:03}").touch()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.telldir.restype = ctypes.c_long
    libc.readdir.argtypes = libc.closedir.argtypes = libc.telldir.argtypes = [ctypes.c_void_p]
    libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
    stream = libc.opendir(os.fsencode(here))

    def read() -> list[tuple[int, bytes]]:
        found = []
        while True:
            position = libc.telldir(stream)
            entry = libc.readdir(stream)
            if not entry:
                return found
            found.append((position, ctypes.string_at(entry + 19)))

    first = read()
    assert len(first) == 502
    (here / "f100").unlink()
    (here / "another").touch()
    for at in (400, 250, 3):
        libc.seekdir(stream, first[at][0])
        assert [name for _, name in read()] == [name for _, name in first[at:] if name != b"f100"]
    libc.closedir(stream)


def test_names_are_bytes_of_up_to_255(here: Path) -> None:
    root = os.fsencode(here)
    for name in (
        b"\xff\xfe\x80",
        b"new\nline",
        "ü".encode(),
        b"x" * 255,
        b" ",
        b"-rf",
        b"\\",
        "e\u0301".encode(),
    ):
        path = root + b"/" + name
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        assert name in os.listdir(root)
        os.rename(path, root + b"/moved")
        os.unlink(root + b"/moved")
    long = root + b"/" + b"x" * 256
    assert refusal(lambda: os.open(long, os.O_CREAT | os.O_WRONLY)) == errno.ENAMETOOLONG
    assert refusal(lambda: os.stat(long)) == errno.ENAMETOOLONG
    assert refusal(lambda: os.mkdir(long)) == errno.ENAMETOOLONG


def test_paths_deeper_than_any_path_may_be_long(here: Path) -> None:
    depth, name = 40, "d" * 200
    descriptors = [os.open(here, os.O_RDONLY)]
    for _ in range(depth):
        os.mkdir(name, dir_fd=descriptors[-1])
        descriptors.append(os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptors[-1]))
    fd = os.open("f", os.O_CREAT | os.O_RDWR, dir_fd=descriptors[-1])
    os.write(fd, b"deep")
    os.close(fd)
    assert os.stat("f", dir_fd=descriptors[-1]).st_size == 4
    os.rename(here / name, here / "short")
    fd = os.open("f", os.O_RDONLY, dir_fd=descriptors[-1])
    assert os.read(fd, 10) == b"deep"
    os.close(fd)
    os.unlink("f", dir_fd=descriptors[-1])
    for descriptor in descriptors:
        os.close(descriptor)


def test_a_removed_working_directory_fails_politely(here: Path) -> None:
    (here / "d").mkdir()
    fd = os.open(here / "d", os.O_RDONLY)
    (here / "d").rmdir()
    assert os.listdir(fd) == []
    assert refusal(lambda: os.mkdir("x", dir_fd=fd)) in (errno.ENOENT, errno.ESTALE)
    os.close(fd)


def test_the_state_of_the_filesystem_below(here: Path) -> None:
    st = os.statvfs(here)
    assert st.f_blocks > 0
    assert st.f_namemax == 255
    assert st.f_files > 0


@pytest.mark.parametrize("mode", [os.R_OK, os.W_OK, os.X_OK])
def test_access_is_asked_of_the_kernel(here: Path, mode: int) -> None:
    assert os.access(here, mode)
    (here / "f").touch(0o644)
    assert os.access(here / "f", mode) == (mode != os.X_OK)
