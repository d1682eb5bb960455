"""A mirror that is fed from afar: takes in batches of cells and publishes them in a real directory.

    replica.begin(batch)              the cells are valid, and follow on what is there
    for want in replica.missing():    what this mirror has nowhere
        replica.put(..., data)        or replica.supersede(inode)
    published = replica.publish()     all of it visible and durable

The tree is the user's to read and to change; what is changed is noticed before it would be overwritten, and
kept (see `executor`). State lies outside the tree, so that it holds the session's files and nothing else.
"""

from __future__ import annotations

__all__ = ["Replica", "ReplicaSettings"]

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import structlog

from ghostfs import private
from ghostfs.errors import InvalidCell
from ghostfs.index import Index
from ghostfs.mirror.layout import SessionLayout
from ghostfs.mirror.owner import OwnerLock
from ghostfs.mirror.replica import intake, ownership
from ghostfs.mirror.replica.assembly import Assembly
from ghostfs.mirror.replica.attributes import Attributes
from ghostfs.mirror.replica.batch import Batch, KeptChange, Position, Published, Want, checked
from ghostfs.mirror.replica.donors import Donors
from ghostfs.mirror.replica.indextree import IndexTree
from ghostfs.mirror.replica.intake import Intake
from ghostfs.mirror.replica.ownership import UNPRIVILEGED, Ownership
from ghostfs.mirror.replica.plan import plan
from ghostfs.mirror.replica.publish import Done, Publisher
from ghostfs.mirror.replica.reach import Reach
from ghostfs.mirror.replica.root import Known, Root, open_index, remember
from ghostfs.mirror.replica.staging import Staging, Unmakeable
from ghostfs.mirror.replica.survey import Survey
from ghostfs.mirror.replica.sweep import sweep
from ghostfs.model import Inode, InodeId, Kind

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """How a replica behaves. `node_name` names conflict copies; `uid` and `gid` are for `mapped` (None: own)."""

    node_name: str
    ownership: Ownership = "auto"
    uid: int | None = None
    gid: int | None = None


def _nothing(step: int) -> None:
    """Between two steps nothing happens, except in tests of what happens there."""


