"""The few system calls that Python's `os` lacks, through libc; sizes and flags from the Linux headers."""

from __future__ import annotations

__all__ = [
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "boot_id",
    "data_ranges",
    "pread_exactly",
    "renameat2",
    "syncfs",
]

import ctypes
import errno
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
