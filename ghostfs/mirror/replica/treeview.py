"""A tree as the planner sees it: inodes and the places that hold them, without paths or disks.

`TreeView` is what the planner asks for; `Overlay` is a tree view that changes while steps are planned and
remembers only what changed, so that planning costs nothing for the rest of the tree.
"""

from __future__ import annotations

__all__ = ["Overlay", "TreeView"]

from collections.abc import Iterable, Sequence
from typing import Protocol

from ghostfs.mirror.replica.steps import Place
from ghostfs.model import HELD, ROOT, Inode, InodeId


class TreeView(Protocol):
    """A replica's tree as it is on disk, entries under `HELD` included.

    What a hub has announced and the replica has not placed yet is no part of it. It must not change while a
    plan is made from it.
    """

    def child(self, parent: InodeId, name: bytes) -> InodeId | None:
        """What the place holds."""

    def places(self, inode: InodeId) -> Sequence[Place]:
        """All the places that hold the inode: at most one for a directory, none for `ROOT`."""

    def inode(self, inode: InodeId) -> Inode | None:
        """The cell that the object on disk was made from; `None` (or anything) if there is no object."""


class Overlay:
    """A tree view after some steps. Each method costs no more than the links of one inode, or one depth."""

    __slots__ = ("_entries", "_places", "_tree")

    def __init__(self, tree: TreeView) -> None:
        self._tree = tree
        self._entries: dict[Place, InodeId | None] = {}
        self._places: dict[InodeId, dict[Place, None]] = {}

    def child(self, place: Place) -> InodeId | None:
        """What the place holds now."""
        if place in self._entries:
            return self._entries[place]
        return self._tree.child(*place)

    def places(self, inode: InodeId) -> dict[Place, None]:
        """The places that hold the inode now, in the order in which it came to them."""
        places = self._places.get(inode)
        if places is None:
            places = self._places[inode] = dict.fromkeys(self._tree.places(inode))
        return places

    def place(self, inode: InodeId) -> Place | None:
        """One place of the inode; for a directory, the place."""
        return next(iter(self.places(inode)), None)

    def exists(self, inode: InodeId) -> bool:
        """Whether the inode is on disk now, held or in the tree."""
        return inode == ROOT or bool(self.places(inode))

    def put(self, place: Place, inode: InodeId) -> None:
        """`place`, whatever it held, holds `inode`."""
        self.clear(place)
        self.places(inode)[place] = None
        self._entries[place] = inode

    def clear(self, place: Place) -> None:
        """`place` holds nothing."""
        inode = self.child(place)
        if inode is not None:
            self.places(inode).pop(place, None)
        self._entries[place] = None

    def is_within(self, directory: InodeId, ancestor: InodeId) -> bool:
        """Whether a directory is the other one, or anywhere below it."""
        while directory != ancestor:
            place = self.place(directory) if directory not in (ROOT, HELD) else None
            if place is None:
                return False
            directory = place.parent
        return True

    def deepest_first(self, directories: Iterable[InodeId]) -> list[InodeId]:
        """The directories by the number of those above them, up to `ROOT` or `HELD`; each level is
        looked at once, whatever they have in common."""
        depths: dict[InodeId, int] = {ROOT: 0, HELD: 0}
        chosen = list(directories)
        for directory in chosen:
            path = []
            while directory not in depths:
                path.append(directory)
                place = self.place(directory)
                directory = HELD if place is None else place.parent  # noqa: PLW2901 - the way up
            first = depths[directory] + 1
            depths.update((below, depth) for depth, below in enumerate(reversed(path), first))
        return sorted(chosen, key=depths.__getitem__, reverse=True)

    def changed(self) -> dict[Place, InodeId | None]:
        """The places that hold something else than in the tree below."""
        return {place: inode for place, inode in self._entries.items() if self._tree.child(*place) != inode}
