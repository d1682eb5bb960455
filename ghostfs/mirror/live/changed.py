"""Changed inodes of a live tree: what the capture thread needs of them until the index has them.

Content is read back by way of a descriptor that is still open, or else by name, and where the mode forbids that,
with rights that are lent for a moment. Reading back is not using: access times stay. All methods want the lock held.
"""

from __future__ import annotations

__all__ = ["Changed"]

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable, Iterator

from ghostfs.content import BlockList, BlockMap, Reader, Settlement
from ghostfs.index import DirentPut, Index
from ghostfs.mirror.live.closed import ClosedFiles
from ghostfs.mirror.live.identities import Identities
from ghostfs.mirror.live.inodes import Inodes
from ghostfs.mirror.live.records import Record
from ghostfs.mirror.live.rights import Rights, path_of
from ghostfs.mirror.live.working import WorkingSet
from ghostfs.mirror.syscalls import leave_access_time, open_quietly, pread_exactly
from ghostfs.mirror.xattrs import UserAttributes
from ghostfs.model import ROOT
from ghostfs.names import display

_CUT_MOST = 4
"""Blocks that a truncation may have to wait for; more, and the settle that wants them begins anew."""

_BACK = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Changed(Inodes):
    """Reads changed inodes of one owned tree. Methods raise `OSError` as the system call would."""

    def __init__(
        self, root_fd: int, index: Index, working: WorkingSet, identities: Identities, rights: Rights
    ) -> None:
        """See `Inodes`. `rights` are on the same tree, and guarded by the working set's lock."""
        super().__init__(root_fd, index, working, identities)
        self._rights = rights
        self._closed = ClosedFiles(self._can_reopen)
        self._user_attributes = UserAttributes()

    def stat_for_commit(self, record: Record) -> os.stat_result:
        """The attributes to be committed."""
        st = record.st = record.st or self._stat(record)
        return st

    def stat_of_content(self, record: Record) -> os.stat_result:
        """The attributes to be committed with content: those of the file that was written, if it is open."""
        if record.st is not None:
            return record.st
        if record.settle_fd is not None:
            return os.fstat(record.settle_fd)
        if record.handles:
            return os.fstat(record.handles[-1].fd)
        try:
            return self._stat(record)
        except PermissionError:
            with self.reaching(record):
                return self._stat(record)

    def xattrs_for_commit(self, record: Record) -> bytes:
        """The user attributes to be committed, encoded; where they may not be read, those that the index has."""
        if record.xattrs is None:
            record.xattrs = self._read_xattrs(record)
        if record.xattrs is None:
            # Not to be remembered: they may be others by the time that they may be read.
            row = self._index.inode_light(record.id) if record.in_index else None
            return b"" if row is None else row.xattrs
        return record.xattrs

    def _read_xattrs(self, record: Record) -> bytes | None:
        """The encoded user attributes; `None` if they may not be read, not even with rights that are lent."""
        where: int | bytes
        if record.settle_fd is not None:
            where = record.settle_fd
        elif record.handles:
            where = record.handles[-1].fd
        else:
            where, follow = self._proc_path(record)
            if follow:  # the root: what is at the end of a path is not followed here
                where += b"/."
        try:
            return self._user_attributes.read(where, record.kind)
        except PermissionError:
            record.st = None
            pinned = self._rights.readable(record.name or b".", self._parent_fd(record))
            with pinned, contextlib.suppress(PermissionError):
                return self._user_attributes.read(where, record.kind)
        return None

    def open_for_settle(self, record: Record) -> int:
        """A descriptor of the caller's own from which the record's content can be read.

        Raises:
            PermissionError: it may not be read, and is another user's, so that we cannot let ourselves.
        """
        if record.settle_fd is not None and _readable(record.settle_fd):
            leave_access_time(record.settle_fd)
            return os.dup(record.settle_fd)
        for handle in record.handles or ():
            if _readable(handle.fd):
                return _beside(handle.fd)
        if record.unlinked:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        try:
            return open_quietly(record.name, _BACK, dir_fd=self._directories.fd(record.parent))
        except PermissionError:
            record.st = None  # lending the right moves the time of the last change
            with self.reaching(record):
                return self._rights.open_file(record.name, self._directories.fd(record.parent))

    def about_to_write(self, record: Record, offset: int, length: int) -> None:
        """What a settle is still to read of this range is read now, before it changes."""
        settling = record.settling
        if settling is not None and settling.touches(offset, length):
            with self._saving(record, settling) as reader:
                settling.save(offset, length, reader)

    def about_to_cut(self, record: Record, size: int) -> None:
        """As `about_to_write`, before the file gets another size."""
        settling = record.settling
        if settling is not None and settling.pending and size < settling.size:
            with self._saving(record, settling) as reader:
                settling.save_cut(size, reader, most=_CUT_MOST)

    @contextlib.contextmanager
    def _saving(self, record: Record, settling: Settlement) -> Iterator[Reader]:
        """What is to be read by; where that fails it is the settle's misfortune, and not the writer's."""
        try:
            fd = self.open_for_settle(record)
            try:
                yield lambda offset, length: pread_exactly(fd, length, offset)
            finally:
                os.close(fd)
        except OSError:
            settling.spoiled = True

    @contextlib.contextmanager
    def reaching(self, record: Record) -> Iterator[None]:
        """Meanwhile the record's place can be looked at, though modes of directories of ours forbid that.

        The record itself is lent nothing: its attributes may be taken meanwhile.
        """
        if record.id == ROOT:
            yield
            return
        with self._rights.way(self._directories, self._locate, record.parent):
            self._forget_times_of_way(record)
            yield

    def _forget_times_of_way(self, record: Record) -> None:
        """Lending moves the time of the last change of the directories that lead to the record."""
        at = record.parent
        while True:
            if (directory := self._records.get(at)) is not None:
                directory.st = None
            if at == ROOT:
                return
            at = self._locate(at)[0]

    def path(self, record: Record) -> str:
        """Where it is, for people."""
        return display(path_of(self._locate, record.parent, record.name))

    def map_of(self, record: Record) -> BlockMap:
        """The record's block map, loaded from the index if need be."""
        if record.map is not None:
            return record.map
        row = self._index.inode(record.id) if record.in_index else None
        record.map = BlockMap() if row is None else BlockMap(BlockList.decode(row.size, row.blocks))
        return record.map

    def names_committed(self, dirents: Iterable[DirentPut]) -> None:
        """The index has these names now."""
        self._listings.committed(dirents)

    def committed(self, record: Record) -> None:
        """The record is as the index has it: what was kept for the commit can go."""
        record.in_commit = False
        if not record.content_dirty:
            self._closed.drop(record)
            if record.handles is None:
                record.map = None
        self._drop_if_idle(record)

    def let_go(self, record: Record) -> None:
        """The record is not going into the index after all, this time."""
        record.in_commit = False
        if not record.content_dirty:
            self._closed.drop(record)
        self._drop_if_idle(record)

    def _can_reopen(self, record: Record) -> bool:
        """Whether the file behind the record's `settle_fd` can be read by its name, too."""
        assert record.settle_fd is not None
        try:
            directory = self._directories.fd(record.parent)
            there = os.stat(record.name, dir_fd=directory, follow_symlinks=False)
            kept = os.fstat(record.settle_fd)
            if (there.st_dev, there.st_ino) != (kept.st_dev, kept.st_ino):
                return False
            if there.st_uid != self._own[0]:
                os.close(os.open(record.name, _BACK, dir_fd=directory))
        except OSError:
            return False
        return True


def _beside(fd: int) -> int:
    """A descriptor of the same file that reads quietly, while what a program reads by `fd` is to move its access time."""
    try:
        return os.open(b"/proc/self/fd/%d" % fd, _BACK & ~os.O_NOFOLLOW | os.O_NOATIME)
    except OSError:
        return os.dup(fd)


def _readable(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY
