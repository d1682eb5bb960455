"""A disk that fails when it is told to: a directory shown by a filesystem of its own, in a process of its own.

Each kind of request can be made to fail with an errno, and to succeed again. It needs FUSE and nothing of the
kernel's own means of making disks fail (device-mapper, loop devices), which few machines have. `python failing.py
SOURCE MOUNTPOINT` is that process: it takes a JSON object a line on standard input, operations to errnos, which
replaces the last one, and answers each with an empty line.
"""

from __future__ import annotations

__all__ = ["CHANGES", "FailingDisk"]

import functools
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyfuse3
import trio
from pyfuse3 import FUSEError

CHANGES = (
    *("create", "mknod", "mkdir", "symlink", "link", "unlink", "rmdir", "rename"),
    *("setattr", "open_to_write", "write", "fsync", "fsyncdir", "setxattr", "removexattr"),
)
"""Everything that a disk refuses which cannot be written to."""


class FailingDisk:
    """What is in `source`, shown at `mountpoint`. A context manager; both are there and empty."""

    def __init__(self, source: Path, mountpoint: Path) -> None:
        self.mountpoint = mountpoint
        self._command = [sys.executable, __file__, str(source), str(mountpoint)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.mend()  # it answers once it is mounted
        return self

    def fail(self, errno: int, *operations: str) -> None:
        """From now on these operations fail, and no others."""
        self._say(dict.fromkeys(operations, errno))

    def mend(self) -> None:
        """From now on nothing fails."""
        self._say({})

    def _say(self, failing: dict[str, int]) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(failing) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "\n", "the failing disk has ended"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["umount", *(["-l"] if error else []), self.mountpoint], check=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        if error is not None:
            self._process.kill()
        self._process.wait(30)


def _named(function: Callable[..., Any]) -> Callable[..., Any]:
    """A handler that fails when its name is among those that are to, and with what the system says."""
    name = function.__name__

    @functools.wraps(function)
    async def handle(self: _Disk, *arguments: Any) -> Any:
        if not (name in ("read", "write", "fsync") and arguments[0] in self.mapped):
            self.perhaps_fail(name)
        try:
            return function(self, *arguments)
        except OSError as error:
            raise FUSEError(error.errno or 0) from None

    return handle


class _Disk(pyfuse3.Operations):
    """Inodes have the numbers that they have below, and are held by `O_PATH`: so none is used again meanwhile."""

    def __init__(self, source: Path) -> None:
        super().__init__()
        self.failing: dict[str, int] = {}
        self.mapped: set[int] = set()
        """Open files that SQLite maps, and which do not fail. Filesystems on real disks go on having in memory what
        was written there and did not get to the disk; FUSE forgets it, and reads it again: who looks at a page that
        cannot be read dies of SIGBUS, and one of before says that commits were never made."""
        self._held: dict[int, int] = {pyfuse3.ROOT_INODE: os.open(source, os.O_PATH | os.O_DIRECTORY)}
        self._lookups: dict[int, int] = {}
        self._root = os.stat(source).st_ino

    def perhaps_fail(self, operation: str) -> None:
        if operation in self.failing:
            raise FUSEError(self.failing[operation])

    def _at(self, inode: int) -> str:
        return f"/proc/self/fd/{self._held[inode]}"

    def _entry(self, st: os.stat_result) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.ROOT_INODE if st.st_ino == self._root else st.st_ino
        for name in ("mode", "nlink", "uid", "gid", "rdev", "size", "blocks", "blksize"):
            setattr(entry, f"st_{name}", getattr(st, f"st_{name}"))
        for name in ("atime", "mtime", "ctime"):
            setattr(entry, f"st_{name}_ns", getattr(st, f"st_{name}_ns"))
        entry.entry_timeout = entry.attr_timeout = 0
        return entry

    def _known(self, parent: int, name: bytes) -> pyfuse3.EntryAttributes:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self._held[parent])
        entry = self._entry(os.fstat(fd))
        if self._held.setdefault(entry.st_ino, fd) != fd:
            os.close(fd)
        self._lookups[entry.st_ino] = self._lookups.get(entry.st_ino, 0) + 1
        return entry

    def _owned(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        os.chown(name, ctx.uid, ctx.gid, dir_fd=self._held[parent], follow_symlinks=False)
        return self._known(parent, name)

    @_named
    def lookup(self, parent: int, name: bytes, _ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._known(parent, name)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for inode, count in inode_list:
            self._lookups[inode] = self._lookups.get(inode, 0) - count
            if self._lookups[inode] <= 0 and inode != pyfuse3.ROOT_INODE:
                del self._lookups[inode]
                os.close(self._held.pop(inode))

    @_named
    def getattr(self, inode: int, _ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._entry(os.fstat(self._held[inode]))

    @_named
    def setattr(
        self,
        inode: int,
        wanted: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        _fh: int | None,
        _ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        at = self._at(inode)
        if fields.update_size:
            os.truncate(at, wanted.st_size)
        if fields.update_uid or fields.update_gid:
            os.chown(
                at,
                wanted.st_uid if fields.update_uid else -1,
                wanted.st_gid if fields.update_gid else -1,
            )
        if fields.update_mode:
            os.chmod(at, stat.S_IMODE(wanted.st_mode))
        st = os.fstat(self._held[inode])
        if fields.update_atime or fields.update_mtime:
            atime = wanted.st_atime_ns if fields.update_atime else st.st_atime_ns
            mtime = wanted.st_mtime_ns if fields.update_mtime else st.st_mtime_ns
            os.utime(at, ns=(atime, mtime))
        return self._entry(os.fstat(self._held[inode]))

    @_named
    def readlink(self, inode: int, _ctx: pyfuse3.RequestContext) -> bytes:
        return os.readlink(b"", dir_fd=self._held[inode])

    @_named
    def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        os.mknod(name, mode, rdev, dir_fd=self._held[parent])
        return self._owned(parent, name, ctx)

    @_named
    def mkdir(
        self, parent: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        os.mkdir(name, mode, dir_fd=self._held[parent])
        return self._owned(parent, name, ctx)

    @_named
    def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        os.symlink(target, name, dir_fd=self._held[parent])
        return self._owned(parent, name, ctx)

    @_named
    def link(
        self, inode: int, parent: int, name: bytes, _ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        os.link(self._at(inode), name, dst_dir_fd=self._held[parent], follow_symlinks=True)
        return self._known(parent, name)

    @_named
    def unlink(self, parent: int, name: bytes, _ctx: pyfuse3.RequestContext) -> None:
        os.unlink(name, dir_fd=self._held[parent])

    @_named
    def rmdir(self, parent: int, name: bytes, _ctx: pyfuse3.RequestContext) -> None:
        os.rmdir(name, dir_fd=self._held[parent])

    @_named
    def rename(
        self,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int,
        _ctx: pyfuse3.RequestContext,
    ) -> None:
        from ghostfs.mirror.syscalls import renameat2

        renameat2(self._held[parent], name, self._held[new_parent], new_name, flags)

    @_named
    def statfs(self, _ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        st = os.statvfs(self._held[pyfuse3.ROOT_INODE])
        data = pyfuse3.StatvfsData()
        for name in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "namemax"):
            setattr(data, f"f_{name}", getattr(st, f"f_{name}"))
        return data

    @_named
    def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        fd = os.open(name, flags | os.O_CREAT, stat.S_IMODE(mode), dir_fd=self._held[parent])
        return pyfuse3.FileInfo(fh=self._opened(fd)), self._owned(parent, name, ctx)

    @_named
    def open(self, inode: int, flags: int, _ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self.perhaps_fail("open_to_write")
        return pyfuse3.FileInfo(fh=self._opened(os.open(self._at(inode), flags & ~os.O_NOFOLLOW)))

    def _opened(self, fd: int) -> int:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("-shm"):
            self.mapped.add(fd)
        return fd

    @_named
    def read(self, fh: int, offset: int, size: int) -> bytes:
        return os.pread(fh, size, offset)

    @_named
    def write(self, fh: int, offset: int, data: bytes) -> int:
        return os.pwrite(fh, data, offset)

    @_named
    def flush(self, _fh: int) -> None:
        pass

    @_named
    def release(self, fh: int) -> None:
        self.mapped.discard(fh)
        os.close(fh)

    @_named
    def fsync(self, fh: int, _datasync: bool) -> None:
        os.fsync(fh)

    @_named
    def opendir(self, inode: int, _ctx: pyfuse3.RequestContext) -> int:
        return os.open(self._at(inode), os.O_RDONLY | os.O_DIRECTORY)

    @_named
    def readdir(self, fh: int, start: int, token: pyfuse3.ReaddirToken) -> None:
        for position, name in enumerate(sorted(os.listdir(fh))[start:], start + 1):
            entry = self._entry(os.stat(name, dir_fd=fh, follow_symlinks=False))
            if not pyfuse3.readdir_reply(token, os.fsencode(name), entry, position):
                return
            # It counts as a lookup.
            if entry.st_ino not in self._held:
                self._held[entry.st_ino] = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=fh)
            self._lookups[entry.st_ino] = self._lookups.get(entry.st_ino, 0) + 1

    @_named
    def releasedir(self, fh: int) -> None:
        os.close(fh)

    @_named
    def fsyncdir(self, fh: int, _datasync: bool) -> None:
        os.fsync(fh)

    @_named
    def listxattr(self, inode: int, _ctx: pyfuse3.RequestContext) -> list[bytes]:
        return [os.fsencode(name) for name in os.listxattr(self._at(inode))]

    @_named
    def getxattr(self, inode: int, name: bytes, _ctx: pyfuse3.RequestContext) -> bytes:
        return os.getxattr(self._at(inode), name)

    @_named
    def setxattr(self, inode: int, name: bytes, value: bytes, _ctx: pyfuse3.RequestContext) -> None:
        os.setxattr(self._at(inode), name, value)

    @_named
    def removexattr(self, inode: int, name: bytes, _ctx: pyfuse3.RequestContext) -> None:
        os.removexattr(self._at(inode), name)


async def _serve(disk: _Disk, mountpoint: Path) -> None:
    async def listen() -> None:
        left = b""
        async with trio.lowlevel.FdStream(os.dup(0)) as told:
            async for part in told:
                *lines, left = (left + part).split(b"\n")
                for line in lines:
                    disk.failing = json.loads(line)
                    print(flush=True)
        # Whoever started it has gone, without unmounting.
        await trio.run_process(["umount", "-l", mountpoint], check=False)
        pyfuse3.terminate()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await pyfuse3.main(min_tasks=1, max_tasks=1)
        nursery.cancel_scope.cancel()


def _main(source: Path, mountpoint: Path) -> None:
    os.umask(0)
    disk = _Disk(source)
    pyfuse3.init(
        disk, str(mountpoint), {"fsname=failing", "default_permissions", "allow_other", "dev", "suid"}
    )
    try:
        trio.run(_serve, disk, mountpoint)
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
