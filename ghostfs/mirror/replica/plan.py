"""The planner: from a replica's tree and the cells that changed to the steps that bring the one to the other.

Pure: no disk, no index, no clock. `goal` says what is aimed at, `placement` in which order; this module
puts the two together and adds what must be set at the end.
"""

from __future__ import annotations

__all__ = ["Changes", "Plan", "plan"]

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from ghostfs.mirror.replica.goal import Changes, Goal, aim
from ghostfs.mirror.replica.placement import Placement
from ghostfs.mirror.replica.steps import Exchange, Hold, Move, MoveOver, Place, SetAttributes, Step
from ghostfs.mirror.replica.treeview import Overlay, TreeView
from ghostfs.model import HELD, ROOT, Inode, InodeId


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, and what will then be so."""

    steps: tuple[Step, ...]

    entries: Mapping[Place, InodeId | None]
    """What each place that changes holds after the last step, held places included; `None`: nothing.

    A file that got new content and kept its place is not in here.
    """

    unplaced: Mapping[Place, InodeId]
    """The dirents that are not in effect, because their inode or their directory is not here yet.

    Such a place goes on holding what it held, even if that was removed or moved elsewhere as well (a file
    then has both names); only a directory that moved is not kept. An inode on disk whose only new place is
    unplaced is held. The caller keeps these dirents, and puts those that no newer change overrides
    into `Changes.dirents` of the next plan.
    """

    parked: frozenset[InodeId]
    """Inodes with a changed cell whose new version is not in the tree: new ones, and files that keep the old
    version with its attributes. The tree view goes on showing the old cell, or none. One that was staged
    and is parked has all its places in directories that are not here yet; it must be staged for a later plan."""


def plan(tree: TreeView, changes: Changes, *, staged: Set[InodeId], hold_removed: bool = False) -> Plan:
    """The steps that bring `tree` to what `changes` say.

    `staged` are the inodes whose new version is complete in staging: new ones of any kind, and files with
    new content. One whose places are neither in the tree nor in `changes.dirents` gets none. With
    `hold_removed` (a chunk of a snapshot: a later chunk may want it) whatever would leave the tree is held.
    A held inode that nothing will ask for goes when a change says that its held place holds nothing.

    What is promised of every moment between two steps:

    - A place (a name in a directory, whatever becomes of the directory) that holds a non-directory before
      and after is never free, and holds what it held before or what it holds after, nothing else. This is so for
      cycles and chains too.
    - No object that is still needed is without a name, in the tree or under `HELD`.
    - A directory is a descendant of `ROOT` or `HELD`: none is ever moved below itself.

    A directory that is renamed is one step, whatever it contains. The number of steps, and the work of
    finding them, follows the changed cells and the levels above them, not the tree; a level is looked at
    once. (Only of a directory that goes to another parent, all levels above that are.)

    Raises:
        InvalidCell: the changes describe no tree.
    """
    goal = aim(tree, changes, staged=staged, partial=hold_removed)
    placement = Placement(goal, hold_removed=hold_removed)
    placement.run()
    parked = frozenset(_parked(goal))
    attributes = _attributes(goal, placement.steps, placement.now, parked)
    return Plan(
        steps=(*placement.steps, *attributes),
        entries=placement.now.changed(),
        unplaced=goal.unplaced,
        parked=parked,
    )


def _parked(goal: Goal) -> Iterator[InodeId]:
    waiting = set(goal.unplaced.values())
    for inode, cell in goal.changes.inodes.items():
        if inode in goal.staged:
            if inode in waiting and inode not in goal.homes:
                yield inode
        elif inode != ROOT:
            present = goal.tree.inode(inode) if goal.tree.places(inode) else None
            if present is None or _version(present) != _version(cell):
                yield inode


def _version(cell: Inode) -> tuple[int, bytes, bytes, int]:
    """What cannot be changed in place."""
    return cell.size, cell.digest, cell.target, cell.rdev


def _attributes(
    goal: Goal, steps: list[Step], now: Overlay, parked: frozenset[InodeId]
) -> Iterator[SetAttributes]:
    """For changed cells of objects that stay, and for directories whose mtime the steps have changed.

    The deepest directories come first: a new mode may close a directory to those who are not root.
    """
    touched = {place.parent for step in steps for place in _places(step)} - {HELD}
    amiss = goal.changes.amiss
    changed = {
        inode: None
        for inode, cell in goal.changes.inodes.items()
        if inode not in parked
        and inode not in goal.fresh
        and (inode in amiss or not _same_attributes(goal, cell))
    }
    directories = []
    for inode in (*changed, *sorted(touched - changed.keys())):
        is_new = inode in goal.staged and not goal.tree.places(inode)
        if not now.exists(inode) or (is_new and inode not in touched):
            continue
        if goal.is_directory(inode):
            directories.append(inode)
        else:
            yield SetAttributes(inode, now.place(inode))
    for inode in now.deepest_first(directories):
        yield SetAttributes(inode, now.place(inode))


def _same_attributes(goal: Goal, cell: Inode) -> bool:
    present = goal.tree.inode(cell.id)
    return present is not None and (
        (present.mode, present.uid, present.gid, present.mtime_ns, present.xattrs)
        == (cell.mode, cell.uid, cell.gid, cell.mtime_ns, cell.xattrs)
    )


def _places(step: Step) -> tuple[Place, ...]:
    """The places that a step changes."""
    match step:
        case Exchange(a, b):
            return a, b
        case Move() | MoveOver() | Hold():
            return step.source, step.at
        case SetAttributes():
            return ()
        case _:
            return (step.at,)
