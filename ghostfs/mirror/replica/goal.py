"""What a replica's tree should become: which changed place shall hold what, as far as it can be had.

Pure. The planner decides here *what*, and in `placement` *in which order*. What a hub asks for and what can
be done differ: an inode may be new and its content not here yet, or its directory may not be here yet, or a
chunk of a snapshot may contradict what the next chunk has not corrected yet.
"""

from __future__ import annotations

__all__ = ["Changes", "Goal", "aim"]

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from ghostfs.errors import InvalidCell
from ghostfs.mirror.replica.steps import Place
from ghostfs.mirror.replica.treeview import TreeView
from ghostfs.model import HELD, ROOT, Inode, InodeId, Kind


@dataclass(frozen=True, slots=True)
class Changes:
    """The cells that changed: what places shall hold (`None`: nothing), and what inodes shall be.

    `dirents` includes what earlier plans left unplaced and nothing newer has overridden. `amiss` are those of
    `inodes` whose attributes are to be set even if the tree view says that they are right.
    """

    dirents: Mapping[Place, InodeId | None]
    inodes: Mapping[InodeId, Inode]
    amiss: Set[InodeId] = frozenset()


@dataclass(slots=True)
class Goal:
    """What can be reached now. A place is in `wants`, or in `vacant`, or not concerned."""

    tree: TreeView
    changes: Changes
    staged: Set[InodeId]

    wants: dict[Place, InodeId] = field(default_factory=dict)
    """What changed places shall hold, and all places of a non-directory that has a new version."""

    homes: dict[InodeId, list[Place]] = field(default_factory=dict)
    """`wants` the other way round; a directory has one home at most."""

    vacant: dict[Place, None] = field(default_factory=dict)
    """The places that shall hold nothing, in order."""

    fresh: set[InodeId] = field(default_factory=set)
    """Non-directories whose new version is staged and has a home: their old version is expendable."""

    unplaced: dict[Place, InodeId] = field(default_factory=dict)
    """The dirents that cannot be had now."""

    awaited: set[InodeId] = field(default_factory=set)
    """Inodes that are on disk and that an unplaced dirent names: they must not be removed."""

    displaced: list[InodeId] = field(default_factory=list)
    """Directories to hold first of all: where they are now is below a directory that shall go below them."""

    def cell(self, inode: InodeId) -> Inode:
        """The inode's cell.

        Raises:
            InvalidCell: neither the changes nor the tree has it.
        """
        cell = self.changes.inodes.get(inode) or self.tree.inode(inode)
        if cell is None:
            raise InvalidCell(f"there is no cell of inode {inode:#x}")
        return cell

    def is_directory(self, inode: InodeId) -> bool:
        """Whether the inode is a directory: this never changes during its life."""
        return inode == ROOT or self.cell(inode).kind is Kind.DIRECTORY

    def home(self, directory: InodeId) -> Place | None:
        """Where a directory shall be, if it is among what changes."""
        homes = self.homes.get(directory)
        return homes[0] if homes else None

    def want(self, place: Place, inode: InodeId) -> None:
        """`place` shall hold `inode`."""
        self.wants[place] = inode
        self.homes.setdefault(inode, []).append(place)


def aim(tree: TreeView, changes: Changes, *, staged: Set[InodeId], partial: bool) -> Goal:
    """The reachable part of what `changes` ask for.

    `partial`: the changes are one chunk of a snapshot, so that a directory may have to go below one that is
    still below it in the tree, because its own new place comes later.

    Raises:
        InvalidCell: a directory at two places or below itself, a dirent of the root or in a non-directory.
    """
    goal = Goal(tree, changes, staged)
    has = _Availability(goal)
    for place, inode in changes.dirents.items():
        if inode is None:
            goal.vacant[place] = None
        elif has.object_of(inode) and has.directory(place.parent):
            goal.want(place, inode)
        else:
            goal.unplaced[place] = inode
    for inode in staged:
        for place in tree.places(inode) if not goal.is_directory(inode) else ():
            if place.parent != HELD and place not in changes.dirents:
                goal.want(place, inode)
    goal.awaited.update(inode for inode in goal.unplaced.values() if tree.places(inode))
    for place in goal.unplaced:
        _keep_what_is_there(goal, place)
    goal.fresh.update(i for i in staged if i in goal.homes and not goal.is_directory(i))
    _undo_loops(goal, partial=partial)
    return goal


def _keep_what_is_there(goal: Goal, place: Place) -> None:
    """A name whose new inode is not here yet goes on naming the old one, so that it never misses.

    Not so for a directory that has, or will have, another place: it cannot be at both.
    """
    present = goal.tree.child(*place)
    if present is None:
        return
    if goal.is_directory(present) and (present in goal.homes or present in goal.awaited):
        goal.vacant[place] = None
    else:
        goal.want(place, present)


class _Availability:
    """Which inodes can be named and which directories can be entered, once the plan is done."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._directories: dict[InodeId, bool] = {ROOT: True, HELD: False}
        self._places: dict[InodeId, Place] = {}
        for place, inode in goal.changes.dirents.items():
            if inode is None:
                continue
            if inode in (ROOT, HELD) or place.parent == HELD:
                raise InvalidCell(f"not a place for inode {inode:#x}: {place!r}")
            if self._places.setdefault(inode, place) != place and self._known_directory(inode):
                raise InvalidCell(f"directory {inode:#x} at two places: {self._places[inode]!r}, {place!r}")

    def object_of(self, inode: InodeId) -> bool:
        return inode in self._goal.staged or bool(self._goal.tree.places(inode))

    def directory(self, inode: InodeId) -> bool:
        """Whether the directory is on disk, or is staged and will be in one that is."""
        path: list[InodeId] = []
        while inode not in self._directories:
            path.append(inode)
            self._directories[inode] = False  # a loop of new directories hangs from nothing
            if self.object_of(inode) and not self._goal.is_directory(inode):
                raise InvalidCell(f"inode {inode:#x} has entries and is no directory")
            if self._goal.tree.places(inode):
                self._directories[inode] = True
            elif inode in self._goal.staged and inode in self._places:
                inode = self._places[inode].parent
        for below in path:
            self._directories[below] = self._directories[inode]
        return self._directories[inode]

    def _known_directory(self, inode: InodeId) -> bool:
        cell = self._goal.changes.inodes.get(inode) or self._goal.tree.inode(inode)
        return cell is not None and cell.kind is Kind.DIRECTORY


def _undo_loops(goal: Goal, *, partial: bool) -> None:
    """Finds directories that shall go below themselves, and displaces one that has no home in the loop."""
    checked: set[InodeId] = {ROOT, HELD}
    for moved in [i for i in goal.homes if goal.is_directory(i)]:
        path: dict[InodeId, None] = {}
        directory = moved
        while directory not in checked:
            if directory in path:
                loop = list(path)[list(path).index(directory) :]
                stale = [i for i in loop if goal.home(i) is None and (partial or i in goal.awaited)]
                if not stale:
                    raise InvalidCell(f"directory {directory:#x} would be below itself")
                goal.displaced.append(stale[0])
                break
            path[directory] = None
            place = goal.home(directory) or next(iter(goal.tree.places(directory)), None)
            directory = HELD if place is None else place.parent
        checked.update(path)
