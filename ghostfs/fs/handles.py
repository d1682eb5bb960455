"""The numbers by which the kernel knows open files and directories.

Files, directories and what is open below the overlay share one number space: a number that is wrong for a
request is then never right for something else.
"""

from __future__ import annotations

__all__ = ["HandleTable", "OpenDirectory", "OverlayFile"]

import errno
import os
from dataclasses import dataclass
from typing import TypeVar

from ghostfs.mirror.live.records import FileHandle
from ghostfs.model import InodeId


@dataclass(slots=True)
class OpenDirectory:
    """An open directory. `entries` is what it held when it was last read from its beginning; positions
    count in it, so that seeking finds the same names again whatever happens meanwhile."""

    inode: InodeId
    pid: int
    """Of the process that has opened it."""
    entries: list[tuple[bytes, InodeId]] | None = None


@dataclass(frozen=True, slots=True)
class OverlayFile:
    """A file below the overlay: a descriptor, or bytes that are on no disk."""

    fd: int | None
    data: bytes = b""
    inode: int = 0

    def read(self, offset: int, size: int) -> bytes:
        if self.fd is None:
            return self.data[offset : offset + size]
        return os.pread(self.fd, size, offset)

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)


_Open = TypeVar("_Open", OpenDirectory, OverlayFile)


class HandleTable:
    """Open files and directories by number. `files` is read directly on the hot path."""

    def __init__(self) -> None:
        self.files: dict[int, FileHandle] = {}
        self.overlay: dict[int, OverlayFile] = {}
        self.directories: dict[int, OpenDirectory] = {}
        self._last = 0

    def add_file(self, handle: FileHandle) -> int:
        self._last = number = self._last + 1
        self.files[number] = handle
        return number

    def add_overlay(self, file: OverlayFile) -> int:
        self._last = number = self._last + 1
        self.overlay[number] = file
        return number

    def add_directory(self, directory: OpenDirectory) -> int:
        self._last = number = self._last + 1
        self.directories[number] = directory
        return number

    def overlay_file(self, number: int) -> OverlayFile:
        return _known(self.overlay, number)

    def directory(self, number: int) -> OpenDirectory:
        return _known(self.directories, number)


def _known(table: dict[int, _Open], number: int) -> _Open:
    found = table.get(number)
    if found is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return found
