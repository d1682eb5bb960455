"""The few system calls that Python's `os` lacks, through libc; sizes and flags from the Linux headers. And how a
file is read whose access time is to stay.
"""

from __future__ import annotations

__all__ = [
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "boot_id",
    "data_ranges",
    "knows_rename_flags",
    "leave_access_time",
    "open_quietly",
    "pread_exactly",
    "renameat2",
    "syncfs",
]

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = _libc.renameat2
_renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_syncfs = _libc.syncfs
_syncfs.argtypes = (ctypes.c_int,)


def renameat2(olddir: int, old: bytes, newdir: int, new: bytes, flags: int = 0) -> None:
    """rename(2) relative to two directory descriptors, with `RENAME_NOREPLACE` or `RENAME_EXCHANGE`.

    Raises:
        OSError: as renameat2(2).
    """
    if _renameat2(olddir, old, newdir, new, flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), old, None, new)


def knows_rename_flags(directory: int) -> bool:
    """Whether the filesystem of a directory does what both flags say: it is tried, with two empty files.

    NFS and 9p do not. Where it cannot be tried (a full disk), the answer is yes: nothing speaks against it.
    """
    one, other = b"rename-probe-1", b"rename-probe-2"
    try:
        # The kernel answers by itself where names are taken, or missing: only what is possible tells.
        for name in (one, other):
            _unlink(directory, name)
        _touch(directory, one)
        renameat2(directory, one, directory, other, RENAME_NOREPLACE)
        _touch(directory, one)
        renameat2(directory, one, directory, other, RENAME_EXCHANGE)
    except OSError as error:
        return error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
    finally:
        for name in (one, other):
            _unlink(directory, name)
    return True


def _touch(directory: int, name: bytes) -> None:
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory))


def _unlink(directory: int, name: bytes) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=directory)


def syncfs(fd: int) -> None:
    """Makes everything written to the filesystem of `fd` durable.

    Raises:
        OSError: EIO or ENOSPC when something written since the last call was lost.
    """
    if _syncfs(fd) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def boot_id() -> str:
    """A name of the time since the machine was started: another one means that caches were lost."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The (offset, length) ranges of a file that are not holes; one range where that cannot be told."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                yield offset, size - offset
                return
            raise
        yield start, min(end, size) - start
        offset = end


def open_quietly(path: bytes | str, flags: int, *, dir_fd: int | None = None) -> int:
    """open(2), for reads that leave the access time as it is; they move it where only another user may ask for that.

    Raises:
        OSError: as open(2).
    """
    try:
        return os.open(path, flags | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
        return os.open(path, flags, dir_fd=dir_fd)


def leave_access_time(fd: int) -> None:
    """What is read by `fd`, and by its duplicates, leaves the access time from now on; not of another user's file."""
    with contextlib.suppress(PermissionError):
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NOATIME)


def pread_exactly(fd: int, length: int, offset: int) -> bytes:
    """`length` bytes at `offset`; fewer only at the end of the file."""
    data = os.pread(fd, length, offset)
    if len(data) == length or not data:
        return data
    parts = [data]
    got = len(data)
    while got < length:
        data = os.pread(fd, length - got, offset + got)
        if not data:
            break
        parts.append(data)
        got += len(data)
    return b"".join(parts)
