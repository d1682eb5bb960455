"""The live mirror: a tree in use, every change of it captured.

`Mirror` is what a mount works on. Each method is one operation of a filesystem, makes the system calls
on the backing tree, and records what changed in the working set; the capture thread carries that into
the index.
"""

from __future__ import annotations

__all__ = ["Mirror"]

import errno
import os
import stat
from contextlib import suppress

from ghostfs.content import BlockMap
from ghostfs.mirror.live.files import OPEN_MASK, Files
from ghostfs.mirror.live.records import FileHandle, Record
from ghostfs.mirror.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from ghostfs.model import ROOT, InodeId, Kind

_SETID = stat.S_ISUID | stat.S_ISGID
_UNCHANGED = -1
"""The owner or group that chown(2) leaves as it is."""
_HOLD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Mirror(Files):
    """The operations on one owned tree. Made by `ghostfs.mirror.live.session.OwnedMirror`."""

    # --- making ------------------------------------------------------------------------------------------

    def mkdir(
        self, parent: InodeId, name: bytes, mode: int, uid: int, gid: int
    ) -> tuple[InodeId, os.stat_result]:
        """Makes a directory. `mode` has the caller's umask applied already; so for all that make."""
        with self._lock:
            directory, inode, fd = self._prepare(parent, name)
            os.mkdir(name, mode & 0o1777, dir_fd=fd)
            return inode, self._made(directory, name, inode, fd, uid, gid, 0)

    def mknod(
        self, parent: InodeId, name: bytes, mode: int, rdev: int, uid: int, gid: int
    ) -> tuple[InodeId, os.stat_result]:
        """Makes a file, fifo, socket, or, where permitted, a device. `mode` includes the file type."""
        with self._lock:
            directory, inode, fd = self._prepare(parent, name)
            os.mknod(name, mode, rdev, dir_fd=fd)
            return inode, self._made(directory, name, inode, fd, uid, gid, mode)

    def symlink(
        self, parent: InodeId, name: bytes, target: bytes, uid: int, gid: int
    ) -> tuple[InodeId, os.stat_result]:
        """Makes a symlink to `target`, whatever that is."""
        with self._lock:
            directory, inode, fd = self._prepare(parent, name)
            os.symlink(target, name, dir_fd=fd)
            st = self._made(directory, name, inode, fd, uid, gid, 0)
            self._targets[inode] = target
            return inode, st

    def create(
        self, parent: InodeId, name: bytes, mode: int, flags: int, uid: int, gid: int
    ) -> tuple[InodeId, os.stat_result, FileHandle]:
        """Makes a regular file and opens it.

        If the name is taken and `flags` lacks `O_EXCL`, what is there is opened instead.
        """
        with self._lock:
            taken = self._child(parent, name)
            if taken is None or self._is_gone(parent, name, taken):
                directory, inode, fd = self._prepare(parent, name)
                file = os.open(name, flags & OPEN_MASK | _NEW_FILE | os.O_RDWR, mode & 0o7777, dir_fd=fd)
                try:
                    st = self._made(directory, name, inode, fd, uid, gid, mode, file=file)
                except BaseException:
                    os.close(file)
                    raise
                record = self._records[inode]
                record.map = BlockMap()
                handle = self._opened(record, file, writable=flags & os.O_ACCMODE != os.O_RDONLY)
                if handle.writable:
                    self._working.content_changed(record)
                return inode, st, handle
        if flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        handle = self.open_file(taken, flags)
        self._records[taken].known = True
        return taken, os.fstat(handle.fd), handle

    def link(self, inode: InodeId, parent: InodeId, name: bytes) -> os.stat_result:
        """Gives a file that is not a directory a further name."""
        with self._lock:
            record = self._record(inode)
            if record.unlinked:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            directory = self._record(parent)
            working = self._working
            source_fd = self._directories.fd(record.parent)
            target_fd = self._directories.fd(parent)
            self._places(record)
            working.announce(parent, name, inode)
            working.announce_inode(record)
            os.link(record.name, name, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
            record.place_added(parent, name)
            working.name_changed(directory, name, inode)
            working.attrs_changed(record)
            record.known = True
            return os.stat(name, dir_fd=target_fd, follow_symlinks=False)

    # --- taking away and moving --------------------------------------------------------------------------

    def unlink(self, parent: InodeId, name: bytes) -> InodeId:
        """Removes a name that is not a directory's."""
        return self._remove(parent, name, directory=False)

    def rmdir(self, parent: InodeId, name: bytes) -> InodeId:
        """Removes an empty directory."""
        return self._remove(parent, name, directory=True)

    def rename(
        self, parent: InodeId, name: bytes, new_parent: InodeId, new_name: bytes, flags: int
    ) -> InodeId | None:
        """Renames, with renameat2(2)'s flags; the id of what was replaced, if that was its last name."""
        with self._lock:
            if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
            moved = self._existing(parent, name)
            target = self._child(new_parent, new_name)
            displaced = None
            if target is not None and not self._is_gone(new_parent, new_name, target):
                displaced = self._existing(new_parent, new_name)
            source_directory = self._record(parent)
            target_directory = self._record(new_parent)
            old, new = (parent, name), (new_parent, new_name)
            exchange = bool(flags & RENAME_EXCHANGE)
            back = displaced.id if exchange and displaced is not None else None
            working = self._working
            self._places(moved)
            if displaced is not None:
                self._places(displaced)
            if exchange and displaced is not None:
                self._hurry(moved)
                self._hurry(displaced)
            source_fd = self._directories.fd(parent)
            target_fd = self._directories.fd(new_parent)
            working.announce(new_parent, new_name, moved.id)
            working.announce(parent, name, back)
            working.announce_inode(moved)
            if displaced is not None and not exchange:
                self._keep(displaced, new_name, target_fd)
            try:
                renameat2(source_fd, name, target_fd, new_name, flags)
            except BaseException:
                if displaced is not None:
                    self._nameless.drop(displaced)
                raise
            if displaced is moved:
                return None
            moved.place_moved(old, new)
            working.name_changed(target_directory, new_name, moved.id)
            working.name_changed(source_directory, name, back)
            working.attrs_changed(moved)
            if displaced is None:
                return None
            if exchange:
                displaced.place_moved(new, old)
                working.attrs_changed(displaced)
                return None
            self._place_lost(displaced, new_parent, new_name)
            return displaced.id if displaced.unlinked else None

    # --- changing ----------------------------------------------------------------------------------------

    def setattr(
        self,
        inode: InodeId,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        handle: FileHandle | None = None,
        keep_setid: bool = False,
        caller: int | None = None,
    ) -> os.stat_result:
        """Changes the attributes that are given; `mode` holds permission bits. A time that is not given stays.

        When none is given this is what chown(2) does that changes no owner: the time of the last change moves,
        and set-user-id goes. A new size takes that away too, unless `keep_setid`. `caller` is who asks: only
        root, the owner, and who writes may take set-user-id away.
        """
        with self._lock:
            record = self._record(inode)
            if mode is not None and record.kind is Kind.SYMLINK:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            if not record.unlinked:
                self._working.announce_inode(record)
            fd = None if handle is None else handle.fd
            st = None
            try:
                if size is not None:
                    if mtime_ns is None and self.kernel_keeps_times:
                        mtime_ns = (self._stat(record) if fd is None else os.fstat(fd)).st_mtime_ns
                    self._truncate(record, fd, size, keep_setid=keep_setid)
                elif mode is None and atime_ns is None and mtime_ns is None and uid is None and gid is None:
                    if record.setid and not record.writers and caller not in (None, 0):
                        self._check_owner(record, caller)
                    uid = gid = _UNCHANGED
                st = self._change(record, fd, mode, uid, gid, atime_ns, mtime_ns)
            finally:
                # Also when the second of two changes failed: the first one was made.
                self._working.attrs_changed(record)
                record.st = st
            return st

    def getxattr(self, inode: InodeId, name: bytes) -> bytes:
        """The value of an extended attribute."""
        with self._lock:
            path, follow = self._proc_path(self._record(inode))
            return os.getxattr(path, name, follow_symlinks=follow)

    def listxattr(self, inode: InodeId) -> list[bytes]:
        """The names of an inode's extended attributes."""
        with self._lock:
            path, follow = self._proc_path(self._record(inode))
            names = os.listxattr(path, follow_symlinks=follow)
        return [os.fsencode(name) for name in names]

    def setxattr(self, inode: InodeId, name: bytes, value: bytes) -> None:
        """Sets an extended attribute, whether it is there or not."""
        with self._lock:
            record = self._record(inode)
            path, follow = self._proc_path(record)
            self._working.announce_inode(record)
            record.xattrs = None
            os.setxattr(path, name, value, follow_symlinks=follow)
            self._working.attrs_changed(record)

    def removexattr(self, inode: InodeId, name: bytes) -> None:
        """Removes an extended attribute."""
        with self._lock:
            record = self._record(inode)
            path, follow = self._proc_path(record)
            self._working.announce_inode(record)
            record.xattrs = None
            os.removexattr(path, name, follow_symlinks=follow)
            self._working.attrs_changed(record)

    # --- inside ------------------------------------------------------------------------------------------

    def _check_owner(self, record: Record, caller: int | None) -> None:
        if self._stat(record).st_uid != caller:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def _change(
        self,
        record: Record,
        fd: int | None,
        mode: int | None,
        uid: int | None,
        gid: int | None,
        atime_ns: int | None,
        mtime_ns: int | None,
    ) -> os.stat_result:
        place: int | bytes
        parent_fd = None
        if fd is None and record.handles:
            fd = record.handles[-1].fd  # the way to its name may have been closed since
        if fd is not None:
            place = fd
        elif record.unlinked or record.id == ROOT:
            place, _ = self._proc_path(record)
        else:
            place, parent_fd = record.name, self._directories.fd(record.parent)
        follow = parent_fd is None
        if uid is not None or gid is not None:
            owner = (_UNCHANGED if uid is None else uid, _UNCHANGED if gid is None else gid)
            os.chown(place, *owner, dir_fd=parent_fd, follow_symlinks=follow)
        if mode is not None:
            os.chmod(place, mode, dir_fd=parent_fd)
        if atime_ns is not None or mtime_ns is not None:
            if atime_ns is None or mtime_ns is None:
                now = os.stat(place, dir_fd=parent_fd, follow_symlinks=follow)
                atime_ns = now.st_atime_ns if atime_ns is None else atime_ns
                mtime_ns = now.st_mtime_ns if mtime_ns is None else mtime_ns
            os.utime(place, ns=(atime_ns, mtime_ns), dir_fd=parent_fd, follow_symlinks=follow)
        st = os.fstat(fd) if fd is not None else self._stat(record)
        record.setid = record.kind is Kind.FILE and bool(st.st_mode & _SETID)
        return st

    def _prepare(self, parent: InodeId, name: bytes) -> tuple[Record, InodeId, int]:
        """Everything needed before something new is made: its directory, its id, a descriptor."""
        directory = self._record(parent)
        fd = self._directories.fd(parent)
        inode = self._identities.take()
        self._working.announce(parent, name, inode)
        return directory, inode, fd

    def _made(
        self,
        directory: Record,
        name: bytes,
        inode: InodeId,
        fd: int,
        uid: int,
        gid: int,
        mode: int,
        *,
        file: int | None = None,
    ) -> os.stat_result:
        """Gives what was made its owner, and records it. A directory with setgid hands down its group."""
        try:
            st = os.stat(name, dir_fd=fd, follow_symlinks=False) if file is None else os.fstat(file)
            if self._may_chown and (st.st_uid != uid or st.st_gid != gid):
                heir = bool(os.fstat(fd).st_mode & stat.S_ISGID)
                if st.st_uid != uid or not heir:
                    os.chown(name, uid, -1 if heir else gid, dir_fd=fd, follow_symlinks=False)
                    if mode & _SETID:
                        os.chmod(name, stat.S_IMODE(mode), dir_fd=fd)
                    st = os.stat(name, dir_fd=fd, follow_symlinks=False) if file is None else os.fstat(file)
        except OSError:
            self._unmake(directory, name, fd)
            raise
        record = self._records[inode] = Record(inode, directory.id, name, st)
        record.known = True
        record.in_index = False
        record.logged = self._working.generation
        record.attrs_dirty = True
        self._working.name_changed(directory, name, inode)
        self._working.attrs_changed(record)
        record.st = st
        record.xattrs = b""
        if record.is_directory:
            self._listings.learn(inode, {})
        return st

    def _unmake(self, directory: Record, name: bytes, fd: int) -> None:
        """Takes away what was made in vain; the directory's times have moved all the same."""
        try:
            os.unlink(name, dir_fd=fd)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=fd)
        finally:
            self._working.attrs_changed(directory)

    def _remove(self, parent: InodeId, name: bytes, *, directory: bool) -> InodeId:
        with self._lock:
            record = self._existing(parent, name)
            holder = self._record(parent)
            fd = self._directories.fd(parent)
            self._places(record)
            self._working.announce(parent, name, None)
            if not directory and record.nlink > 1:
                self._working.announce_inode(record)
            self._keep(record, name, fd)
            try:
                if directory:
                    os.rmdir(name, dir_fd=fd)
                else:
                    os.unlink(name, dir_fd=fd)
            except BaseException:
                self._nameless.drop(record)
                raise
            self._working.name_changed(holder, name, None)
            self._place_lost(record, parent, name)
            return record.id

    def _keep(self, record: Record, name: bytes, fd: int) -> None:
        """Holds on to what is about to lose its last name: whoever has it by O_PATH, as a working directory or
        as a fifo goes on using it, and the kernel asks by id. What is open is kept when it is closed."""
        if record.nlink == 1 and record.known and not record.handles and record.kept_fd is None:
            with suppress(OSError):  # without a descriptor left, removing is still possible
                self._nameless.keep(record, os.open(name, _HOLD, dir_fd=fd))

    def _place_lost(self, record: Record, parent: InodeId, name: bytes) -> None:
        record.place_removed(parent, name)
        if record.unlinked:
            if record.is_directory:
                self._directories.forget(record.id)
            self._closed.drop(record)
            self._working.last_name_lost(record)
            self._drop_if_idle(record)
        else:
            self._working.attrs_changed(record)

    def _hurry(self, record: Record) -> None:
        """Settles a file that the index has never seen with the next commit, so that an exchange goes whole."""
        if not record.in_index and record.content_dirty:
            self._working.settle(record)
