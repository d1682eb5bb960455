"""`.skills`: the registry of skills at the root of every session, read-only, answered before the tree is.

Nothing in the tree can shadow it, because a name that is the overlay's, or that a filesystem may fold to
it, never reaches the tree. Inodes below it are virtual: ids that no cell has. A `.gitignore` of `*`,
which is on no disk, keeps it out of agents' commits.
"""

from __future__ import annotations

__all__ = ["Overlay", "claims", "is_virtual", "refuse"]

import errno
import itertools
import os
import stat
import time
from pathlib import Path
from typing import Final, NoReturn

import pyfuse3

from ghostfs.fs.attributes import NO_ENTRY, VIRTUAL, ShownOwner, entry_of
from ghostfs.fs.handles import OverlayFile
from ghostfs.model import ROOT, InodeId
from ghostfs.names import OVERLAY, is_reserved

_TOP: Final = InodeId(3 << 62)
"""The inode of `.skills` itself; those below it follow. The lower half of the virtual ids is left to
files that get another id for the life of a mount."""

_IGNORE: Final = InodeId(_TOP + 1)
_IGNORE_NAME: Final = b".gitignore"
_IGNORE_TEXT: Final = b"*\n"
_FIRST: Final = _TOP + 2
_TIMEOUT_S: Final = 1.0
"""The registry changes behind the kernel's back, so little is cached: a new version shows within this."""


def is_virtual(inode: int) -> bool:
    """Whether an inode is the overlay's or below it."""
    return inode >= VIRTUAL


def claims(parent: int, name: bytes) -> bool:
    """Whether the overlay, not the tree, answers for a name."""
    if parent != ROOT:
        return parent >= VIRTUAL
    if name.isascii():  # the folds of ASCII are ASCII: spare the tables of Unicode
        return name.lower() == OVERLAY
    return is_reserved(name)


def _briefly_absent() -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.entry_timeout = _TIMEOUT_S
    return entry


def refuse() -> NoReturn:
    """Every way of writing to the overlay, or of shadowing it, ends here."""
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


