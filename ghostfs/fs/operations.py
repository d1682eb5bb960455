"""The handlers of the kernel's requests: the translation from FUSE to the live mirror, and nothing else.

Handlers run on the loop's thread and do not await, so each is atomic to the others; only what may block
for long goes to a worker thread. What becomes of their exceptions is `boundary`'s affair.
"""

from __future__ import annotations

__all__ = ["Operations"]

import errno
import os
import stat
from collections.abc import Callable, Sequence
from typing import Final

import pyfuse3
import trio
from pyfuse3 import FUSEError

from ghostfs.fs.attributes import NO_ENTRY, ShownOwner, statvfs_of
from ghostfs.fs.boundary import blocking_handler, handler, record_bug
from ghostfs.fs.handles import HandleTable, OpenDirectory
from ghostfs.fs.overlay import Overlay, claims, is_virtual, refuse
from ghostfs.fs.polling import PollingTrio
from ghostfs.fs.shortwrites import ShortWrites
from ghostfs.mirror.live.mirror import Mirror
from ghostfs.mirror.live.records import FileHandle
from ghostfs.mirror.syscalls import leave_access_time
from ghostfs.model import ROOT, InodeId
from ghostfs.names import NAME_MAX, OVERLAY

_IGNORED_FLAGS: Final = ~(os.O_DIRECT | os.O_SYNC | os.O_APPEND | os.O_NOATIME)
"""Open flags that are the kernel's affair: it aligns and appends itself, and follows a synchronous write
with a request to fsync. `O_NOATIME` is set of what is open: of another user's file we cannot, and that is no
reason to refuse who may."""

_PRIVILEGED: Final = 0
"""Who has CAP_FSETID and CAP_SYS_ADMIN as far as a request tells: set-user-id survives what this user writes, and
this user alone is shown that there are trusted attributes."""

_SYSTEM: Final = b"system."
_TRUSTED: Final = b"trusted."

_NO_PARENT_INODE: Final = 0xFFFF_FFFF
"""What readdir shows for `..`, as libfuse does where the number is not known."""


