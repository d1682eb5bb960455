"""The inodes of a live tree: who is who, where each is now, what it looks like.

The lowest part of a live mirror. Names are looked up in the working set first, and in the index where the
working set says nothing; everything in the tree is reached through descriptors of its directories.
"""

from __future__ import annotations

__all__ = ["Inodes"]

import errno
import os

from ghostfs.index import Index
from ghostfs.mirror.live.directories import Directories
from ghostfs.mirror.live.identities import Identities
from ghostfs.mirror.live.listings import SMALL, Listings
from ghostfs.mirror.live.nameless import Nameless
from ghostfs.mirror.live.records import Record
from ghostfs.mirror.live.working import ABSENT, WorkingSet
from ghostfs.mirror.privileges import may_chown
from ghostfs.model import ROOT, InodeId, Kind
from ghostfs.names import is_reserved


class Inodes:
    """Looking at one owned tree. Methods raise `OSError` as the system call would."""

    def __init__(self, root_fd: int, index: Index, working: WorkingSet, identities: Identities) -> None:
        """`index` is a connection of this object's own, for lookups. `root_fd` is the open tree."""
        self._root_fd = root_fd
        self._index = index
        self._working = working
        self._lock = working.lock
        self._identities = identities
        self._records: dict[InodeId, Record] = {}
        self._directories = Directories(root_fd, self._locate)
        self._listings = Listings()
        self._nameless = Nameless()
        self._targets: dict[InodeId, bytes] = {}
        """Where new symlinks lead, until their records go."""
        self._may_chown = may_chown()
        self._own = (os.geteuid(), os.getegid())
        root = Record(ROOT, ROOT, b"", os.fstat(root_fd))
        root.known = True
        self._records[ROOT] = root

    def lookup(self, parent: InodeId, name: bytes) -> tuple[InodeId, os.stat_result] | None:
        """The inode that a name means, and its attributes; `None` if there is none."""
        with self._lock:
            inode = self._child(parent, name)
            if inode is None:
                return None
            try:
                st = os.stat(name, dir_fd=self._directories.fd(parent), follow_symlinks=False)
            except FileNotFoundError:
                return None
            self._remember(inode, parent, name, st).known = True
            return inode, st

    def readdir(self, directory: InodeId) -> list[tuple[bytes, InodeId]]:
        """The names in a directory and their inodes, as they are now, in the order of their names."""
        with self._lock:
            record = self._record(directory)
            if record.unlinked:
                return []
            committed = self._listings.of(directory)
            if committed is None:
                committed = dict(self._index.children(directory))
                self._listings.learn(directory, committed)
            listed = committed.copy()
            for names in (self._working.committing, self._working.names):
                for name, child in names.get(directory, {}).items():
                    if child is None:
                        listed.pop(name, None)
                    else:
                        listed[name] = child
        return sorted(
            (name, child) for name, child in listed.items() if directory != ROOT or not is_reserved(name)
        )

    def getattr(self, inode: InodeId) -> os.stat_result:
        """The attributes of an inode, also of one that is open and has no name any more."""
        with self._lock:
            record = self._record(inode)
            if record.handles:
                return os.fstat(record.handles[-1].fd)
            return self._stat(record)

    def readlink(self, inode: InodeId) -> bytes:
        """A symlink's target."""
        with self._lock:
            record = self._record(inode)
            if record.unlinked and record.kept_fd is not None:
                return os.readlink(b"", dir_fd=record.kept_fd)
            return self._read_target(record)

    def statfs(self) -> os.statvfs_result:
        """The filesystem below."""
        return os.fstatvfs(self._root_fd)

    def forget(self, inode: InodeId) -> None:
        """The kernel will not ask for this id again before another lookup."""
        with self._lock:
            record = self._records.get(inode)
            if record is not None and inode != ROOT:
                record.known = False
                self._nameless.drop(record)
                self._drop_if_idle(record)

    # --- for the other operations, with the lock held ----------------------------------------------------

    def target_for_commit(self, record: Record) -> bytes:
        """The symlink's target to be committed. It never changes, and reading it would move its access time."""
        target = self._targets.get(record.id)
        if target is None and record.in_index:
            row = self._index.inode(record.id)
            target = None if row is None else row.target
        return target or self._read_target(record)

    def _read_target(self, record: Record) -> bytes:
        if record.unlinked:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return os.readlink(record.name, dir_fd=self._directories.fd(record.parent))

    def _child(self, parent: InodeId, name: bytes) -> InodeId | None:
        working = self._working
        child = working.child(parent, name)
        if child is not ABSENT:
            return child
        committed = self._listings.of(parent)
        if committed is not None:
            return committed.get(name)
        if working.absent == (parent, name):
            return None
        if self._listings.worth_learning(parent):
            some = self._index.children(parent, SMALL + 1)
            if len(some) <= SMALL:
                committed = dict(some)
                self._listings.learn(parent, committed)
                return committed.get(name)
        found = self._index.dirent(parent, name)
        if found is None:
            working.absent = (parent, name)
        return found

    def _existing(self, parent: InodeId, name: bytes) -> Record:
        inode = self._child(parent, name)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        record = self._records.get(inode)
        if record is None:
            st = os.stat(name, dir_fd=self._directories.fd(parent), follow_symlinks=False)
            record = self._remember(inode, parent, name, st)
        return record

    def _is_gone(self, parent: InodeId, name: bytes, inode: InodeId) -> bool:
        """Whether somebody has removed behind the mount what a name meant, so that it can be given anew. Not if that
        was a directory: what the index has below it would be nowhere."""
        if inode in self._records:
            return False
        try:
            os.stat(name, dir_fd=self._directories.fd(parent), follow_symlinks=False)
        except FileNotFoundError:
            row = self._index.inode_light(inode)
            return row is None or row.kind is not Kind.DIRECTORY
        return False

    def _record(self, inode: InodeId) -> Record:
        record = self._records.get(inode)
        if record is None:
            links = self._index.links(inode)
            if not links:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            parent, name = links[0]
            st = os.stat(name, dir_fd=self._directories.fd(parent), follow_symlinks=False)
            record = self._remember(inode, parent, name, st)
        return record

    def _remember(self, inode: InodeId, parent: InodeId, name: bytes, st: os.stat_result) -> Record:
        record = self._records.get(inode)
        if record is None:
            record = self._records[inode] = Record(inode, parent, name, st)
        return record

    def _locate(self, directory: InodeId) -> tuple[InodeId, bytes]:
        record = self._records.get(directory)
        if record is not None:
            if record.unlinked:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            return record.parent, record.name
        links = self._index.links(directory)
        if not links:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return links[0]

    def _places(self, record: Record) -> None:
        """Makes sure that all hard links of a record are known, before one of them changes."""
        if record.nlink > 1 and record.others is None and not record.is_directory:
            record.others = set(self._index.links(record.id)) - {(record.parent, record.name)}

    def _parent_fd(self, record: Record) -> int:
        return self._root_fd if record.id == ROOT else self._directories.fd(record.parent)

    def _stat(self, record: Record) -> os.stat_result:
        if record.id == ROOT:
            return os.fstat(self._root_fd)
        if record.unlinked:
            return os.fstat(self._held_fd(record))
        return os.stat(record.name, dir_fd=self._directories.fd(record.parent), follow_symlinks=False)

    def _held_fd(self, record: Record) -> int:
        """What leads to an inode whatever its name: of one that is open, or has none; perhaps an O_PATH descriptor."""
        if record.handles:
            return record.handles[-1].fd
        if record.kept_fd is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return record.kept_fd

    def _proc_path(self, record: Record) -> tuple[bytes, bool]:
        """A path for calls that know no descriptors of directories, and whether to follow it to its end."""
        if record.id == ROOT:
            return b"/proc/self/fd/%d" % self._root_fd, True
        if not record.unlinked and not record.handles:
            return b"/proc/self/fd/%d/%s" % (self._directories.fd(record.parent), record.name), False
        return b"/proc/self/fd/%d" % self._held_fd(record), True

    def _drop_if_idle(self, record: Record) -> None:
        if record.idle and record.settle_fd is None and record.id != ROOT:
            self._records.pop(record.id, None)
            self._targets.pop(record.id, None)
            self._nameless.drop(record)
            if record.is_directory:
                self._directories.forget(record.id)
                self._listings.forget(record.id)
