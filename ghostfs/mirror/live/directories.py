"""Descriptors of a tree's directories, by inode id.

Everything in a tree is reached as (directory descriptor, name): no path is ever too long, a renamed
directory needs no fixing of paths below it, and no symlink on the way can lead outside the tree.
"""

from __future__ import annotations

__all__ = ["Directories"]

import os
import resource
from collections import OrderedDict
from collections.abc import Callable

from ghostfs.model import ROOT, InodeId

_OPEN_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_LIMIT = 1024

Locate = Callable[[InodeId], tuple[InodeId, bytes]]


class Directories:
    """O_PATH descriptors by inode id, the least recently used ones closed beyond a limit.

    Not thread-safe. A descriptor that `fd` returned may be closed by a later `fd` call of another
    directory, but not by the next one, however deep that directory lies.
    """

    def __init__(self, root_fd: int, locate: Locate, *, limit: int | None = None) -> None:
        """`root_fd` stays the caller's. `locate` gives a directory's present (parent id, name), or
        raises `FileNotFoundError`. Without a `limit` it is a quarter of what this process may open."""
        if limit is None:
            limit = max(16, min(_LIMIT, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
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
        keep_all = len(missing) <= self._limit // 2
        passing = -1
        try:
            for inode, name in reversed(missing):
                base = os.open(name, _OPEN_PATH, dir_fd=base)
                if passing >= 0:
                    os.close(passing)
                    passing = -1
                if keep_all or inode == directory:
                    self._fds[inode] = base
                else:
                    passing = base
        finally:
            if passing >= 0:
                os.close(passing)
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
