"""From a valid batch to what the planner and the index are told.

Cells that cannot be placed yet, because their content could not be had, are kept by the index: the dirents
as *unplaced*, to be part of every later plan until something newer overrides them, and the inodes as parked.
"""

from __future__ import annotations

__all__ = ["Intake", "check_follows", "outcome", "prepare_snapshot", "take"]

import secrets
from collections.abc import Iterable, Set
from dataclasses import dataclass

import structlog

from ghostfs.errors import InvalidCell
from ghostfs.index import Adopt, Index
from ghostfs.mirror.replica.batch import Batch, Checked
from ghostfs.mirror.replica.goal import Changes
from ghostfs.mirror.replica.plan import Plan
from ghostfs.mirror.replica.planlog import Outcome
from ghostfs.mirror.replica.steps import Place
from ghostfs.mirror.replica.survey import Finding, Survey
from ghostfs.model import ROOT, Cursor, Dirent, Inode, InodeId, Kind

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Intake:
    """One batch: its changes, and the new versions of inodes that it needs.

    `given` are the dirents behind the changes, `files` the files to assemble, `others` the other new objects;
    `untracked` is where, by (directory, names), a file may lie that has the content of a new one.
    """

    batch: Batch
    changes: Changes
    given: dict[Place, Dirent]
    files: dict[InodeId, Inode]
    others: list[Inode]
    untracked: dict[InodeId, tuple[InodeId, tuple[bytes, ...]]]


def check_follows(index: Index, batch: Batch) -> None:
    """Refuses a batch that does not continue what is there.

    Raises:
        InvalidCell: of another epoch, with a gap, or of another snapshot.
    """
    chunk = batch.snapshot
    if chunk is None:
        cursor = index.cursor()
        if cursor != Cursor(batch.epoch, batch.since):
            raise InvalidCell(
                f"a delta since {batch.since} of epoch {batch.epoch:x} does not follow {cursor}"
            )
        if batch.head == batch.since and (batch.inodes or batch.dirents):
            raise InvalidCell(f"a delta with cells and without a sequence above {batch.since}")
    elif not chunk.first:
        snapshot = index.snapshot()
        if snapshot is None or snapshot.snapshot_id != chunk.snapshot_id:
            raise InvalidCell("a later chunk of a snapshot that has not begun")
        if snapshot.position >= chunk.position:
            raise InvalidCell(f"chunk {chunk.position} of a snapshot after {snapshot.position}")


def prepare_snapshot(index: Index, cells: Checked) -> None:
    """Calls everything stale at the first chunk, and binds what is stale to the ids of another epoch.

    A directory at the same place is the same directory, any other object of the same kind and content is the
    same object: so a tree that an index of another epoch describes is not sent again. In the same epoch ids are
    what they were, unless the hub's index is a restored one that gave some of them to other objects since.
    """
    batch = cells.batch
    chunk = batch.snapshot
    assert chunk is not None
    with index.adopt() as adopt:
        if chunk.first:
            adopt.mark_stale()
            adopt.set_snapshot(chunk.snapshot_id, 0)
            adopt.set_meta("replica.unplaced", "[]")
            for inode in index.parked():
                adopt.unpark(inode)
        if index.epoch == batch.epoch:
            _free_ids(index, adopt, cells)
            return
        for dirent in cells.dirents:
            new = cells.inodes.get(dirent.inode) if dirent.inode is not None else None
            old = index.dirent(dirent.parent, dirent.name)
            if new is None or old is None or old in (new.id, ROOT) or old in cells.inodes:
                continue
            row = index.inode_light(old)
            if row is None or not _same_object(row, new) or adopt.is_current(old):
                continue
            if index.inode_light(new.id) is None and not index.children(new.id):
                adopt.rebind(old, new.id)


def _free_ids(index: Index, adopt: Adopt, cells: Checked) -> None:
    """Let stale objects whose id is now that of an object of another kind be known by ids that nobody has."""
    for cell in cells.inodes.values():
        row = index.inode_light(cell.id)
        if row is None or row.kind is cell.kind or adopt.is_current(cell.id):
            continue
        free = cell.id
        while index.inode_light(free) is not None or index.children(free):
            # Of the last replica number, and only until the sweep.
            free = InodeId((1 << 63) - 1 - secrets.randbelow(1 << 46))
        adopt.rebind(cell.id, free)


