"""Reading a file to capture, recover or verify it is not using it: its access time stays."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ghostfs.content import BLOCK_SIZE
from ghostfs.mirror import syscalls
from ghostfs.mirror.live.verify import verify

OLD = 1_000_000_000_000_000_000
"""Older than any time of modification here, so that Linux moves it with the next read (`relatime`)."""


def aged(path: Path) -> Path:
    os.utime(path, ns=(OLD, path.stat().st_mtime_ns))
    return path


def moved(path: Path) -> bool:
    return path.stat().st_atime_ns != OLD


def test_reading_moves_it_here_so_that_these_tests_say_something(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    aged(tmp_path / "file").read_bytes()
    assert moved(tmp_path / "file")


def patched(live: Any, flags: int) -> Any:
    """A file that is open, patched in the middle of its blocks, so that these must be read back."""
    inode = live.write("file", bytes(3 * BLOCK_SIZE))
    live.drain()
    handle = live.mirror.open_file(inode, flags)
    for block in range(3):
        live.mirror.write(handle, block * BLOCK_SIZE + 7, b"patch")
    return handle


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY], ids=["for both", "for writing"])
def test_settling_what_is_open(live: Any, flags: int) -> None:
    handle = patched(live, flags)
    path = aged(live.layout.tree / "file")
    live.drain()
    assert live.owned.capture.stats.bytes_reread >= 3 * BLOCK_SIZE
    assert not moved(path)
    live.mirror.read(handle, 0, 10)
    assert moved(path), "what the program itself reads counts"
    live.mirror.release(handle)
    live.settled()


def test_settling_what_was_closed(live: Any) -> None:
    handle = patched(live, os.O_RDWR)
    live.mirror.release(handle)
    path = aged(live.layout.tree / "file")
    live.drain()
    assert live.owned.capture.stats.bytes_reread >= 3 * BLOCK_SIZE
    assert not moved(path)


def test_settling_what_was_closed_so_long_ago_that_it_is_opened_by_its_name(live: Any) -> None:
    live.mirror._closed.limit = 0
    handle = patched(live, os.O_RDWR)
    live.mirror.release(handle)
    assert handle.record.settle_fd is None
    path = aged(live.layout.tree / "file")
    live.drain()
    assert live.owned.capture.stats.bytes_reread >= 3 * BLOCK_SIZE
    assert not moved(path)


def test_settling_what_its_owner_may_not_read(live: Any) -> None:
    handle = patched(live, os.O_RDWR)
    live.mirror.setattr(handle.inode, mode=0)
    live.mirror.release(handle)
    path = aged(live.layout.tree / "file")
    live.drain()
    assert not moved(path)


def test_a_write_that_has_a_block_saved_before_it_changes(live: Any) -> None:
    handle = patched(live, os.O_RDWR)
    path = aged(live.layout.tree / "file")
    live.at("hash", lambda: live.mirror.write(handle, BLOCK_SIZE + 100, b"again"))
    live.drain()
    assert not moved(path)
    live.mirror.release(handle)
    live.settled()


def test_recovery_reads_files_and_lists_directories(live: Any) -> None:
    live.mkdir("d")
    live.write("d/file", b"content")
    live.drain()
    live.close()
    (live.layout.tree / "d/file").write_bytes(b"other content")
    paths = [aged(live.layout.tree / "d/file"), aged(live.layout.tree / "d")]
    recovery = live.open(rescan=True).recovery
    assert recovery.files_read == 1
    assert [moved(path) for path in paths] == [False, False]


def test_verifying(live: Any) -> None:
    live.mkdir("d")
    live.write("d/file", b"content")
    live.drain()
    paths = [aged(live.layout.tree / "d/file"), aged(live.layout.tree / "d")]
    assert verify(live.layout).bytes_read == 7
    assert [moved(path) for path in paths] == [False, False]


REFUSED = PermissionError(1, os.strerror(1))


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Files are another user's: the kernel grants nobody else that their access time stays."""
    count = 0
    opened, set_flags = os.open, syscalls.fcntl.fcntl

    def refuse_opening(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        nonlocal count
        if flags & os.O_NOATIME:
            count += 1
            raise REFUSED
        return opened(path, flags, mode, dir_fd=dir_fd)

    def refuse_setting(fd: int, command: int, value: int = 0) -> Any:
        nonlocal count
        if command == syscalls.fcntl.F_SETFL and value & os.O_NOATIME:
            count += 1
            raise REFUSED
        return set_flags(fd, command, value)

    monkeypatch.setattr(os, "open", refuse_opening)
    monkeypatch.setattr(syscalls.fcntl, "fcntl", refuse_setting)
    return lambda: count


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_another_users_files_are_captured_all_the_same(
    live: Any, foreign: Callable[[], int], closed: bool
) -> None:
    handle = patched(live, os.O_RDWR)
    if closed:
        live.mirror.release(handle)
    live.drain()
    assert foreign() > 0
    assert live.owned.capture.stats.failures == 0
    if not closed:
        live.mirror.release(handle)
    live.settled()  # which verifies
