"""Descriptors of a replica's directories, also while a plan is half carried out.

Like `directories.Directories`, but what the index says is only where things were before the plan. While a
plan is carried out, each step that moves a directory says so here. When a plan is run again after a crash,
nobody knows which of its steps were done: then a directory that the plan moves may be at any of the places
that the plan names, and is recognised by its inode number.
"""

from __future__ import annotations

__all__ = ["Reach"]

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from ghostfs.index import Index
from ghostfs.mirror.replica.steps import Place
from ghostfs.model import HELD, ROOT, InodeId

_OPEN_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FDS = 512


class Reach:
    """O_PATH descriptors by inode id, the least recently used ones closed. Not thread-safe.

    A descriptor that `fd` returned may be closed by a later call; the last 16 asked for are not.
    """

    def __init__(self, root_fd: int, held_fd: int, index: Index) -> None:
        """The two descriptors stay the caller's."""
        self._base = {ROOT: root_fd, HELD: held_fd}
        self._index = index
        self._fds: OrderedDict[InodeId, int] = OrderedDict()
        self._places: dict[InodeId, Place] = {}
        self._perhaps: Mapping[InodeId, Sequence[Place]] = {}
        self._known: Mapping[InodeId, int] = {}

    def begin(self) -> None:
        """Forgets everything but what the index says: the tree may have been changed by its user."""
        self.close()
        self._places.clear()
        self._perhaps = {}

    def begin_again(self, perhaps: Mapping[InodeId, Sequence[Place]], known: Mapping[InodeId, int]) -> None:
        """As `begin`, but the directories in `perhaps` are wherever one of those places, the likeliest
        first, holds the inode number `known`."""
        self.begin()
        self._perhaps = perhaps
        self._known = known

    def fd(self, directory: InodeId) -> int:
        """A descriptor of the directory.

        Raises:
            OSError: it is not where it should be, or something else is (ENOENT, ENOTDIR, ELOOP).
        """
        base = self._base.get(directory)
        if base is not None:
            return base
        fd = self._fds.get(directory)
        if fd is not None:
            self._fds.move_to_end(directory)
            return fd
        fd = self._open(directory, frozenset())
        while len(self._fds) > _FDS:
            os.close(self._fds.popitem(last=False)[1])
        return fd

    def place(self, directory: InodeId) -> Place:
        """Where the directory should be now.

        Raises:
            FileNotFoundError: nowhere.
        """
        place = self._places.get(directory)
        if place is not None:
            return place
        links = self._index.links(directory)
        if not links:
            raise FileNotFoundError(errno.ENOENT, f"directory {directory:x} is nowhere")
        return Place(*links[-1])  # HELD sorts first

    def path(self, place: Place) -> bytes:
        """The path of a place from the root of the tree."""
        parts = [place.name]
        directory = place.parent
        while directory not in self._base:
            place = self.place(directory)
            parts.append(place.name)
            directory = place.parent
        return b"/".join(reversed(parts))

    def moved(self, directory: InodeId, place: Place) -> None:
        """The directory is at `place` now; its descriptor stays good."""
        self._places[directory] = place

    def forget(self, directory: InodeId) -> None:
        """The directory is gone, or another one is in its place."""
        fd = self._fds.pop(directory, None)
        if fd is not None:
            os.close(fd)

    def open_up(self, directory: InodeId) -> list[InodeId]:
        """Gives the owner all rights on the directory and those above it; returns whose mode changed.

        For a process that owns them and is not root.
        """
        above: list[InodeId] = [directory]
        while above[-1] not in self._base:
            try:
                above.append(self.place(above[-1]).parent)
            except FileNotFoundError:
                return []
        opened = []
        for inode in reversed(above):
            if inode == HELD:
                continue
            try:
                pinned = f"/proc/self/fd/{self.fd(inode)}"
                mode = stat.S_IMODE(os.stat(pinned).st_mode)
                if mode & 0o700 != 0o700:
                    os.chmod(pinned, mode | 0o700)
                    opened.append(inode)
            except OSError:
                break  # not where it should be, or not ours: the step will say so
        return opened

    def close(self) -> None:
        """Closes all but the two that were given."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    def _open(self, directory: InodeId, visiting: frozenset[InodeId]) -> int:
        """Opens the chain from the nearest open ancestor down; recursion only at directories that moved."""
        chain: list[tuple[InodeId, bytes]] = []
        at = directory
        while at not in self._base and at not in self._fds:
            if at in self._perhaps:
                if at in visiting:
                    raise FileNotFoundError(errno.ENOENT, "a directory below itself")
                self._find(at, visiting | {at})
                break
            place = self.place(at)
            chain.append((at, place.name))
            at = place.parent
        fd = self._base[at] if at in self._base else self._fds[at]
        for inode, name in reversed(chain):
            fd = os.open(name, _OPEN_PATH, dir_fd=fd)
            self._fds[inode] = fd
        return fd

    def _find(self, directory: InodeId, visiting: frozenset[InodeId]) -> None:
        for place in self._perhaps[directory]:
            try:
                fd = self._enter(place, visiting)
            except OSError:
                continue
            if os.fstat(fd).st_ino == self._known.get(directory):
                self._fds[directory] = fd
                return
            os.close(fd)
        # Made again since, because a user had removed it: then it is where the last step put it.
        self._fds[directory] = self._enter(self.place(directory), visiting)

    def _enter(self, place: Place, visiting: frozenset[InodeId]) -> int:
        base = self._base.get(place.parent, self._fds.get(place.parent))
        parent = self._open(place.parent, visiting) if base is None else base
        return os.open(place.name, _OPEN_PATH, dir_fd=parent)
