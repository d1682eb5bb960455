"""Open files of a live tree: reading, writing, truncating.

Every write goes into the file's block map as it happens, so that its hash is known when it settles.
"""

from __future__ import annotations

__all__ = ["OPEN_MASK", "Files"]

import os
import stat
from contextlib import suppress

from ghostfs.mirror.live.changed import Changed
from ghostfs.mirror.live.records import FileHandle, Record
from ghostfs.mirror.live.rights import path_of
from ghostfs.model import InodeId

OPEN_MASK = ~(os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_TRUNC | os.O_APPEND | os.O_ACCMODE)
"""Flags of open(2) that are passed on; the others are ours or the kernel's affair."""


class Files(Changed):
    """What is done with open files."""

    kernel_keeps_times: bool = False
    """With the writeback cache a file's time of modification is the kernel's: it shows its own, and tells it
    before or after the content. What a write or a truncation makes of the one in the tree is undone."""

    def open_file(self, inode: InodeId, flags: int, *, keep_setid: bool = False) -> FileHandle:
        """Opens a regular file. `O_APPEND` is the kernel's affair and `O_CREAT` is `create`'s.

        `O_TRUNC` truncates also what is opened for reading alone, as Linux does, and takes set-user-id away
        unless `keep_setid`.
        """
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        truncated = bool(flags & os.O_TRUNC)
        with self._lock:
            record = self._record(inode)
            base = flags & OPEN_MASK | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            fd = self._open_backing(record, base, writable=writable or truncated)
            try:
                if truncated:
                    if not record.unlinked:
                        self._working.announce_inode(record)
                    record.writers += writable
                    try:
                        self._truncate(record, fd, 0, keep_setid=keep_setid)
                    finally:
                        record.writers -= writable
            except BaseException:
                os.close(fd)
                raise
            return self._opened(record, fd, writable=writable)

    def read(self, handle: FileHandle, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`; fewer only at the end of the file."""
        return os.pread(handle.fd, size, offset)

    def write(self, handle: FileHandle, offset: int, data: bytes) -> int:
        """Writes at `offset`; the number of bytes that the filesystem below took.

        Set-user-id stays: whoever knows the writer takes it away, by `setattr` without any attribute.
        """
        record = handle.record
        with self._lock:
            if record.nlink == 0:
                return os.pwrite(handle.fd, data, offset)
            blocks = record.map
            if blocks is None:
                blocks = self.map_of(record)
            if record.logged != self._working.generation:
                self._working.announce_inode(record)
            if record.settling is not None:
                self.about_to_write(record, offset, len(data))
            before = os.fstat(handle.fd) if self.kernel_keeps_times else None
            try:
                written = os.pwrite(handle.fd, data, offset)
            except OSError:
                self._perhaps_changed(record, handle.fd, offset, len(data))
                raise
            blocks.write(offset, data if written == len(data) else data[:written])
            self._working.content_changed(record)
            if before is not None:
                with suppress(OSError):  # it is written; and this time, the kernel's comes later
                    os.utime(handle.fd, ns=(before.st_atime_ns, before.st_mtime_ns))
            return written

    def fsync(self, handle: FileHandle, *, datasync: bool) -> None:
        """Makes a file's content durable in the tree; its hash follows. Blocks: call it off the loop."""
        if datasync:
            os.fdatasync(handle.fd)
        else:
            os.fsync(handle.fd)
        with self._lock:
            if handle.record.content_dirty:
                self._working.synced(handle.record)

    def fsync_directory(self, inode: InodeId) -> None:
        """Makes a directory's entries durable in the tree. Blocks: call it off the loop."""
        with self._lock:
            record = self._record(inode)
            at = self._held_fd(record) if record.unlinked else self._directories.fd(inode)
            fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def open_for_writing(self) -> dict[InodeId, bytes]:
        """The files that somebody has open for writing, or mapped, and the path that each has now; without those
        that were removed."""
        with self._lock:
            writing = [
                record for record in self._records.values() if record.writers and not record.unlinked
            ]
            return {record.id: path_of(self._locate, record.parent, record.name) for record in writing}

    def release(self, handle: FileHandle) -> None:
        """Closes an open file; the last close for writing settles it."""
        record = handle.record
        with self._lock:
            handles = record.handles
            assert handles is not None
            handles.remove(handle)
            if not handles:
                record.handles = None
            if handle.writable:
                record.writers -= 1
                if record.writers == 0 and record.content_dirty and not record.unlinked:
                    self._closed_for_writing(record, handle.fd)
                    return
            if record.unlinked and record.known and record.kept_fd is None and not handles:
                self._nameless.keep(record, handle.fd)
            else:
                os.close(handle.fd)
            self._drop_if_idle(record)

    @property
    def open_files(self) -> int:
        """How many handles are open."""
        with self._lock:
            return sum(len(record.handles) for record in self._records.values() if record.handles)

    def close(self) -> None:
        """Closes every descriptor; the capture must have been drained before."""
        with self._lock:
            for record in self._records.values():
                for handle in record.handles or ():
                    os.close(handle.fd)
                record.handles = None
            self._nameless.close()
            self._closed.close()
            self._records.clear()
            self._directories.close()
            os.close(self._root_fd)

    # --- for the other operations, with the lock held ----------------------------------------------------

    def _closed_for_writing(self, record: Record, fd: int) -> None:
        """The last writer has closed by `fd`: its content settles. All is done here that needs a system call,
        if nothing must be read back: in the capture thread, each would contend for the interpreter's lock."""
        content = record.map
        if content is not None and content.complete and record.settle_fd is None:
            record.st = os.fstat(fd)
            os.close(fd)
        else:
            self._closed.keep(record, fd)
        self._working.settle(record)

    def _perhaps_changed(self, record: Record, fd: int, offset: int, length: int) -> None:
        """A change of content failed: what there is of it, the next settle finds out."""
        content = self.map_of(record)
        with suppress(OSError):
            size = os.fstat(fd).st_size
            if size != content.size:
                content.resize_seen(size)
        content.touch(offset, length)
        self._working.content_changed(record)

    def _open_backing(self, record: Record, base: int, *, writable: bool) -> int:
        """Opens the backing file, for reading too where that is allowed, so that it can be settled."""
        if record.unlinked:
            path: bytes | str = f"/proc/self/fd/{self._held_fd(record)}"
            base &= ~os.O_NOFOLLOW
            parent_fd = None
        else:
            path = record.name
            parent_fd = self._directories.fd(record.parent)
        if not writable:
            return os.open(path, base | os.O_RDONLY, dir_fd=parent_fd)
        try:
            return os.open(path, base | os.O_RDWR, dir_fd=parent_fd)
        except PermissionError:
            return os.open(path, base | os.O_WRONLY, dir_fd=parent_fd)

    def _opened(self, record: Record, fd: int, *, writable: bool) -> FileHandle:
        handle = FileHandle(record, fd, writable=writable)
        if record.handles is None:
            record.handles = []
        record.handles.append(handle)
        if writable:
            record.writers += 1
            if record.content_dirty and not record.due:
                self._working.hot[record.id] = record
        return handle

    def _truncate(self, record: Record, fd: int | None, size: int, *, keep_setid: bool) -> None:
        """Truncates by way of `fd`, which is open for writing, or of one of the record's, or of a new one."""
        blocks = record.map
        if blocks is None and not record.unlinked:
            blocks = self.map_of(record)
        writers = [handle for handle in record.handles or () if handle.writable]
        own = None
        if fd is None and writers:
            fd = writers[-1].fd
        elif fd is None:
            fd = own = self._open_backing(
                record, os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, writable=True
            )
        try:
            if record.settling is not None:
                self.about_to_cut(record, size)
            try:
                os.ftruncate(fd, size)
            except OSError:
                if not record.unlinked:
                    self._perhaps_changed(record, fd, 0, 0)
                raise
            if blocks is not None and not record.unlinked:
                blocks.truncate(size)
                self._working.content_changed(record)
            if record.setid and not keep_setid:
                self._drop_setid(record, fd)
        finally:
            if own is not None and record.content_dirty and not record.unlinked:
                self._closed.keep(record, own)
            elif own is not None:
                os.close(own)

    def _drop_setid(self, record: Record, fd: int) -> None:
        """Takes set-user-id away, and set-group-id where the group may execute."""
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        keep = mode & ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            keep &= ~stat.S_ISGID
        if keep != mode:
            os.fchmod(fd, keep)
            self._working.attrs_changed(record)
        record.setid = False