class Operations(pyfuse3.Operations):
    """The handlers of one mount. Whoever runs pyfuse3's loop owns it; `requests` and `bugs` count."""

    supports_dot_lookup = False

    def __init__(
        self,
        mirror: Mirror,
        overlay: Overlay,
        *,
        xattrs: bool = False,
        writeback: bool = False,
        owner: ShownOwner = ShownOwner(),  # noqa: B008 (it never changes)
        for_root_alone: bool = False,
        polling: PollingTrio | None = None,
        closed: Callable[[InodeId, int], None] = lambda _inode, _pid: None,
    ) -> None:
        """`for_root_alone`: the kernel lets nobody else in, and leaves it to us who may do what: root may all.
        `polling` is what waits for requests, to be told of handlers that wait for something else. `closed` is told of
        each directory that a process closes."""
        super().__init__()
        self.enable_writeback_cache = writeback
        self.requests = 0
        self.bugs = 0
        mirror.kernel_keeps_times = writeback
        self._mirror = mirror
        self._overlay = overlay
        self._xattrs = xattrs
        self._for_root_alone = for_root_alone
        self._owner = owner
        self._entry_of = owner.entry_of
        self._handles = HandleTable()
        self._files = self._handles.files
        self._lookups: dict[int, int] = {}
        self._threads = trio.CapacityLimiter(16)
        self._polling = polling or PollingTrio(0)
        self._closed = closed
        self._short = ShortWrites()
        self._synchronous: set[int] = set()
        """Files opened with O_SYNC or O_DSYNC: after a write the kernel asks for an fsync by itself, and whoever wrote
        is to hear how much was written."""
        self._refused: set[int] = set()
        """Of which the kernel may hold pages that look written and are not: those of a memory map, and those that the
        writeback cache had gathered. Whoever opens one of them anew is to see what there is. It is not told to drop
        them, for it would wait until they can be dropped, and whoever tells it with it (`outside`)."""

    @property
    def cut_short(self) -> bool:
        """Whether there is a file of which the disk took only a part, and nobody was told by fsync."""
        return bool(self._short)

    @property
    def open_files(self) -> int:
        """How many files are open."""
        return len(self._files)

    # --- names -----------------------------------------------------------------------------------------

    @handler
    def lookup(self, parent: InodeId, name: bytes, _ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if claims(parent, name):
            return self._overlay.lookup(parent, name)
        found = self._mirror.lookup(parent, name)
        if found is None:
            if len(name) > NAME_MAX:
                raise FUSEError(errno.ENAMETOOLONG)
            return NO_ENTRY
        return self._known(*found)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Never raises: nobody could be told."""
        for inode, count in inode_list:
            self._forgotten(inode, count)

    @handler
    def mknod(
        self, parent: InodeId, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if claims(parent, name):
            refuse()
        return self._known(*self._mirror.mknod(parent, name, mode, rdev, ctx.uid, ctx.gid))

    @handler
    def mkdir(
        self, parent: InodeId, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if claims(parent, name):
            refuse()
        return self._known(*self._mirror.mkdir(parent, name, stat.S_IMODE(mode), ctx.uid, ctx.gid))

    @handler
    def symlink(
        self, parent: InodeId, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if claims(parent, name):
            refuse()
        return self._known(*self._mirror.symlink(parent, name, target, ctx.uid, ctx.gid))

    @handler
    def link(
        self, inode: InodeId, parent: InodeId, name: bytes, _ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if is_virtual(inode) or claims(parent, name):
            refuse()
        return self._known(inode, self._mirror.link(inode, parent, name))

    @handler
    def unlink(self, parent: InodeId, name: bytes, _ctx: pyfuse3.RequestContext) -> None:
        if claims(parent, name):
            refuse()
        self._mirror.unlink(parent, name)

    @handler
    def rmdir(self, parent: InodeId, name: bytes, _ctx: pyfuse3.RequestContext) -> None:
        if claims(parent, name):
            refuse()
        self._mirror.rmdir(parent, name)

    @handler
    def rename(
        self,
        parent: InodeId,
        name: bytes,
        new_parent: InodeId,
        new_name: bytes,
        flags: int,
        _ctx: pyfuse3.RequestContext,
    ) -> None:
        if claims(parent, name) or claims(new_parent, new_name):
            refuse()
        self._mirror.rename(parent, name, new_parent, new_name, flags)

    @handler
    def readlink(self, inode: InodeId, _ctx: pyfuse3.RequestContext) -> bytes:
        if is_virtual(inode):
            return self._overlay.readlink(inode)
        return self._mirror.readlink(inode)

    # --- attributes ------------------------------------------------------------------------------------

    @handler
    def getattr(self, inode: InodeId, _ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if is_virtual(inode):
            return self._overlay.getattr(inode)
        return self._entry_of(inode, self._mirror.getattr(inode))

    @handler
    def setattr(
        self,
        inode: InodeId,
        wanted: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        # Without any field it is a chown(2) that changes nobody, or a write(2) by somebody who may not write
        # to what has set-user-id: with HANDLE_KILLPRIV, the kernel leaves to us what either does to the mode.
        if is_virtual(inode):
            refuse()
        uid, gid = self._owner.wanted(
            wanted.st_uid if fields.update_uid else None, wanted.st_gid if fields.update_gid else None
        )
        st = self._mirror.setattr(
            inode,
            mode=stat.S_IMODE(wanted.st_mode) if fields.update_mode else None,
            uid=uid,
            gid=gid,
            size=wanted.st_size if fields.update_size else None,
            atime_ns=wanted.st_atime_ns if fields.update_atime else None,
            mtime_ns=wanted.st_mtime_ns if fields.update_mtime else None,
            handle=None if fh is None else self._files.get(fh),
            keep_setid=ctx.uid == _PRIVILEGED,
            caller=self._owner.caller(ctx.uid),
        )
        return self._entry_of(inode, st)

    @handler
    def statfs(self, _ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        return statvfs_of(self._mirror.statfs())

    @handler
    def access(self, inode: InodeId, mode: int, _ctx: pyfuse3.RequestContext) -> bool:
        """What access(2), faccessat(2) and chdir(2) ask."""
        if not self._for_root_alone:
            raise FUSEError(errno.ENOSYS)  # the kernel checks permissions itself; it never asks again
        if not mode & os.X_OK:
            return True
        shown = (self._overlay if is_virtual(inode) else self._mirror).getattr(inode).st_mode
        return stat.S_ISDIR(shown) or bool(shown & 0o111)

    # --- open files ------------------------------------------------------------------------------------

    @handler
    def create(
        self, parent: InodeId, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        if claims(parent, name):
            refuse()
        permissions = stat.S_IMODE(mode)
        inode, st, handle = self._mirror.create(
            parent, name, permissions, flags & _IGNORED_FLAGS, ctx.uid, ctx.gid
        )
        if flags & os.O_NOATIME:
            leave_access_time(handle.fd)
        info = pyfuse3.FileInfo(fh=self._handles.add_file(handle))
        if flags & os.O_DSYNC:
            self._synchronous.add(info.fh)
        return info, self._known(inode, st)

    @handler
    def open(self, inode: InodeId, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        # Content changes through this mount, or the inode gets another id: what the kernel has cached holds, but for
        # what the disk has refused since.
        if is_virtual(inode):
            file = self._overlay.open(inode, flags)
            return pyfuse3.FileInfo(fh=self._handles.add_overlay(file), keep_cache=False)
        handle = self._mirror.open_file(inode, flags & _IGNORED_FLAGS, keep_setid=ctx.uid == _PRIVILEGED)
        if flags & os.O_NOATIME:
            leave_access_time(handle.fd)
        info = pyfuse3.FileInfo(fh=self._handles.add_file(handle))
        if flags & os.O_DSYNC:
            self._synchronous.add(info.fh)
        if inode in self._refused:
            self._refused.discard(inode)
            info.keep_cache = False
        return info

    @handler
    def read(self, fh: int, offset: int, size: int) -> bytes:
        handle = self._files.get(fh)
        if handle is None:
            return self._handles.overlay_file(fh).read(offset, size)
        return self._mirror.read(handle, offset, size)

    @handler
    def write(self, fh: int, offset: int, data: bytes) -> int:
        handle = self._files.get(fh)
        if handle is None:
            refuse()
        try:
            written = self._mirror.write(handle, offset, data)
        except OSError:
            self._refused.add(handle.inode)
            raise
        if written < len(data):
            written += self._write_rest(fh, handle, offset + written, data[written:])
        elif self._short:
            self._short.written(handle.inode, offset, offset + written)
        return written

    def _write_rest(self, fh: int, handle: FileHandle, offset: int, data: bytes) -> int:
        """What the disk did not take at once; how much of it it takes now, until it says why it takes no more.

        Whoever calls write(2) is told how much was written. But what the kernel writes of a memory map, and all with
        the writeback cache, counts as written unless it fails: then an error is the answer, or will be that of the
        next fsync(2) or msync(2).
        """
        written, code = 0, errno.ENOSPC
        try:
            while written < len(data) and (
                more := self._mirror.write(handle, offset + written, data[written:])
            ):
                written += more
        except OSError as error:
            code = error.errno or errno.EIO
        if written < len(data):
            self._refused.add(handle.inode)
            if self.enable_writeback_cache:
                raise FUSEError(code)
            if fh not in self._synchronous:
                self._short.lacks(handle.inode, offset + written, offset + len(data), code)
        return written

    @handler
    def flush(self, _fh: int) -> None:
        # Content settles at release; after this answer close(2) makes no request of its own.
        raise FUSEError(errno.ENOSYS)

    @handler
    def release(self, fh: int) -> None:
        handle = self._files.pop(fh, None)
        if handle is None:
            self._overlay.close(self._handles.overlay_file(fh))
            del self._handles.overlay[fh]
        else:
            self._synchronous.discard(fh)
            self._mirror.release(handle)
            if not handle.record.writers:
                self._short.tell(handle.inode)  # nobody is left whom an fsync could tell

    @blocking_handler
    async def fsync(self, fh: int, datasync: bool) -> None:
        handle = self._files.get(fh)
        if handle is None:
            self._handles.overlay_file(fh)  # of which nothing is to be synced
        else:
            await self._in_thread(lambda: self._mirror.fsync(handle, datasync=datasync))
            code = self._short.tell(handle.inode)
            if code is not None:
                raise FUSEError(code)

    # --- directories -----------------------------------------------------------------------------------

    @handler
    def opendir(self, inode: InodeId, ctx: pyfuse3.RequestContext) -> int:
        return self._handles.add_directory(OpenDirectory(inode, ctx.pid))

    @handler
    def readdir(self, fh: int, start: int, token: pyfuse3.ReaddirToken) -> None:
        """Positions are indexes into a snapshot of names; each entry is looked up as it is told, because
        attributes that the kernel is told must be those of now."""
        directory = self._handles.directory(fh)
        entries = directory.entries
        if entries is None or start == 0:
            entries = directory.entries = self._list(directory.inode)
        reply = pyfuse3.readdir_reply
        for position in range(start, len(entries)):
            name, inode = entries[position]
            entry = self._listed(directory.inode, name, inode)
            if entry is None:
                continue
            fits = reply(token, name, entry, position + 1)
            if position > 1:
                if fits:
                    self._count(entry.st_ino)
                else:
                    self._forgotten(entry.st_ino, 0)  # whoever lists may never ask for the rest
            if not fits:
                return

    @handler
    def releasedir(self, fh: int) -> None:
        directory = self._handles.directories.pop(fh, None)
        if directory is not None:
            self._closed(directory.inode, directory.pid)

    @blocking_handler
    async def fsyncdir(self, fh: int, _datasync: bool) -> None:
        inode = self._handles.directory(fh).inode
        if not is_virtual(inode):
            await self._in_thread(lambda: self._mirror.fsync_directory(inode))

    # --- extended attributes ---------------------------------------------------------------------------

    @handler
    def getxattr(self, inode: InodeId, name: bytes, _ctx: pyfuse3.RequestContext) -> bytes:
        if not self._xattrs:
            raise FUSEError(errno.ENOSYS)  # never asked again: else the kernel asks before every write
        if is_virtual(inode):
            raise FUSEError(errno.ENODATA)
        _check_namespace(name)
        return self._mirror.getxattr(inode, name)

    @handler
    def listxattr(self, inode: InodeId, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        if not self._xattrs:
            raise FUSEError(errno.ENOSYS)
        names = [] if is_virtual(inode) else self._mirror.listxattr(inode)
        hidden = _SYSTEM if ctx.uid == _PRIVILEGED else (_SYSTEM, _TRUSTED)
        return [name for name in names if not name.startswith(hidden)]

    @handler
    def setxattr(self, inode: InodeId, name: bytes, value: bytes, _ctx: pyfuse3.RequestContext) -> None:
        self._check_xattr(inode, name)
        self._mirror.setxattr(inode, name, value)

    @handler
    def removexattr(self, inode: InodeId, name: bytes, _ctx: pyfuse3.RequestContext) -> None:
        self._check_xattr(inode, name)
        self._mirror.removexattr(inode, name)

    # --- inside ----------------------------------------------------------------------------------------

    def _known(self, inode: InodeId, st: os.stat_result) -> pyfuse3.EntryAttributes:
        """An answer by which the kernel learns of an inode."""
        self._lookups[inode] = self._lookups.get(inode, 0) + 1
        return self._entry_of(inode, st)

    def _count(self, inode: int) -> None:
        if is_virtual(inode):
            self._overlay.count(inode)
        else:
            self._lookups[inode] = self._lookups.get(inode, 0) + 1

    def _forgotten(self, inode: int, count: int) -> None:
        """The kernel has `count` references less to an inode; without any, nothing is kept of it."""
        if is_virtual(inode):
            self._overlay.forget(inode, count)
            return
        left = self._lookups.get(inode, 0) - count
        if left > 0:
            self._lookups[inode] = left
            return
        self._lookups.pop(inode, None)
        self._refused.discard(inode)
        self._short.tell(InodeId(inode))
        try:
            self._mirror.forget(InodeId(inode))
        except Exception as error:  # noqa: BLE001 (nobody could be told)
            record_bug(self, "forget", error)

    def _list(self, inode: InodeId) -> list[tuple[bytes, InodeId]]:
        entries = [(b".", inode), (b"..", InodeId(_NO_PARENT_INODE))]
        if is_virtual(inode):
            return entries + [(name, InodeId(0)) for name in self._overlay.readdir(inode)]
        entries += self._mirror.readdir(inode)
        if inode == ROOT:
            entries = [item for item in entries if not claims(ROOT, item[0])]
            entries.append((OVERLAY, self._overlay.top))
        return entries

    def _listed(self, directory: InodeId, name: bytes, inode: InodeId) -> pyfuse3.EntryAttributes | None:
        """The attributes to list a name with; None if it has gone since the snapshot."""
        if name in (b".", b".."):
            entry = pyfuse3.EntryAttributes()
            entry.st_ino, entry.st_mode = inode, stat.S_IFDIR
            return entry
        if claims(directory, name):
            entry = self._overlay.entry(directory, name)
            return entry if entry.st_ino else None
        found = self._mirror.lookup(
            directory, name
        )  # it may be another inode's by now, and is listed all the same
        return None if found is None else self._entry_of(*found)

    def _check_xattr(self, inode: InodeId, name: bytes) -> None:
        if not self._xattrs:
            # EOPNOTSUPP for the caller, and never asked again: `cp -a` tries each file.
            raise FUSEError(errno.ENOSYS)
        if is_virtual(inode):
            refuse()
        _check_namespace(name)

    async def _in_thread(self, work: Callable[[], None]) -> None:
        self._polling.elsewhere += 1
        try:
            await trio.to_thread.run_sync(work, limiter=self._threads)
        finally:
            self._polling.elsewhere -= 1


def _check_namespace(name: bytes) -> None:
    """Access control lists (`system.posix_acl_access`) would be kept, and nobody would be held to them: the kernel
    does that for filesystems which say that they know of them, and pyfuse3 cannot say it."""
    if name.startswith(_SYSTEM):
        raise FUSEError(errno.EOPNOTSUPP)