def take(
    index: Index, cells: Checked, waiting: Iterable[Dirent], survey: Survey | None, *, adopting: bool
) -> Intake:
    """The batch as the planner needs it, with the dirents that earlier batches left `waiting`.

    With a `survey`, what users have taken away or spoilt is made again, though its cell has not changed.

    Raises:
        InvalidCell: an inode has become one of another kind, or an entry of something that is no directory.
    """
    given = {Place(d.parent, d.name): d for d in waiting}
    given.update((Place(d.parent, d.name), d) for d in cells.dirents)
    named = {dirent.inode for dirent in given.values()}
    files: dict[InodeId, Inode] = {}
    others: list[Inode] = []
    amiss: set[InodeId] = set()
    for cell in cells.inodes.values():
        row = index.inode_light(cell.id)
        if row is not None:
            if row.kind is not cell.kind:
                raise InvalidCell(f"inode {cell.id:x} was a {row.kind.name} and is a {cell.kind.name}")
            if _same_object(row, cell):
                found = Finding.WHOLE if survey is None else survey.look_at(row)
                if found is Finding.AMISS:
                    amiss.add(cell.id)
                if found is not Finding.LOST:
                    continue
                log.info("object_lost", inode=f"{cell.id:x}")
        elif cell.id not in named or cell.id == ROOT:
            continue
        if cell.kind is not Kind.FILE:
            others.append(cell)
        elif cell.id not in cells.batch.superseded:
            files[cell.id] = cell
    changes = Changes({place: dirent.inode for place, dirent in given.items()}, cells.inodes, amiss)
    untracked = _untracked(index, changes, files) if adopting else {}
    return Intake(cells.batch, changes, given, files, others, untracked)


def outcome(index: Index, taken: Intake, planned: Plan, staged: Set[InodeId]) -> Outcome:
    """What the index shall say when the plan has been carried out."""
    batch, unplaced = taken.batch, planned.unplaced
    store: dict[Place, Dirent] = {}
    forget: list[Place] = []
    for place, dirent in taken.given.items():
        if place in unplaced:
            present = index.dirent_cell(*place)
            if place not in planned.entries and present is not None:
                store[place] = present  # what stays there is not stale
        elif dirent.inode is None:
            forget.append(place)
        else:
            store[place] = dirent
    for place, inode in planned.entries.items():
        if inode is None:
            store.pop(place, None)
            forget.append(place)
        elif place not in store or store[place].inode != inode:
            store[place] = Dirent(*place, inode)
    awaited = {inode for inode in unplaced.values() if inode in staged and not index.links(inode)}
    parked = planned.parked | awaited
    waiting = tuple(taken.given[place] for place in unplaced)
    named = set(unplaced.values())
    chunk = batch.snapshot
    cursor = Cursor(batch.epoch, batch.head)
    return Outcome(
        inodes=tuple(cell for cell in taken.changes.inodes.values() if cell.id not in parked),
        dirents=tuple(store.values()),
        forget=tuple(forget),
        parked=tuple(
            (inode, taken.changes.inodes[inode].seq)
            for inode in sorted(parked)
            if inode in named or index.links(inode)
        ),
        unparked=tuple(
            inode
            for inode in sorted(index.parked())
            if (inode in taken.changes.inodes and inode not in parked)
            or (inode not in named and not index.links(inode))
        ),
        unplaced=waiting,
        cursor=cursor if chunk is None else None,
        snapshot=None if chunk is None else (chunk.snapshot_id, chunk.position),
        sweep=cursor if chunk is not None and chunk.last else None,
    )


def _same_object(row: Inode, cell: Inode) -> bool:
    """Whether an object needs at most other attributes to be what the cell says."""
    return (row.kind, row.size, row.digest, row.target, row.rdev) == (
        cell.kind,
        cell.size,
        cell.digest,
        cell.target,
        cell.rdev,
    )


def _untracked(
    index: Index, changes: Changes, files: dict[InodeId, Inode]
) -> dict[InodeId, tuple[InodeId, tuple[bytes, ...]]]:
    """For each new file, the directory on disk and the names below it that lead to its place."""
    place_of = {inode: place for place, inode in changes.dirents.items() if inode is not None}
    found = {}
    for inode in files:
        names: list[bytes] = []
        directory = inode
        while directory in place_of and not (names and index.links(directory)) and len(names) < _DEEPEST:
            names.append(place_of[directory].name)
            directory = place_of[directory].parent
        if names:
            found[inode] = directory, tuple(reversed(names))
    return found


_DEEPEST = 4096
"""Levels within one batch beyond which nothing is looked for."""
