"""The live mirror: a tree in use, every change of it captured.

`Mirror` is what a mount works on. Each method is one operation of a filesystem, makes the system calls
on the backing tree, and records what changed in the working set; the capture thread carries that into
the index. Methods raise `OSError` as the system call would. They may be called from any thread.
"""

from __future__ import annotations

__all__ = ["Mirror"]

import errno
import os
import stat

from ghostfs.content import BlockList, BlockMap
from ghostfs.index import Index
from ghostfs.mirror.directories import Directories
from ghostfs.mirror.identities import Identities
from ghostfs.mirror.privileges import may_chown
from ghostfs.mirror.records import FileHandle, Record
from ghostfs.mirror.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from ghostfs.mirror.working import ABSENT, WorkingSet
from ghostfs.mirror.xattrs import PREFIX as XATTR_PREFIX
from ghostfs.mirror.xattrs import encode_xattrs
from ghostfs.model import ROOT, InodeId, Kind
from ghostfs.names import is_reserved

_OPEN_MASK = ~(os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_TRUNC | os.O_APPEND | os.O_ACCMODE)
_SETID = stat.S_ISUID | stat.S_ISGID
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Mirror:
    """The operations on one owned tree. Made by `ghostfs.mirror.session.open_mirror`."""

    def __init__(self, root_fd: int, index: Index, working: WorkingSet, identities: Identities) -> None:
        """`index` is a connection of this object's own, for lookups. `root_fd` is the open tree."""
        self._root_fd = root_fd
        self._index = index
        self._working = working
        self._lock = working.lock
        self._identities = identities
        self._records: dict[InodeId, Record] = {}
        self._directories = Directories(root_fd, self._locate)
        self._may_chown = may_chown()
        self._own = (os.geteuid(), os.getegid())
        root = Record(ROOT, ROOT, b"", os.fstat(root_fd))
        root.known = True
        self._records[ROOT] = root

    # --- looking ---------------------------------------------------------------------------------------

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

    def entry(self, parent: InodeId, name: bytes, inode: InodeId) -> os.stat_result | None:
        """As `lookup`, for a name and inode that `readdir` has just listed; `None` if it has gone since."""
        with self._lock:
            if self._child(parent, name) != inode:
                return None
            try:
                st = os.stat(name, dir_fd=self._directories.fd(parent), follow_symlinks=False)
            except FileNotFoundError:
                return None
            self._remember(inode, parent, name, st).known = True
            return st

    def readdir(self, directory: InodeId) -> list[tuple[bytes, InodeId]]:
        """The names in a directory and their inodes, as they are now, in the order of their names."""
        with self._lock:
            record = self._record(directory)
            if record.unlinked:
                return []
            listed = dict(self._index.children(directory))
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
            return self.target_for_commit(self._record(inode))

    def statfs(self) -> os.statvfs_result:
        """The filesystem below."""
        return os.fstatvfs(self._root_fd)

    def forget(self, inode: InodeId) -> None:
        """The kernel will not ask for this id again before another lookup."""
        with self._lock:
            record = self._records.get(inode)
            if record is not None and inode != ROOT:
                record.known = False
                self._drop_if_idle(record)

    # --- making ----------------------------------------------------------------------------------------

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
            return inode, self._made(directory, name, inode, fd, uid, gid, 0)

    def create(
        self, parent: InodeId, name: bytes, mode: int, flags: int, uid: int, gid: int
    ) -> tuple[InodeId, os.stat_result, FileHandle]:
        """Makes a regular file and opens it.

        If the name is taken and `flags` lacks `O_EXCL`, what is there is opened instead.
        """
        with self._lock:
            taken = self._child(parent, name)
            if taken is None:
                directory, inode, fd = self._prepare(parent, name)
                file = os.open(name, flags & _OPEN_MASK | _NEW_FILE | os.O_RDWR, mode & 0o7777, dir_fd=fd)
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

    # --- taking away and moving ------------------------------------------------------------------------

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
            displaced = self._existing(new_parent, new_name) if target is not None else None
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
            renameat2(source_fd, name, target_fd, new_name, flags)
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

    # --- changing --------------------------------------------------------------------------------------

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
    ) -> os.stat_result:
        """Changes the attributes that are given; `mode` holds permission bits. A time that is not given stays."""
        with self._lock:
            record = self._record(inode)
            if mode is not None and record.kind is Kind.SYMLINK:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            if not record.unlinked:
                self._working.announce_inode(record)
            fd = handle.fd if handle is not None else self._any_fd(record)
            try:
                if size is not None:
                    self._truncate(record, fd, size)
                return self._change(record, fd, mode, uid, gid, atime_ns, mtime_ns)
            finally:
                # Also when the second of two changes failed: the first one was made.
                self._working.attrs_changed(record)

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
        parent_fd = -1
        if fd is None:
            if record.unlinked:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            parent_fd = self._parent_fd(record)
        name = record.name or b"."
        if uid is not None or gid is not None:
            owner = (-1 if uid is None else uid, -1 if gid is None else gid)
            if fd is not None:
                os.fchown(fd, *owner)
            else:
                os.chown(name, *owner, dir_fd=parent_fd, follow_symlinks=False)
        if mode is not None:
            if fd is not None:
                os.fchmod(fd, mode)
            else:
                os.chmod(name, mode, dir_fd=parent_fd)
        if atime_ns is not None or mtime_ns is not None:
            self._set_times(name, fd, parent_fd, atime_ns, mtime_ns)
        st = os.fstat(fd) if fd is not None else self._stat(record)
        record.setid = record.kind is Kind.FILE and bool(st.st_mode & _SETID)
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

    def setxattr(self, inode: InodeId, name: bytes, value: bytes, flags: int = 0) -> None:
        """Sets an extended attribute, with setxattr(2)'s flags."""
        with self._lock:
            record = self._record(inode)
            path, follow = self._proc_path(record)
            self._working.announce_inode(record)
            os.setxattr(path, name, value, flags, follow_symlinks=follow)
            self._working.attrs_changed(record)

    def removexattr(self, inode: InodeId, name: bytes) -> None:
        """Removes an extended attribute."""
        with self._lock:
            record = self._record(inode)
            path, follow = self._proc_path(record)
            self._working.announce_inode(record)
            os.removexattr(path, name, follow_symlinks=follow)
            self._working.attrs_changed(record)

    # --- open files ------------------------------------------------------------------------------------

    def open_file(self, inode: InodeId, flags: int) -> FileHandle:
        """Opens a regular file. `O_APPEND` is the kernel's affair and `O_CREAT` is `create`'s."""
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        with self._lock:
            record = self._record(inode)
            base = flags & _OPEN_MASK | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            fd = self._open_backing(record, base, writable=writable)
            try:
                if flags & os.O_TRUNC and writable:
                    if not record.unlinked:
                        self._working.announce_inode(record)
                    record.writers += 1
                    try:
                        self._truncate(record, fd, 0)
                    finally:
                        record.writers -= 1
            except BaseException:
                os.close(fd)
                raise
            return self._opened(record, fd, writable=writable)

    def read(self, handle: FileHandle, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`; fewer only at the end of the file."""
        return os.pread(handle.fd, size, offset)

    def write(self, handle: FileHandle, offset: int, data: bytes) -> int:
        """Writes at `offset`; the number of bytes that the filesystem below took."""
        record = handle.record
        with self._lock:
            if record.nlink == 0:
                return os.pwrite(handle.fd, data, offset)
            blocks = record.map
            if blocks is None:
                blocks = self.map_of(record)
            if record.logged != self._working.generation:
                self._working.announce_inode(record)
            written = os.pwrite(handle.fd, data, offset)
            blocks.write(offset, data if written == len(data) else data[:written])
            if record.setid:
                self._drop_setid(record, handle.fd)
            self._working.content_changed(record)
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
            fd = os.open(
                b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directories.fd(inode)
            )
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

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
                    if record.settle_fd is None:
                        record.settle_fd = handle.fd
                    else:
                        os.close(handle.fd)
                    self._working.settle(record)
                    return
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
                if record.settle_fd is not None:
                    os.close(record.settle_fd)
                    record.settle_fd = None
            self._records.clear()
            self._directories.close()
            os.close(self._root_fd)

    # --- for the capture thread, with the lock held -----------------------------------------------------

    def stat_for_commit(self, record: Record) -> os.stat_result:
        """The attributes to be committed."""
        return self._stat(record)

    def target_for_commit(self, record: Record) -> bytes:
        """The symlink's target to be committed."""
        if record.unlinked:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return os.readlink(record.name, dir_fd=self._directories.fd(record.parent))

    def xattrs_for_commit(self, record: Record) -> bytes:
        """The user attributes to be committed, encoded."""
        path, follow = self._proc_path(record)
        names = map(os.fsencode, os.listxattr(path, follow_symlinks=follow))
        return encode_xattrs(
            {
                name: os.getxattr(path, name, follow_symlinks=follow)
                for name in names
                if name.startswith(XATTR_PREFIX)
            }
        )

    def open_for_settle(self, record: Record) -> int:
        """A descriptor of the caller's own from which the record's content can be read."""
        if record.settle_fd is not None:
            return os.dup(record.settle_fd)
        if record.handles:
            return os.dup(record.handles[-1].fd)
        return os.open(
            record.name,
            os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK,
            dir_fd=self._directories.fd(record.parent),
        )

    def committed(self, record: Record) -> None:
        """The record is as the index has it: what was kept for the commit can go."""
        record.in_commit = False
        if record.settle_fd is not None and not record.content_dirty:
            os.close(record.settle_fd)
            record.settle_fd = None
        if record.handles is None and not record.content_dirty:
            record.map = None
        self._drop_if_idle(record)

    def let_go(self, record: Record) -> None:
        """The record is not going into the index after all, this time."""
        record.in_commit = False
        self._drop_if_idle(record)

    # --- inside ----------------------------------------------------------------------------------------

    def _child(self, parent: InodeId, name: bytes) -> InodeId | None:
        child = self._working.child(parent, name)
        if child is ABSENT:
            return self._index.dirent(parent, name)
        return child

    def _existing(self, parent: InodeId, name: bytes) -> Record:
        inode = self._child(parent, name)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        record = self._records.get(inode)
        if record is None:
            st = os.stat(name, dir_fd=self._directories.fd(parent), follow_symlinks=False)
            record = self._remember(inode, parent, name, st)
        return record

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
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return os.stat(record.name, dir_fd=self._directories.fd(record.parent), follow_symlinks=False)

    def _any_fd(self, record: Record) -> int | None:
        if record.unlinked and record.handles:
            return record.handles[-1].fd
        return None

    def _proc_path(self, record: Record) -> tuple[bytes, bool]:
        """A path for calls that know no descriptors of directories, and whether to follow it to its end."""
        if record.id == ROOT:
            return b"/proc/self/fd/%d/." % self._root_fd, False
        if not record.unlinked:
            return b"/proc/self/fd/%d/%s" % (self._directories.fd(record.parent), record.name), False
        if not record.handles:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return b"/proc/self/fd/%d" % record.handles[-1].fd, True

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
            self._unmake(name, fd)
            raise
        record = self._records[inode] = Record(inode, directory.id, name, st)
        record.known = True
        record.in_index = False
        record.logged = self._working.generation
        record.attrs_dirty = True
        self._working.name_changed(directory, name, inode)
        self._working.attrs_changed(record)
        return st

    def _unmake(self, name: bytes, fd: int) -> None:
        try:
            os.unlink(name, dir_fd=fd)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=fd)

    def _remove(self, parent: InodeId, name: bytes, *, directory: bool) -> InodeId:
        with self._lock:
            record = self._existing(parent, name)
            holder = self._record(parent)
            fd = self._directories.fd(parent)
            self._places(record)
            self._working.announce(parent, name, None)
            if directory:
                os.rmdir(name, dir_fd=fd)
            else:
                if record.nlink > 1:
                    self._working.announce_inode(record)
                os.unlink(name, dir_fd=fd)
            self._working.name_changed(holder, name, None)
            self._place_lost(record, parent, name)
            return record.id

    def _place_lost(self, record: Record, parent: InodeId, name: bytes) -> None:
        record.place_removed(parent, name)
        if record.unlinked:
            if record.is_directory:
                self._directories.forget(record.id)
            if record.settle_fd is not None:
                os.close(record.settle_fd)
                record.settle_fd = None
            self._working.last_name_lost(record)
            self._drop_if_idle(record)
        else:
            self._working.attrs_changed(record)

    def _open_backing(self, record: Record, base: int, *, writable: bool) -> int:
        """Opens the backing file, for reading too where that is allowed, so that it can be settled."""
        if record.unlinked:
            if not record.handles:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            path: bytes | str = f"/proc/self/fd/{record.handles[-1].fd}"
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

    def _truncate(self, record: Record, fd: int | None, size: int) -> None:
        blocks = record.map
        if blocks is None and not record.unlinked:
            blocks = self.map_of(record)
        writers = [handle for handle in record.handles or () if handle.writable]
        if writers:
            os.ftruncate(writers[-1].fd, size)
        elif fd is not None:
            os.ftruncate(fd, size)
        else:
            own = self._open_backing(record, os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, writable=True)
            try:
                os.ftruncate(own, size)
            except BaseException:
                os.close(own)
                raise
            if record.settle_fd is None:
                record.settle_fd = own
            else:
                os.close(own)
        if record.setid:
            self._drop_setid(
                record, writers[-1].fd if writers else (fd if fd is not None else record.settle_fd)
            )
        if blocks is not None and not record.unlinked:
            blocks.truncate(size)
            self._working.content_changed(record)

    def map_of(self, record: Record) -> BlockMap:
        """The record's block map, loaded from the index if need be."""
        if record.map is not None:
            return record.map
        row = self._index.inode(record.id) if record.in_index else None
        record.map = BlockMap() if row is None else BlockMap(BlockList.decode(row.size, row.blocks))
        return record.map

    def _drop_setid(self, record: Record, fd: int | None) -> None:
        """Writing takes set-user-id away, and set-group-id where the group may execute."""
        if fd is None:
            return
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        keep = mode & ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            keep &= ~stat.S_ISGID
        if keep != mode:
            os.fchmod(fd, keep)
            self._working.attrs_changed(record)
        record.setid = False

    def _set_times(
        self, name: bytes, fd: int | None, parent_fd: int, atime_ns: int | None, mtime_ns: int | None
    ) -> None:
        if atime_ns is None or mtime_ns is None:
            now = os.fstat(fd) if fd is not None else os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
            atime_ns = now.st_atime_ns if atime_ns is None else atime_ns
            mtime_ns = now.st_mtime_ns if mtime_ns is None else mtime_ns
        if fd is not None:
            os.utime(fd, ns=(atime_ns, mtime_ns))
        else:
            os.utime(name, ns=(atime_ns, mtime_ns), dir_fd=parent_fd, follow_symlinks=False)

    def _hurry(self, record: Record) -> None:
        """Settles a file that the index has never seen with the next commit, so that an exchange goes whole."""
        if not record.in_index and record.content_dirty:
            self._working.settle(record)

    def _drop_if_idle(self, record: Record) -> None:
        if record.idle and record.settle_fd is None and record.id != ROOT:
            self._records.pop(record.id, None)
            if record.is_directory:
                self._directories.forget(record.id)
