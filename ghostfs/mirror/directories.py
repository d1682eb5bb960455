"""Descriptors of a tree's directories, by inode id.

Everything in a tree is reached as (directory descriptor, name): no path is ever too long, a renamed
directory needs no fixing of paths below it, and no symlink on the way can lead outside the tree.
"""

from __future__ import annotations

__all__ = ["Directories"]

import os
from collections import OrderedDict
from collections.abc import Callable

from ghostfs.model import ROOT, InodeId

_OPEN_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Locate = Callable[[InodeId], tuple[InodeId, bytes]]


class Directories:
    """O_PATH descriptors by inode id, the least recently used ones closed beyond a limit.

    Not thread-safe. A descriptor that `fd` returned may be closed by a later `fd` call of another
    directory; with `keep` open at the least, that is never one of the last `keep` asked for.
    """

    def __init__(self, root_fd: int, locate: Locate, *, limit: int = 1024) -> None:
        """`root_fd` stays the caller's. `locate` gives a directory's present (parent id, name), or
        raises `FileNotFoundError`."""
        if limit < 16:
            raise ValueError("a limit below 16 would close descriptors in use")
        self._root = root_fd
        self._locate = locate
        self._limit = limit
        self._fds: OrderedDict[InodeId, int] = OrderedDict()

    def fd(self, directory: InodeId) -> int:
        """A descriptor of the directory, for `*at` calls.

        Raises:
            OSError: the directory is no longer where the index says.
        """
        if directory == ROOT:
            return self._root
        fds = self._fds
        fd = fds.get(directory)
        if fd is not None:
            fds.move_to_end(directory)
            return fd
        return self._open(directory)

    def _open(self, directory: InodeId) -> int:
        missing = []
        base = self._root
        at = directory
        while at != ROOT:
            known = self._fds.get(at)
            if known is not None:
                base = known
                break
            parent, name = self._locate(at)
            missing.append((at, name))
            at = parent
        for inode, name in reversed(missing):
            base = os.open(name, _OPEN_PATH, dir_fd=base)
            self._fds[inode] = base
        while len(self._fds) > self._limit:
            os.close(self._fds.popitem(last=False)[1])
        return base

    def forget(self, directory: InodeId) -> None:
        """Closes the directory's descriptor, if one is open."""
        fd = self._fds.pop(directory, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        """Closes all but the root's."""
        while self._fds:
            os.close(self._fds.popitem()[1])
