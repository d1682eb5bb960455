"""Databases on a disk that fails, or that can only be read: the disk is named, and nothing is taken for damaged."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from disks import small_disk
from failing import FailingDisk

from ghostfs.errors import IndexDamaged
from ghostfs.index import Index
from ghostfs.model import InodeId


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FailingDisk]:
    for name in ("below", "disk"):
        (tmp_path / name).mkdir()
    with FailingDisk(tmp_path / "below", tmp_path / "disk") as made:
        yield made


@pytest.fixture
def path(disk: FailingDisk) -> Path:
    path = disk.mountpoint / "index.db"
    Index.create(path).close()
    return path


@contextmanager
def forgotten_pages(path: Path) -> Iterator[None]:
    """The kernel forgets what it has in memory of a file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        yield
    finally:
        os.close(fd)


USES: list[Callable[[Index], object]] = [
    Index.check_pages,
    Index.check,
    lambda index: index.inode(InodeId(7)),
    lambda index: index.dirent(InodeId(7), b"name"),
]


@pytest.mark.parametrize("use", USES, ids=["check_pages", "check", "inode", "dirent"])
def test_what_cannot_be_read_is_not_damaged(
    disk: FailingDisk, path: Path, use: Callable[[Index], object]
) -> None:
    """SQLite itself calls that a database that is malformed."""
    with Index.open(path) as index, forgotten_pages(path):
        disk.fail(errno.EIO, "read")
        try:
            with pytest.raises(OSError, match="Input/output error") as raised:
                use(index)
        finally:
            disk.mend()
        assert (raised.value.errno, raised.value.filename) == (errno.EIO, str(path))
        use(index)
        index.check()


def test_what_cannot_be_read_is_not_opened(disk: FailingDisk, path: Path) -> None:
    Index.open(path).close()  # its header is known to be right from now on
    for operation in ("read", "lookup", "getattr"):
        with forgotten_pages(path):
            disk.fail(errno.EIO, operation)
            try:
                with pytest.raises(OSError, match="Input/output error") as raised:
                    Index.open(path)
            finally:
                disk.mend()
            assert raised.value.errno == errno.EIO
            Index.open(path).close()


def test_what_is_damaged_still_is(disk: FailingDisk, path: Path) -> None:
    Index.open(path).close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))
    with pytest.raises(IndexDamaged), Index.open(path) as index:
        index.check_pages()


def test_a_commit_on_a_disk_that_fails_is_tried_again(disk: FailingDisk, path: Path) -> None:
    with Index.open(path, durable=True) as index:
        for operation in ("write", "fsync"):
            disk.fail(errno.EIO, operation)
            with pytest.raises(OSError, match="Input/output error"), index.commit() as commit:
                commit.set_meta(operation, "1")
            disk.mend()
            with index.commit() as commit:
                commit.set_meta(operation, "2")
            assert index.meta(operation) == "2"
        index.check()


def test_a_filesystem_that_is_read_only_is_called_so(tmp_path: Path) -> None:
    with small_disk(tmp_path, "2m") as disk:
        path = disk / "index.db"
        Index.create(path).close()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for readonly in (False, True):
            with (
                pytest.raises(OSError, match="Read-only file system") as raised,
                Index.open(path, readonly=readonly) as index,
                index.commit() as commit,
            ):
                commit.set_meta("x", "y")
            assert raised.value.errno == errno.EROFS