class Overlay:
    """The tree of virtual inodes over a directory. Used by the FUSE loop's thread only."""

    def __init__(
        self,
        source: Path,
        *,
        shared: bool = False,
        owner: ShownOwner = ShownOwner(),  # noqa: B008 (it never changes)
    ) -> None:
        """`source` need not exist. `shared`: other users are let in. All is shown as `owner`'s, or else as ours.

        Permissions are shown with write for whoever can get in, because the kernel checks them first, and
        would answer EACCES instead of the EROFS that says what is the matter.
        """
        self._source = os.fsencode(source)
        self._uid = os.getuid() if owner.uid is None else owner.uid
        self._gid = os.getgid() if owner.gid is None else owner.gid
        self._extra_mode = 0o222 if shared else 0o200
        self._ids = itertools.count(_FIRST)
        self._paths: dict[int, bytes] = {_TOP: b""}
        self._inodes: dict[bytes, int] = {b"": _TOP}
        self._files: dict[int, tuple[int, int]] = {}
        """Device and number of what an id was given to."""
        self._opened: dict[int, list[int]] = {}
        """Descriptors by inode."""
        self._lookups: dict[int, int] = {}
        self._made_ns = time.time_ns()

    @property
    def top(self) -> InodeId:
        """The inode of `.skills`."""
        return _TOP

    def lookup(self, parent: int, name: bytes) -> pyfuse3.EntryAttributes:
        """What a claimed name means; the kernel's interest in it is counted."""
        entry = self.entry(parent, name)
        if entry.st_ino:
            self.count(entry.st_ino)
        return entry

    def count(self, inode: int) -> None:
        """The kernel has learnt of an inode once more."""
        self._lookups[inode] = self._lookups.get(inode, 0) + 1

    def entry(self, parent: int, name: bytes) -> pyfuse3.EntryAttributes:
        """As `lookup`, without counting."""
        if parent == ROOT:
            return self._top_entry() if name == OVERLAY else NO_ENTRY
        if parent == _TOP and name == _IGNORE_NAME:
            return self._ignore_entry()
        path = self._path(parent) + b"/" + name
        try:
            st = os.lstat(self._source + path)
        except (FileNotFoundError, NotADirectoryError):
            return _briefly_absent()
        inode = self._inodes.get(path)
        if inode is None or not self._is(inode, st):
            inode = self._inodes[path] = next(self._ids)
            self._paths[inode] = path
            self._files[inode] = (st.st_dev, st.st_ino)
        return self._show(inode, st)

    def getattr(self, inode: int) -> pyfuse3.EntryAttributes:
        if inode == _TOP:
            return self._top_entry()
        if inode == _IGNORE:
            return self._ignore_entry()
        try:
            st = os.lstat(self._backing(inode))
            if self._is(inode, st):
                return self._show(inode, st)
        except (FileNotFoundError, NotADirectoryError):
            pass
        opened = self._opened.get(inode)
        if not opened:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))  # the kernel looks the name up anew
        return self._show(inode, os.fstat(opened[-1]))

    def readlink(self, inode: int) -> bytes:
        return os.readlink(self._backing(inode))

    def open(self, inode: int, flags: int) -> OverlayFile:
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            refuse()
        if inode == _IGNORE:
            return OverlayFile(None, _IGNORE_TEXT)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(self._backing(inode), flags)
        if not self._is(inode, os.fstat(fd)):
            os.close(fd)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        self._opened.setdefault(inode, []).append(fd)
        return OverlayFile(fd, inode=inode)

    def close(self, file: OverlayFile) -> None:
        """Closes what `open` has opened."""
        if file.fd is not None:
            opened = self._opened[file.inode]
            opened.remove(file.fd)
            if not opened:
                del self._opened[file.inode]
        file.close()

    def readdir(self, inode: int) -> list[bytes]:
        """The names in a directory, sorted."""
        try:
            names = set(map(os.fsencode, os.listdir(self._backing(inode))))
        except FileNotFoundError:
            if inode != _TOP:
                raise
            names = set()
        if inode == _TOP:
            names.add(_IGNORE_NAME)
        return sorted(names)

    def forget(self, inode: int, count: int) -> None:
        """The kernel has dropped `count` of its lookups."""
        left = self._lookups.get(inode, 0) - count
        if left > 0:
            self._lookups[inode] = left
            return
        self._lookups.pop(inode, None)
        if inode >= _FIRST:
            path = self._paths.pop(inode, None)
            self._files.pop(inode, None)
            if path is not None and self._inodes.get(path) == inode:
                del self._inodes[path]

    def _is(self, inode: int, st: os.stat_result) -> bool:
        """Whether this is what an id was given to. A directory is whatever has its name: a shell in a skill goes on in
        its next version. A file with another one's id would have that one's content in the kernel's cache."""
        return stat.S_ISDIR(st.st_mode) or self._files.get(inode) == (st.st_dev, st.st_ino)

    def _backing(self, inode: int) -> bytes:
        return self._source + self._path(inode)

    def _path(self, inode: int) -> bytes:
        path = self._paths.get(inode)
        if path is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return path

    def _top_entry(self) -> pyfuse3.EntryAttributes:
        try:
            st = os.stat(self._source)
        except FileNotFoundError:
            return self._invent(_TOP, stat.S_IFDIR | 0o555, size=0, links=2)
        return self._show(_TOP, st)

    def _ignore_entry(self) -> pyfuse3.EntryAttributes:
        return self._invent(_IGNORE, stat.S_IFREG | 0o444, size=len(_IGNORE_TEXT), links=1)

    def _invent(self, inode: int, mode: int, *, size: int, links: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = mode | self._extra_mode
        entry.st_nlink = links
        entry.st_size = size
        entry.st_uid, entry.st_gid = self._uid, self._gid
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = self._made_ns
        return entry

    def _show(self, inode: int, st: os.stat_result) -> pyfuse3.EntryAttributes:
        entry = entry_of(inode, st)
        entry.st_uid, entry.st_gid = self._uid, self._gid
        if not stat.S_ISLNK(st.st_mode):
            entry.st_mode = st.st_mode | 0o444 | self._extra_mode
        entry.entry_timeout = entry.attr_timeout = _TIMEOUT_S
        return entry
