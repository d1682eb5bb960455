"""What is true after a plan of which some steps were impossible for their own objects.

What such a step was to put somewhere is unplaced, and parked if it was to be a new version: a later plan
tries again, with the next version or after a resync. All else is as planned.
"""

from __future__ import annotations

__all__ = ["amend"]

from collections.abc import Collection, Sequence
from dataclasses import replace

from ghostfs.index import Index
from ghostfs.mirror.replica.planlog import Outcome
from ghostfs.mirror.replica.steps import (
    Create,
    Exchange,
    Place,
    Remove,
    RemoveDirectory,
    Replace,
    SetAttributes,
    Step,
)
from ghostfs.model import HELD, Dirent, InodeId


def amend(outcome: Outcome, steps: Sequence[Step], impossible: Collection[int], index: Index) -> Outcome:
    """The outcome without the steps of those numbers; `index` is still as before the plan.

    A name that could not be removed is forgotten like the others: what stays there is the user's.
    """
    refused = {s.inode for n in impossible if isinstance(s := steps[n], Create | Replace)}
    lost = {inode for inode in refused if index.inode_light(inode) is None}
    planned: dict[Place, InodeId | None] = {}
    done: dict[Place, InodeId | None] = {}
    for number, step in enumerate(steps):
        effect = _effect(step)
        planned.update(effect)
        if number in impossible and not (
            isinstance(step, Remove | RemoveDirectory) and step.inode not in refused
        ):
            continue
        if isinstance(step, Exchange) or step.inode not in lost:
            done.update(effect)
    gone = {step.inode for step in steps if isinstance(step, RemoveDirectory)}
    dirents = {Place(d.parent, d.name): d for d in outcome.dirents}
    forget = dict.fromkeys(outcome.forget)
    unplaced = {Place(d.parent, d.name): d for d in outcome.unplaced}
    for place, wanted in planned.items():
        before = index.dirent_cell(*place)
        there = done.get(place, None if before is None else before.inode)
        if there == wanted:
            continue
        dirent = dirents.pop(place, None)
        if dirent is not None and dirent.inode == wanted and place.parent != HELD:
            unplaced[place] = dirent
        if there is None or place.parent in gone:
            forget[place] = None
        else:
            forget.pop(place, None)
            if wanted is None and place.parent != HELD:
                unplaced[place] = Dirent(*place, None)  # goes when what is there has its other place
            kept = before is not None and before.inode == there
            dirents[place] = before if kept and before is not None else Dirent(*place, there)
    named = {dirent.inode for dirent in unplaced.values()}
    parked = [
        (cell.id, cell.seq)
        for cell in outcome.inodes
        if cell.id in refused and (cell.id in named or index.links(cell.id))
    ]
    return replace(
        outcome,
        inodes=tuple(cell for cell in outcome.inodes if cell.id not in refused),
        dirents=tuple(dirents.values()),
        forget=tuple(forget),
        unplaced=tuple(unplaced.values()),
        parked=(*outcome.parked, *parked),
        unparked=tuple(inode for inode in outcome.unparked if inode not in refused),
    )


def _effect(step: Step) -> dict[Place, InodeId | None]:
    match step:
        case SetAttributes():
            return {}
        case Exchange(a, b, inode_a, inode_b):
            return {a: inode_b, b: inode_a}
        case Remove(_, at) | RemoveDirectory(_, at):
            return {at: None}
        case _:
            source = getattr(step, "source", None) if type(step).__name__ in _LEAVING else None
            return {step.at: step.inode} if source is None else {source: None, step.at: step.inode}


_LEAVING = frozenset({"Move", "MoveOver", "Hold"})
