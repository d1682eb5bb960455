"""From the working set to cells: what one commit will hold. The bridge between a live tree and its index.

A commit is taken in three moves. `gather` (lock held, short): names and inodes that may be committed
leave the working set. `hash_changes` (no lock): partly written blocks are read back. `seal` (lock held,
short): content that nobody touched meanwhile becomes final, attributes are read. What could not be
sealed goes back; nothing is ever lost between the two.
"""

from __future__ import annotations

__all__ = ["Gathered", "Gatherer", "Sealed"]

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ghostfs.content import BlockList, Settlement
from ghostfs.mirror.hashing import HashPool
from ghostfs.mirror.live import Mirror
from ghostfs.mirror.records import Record
from ghostfs.mirror.settle import SettleRule
from ghostfs.mirror.syscalls import pread_exactly
from ghostfs.mirror.working import Names, WorkingSet
from ghostfs.model import InodeId, Kind

_Wanted = Callable[[InodeId | None], bool]

_PATIENCE = 3
"""After so many settles in a row that a writer spoiled, the next one keeps the writer waiting."""

_PARALLEL_FROM = 8
"""Blocks to be read back from which the hashing pool is worth its wake-ups."""


@dataclass(slots=True)
class Taken:
    """One inode taken out of the working set."""

    record: Record
    settlement: Settlement | None = None
    """The content too, if it settles."""
    fd: int = -1
    """Where the content is read from; this object's own."""
    failed: OSError | None = None


@dataclass(frozen=True, slots=True)
class Sealed:
    """One inode as it goes into the index."""

    record: Record
    st: os.stat_result
    blocks: BlockList | None
    """New content; `None` leaves the content that the index has."""
    target: bytes
    xattrs: bytes


@dataclass(slots=True)
class Gathered:
    """One commit in the making."""

    names: Names
    taken: list[Taken]
    sealed: list[Sealed] = field(default_factory=list)
    returned: int = 0
    """Inodes that went back, because somebody wrote to them or they could not be read."""
    trouble: OSError | None = None
    """Why something went back that should have been committed."""

    @property
    def empty(self) -> bool:
        return not (self.names or self.taken)


