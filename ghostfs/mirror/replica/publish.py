"""From a plan to a tree: objects made complete, the plan put down, the steps done, the index committed.

    staged objects complete and durable → plan.journal durable → steps → tree durable → index → journal cleared

Whatever ends the process in between, `finish` of the next one goes on where it stopped. Before the journal
is there, nothing in the tree has changed; after the index is committed, nothing is left to do.
"""

from __future__ import annotations

__all__ = ["Done", "Publisher"]

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import structlog

from ghostfs.index import Adopt, Index
from ghostfs.mirror.replica.amend import amend
from ghostfs.mirror.replica.assembly import Assembly
from ghostfs.mirror.replica.attributes import Attributes
from ghostfs.mirror.replica.batch import KeptChange
from ghostfs.mirror.replica.conflict import Keeper
from ghostfs.mirror.replica.executor import Executor
from ghostfs.mirror.replica.ground import Ground
from ghostfs.mirror.replica.planlog import Objects, Outcome, PlanLog, PlanRecord
from ghostfs.mirror.replica.reach import Reach
from ghostfs.mirror.replica.staging import ITS_OWN, Staging, Unmakeable
from ghostfs.mirror.replica.steps import (
    Create,
    Exchange,
    Hold,
    Move,
    MoveOver,
    Place,
    Replace,
    SetAttributes,
    Step,
)
from ghostfs.mirror.syscalls import syncfs
from ghostfs.model import ROOT, Backing, Cursor, Dirent, Epoch, Inode, InodeId, Kind, Replica, Seq

log = structlog.get_logger(__name__)

_FEW = 8
"""Up to so many objects are made durable one by one; for more, one syncfs(2) is cheaper."""

_ELSEWHERE = Backing(0, 0)
"""The backing of an inode whose object the user has taken away: no object has it."""

_UNPLACED = "replica.unplaced"
_SWEEP = "replica.sweep"


@dataclass(frozen=True, slots=True)
class Done:
    """What a plan has put in place: objects, bytes of new content, and users' changes that were kept."""

    files: int = 0
    bytes: int = 0
    kept: tuple[KeptChange, ...] = ()


class Publisher:
    """Carries out one plan at a time in one tree. Not thread-safe."""

    def __init__(
        self,
        index: Index,
        staging: Staging,
        reach: Reach,
        attributes: Attributes,
        *,
        node: str,
        between: Callable[[int], None],
    ) -> None:
        """`node` names conflict copies. `between` is called before every step and after the last."""
        self._index = index
        self._staging = staging
        self._reach = reach
        self._attributes = attributes
        self._node = node
        self._between = between
        self._log = PlanLog(staging.fd)

    def publish(self, steps: tuple[Step, ...], outcome: Outcome, assembly: Assembly | None) -> Done:
        """Carries out a new plan; durable when it returns.

        Raises:
            Unmakeable: nothing was done; the plan is to be made again without those.
            OSError: before the tree was touched, or in the middle of the steps; `finish` tells which.
        """
        cells = {cell.id: cell for cell in outcome.inodes}
        staged = [s.inode for s in steps if isinstance(s, Create | Replace)]
        few = len(staged) <= _FEW
        new, written = self._complete(staged, cells, assembly, sync=few)
        record = PlanRecord(steps, self._objects(steps, new), outcome)
        if steps:
            if few and staged:
                os.fsync(self._staging.new_fd)
            self._log.write(record, sync=few)
            os.fsync(self._staging.fd) if few else syncfs(self._staging.fd)
            self._reach.begin()
        kept = self._carry_out(record, again=False)
        return Done(len(new), written, kept)

    def finish(self) -> Done | None:
        """Carries out what is left of a plan that was interrupted; None if there is none.

        Raises:
            OSError: a step is still impossible.
            IndexDamaged: the plan cannot be read.
        """
        record = self._log.read()
        if record is None:
            return None
        out = record.outcome
        committed = (out.cursor is not None and self._index.cursor() == out.cursor) or (
            out.snapshot is not None and _position(self._index) == out.snapshot
        )
        if committed:
            self._log.clear()
            return Done()
        log.info("plan_resumed", steps=len(record.steps))
        perhaps: dict[InodeId, list[Place]] = {}
        for inode, place in _moves(record.steps):
            links = [Place(*link) for link in self._index.links(inode)]
            perhaps.setdefault(inode, links).insert(0, place)
        known = {i: o.old if o.old is not None else o.new or 0 for i, o in record.objects.items()}
        self._reach.begin_again(perhaps, known)
        kept = self._carry_out(record, again=True)
        return Done(sum(o.new is not None for o in record.objects.values()), 0, kept)

    def unplaced(self) -> list[Dirent]:
        """The dirents that wait for their inode."""
        rows = json.loads(self._index.meta(_UNPLACED) or "[]")
        return [
            Dirent(InodeId(parent), name.encode("latin-1"), inode, Seq(seq), Replica(origin))
            for parent, name, inode, seq, origin in rows
        ]

    def sweep(self) -> Cursor | None:
        """The cursor that is reached when what a complete snapshot did not name is gone."""
        row = json.loads(self._index.meta(_SWEEP) or "null")
        return None if row is None else Cursor(Epoch(row[0]), Seq(row[1]))

    def _complete(
        self, staged: list[InodeId], cells: dict[InodeId, Inode], assembly: Assembly | None, *, sync: bool
    ) -> tuple[dict[InodeId, int], int]:
        """Gives all staged objects their attributes; returns their inode numbers and their bytes."""
        new: dict[InodeId, int] = {}
        written = 0
        refused: dict[InodeId, OSError] = {}
        for inode in staged:
            cell = cells[inode]
            try:
                if cell.kind is Kind.FILE:
                    assert assembly is not None, "files are staged by an assembly"
                    new[inode] = self._complete_file(cell, assembly, sync=sync)
                    written += cell.size
                else:
                    new[inode] = self._make(cell)
            except OSError as error:
                if error.errno not in ITS_OWN:
                    raise
                refused[inode] = error
        if refused:
            raise Unmakeable(refused)
        return new, written

    def _make(self, cell: Inode) -> int:
        name = self._staging.make(cell)
        if cell.kind is not Kind.DIRECTORY:
            # Directories get theirs when they have been filled.
            self._attributes.on_name(self._staging.new_fd, name, cell, fresh=True)
        return os.stat(name, dir_fd=self._staging.new_fd, follow_symlinks=False).st_ino

    def _complete_file(self, cell: Inode, assembly: Assembly, *, sync: bool) -> int:
        whole = assembly.is_whole(cell.id)
        fd = self._staging.open_part(cell)[0] if whole else assembly.part(cell.id)
        try:
            content = assembly.content(cell.id) if whole else b""
            if content:
                view = memoryview(content)
                offset = 0
                while offset < len(view):
                    offset += os.pwrite(fd, view[offset:], offset)
            self._attributes.on_fd(fd, cell)
            if sync:
                os.fsync(fd)
            return os.fstat(fd).st_ino
        finally:
            if whole:
                os.close(fd)

    def _objects(self, steps: Iterable[Step], new: dict[InodeId, int]) -> dict[InodeId, Objects]:
        objects: dict[InodeId, Objects] = {}
        for step in steps:
            named = (step.inode_a, step.inode_b) if isinstance(step, Exchange) else (step.inode,)
            for inode in named:
                if inode not in objects:
                    row = self._index.inode_light(inode)
                    old = None if row is None or row.backing is None else row.backing.ino
                    objects[inode] = Objects(old, new.get(inode))
        return objects

    def _carry_out(self, record: PlanRecord, *, again: bool) -> tuple[KeptChange, ...]:
        keeper = Keeper(self._node, self._reach.path)
        ground = Ground(
            record,
            index=self._index,
            reach=self._reach,
            attributes=self._attributes,
            keeper=keeper,
            again=again,
        )
        executor = Executor(record.steps, ground, self._staging)
        executor.run(self._between)
        self._make_durable(record.steps)
        outcome = record.outcome
        if executor.impossible:
            outcome = amend(outcome, record.steps, executor.impossible, self._index)
        self._commit(outcome, ground)
        self._log.clear()
        return tuple(keeper.kept)

    def _make_durable(self, steps: tuple[Step, ...]) -> None:
        """Directories one by one where only they have changed, else the whole filesystem."""
        if not steps:
            return
        changed: set[InodeId] = set()
        for step in steps:
            if isinstance(step, Create | Replace):
                changed.add(step.at.parent)
            elif isinstance(step, SetAttributes):
                changed.add(step.inode)
            else:
                syncfs(self._staging.fd)
                return
        if len(changed) > _FEW:
            syncfs(self._staging.fd)
            return
        for inode in changed:
            try:
                fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._reach.fd(inode))
            except OSError:
                syncfs(self._staging.fd)  # a changed file, or a directory that nobody may read
                return
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _commit(self, outcome: Outcome, ground: Ground) -> None:
        with self._index.adopt() as adopt:
            for place in outcome.forget:
                adopt.forget_dirent(*place)
            for dirent in outcome.dirents:
                adopt.store_dirent(dirent)
            stored = set()
            for cell in outcome.inodes:
                stored.add(cell.id)
                adopt.store_inode(replace(cell, backing=self._backing(cell.id, ground)))
            for inode in (ground.at.keys() | ground.verified) - stored:
                at = ground.at.get(inode) or self._place(inode)
                backing = None if at is None else ground.backing(inode, at)
                if backing is not None:
                    adopt.set_backing(inode, backing)
            for inode, seq in outcome.parked:
                adopt.park(inode, seq)
            for inode in outcome.unparked:
                adopt.unpark(inode)
            self._commit_position(adopt, outcome)
            adopt.drop_orphans()

    def _commit_position(self, adopt: Adopt, outcome: Outcome) -> None:
        rows = [(d.parent, d.name.decode("latin-1"), d.inode, d.seq, d.origin) for d in outcome.unplaced]
        adopt.set_meta(_UNPLACED, json.dumps(rows))
        sweep = outcome.sweep
        adopt.set_meta(_SWEEP, json.dumps(None if sweep is None else (sweep.epoch, sweep.seq)))
        if outcome.cursor is not None:
            adopt.set_cursor(outcome.cursor.epoch, outcome.cursor.seq)
        elif outcome.snapshot is not None:
            adopt.set_snapshot(*outcome.snapshot)

    def _backing(self, inode: InodeId, ground: Ground) -> Backing:
        """Of an inode that is stored: as found after the steps, or as before if they left it alone."""
        if inode == ROOT:
            st = os.stat(self._reach.fd(ROOT))
            return Backing(st.st_ino, st.st_ctime_ns)
        row = ground.row(inode) if inode not in ground.created else None
        if inode in ground.at or inode in ground.verified or row is None:
            place = ground.at.get(inode) or self._place(inode)
            found = None if place is None else ground.backing(inode, place)
            if found is not None:
                return found
        return (row.backing if row is not None else None) or _ELSEWHERE

    def _place(self, inode: InodeId) -> Place | None:
        links = self._index.links(inode)
        return Place(*links[-1]) if links else None


def _moves(steps: Iterable[Step]) -> Iterator[tuple[InodeId, Place]]:
    for step in steps:
        match step:
            case Move(inode, _, at) | MoveOver(inode, _, at, _):
                yield inode, at
            case Hold(inode, _):
                yield inode, step.at
            case Exchange(a, b, inode_a, inode_b):
                yield inode_a, b
                yield inode_b, a
            case _:
                continue


def _position(index: Index) -> tuple[bytes, int] | None:
    snapshot = index.snapshot()
    return None if snapshot is None else (snapshot.snapshot_id, snapshot.position)
