"""Who is who in a tree that nobody watched: which inode each thing found in it is.

What was there keeps its id, what moved takes its id along, and only what is new gets a new one. Told by what
the index has, by the ids that dirty.log gives as hints, and by the inode numbers of the filesystem below,
which are used again.
"""

from __future__ import annotations

__all__ = ["Recognition"]

import errno
import os
from collections.abc import Callable, Iterable

from ghostfs.index import DirtyDirent, Index
from ghostfs.mirror.live.findings import Place
from ghostfs.model import Inode, InodeId, Kind, kind_of_mode


class Recognition:
    """What was recognised in one pass over a tree. Not thread-safe."""

    def __init__(self, index: Index, allocate: Callable[[int], Iterable[int]]) -> None:
        """`allocate` gives so many ids for what is new."""
        self.hinted: dict[Place, list[InodeId]] = {}
        """The places that dirty.log names, and which inodes each was to mean, in the order of time."""
        self._index = index
        self._allocate = allocate
        self._assigned: dict[InodeId, int] = {}
        """Which backing inode each id stands for, in this pass."""
        self._by_backing: dict[int, InodeId] = {}
        self._found_at: dict[InodeId, Place] = {}
        """Where directories are in this tree."""
        self._spare: list[int] = []

    def __contains__(self, inode: InodeId) -> bool:
        """Whether it was found in this pass."""
        return inode in self._assigned

    def hint(self, names: Iterable[DirtyDirent]) -> None:
        """Takes note of what dirty.log says."""
        for entry in names:
            hints = self.hinted.setdefault((entry.parent, entry.name), [])
            if entry.child is not None:
                hints.append(entry.child)

    def found_at(self, place: Place, st: os.stat_result, known: InodeId | None) -> InodeId:
        """Which inode it is that was found at a place, where the index has `known`."""
        inode = self._identify(place, st, known)
        if kind_of_mode(st.st_mode) is Kind.DIRECTORY:
            self._found_at[inode] = place
        return inode

    def doubtful(self, place: Place, directory: InodeId) -> bool:
        """Whether a directory may hold what neither the index nor the names in the log tell of.

        That is one which the index has not, and one which passes for the one that was here before though
        the log speaks of a new one: backing inode numbers are used again.
        """
        return self._index.inode_light(directory) is None or any(
            hint != directory and self._index.inode_light(hint) is None
            for hint in self.hinted.get(place, ())
        )

    def locate(self, directory: InodeId) -> Place:
        """Where a directory was found, or where the index has it if the log does not name that place.

        One that has moved is nowhere until its new place was looked at: the log names that too.

        Raises:
            FileNotFoundError: nowhere.
        """
        found = self._found_at.get(directory)
        if found is not None:
            return found
        links = self._index.links(directory)
        if len(links) == 1 and links[0] not in self.hinted:
            return links[0]
        raise FileNotFoundError(errno.ENOENT, f"directory {directory} is nowhere")

    def assign(self, inode: InodeId, st: os.stat_result) -> InodeId:
        """This is that inode, whatever else speaks against it."""
        self._assigned[inode] = st.st_ino
        self._by_backing[st.st_ino] = inode
        return inode

    def _identify(self, place: Place, st: os.stat_result, known: InodeId | None) -> InodeId:
        """Which inode this is: the one that was there, one that moved here, or a new one."""
        same = self._by_backing.get(st.st_ino)
        if same is not None and self._assigned[same] == st.st_ino:
            return same
        kind = kind_of_mode(st.st_mode)
        row = self._index.inode_light(known) if known is not None else None
        if known is not None and row is not None and _is(row, kind, st.st_ino) and self._free(known, st):
            return self.assign(known, st)
        hints = [
            (hint, self._index.inode_light(hint))
            for hint in reversed(self.hinted.get(place, []))
            if self._free(hint, st)
        ]
        # First what the index has: a directory that keeps its id keeps what is in it.
        for hint, hinted in hints:
            if hinted is not None and _is(hinted, kind, st.st_ino):
                return self.assign(hint, st)
        for hint, hinted in hints:
            if hinted is None:
                return self.assign(hint, st)
        for candidate in self._index.by_backing(st.st_ino):
            if candidate.kind is kind and self._free(candidate.id, st):
                return self.assign(candidate.id, st)
        if known is not None and row is not None and row.kind is kind and self._free(known, st):
            return self.assign(known, st)
        return self.assign(self._new_id(), st)

    def _free(self, inode: InodeId, st: os.stat_result) -> bool:
        return self._assigned.get(inode, st.st_ino) == st.st_ino

    def _new_id(self) -> InodeId:
        if not self._spare:
            self._spare = list(reversed(list(self._allocate(1024))))
        return InodeId(self._spare.pop())


def _is(row: Inode, kind: Kind, ino: int) -> bool:
    return row.kind is kind and row.backing is not None and row.backing.ino == ino
