"""The working set: what the tree has and the index has not, logged before it happens.

Every change is named in dirty.log before its system call, once per commit, so that a killed process
leaves behind exactly the list of what must be looked at again. In memory the same knowledge answers
lookups until the index can.
"""

from __future__ import annotations

__all__ = ["ABSENT", "Absent", "Names", "WorkingSet"]

import enum
import threading
import time
from typing import Final

from ghostfs.index import DirtyDirent, DirtyLog
from ghostfs.mirror.live.records import Record
from ghostfs.model import InodeId


class Absent(enum.Enum):
    """The working set says nothing about a name: the index knows."""

    ABSENT = 0


ABSENT: Final = Absent.ABSENT

_COMPACT_FROM: Final = 10_000
"""Records in dirty.log from which it is worth writing anew while something is still dirty."""

Names = dict[InodeId, dict[bytes, InodeId | None]]
"""Changed dirents by parent: what each name means now; `None` is nothing."""


class WorkingSet:
    """Uncommitted dirents and inodes of one mirror.

    `lock` guards all of it and every `Record`. The tree's system calls are made with it held, so that a
    commit never sees half of an operation; nothing that can take long is done with it held.
    """

    def __init__(self, log: DirtyLog) -> None:
        self.lock = threading.Lock()
        self.work = threading.Event()
        """Set when something may be ready to be committed."""
        self.names: Names = {}
        self.committing: Names = {}
        self.ready: dict[InodeId, Record] = {}
        """Inodes to be committed as soon as possible."""
        self.hot: dict[InodeId, Record] = {}
        """Inodes with changed content that are open for writing."""
        self.absent: tuple[InodeId, bytes] | None = None
        """A name that was looked for and is not there, until any name changes: whoever makes a file looks first."""
        self.unreadable: set[InodeId] = set()
        """Inodes of which the index has an old state, for they may not be read: dirty.log goes on naming them."""
        self.generation = 0
        """How often dirty.log was emptied."""
        self._log = log
        self._logged = 0

    def __len__(self) -> int:
        return len(self.ready) + len(self.hot) + sum(map(len, self.names.values()))

    @property
    def empty(self) -> bool:
        return not (self.names or self.ready or self.hot or self.committing)

    def child(self, parent: InodeId, name: bytes) -> InodeId | Absent | None:
        """What the name means, if it was changed since the index last heard of it."""
        for names in (self.names, self.committing):
            siblings = names.get(parent)
            if siblings is not None:
                found = siblings.get(name, ABSENT)
                if found is not ABSENT:
                    return found
        return ABSENT

    def announce(self, parent: InodeId, name: bytes, child: InodeId | None) -> None:
        """Logs that a name is about to change. To be followed by `name_changed`, unless it failed."""
        siblings = self.names.get(parent)
        if siblings is None or siblings.get(name, ABSENT) != child:
            self._log.append_dirent(parent, name, child)
            self._logged += 1

    def name_changed(self, directory: Record, name: bytes, child: InodeId | None) -> None:
        """A name now means `child`; its directory's times have changed with it."""
        self.absent = None
        self.names.setdefault(directory.id, {})[name] = child
        self.attrs_changed(directory)

    def announce_inode(self, record: Record) -> None:
        """Logs that an inode is about to change. To be followed by `attrs_changed` or `content_changed`."""
        if record.logged != self.generation:
            self._log.append_inode(record.id)
            self._logged += 1
            record.logged = self.generation

    def attrs_changed(self, record: Record) -> None:
        """Attributes of the inode have changed."""
        record.st = None
        if record.unlinked:
            return
        record.attrs_dirty = True
        self.ready[record.id] = record
        if not self.work.is_set():
            self.work.set()

    def content_changed(self, record: Record) -> None:
        """Content of the inode has changed. Becomes ready when the file settles."""
        record.st = None
        record.changed_at = now = time.monotonic()
        if not record.content_dirty:
            record.content_dirty = True
            record.first_dirty_at = now
            record.synced = False
            if record.writers:
                self.hot[record.id] = record
                if not self.work.is_set():
                    self.work.set()
            else:
                self.settle(record)

    def settle(self, record: Record) -> None:
        """The inode's content is to be committed now."""
        record.due = True
        self.hot.pop(record.id, None)
        self.ready[record.id] = record
        if not self.work.is_set():
            self.work.set()

    def synced(self, record: Record) -> None:
        """The inode's content was made durable: time to settle it."""
        record.synced = True
        self.work.set()

    def last_name_lost(self, record: Record) -> None:
        """No name leads to the inode any more: what is still written to it is nobody's."""
        self.hot.pop(record.id, None)
        self.ready.pop(record.id, None)
        record.attrs_dirty = record.content_dirty = False

    def compact_log(self) -> None:
        """Empties dirty.log once the index knows everything; shortens it if that never comes."""
        if not self._logged:
            return
        if self.empty and not self.unreadable:
            self._log.reset()
        elif self._logged > _COMPACT_FROM + 2 * len(self):
            self._log.reset(
                self.ready.keys() | self.hot.keys() | self.unreadable,
                (
                    DirtyDirent(parent, name, child)
                    for parent, siblings in self.names.items()
                    for name, child in siblings.items()
                ),
            )
        else:
            return
        self._logged = 0
        self.generation += 1