class Replica:
    """One replica, owned by this process while it is open. Synchronous, for one thread at a time.

    After an exception of any method but `open`, call `abandon`: the batch is dropped, what was staged stays
    for the next, and a plan that was interrupted is finished before the next batch begins. A process that is
    killed at any moment leaves a replica that `open` brings to the state before the batch or after it.
    """

    def __init__(
        self,
        layout: SessionLayout,
        lock: OwnerLock,
        index: Index,
        root: Root,
        staging: Staging,
        settings: ReplicaSettings,
        between: Callable[[int], None],
    ) -> None:
        """Use `open`."""
        owner = ownership.choose(settings.ownership, settings.uid, settings.gid, session=layout.name)
        self._owner = owner
        self._lock = lock
        self._index = index
        self._root = root
        self._staging = staging
        self._reach = Reach(root.fd, staging.held_fd, index)
        self._donors = Donors(index, self._reach, staging)
        self._publisher = Publisher(
            index, staging, self._reach, Attributes(owner), node=settings.node_name, between=between
        )
        self._batch: tuple[Intake, Assembly] | None = None
        self._interrupted = False
        self._kept: list[KeptChange] = []
        self._skipped: set[InodeId] = set()
        self.refused_cells = 0

    @classmethod
    def open(
        cls,
        layout: SessionLayout,
        settings: ReplicaSettings,
        *,
        adopt_root: bool = False,
        between: Callable[[int], None] = _nothing,
    ) -> Self:
        """Opens a replica, or makes a new one, and finishes what a crash has left.

        With `adopt_root`, a directory that holds files is taken for a first sync (same content is used, other
        content is kept under conflict names), one that was emptied or exchanged is filled again, and any other
        is compared with the session as a whole and made equal to it likewise. `between` is called before every
        step of a plan with its number, and after the last.

        Raises:
            SessionBusy: another process owns it.
            NodeHalted: its directory has vanished, was emptied, is another one than before, or holds files
                before the first sync; or its filesystem is not fit for it.
            IndexTooNew, IndexDamaged: the index cannot be used.
            OSError: the folders cannot be made.
        """
        private.make_directory(layout.state)
        lock = OwnerLock(layout.owner_lock, what=f"the replica of session {layout.name!r}").acquire()
        index: Index | None = None
        root: Root | None = None
        staging: Staging | None = None
        try:
            index, root = open_index(layout, adopt=adopt_root)
            staging = Staging(layout.staging)
            root.check_filesystem(staging.new_fd)
            replica = cls(layout, lock, index, root, staging, settings, between)
            remember(index, Known(layout.tree, layout.staging, replica._owner.privileged))
            replica._finish()
        except BaseException:
            for part in (staging, root, index):
                if part is not None:
                    part.close()
            lock.release()
            raise
        return replica

    def close(self) -> None:
        """Drops the batch, if there is one, and lets go of the replica; a second time does nothing."""
        self.abandon()
        self._reach.close()
        self._staging.close()
        self._root.close()
        self._index.close()
        self._lock.release()

    def position(self) -> Position:
        """How far it is, durably; nowhere, if it is to be compared with a new snapshot as a whole."""
        if self._root.adoption_waits:
            return Position(None)
        snapshot = self._index.snapshot()
        return Position(
            self._index.cursor(), None if snapshot is None else (snapshot.snapshot_id, snapshot.position)
        )

    @property
    def has_content(self) -> bool:
        """Whether it holds files whose content may be used again."""
        return self._root.adopting or self._root.has_entries(self._index)

    def fingerprint(self) -> int | None:
        """The sum over all cells, if it can be compared: no snapshot is half applied, no cell waits."""
        if self._index.cursor() is None or self._index.parked() or self._publisher.unplaced():
            return None
        return self._index.fingerprint()

    def parked(self) -> set[InodeId]:
        """The inodes whose newest content could not be had, and may be had another time."""
        return self._index.parked() - self._skipped

    def begin(self, batch: Batch) -> None:
        """Takes a batch in. Nothing of the tree changes before `publish`.

        Raises:
            InvalidCell: it breaks a rule, or does not follow on the position.
            NodeHalted: the directory is not what it was.
        """
        if self._batch is not None:
            raise InvalidCell("a batch inside of a batch")
        self._root.check(self._index)
        if self._interrupted:
            self._finish()
        cells = checked(batch)
        self.refused_cells += cells.refused
        intake.check_follows(self._index, batch)
        if batch.snapshot is not None:
            intake.prepare_snapshot(self._index, cells)
            if batch.snapshot.first:
                self._root.adoption_begins(self._index)
        self._reach.begin()
        adopting = self._root.adopting
        survey = Survey(self._index, self._reach, thorough=adopting) if batch.snapshot is not None else None
        taken = intake.take(self._index, cells, self._publisher.unplaced(), survey, adopting=adopting)
        self._donors.look_also(taken.untracked)
        self._batch = taken, Assembly(self._staging, self._donors, taken.files, cells.blocks, batch.inline)

    def missing(self) -> Iterator[Want]:
        """The blocks to fetch; see `Assembly.missing`. To be asked until it gives nothing: a block that was
        wanted for a file that was then superseded may be wanted for another one."""
        return self._now[1].missing()

    def put(self, inode: InodeId, index: int, data: bytes | memoryview) -> None:
        """A block that was wanted.

        Raises:
            InvalidCell: it is not what its digest says.
        """
        self._now[1].put(inode, index, data)

    def supersede(self, inode: InodeId) -> None:
        """The inode's content cannot be had: its old version stays until a later delta brings a newer one."""
        taken, assembly = self._now
        taken.files.pop(inode, None)
        assembly.drop(inode)

    def publish(self) -> Published:
        """Makes the batch visible and durable.

        Raises:
            ValueError: blocks are missing.
            NodeHalted: the directory is not what it was.
            OSError: the disk is full or failing.
        """
        taken, assembly = self._now
        self._leave_out(assembly.unmakeable, taken)
        complete = assembly.complete()
        if not complete >= taken.files.keys():
            raise ValueError("a batch is published when nothing is missing")
        self._root.check(self._index)
        self._donors.close()
        others = self._make_special(taken)
        while True:
            staged = (complete & taken.files.keys()) | others
            planned = plan(
                IndexTree(self._index),
                taken.changes,
                staged=staged,
                hold_removed=taken.batch.snapshot is not None,
            )
            outcome = intake.outcome(self._index, taken, planned, staged)
            self._interrupted = True
            try:
                done = self._publisher.publish(planned.steps, outcome, assembly)
                break
            except Unmakeable as refused:
                self._interrupted = False
                self._leave_out(refused.why, taken)
                others -= refused.why.keys()
        self._interrupted = False
        self.abandon()
        self._staging.clean(self._index.parked())
        return self._report(done, self._sweep())

    def abandon(self) -> None:
        """Drops the batch; what was staged stays, to be used again. Nothing happens if there is none."""
        if self._batch is not None:
            self._batch[1].close()
            self._batch = None
        self._donors.close()

    @property
    def _now(self) -> tuple[Intake, Assembly]:
        if self._batch is None:
            raise ValueError("no batch was begun")
        return self._batch

    def _leave_out(self, unmakeable: Mapping[InodeId, OSError], taken: Intake) -> None:
        """What this disk refuses to hold waits for another version; the rest of the batch goes on."""
        for inode, error in unmakeable.items():
            taken.files.pop(inode, None)
            log.warning("object_refused", inode=f"{inode:x}", error=error.strerror)

    def _make_special(self, taken: Intake) -> set[InodeId]:
        """The inodes of other kinds that can and may be made here; devices need a right for that."""
        able = set()
        for cell in taken.others:
            if cell.kind in (Kind.CHAR, Kind.BLOCK):
                refused = self._refused_device(cell)
                if refused is not None:
                    self._skipped.add(cell.id)
                    if self._root.first_time("devices"):
                        log.warning("devices_skipped", reason=refused)
                    continue
            able.add(cell.id)
        return able

    def _refused_device(self, cell: Inode) -> str | None:
        if not self._owner.privileged:
            return UNPRIVILEGED
        try:
            self._staging.make(cell)
        except PermissionError:
            return "making device files needs CAP_MKNOD"
        return None

    def _finish(self) -> None:
        """What a crash, or an error in the middle of a plan, has left."""
        done = self._publisher.finish()
        self._interrupted = False
        if done is not None:
            self._kept += done.kept
        self._kept += self._sweep().kept

    def _sweep(self) -> Done:
        cursor = self._publisher.sweep()
        if cursor is None:
            return Done()
        self._interrupted = True
        done = sweep(self._index, self._publisher, cursor)
        self._interrupted = False
        self._root.adopted(self._index)
        return done

    def _report(self, done: Done, swept: Done) -> Published:
        self._root.seen(self._index)
        conflicts = (*self._kept, *done.kept, *swept.kept)
        self._kept.clear()
        return Published(self.position(), done.files, done.bytes, conflicts, self.fingerprint())