class Gatherer:
    """Takes commits out of a working set. Used by one thread."""

    def __init__(
        self, mirror: Mirror, working: WorkingSet, rule: SettleRule, pool: HashPool, *, xattrs: bool
    ) -> None:
        self._mirror = mirror
        self._working = working
        self._rule = rule
        self._pool = pool
        self._xattrs = xattrs

    def next_due(self) -> float | None:
        """When (monotonic, seconds) the next file that is open for writing will have to settle."""
        with self._working.lock:
            return min((self._due_at(record) for record in self._working.hot.values()), default=None)

    def gather(self, *, everything: bool) -> Gathered:
        """Takes what may be committed; `everything` settles open files too, due or not."""
        working = self._working
        now = time.monotonic()
        with working.lock:
            for record in list(working.hot.values()):
                if everything or self._due_at(record) <= now:
                    working.settle(record)
            ready, working.ready = working.ready, {}
            gathered = Gathered({}, [])
            held: set[InodeId] = set()
            for record in ready.values():
                if record.unlinked:
                    continue
                settles = record.content_dirty and (record.due or record.writers == 0)
                if record.content_dirty and not settles:
                    working.hot[record.id] = record
                    if not record.in_index:
                        held.add(record.id)
                        continue
                gathered.taken.append(self._take(record, settles=settles))
            for record in working.hot.values():
                if not record.in_index:
                    held.add(record.id)
            self._take_names(gathered, held)
            working.committing = gathered.names
        return gathered

    def hash_changes(self, gathered: Gathered) -> None:
        """Reads back what must be, in parallel where that pays. Needs no lock."""
        settling = [
            taken for taken in gathered.taken if taken.settlement is not None and taken.settlement.pending
        ]
        blocks = sum(taken.settlement.pending for taken in settling if taken.settlement is not None)
        if len(settling) > 1 and blocks >= _PARALLEL_FROM:
            for _ in self._pool.map(_read_back, settling):
                pass
        else:
            for taken in settling:
                _read_back(taken)

    def seal(self, gathered: Gathered) -> None:
        """Makes final what nobody touched since it was gathered; the rest goes back to the working set."""
        working = self._working
        with working.lock:
            unborn: set[InodeId] = set()
            for taken in gathered.taken:
                record = taken.record
                try:
                    if record.unlinked:
                        if not record.in_index:
                            unborn.add(record.id)
                        continue
                    sealed = self._seal(taken)
                except OSError as error:
                    gathered.trouble = error
                    sealed = None
                finally:
                    if taken.fd >= 0:
                        os.close(taken.fd)
                        taken.fd = -1
                if sealed is not None:
                    gathered.sealed.append(sealed)
                    continue
                gathered.returned += 1
                record.attrs_dirty = True
                working.ready[record.id] = record
                if not record.in_index:
                    unborn.add(record.id)
            self._return_names(gathered.names, lambda child: child in unborn)
            if working.ready:
                working.work.set()

    def committed(self, gathered: Gathered) -> None:
        """The index has it."""
        working = self._working
        with working.lock:
            working.committing = {}
            for sealed in gathered.sealed:
                sealed.record.in_index = True
                self._mirror.committed(sealed.record)
            working.compact_log()

    def give_back(self, gathered: Gathered) -> None:
        """The index did not take it: all goes back, to be tried again."""
        working = self._working
        with working.lock:
            working.committing = {}
            self._return_names(gathered.names, lambda _child: True)
            for sealed in gathered.sealed:
                record = sealed.record
                if record.unlinked:
                    continue
                record.attrs_dirty = True
                if sealed.blocks is not None:
                    record.content_dirty = True
                    record.due = True
                working.ready[record.id] = record
            working.work.set()

    # --- inside; the lock is held ----------------------------------------------------------------------

    def _due_at(self, record: Record) -> float:
        return self._rule.due_at(
            first_dirty_at=record.first_dirty_at,
            changed_at=record.changed_at,
            settled_at=record.settled_at,
            synced=record.synced,
        )

    def _take(self, record: Record, *, settles: bool) -> Taken:
        record.attrs_dirty = False
        record.logged = -1
        taken = Taken(record)
        if settles:
            try:
                taken.fd = self._mirror.open_for_settle(record)
                taken.settlement = self._mirror.map_of(record).begin_settle()
            except OSError as error:
                taken.failed = error
        return taken

    def _take_names(self, gathered: Gathered, held: set[InodeId]) -> None:
        names = self._working.names
        if not held:
            gathered.names, self._working.names = names, {}
            return
        remaining: Names = {}
        for parent, siblings in names.items():
            for name, child in siblings.items():
                target = remaining if child in held else gathered.names
                target.setdefault(parent, {})[name] = child
        self._working.names = remaining

    def _return_names(self, taken: Names, wanted: _Wanted) -> None:
        """Puts names back, unless they have changed again since."""
        for parent, siblings in list(taken.items()):
            back = {name: child for name, child in siblings.items() if wanted(child)}
            if not back:
                continue
            present = self._working.names.setdefault(parent, {})
            for name, child in back.items():
                present.setdefault(name, child)
                del siblings[name]
            if not siblings:
                del taken[parent]

    def _seal(self, taken: Taken) -> Sealed | None:
        record = taken.record
        if taken.failed is not None:
            raise taken.failed
        blocks: BlockList | None = None
        if taken.settlement is not None:
            blocks = self._finish(taken, taken.settlement)
            if blocks is None:
                return None
            st = os.fstat(taken.fd)
        else:
            st = self._mirror.stat_for_commit(record)
        target = self._mirror.target_for_commit(record) if record.kind is Kind.SYMLINK else b""
        xattrs = self._mirror.xattrs_for_commit(record) if self._xattrs else b""
        return Sealed(record, st, blocks, target, xattrs)

    def _finish(self, taken: Taken, settlement: Settlement) -> BlockList | None:
        """The content, if it can be made final; else it stays due."""
        record = taken.record
        blocks = self._mirror.map_of(record).finish_settle(settlement)
        if blocks is None:
            record.retries += 1
            if record.retries < _PATIENCE:
                return None
            fd = taken.fd
            blocks = self._mirror.map_of(record).settle(
                lambda offset, length: pread_exactly(fd, length, offset)
            )
        size = os.fstat(taken.fd).st_size
        if blocks.size != size:
            # Not written through this mirror: read it all.
            content = self._mirror.map_of(record)
            content.resize_seen(size)
            content.touch(0, size)
            return None
        record.content_dirty = False
        record.due = False
        record.retries = 0
        record.settled_at = time.monotonic()
        self._working.hot.pop(record.id, None)
        return blocks


def _read_back(taken: Taken) -> None:
    assert taken.settlement is not None
    fd = taken.fd
    try:
        taken.settlement.read(lambda offset, length: pread_exactly(fd, length, offset))
    except OSError as error:
        taken.failed = error
