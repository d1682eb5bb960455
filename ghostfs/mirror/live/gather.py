"""From the working set to cells: what one commit will hold. The bridge between a live tree and its index.

A commit is taken in three moves. `gather` (lock held, short): names and inodes that may be committed
leave the working set. `hash_changes` (no lock): partly written blocks are read back. `seal` (lock held,
short): content that nobody touched meanwhile becomes final, attributes are read. What could not be
sealed goes back; nothing is ever lost between the two.
"""

from __future__ import annotations

__all__ = ["Gatherer"]

import errno
import time
from collections.abc import Container

import structlog

from ghostfs.content import BlockList
from ghostfs.errors import GhostError
from ghostfs.mirror.live.gathered import Gathered, Sealed, Taken
from ghostfs.mirror.live.mirror import Mirror
from ghostfs.mirror.live.records import Record
from ghostfs.mirror.live.settle import SettleRule
from ghostfs.mirror.live.settling import Settling
from ghostfs.mirror.live.working import Names, WorkingSet
from ghostfs.model import InodeId, Kind
from ghostfs.names import display

log = structlog.get_logger(__name__)

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO})
"""What is said of a file that somebody removed or replaced behind the mount."""


class Gatherer:
    """Takes commits out of a working set. Used by one thread."""

    def __init__(
        self,
        mirror: Mirror,
        working: WorkingSet,
        rule: SettleRule,
        settling: Settling,
    ) -> None:
        self._mirror = mirror
        self._working = working
        self._rule = rule
        self._settling = settling

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
            for record in ready.values():
                if record.id in working.unreadable:
                    self._all_anew(record)
                if record.content_dirty and not self._settles(record):
                    working.hot[record.id] = record
            held = {record.id for record in working.hot.values() if not record.in_index}
            try:
                for record in ready.values():
                    if record.unlinked or record.id in held:
                        continue
                    if held and self._awaits(record, held):
                        working.ready[record.id] = record
                    else:
                        gathered.taken.append(self._take(record, settles=self._settles(record)))
            except BaseException:
                working.ready = ready | working.ready
                self._give_back(gathered)
                raise
            self._take_names(gathered, held)
            working.committing = gathered.names
        return gathered

    def hash_changes(self, gathered: Gathered) -> None:
        """Reads back what must be, in parallel where that pays. Needs no lock."""
        self._settling.read_back(gathered.taken)

    def seal(self, gathered: Gathered) -> None:
        """Makes final what nobody touched since it was gathered; the rest goes back to the working set."""
        working = self._working
        with working.lock:
            unborn: set[InodeId] = set()
            gone: set[InodeId] = set()
            for taken in gathered.taken:
                record = taken.record
                sealed = None
                try:
                    if not record.unlinked:
                        sealed = self._seal_with_rights(gathered, taken)
                except PermissionError:
                    self._unreadable(record)
                    gone.add(record.id)
                    continue
                except (OSError, GhostError) as error:
                    if isinstance(error, OSError) and error.errno in _GONE:
                        self._lost(record)
                        gone.add(record.id)
                        continue
                    gathered.trouble = error
                if sealed is not None:
                    gathered.sealed.append(sealed)
                    continue
                if not record.in_index:
                    unborn.add(record.id)
                if not record.unlinked:
                    gathered.returned += 1
                    self._again(taken)
            self._drop_names(
                gathered.names, {inode for inode in gone if not self._in_index(gathered, inode)}
            )
            self._return_names(gathered, unborn)
            if not unborn.isdisjoint(gathered.names):
                # What is in a directory that has to wait cannot be told apart from what left other places
                # for it: all of it waits.
                self._give_back(gathered)
                gathered.sealed.clear()
                gathered.returned += 1
            if working.ready:
                working.work.set()

    def committed(self, gathered: Gathered) -> None:
        """The index has it."""
        working = self._working
        with working.lock:
            working.committing = {}
            self._mirror.names_committed(gathered.dirents)
            for sealed in gathered.sealed:
                sealed.record.in_index = True
                self._mirror.committed(sealed.record)
            self._close(gathered)
            self._shorten_log()

    def nothing_changed(self) -> None:
        """Nothing is to be committed: what dirty.log names was announced and then failed."""
        with self._working.lock:
            self._shorten_log()

    def leave_out(self, gathered: Gathered, refused: Sealed) -> None:
        """The index will not have this one: the commit goes on without it, and, if the index does not know it,
        without its names and all that is new in it."""
        with self._working.lock:
            leaving = {refused.record.id}
            while not refused.record.in_index:
                below = {c for parent in leaving for c in gathered.names.get(parent, {}).values()} - {None}
                new = {
                    s.record.id for s in gathered.sealed if s.record.id in below and not s.record.in_index
                }
                if new <= leaving:
                    self._drop_names(gathered.names, leaving)
                    break
                leaving |= new
            for sealed in [each for each in gathered.sealed if each.record.id in leaving]:
                gathered.sealed.remove(sealed)
                self._mirror.committed(sealed.record)

    def give_back(self, gathered: Gathered) -> None:
        """The index did not take it: all goes back, to be tried again."""
        with self._working.lock:
            self._give_back(gathered)

    # --- inside; the lock is held ----------------------------------------------------------------------

    def _shorten_log(self) -> None:
        try:
            self._working.compact_log()
        except OSError as error:
            # A log that is too long costs time after a kill, and nothing else.
            log.warning("dirty_log_not_shortened", error=str(error))

    def _due_at(self, record: Record) -> float:
        return self._rule.due_at(
            first_dirty_at=record.first_dirty_at,
            changed_at=record.changed_at,
            settled_at=record.settled_at,
            synced=record.synced,
        )

    def _settles(self, record: Record) -> bool:
        return record.content_dirty and (record.due or record.writers == 0)

    def _awaits(self, directory: Record, held: set[InodeId]) -> bool:
        """Whether a directory has changed because of a file that is held back: its new times go with the file,
        or followers would be sent them twice, and would have to wait for the first to be told the second."""
        if not directory.in_index:
            return False
        return not held.isdisjoint(self._working.names.get(directory.id, {}).values())

    def _take(self, record: Record, *, settles: bool) -> Taken:
        record.attrs_dirty = False
        record.in_commit = True
        record.logged = -1
        taken = Taken(record)
        if settles:
            self._working.hot.pop(record.id, None)
            record.due = record.synced = False
            try:
                self._settling.begin(taken)
            except (OSError, GhostError) as error:
                taken.failed = error
        return taken

    def _again(self, taken: Taken) -> None:
        """What was taken is to be taken again."""
        record = taken.record
        record.attrs_dirty = True
        if taken.settlement is not None or taken.failed is not None:
            record.content_dirty = True
            record.due = True
            self._working.hot.pop(record.id, None)
        self._working.ready[record.id] = record

    def _give_back(self, gathered: Gathered) -> None:
        working = self._working
        working.committing = {}
        self._return_names(gathered, None)
        for taken in gathered.taken:
            if not taken.record.unlinked:
                self._again(taken)
        self._close(gathered)
        working.work.set()

    def _close(self, gathered: Gathered) -> None:
        for taken in gathered.taken:
            taken.record.settling = None
            self._mirror.let_go(taken.record)

    def _lost(self, record: Record) -> None:
        """A changed file is no longer where it was, and nobody asked this mirror for that."""
        log.warning("file_gone", inode=record.id, name=display(record.name))
        record.attrs_dirty = record.content_dirty = record.due = False
        self._working.hot.pop(record.id, None)

    def _unreadable(self, record: Record) -> None:
        """Another user's, who does not let us: what the index has of it stands, until it changes again."""
        working = self._working
        if record.id not in working.unreadable:
            working.unreadable.add(record.id)
            log.warning("unreadable", inode=record.id, path=self._mirror.path(record))
        record.attrs_dirty = record.content_dirty = record.due = False
        working.hot.pop(record.id, None)

    def _all_anew(self, record: Record) -> None:
        """Something of what could not be read has changed, perhaps who may read it: all of it is due."""
        self._working.unreadable.discard(record.id)
        if record.kind is Kind.FILE and not record.unlinked:
            content = self._mirror.map_of(record)
            content.touch(0, content.size)
            record.content_dirty = record.due = True

    @staticmethod
    def _in_index(gathered: Gathered, inode: InodeId) -> bool:
        return any(taken.record.id == inode and taken.record.in_index for taken in gathered.taken)

    @staticmethod
    def _drop_names(names: Names, gone: Container[InodeId]) -> None:
        """Forgets the names of, and in, what has gone without ever having been in the index."""
        for parent, siblings in list(names.items()):
            left = {
                n: c for n, c in siblings.items() if parent not in gone and (c is None or c not in gone)
            }
            if left:
                names[parent] = left
            else:
                del names[parent]

    def _take_names(self, gathered: Gathered, held: set[InodeId]) -> None:
        names = self._working.names
        if not held:
            gathered.names, self._working.names = names, {}
            return
        remaining: Names = {}
        for parent, siblings in names.items():
            for name, child in siblings.items():
                if child in held:
                    remaining.setdefault(parent, {})[name] = child
                    gathered.held.append((parent, name))
                else:
                    gathered.names.setdefault(parent, {})[name] = child
        self._working.names = remaining

    def _return_names(self, gathered: Gathered, unborn: Container[InodeId | None] | None) -> None:
        """Puts the names of these inodes (`None`: all names) back, unless they have changed again since."""
        for parent, siblings in list(gathered.names.items()):
            back = {n: child for n, child in siblings.items() if unborn is None or child in unborn}
            if not back:
                continue
            present = self._working.names.setdefault(parent, {})
            for name, child in back.items():
                present.setdefault(name, child)
                gathered.held.append((parent, name))
                del siblings[name]
            if not siblings:
                del gathered.names[parent]

    def _seal_with_rights(self, gathered: Gathered, taken: Taken) -> Sealed | None:
        try:
            return self._seal(gathered, taken)
        except PermissionError:
            with self._mirror.reaching(taken.record):
                return self._seal(gathered, taken)

    def _seal(self, gathered: Gathered, taken: Taken) -> Sealed | None:
        record = taken.record
        if taken.failed is not None:
            raise taken.failed
        if taken.settlement is None and record.content_dirty and not record.in_index:
            return None
        target = self._mirror.target_for_commit(record) if record.kind is Kind.SYMLINK else b""
        # Before the times are taken: to read them, the mode may have to be another one for a moment.
        xattrs = self._mirror.xattrs_for_commit(record)
        blocks: BlockList | None = None
        if taken.settlement is not None:
            blocks, st = self._settling.finish(taken, taken.settlement)
            content = self._mirror.map_of(record)
            gathered.bytes_hashed += content.bytes_hashed
            gathered.bytes_reread += content.bytes_reread
            content.bytes_hashed = content.bytes_reread = 0
            if blocks is None:
                return None
        else:
            st = self._mirror.stat_for_commit(record)
        return Sealed(record, st, blocks, target, xattrs)
