"""What stat(2) says of a backing file, as the kernel wants it."""

from __future__ import annotations

__all__ = ["BLOCK_SIZE_HINT", "NO_ENTRY", "VIRTUAL", "EntryOf", "ShownOwner", "entry_of", "statvfs_of"]

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pyfuse3

VIRTUAL: Final = 1 << 63
"""Inode ids from here on are no cells: `model.InodeId` has 63 bits."""

BLOCK_SIZE_HINT: Final = 65536
"""`st_blksize`, in bytes: stdio and Python size their buffers by it, so it decides how many requests a
stream of small writes becomes. Below malloc's mmap threshold (128 KiB), so that fopen(3) stays cheap."""

EntryOf = Callable[[int, os.stat_result], pyfuse3.EntryAttributes]
"""Makes the attributes to show of an inode."""

NO_ENTRY: Final = pyfuse3.EntryAttributes()
"""The answer to a lookup of what is not there: `st_ino` 0 and pyfuse3's timeout of 300 s, so that the kernel
remembers it. We are the only writer, and what comes into being through the mount corrects it."""


def entry_of(inode: int, st: os.stat_result) -> pyfuse3.EntryAttributes:
    """The attributes of `inode`, valid for 300 s (pyfuse3's default): nobody writes the tree but us."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = inode
    entry.st_mode = st.st_mode
    entry.st_nlink = st.st_nlink
    entry.st_uid = st.st_uid
    entry.st_gid = st.st_gid
    entry.st_size = st.st_size
    entry.st_blocks = st.st_blocks
    entry.st_blksize = BLOCK_SIZE_HINT
    entry.st_atime_ns = st.st_atime_ns
    entry.st_mtime_ns = st.st_mtime_ns
    entry.st_ctime_ns = st.st_ctime_ns
    if st.st_rdev:
        entry.st_rdev = st.st_rdev
    return entry


@dataclass(frozen=True, slots=True)
class ShownOwner:
    """Who is shown to own all files of a mount; None is whoever does. The kernel lets users do things by what is
    shown, and the tree keeps the owners that it has."""

    uid: int | None = None
    gid: int | None = None

    @property
    def entry_of(self) -> EntryOf:
        """As the function `entry_of`, with these owners; the very function if they are not given."""
        uid, gid = self.uid, self.gid
        if uid is None and gid is None:
            return entry_of

        def shown(inode: int, st: os.stat_result) -> pyfuse3.EntryAttributes:
            entry = entry_of(inode, st)
            if uid is not None:
                entry.st_uid = uid
            if gid is not None:
                entry.st_gid = gid
            return entry

        return shown

    def wanted(self, uid: int | None, gid: int | None) -> tuple[int | None, int | None]:
        """What chown(2) is to change in the tree: nothing, where the owner that is shown is asked for.

        Raises:
            PermissionError: another is: it could not be shown.
        """
        return _wanted(self.uid, uid), _wanted(self.gid, gid)

    def caller(self, uid: int) -> int | None:
        """Who asks, for `Mirror.setattr`, which knows who owns a file in the tree: who is shown to, owns it."""
        if self.uid is None:
            return uid
        return None if uid in (0, self.uid) else _NOBODY


_NOBODY: Final = -1
"""Owns no file."""


def _wanted(shown: int | None, asked: int | None) -> int | None:
    if shown is None or asked is None:
        return asked
    if asked != shown:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    return None


def statvfs_of(st: os.statvfs_result) -> pyfuse3.StatvfsData:
    """The state of the filesystem below."""
    data = pyfuse3.StatvfsData()
    data.f_bsize = st.f_bsize
    data.f_frsize = st.f_frsize
    data.f_blocks = st.f_blocks
    data.f_bfree = st.f_bfree
    data.f_bavail = st.f_bavail
    data.f_files = st.f_files
    data.f_ffree = st.f_ffree
    data.f_favail = st.f_favail
    data.f_namemax = st.f_namemax
    return data
