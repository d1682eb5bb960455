"""Processes that do what they are told: system calls as some user, with descriptors of their own.

A test holds an `Actor` and calls `do("open", slot=1, path="f", flags=…)`; the process makes the call and the
outcome comes back, a value or an errno. Descriptors are known by slots that the test chooses, so that two
actors, one in a mount and one in a plain directory, can be told exactly the same.
"""

from __future__ import annotations

__all__ = ["NOW", "OMIT", "Actor", "Outcome", "Refused"]

import ctypes
import ctypes.util
import errno
import fcntl
import hashlib
import mmap
import os
import pickle
import resource
import signal
import stat
import struct
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

OMIT = "omit"
NOW = "now"
"""Times for `utimens`, as utimensat(2)'s UTIME_OMIT and UTIME_NOW; others are nanoseconds."""

_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_SYMLINK_FOLLOW = 0x400
_AT_EMPTY_PATH = 0x1000
_SPECIAL_TIMES = {OMIT: (1 << 30) - 2, NOW: (1 << 30) - 1}
_SECOND_NS = 10**9

_libc = ctypes.CDLL(None, use_errno=True)
_libc.opendir.restype = _libc.fdopendir.restype = _libc.readdir.restype = ctypes.c_void_p
_libc.opendir.argtypes = (ctypes.c_char_p,)
for _function in ("readdir", "telldir", "rewinddir", "closedir", "dirfd"):
    getattr(_libc, _function).argtypes = (ctypes.c_void_p,)
_libc.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)
_libc.telldir.restype = ctypes.c_long
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Refused(Exception):
    """A call failed; `code` is its errno."""

    def __init__(self, code: int) -> None:
        super().__init__(errno.errorcode.get(code, str(code)))
        self.code = code


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a call: `error` is an errno's name, or None and there is a `value`."""

    value: Any = None
    error: str | None = None

    def __str__(self) -> str:
        return self.error or repr(self.value)


class Actor:
    """A process that makes system calls. A context manager: at its end the process is gone."""

    def __init__(self, *, uid: int = 0, gid: int | None = None, groups: tuple[int, ...] = ()) -> None:
        """It runs as `uid`, with `gid` (the same number if None) and the supplementary `groups`."""
        gid = uid if gid is None else gid
        self._popen = subprocess.Popen(
            [sys.executable, __file__, str(uid), str(gid), ",".join(map(str, groups))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def attempt(self, call: str, **arguments: Any) -> Outcome:
        """Makes a call; its outcome."""
        self.tell(call, **arguments)
        return self.hear()

    def do(self, call: str, **arguments: Any) -> Any:
        """Makes a call that must succeed; its value.

        Raises:
            Refused: it failed.
        """
        outcome = self.attempt(call, **arguments)
        if outcome.error is not None:
            raise Refused(getattr(errno, outcome.error))
        return outcome.value

    def tell(self, call: str, **arguments: Any) -> None:
        """Has a call made, without waiting for it; `hear` gets the outcome."""
        assert self._popen.stdin is not None
        _send(self._popen.stdin, (call, arguments))

    def hear(self) -> Outcome:
        """The outcome of the last `tell`."""
        assert self._popen.stdout is not None
        outcome = _receive(self._popen.stdout)
        if isinstance(outcome, str):
            raise AssertionError(f"the actor failed:\n{outcome}")
        assert isinstance(outcome, Outcome)
        return outcome

    def close(self) -> None:
        """Ends the process, and with it its descriptors."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.close()
        self._popen.wait(30)
        self._popen.stdout.close()


# --- the process -------------------------------------------------------------------------------------------


class _Calls:
    """The calls that can be made: each public method is one."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}
        self._streams: dict[int, int] = {}
        self._maps: dict[int, mmap.mmap] = {}

    # --- the process itself

    def reset(self, directory: int | None = None, path: str | None = None) -> None:
        """Closes everything, and goes to a directory."""
        while self._maps:
            self._maps.popitem()[1].close()
        while self._streams:
            _libc.closedir(self._streams.popitem()[1])
        while self._fds:
            with suppress(OSError):  # the error of an earlier write, perhaps
                os.close(self._fds.popitem()[1])
        os.umask(0o022)
        if path is not None:
            os.chdir(path)

    def chdir(self, path: str) -> None:
        os.chdir(path)

    def umask(self, mask: int) -> None:
        os.umask(mask)

    def limit_size(self, size: int) -> None:
        """RLIMIT_FSIZE in bytes, -1 for none; its signal is ignored."""
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    # --- open files

    def open(self, slot: int, path: str | bytes, flags: int, mode: int = 0o644) -> None:
        fd = os.open(path, flags, mode)
        self.close(slot)
        self._fds[slot] = fd

    def reopen(self, slot: int, other: int, flags: int) -> None:
        """Opens what a slot holds once more, by way of /proc."""
        fd = os.open(f"/proc/self/fd/{self._fd(other)}", flags)
        self.close(slot)
        self._fds[slot] = fd

    def close(self, slot: int) -> None:
        fd = self._fds.pop(slot, None)
        if fd is not None:
            os.close(fd)

    def read(self, slot: int, size: int) -> bytes:
        return os.read(self._fd(slot), size)

    def write(self, slot: int, data: bytes) -> int:
        return os.write(self._fd(slot), data)

    def pread(self, slot: int, size: int, offset: int) -> bytes:
        return os.pread(self._fd(slot), size, offset)

    def pwrite(self, slot: int, data: bytes, offset: int) -> int:
        return os.pwrite(self._fd(slot), data, offset)

    def direct_write(self, slot: int, data: bytes, offset: int) -> int:
        """pwrite(2) from memory that begins at a page, as O_DIRECT wants it."""
        with mmap.mmap(-1, len(data)) as page:
            page.write(data)
            return os.pwritev(self._fd(slot), [page], offset)

    def direct_read(self, slot: int, size: int, offset: int) -> bytes:
        with mmap.mmap(-1, size) as page:
            return page[: os.preadv(self._fd(slot), [page], offset)]

    def lseek(self, slot: int, offset: int, whence: int) -> int:
        return os.lseek(self._fd(slot), offset, whence)

    def ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self._fd(slot), size)

    def truncate(self, path: str | bytes, size: int) -> None:
        os.truncate(path, size)

    def fsync(self, slot: int) -> None:
        os.fsync(self._fd(slot))

    def fdatasync(self, slot: int) -> None:
        os.fdatasync(self._fd(slot))

    def posix_fallocate(self, slot: int, offset: int, size: int) -> None:
        os.posix_fallocate(self._fd(slot), offset, size)

    def fallocate(self, slot: int, mode: int, offset: int, size: int) -> None:
        _check(_libc.fallocate(self._fd(slot), mode, offset, size))

    def copy_file_range(self, source: int, target: int, size: int, at: int, to: int) -> int:
        return os.copy_file_range(self._fd(source), self._fd(target), size, at, to)

    def mapped(self, slot: int, length: int, at: int, data: bytes, *, shared: bool) -> bytes:
        """Writes through a map of the whole file, syncs it; what the map then shows."""
        flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
        with mmap.mmap(self._fd(slot), length, flags=flags) as view:
            view[at : at + len(data)] = data
            view.flush()
            return hashlib.sha256(view).digest()

    def map(self, slot: int, other: int, length: int, *, shared: bool) -> None:
        """Keeps a map of a file, which lives on when its descriptor is closed."""
        self.unmap(slot)
        flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
        self._maps[slot] = mmap.mmap(self._fd(other), length, flags=flags)

    def map_write(self, slot: int, at: int, data: bytes) -> None:
        view = self._maps[slot]
        view[at : at + len(data)] = data
        view.flush()

    def map_read(self, slot: int, at: int, size: int) -> bytes:
        return self._maps[slot][at : at + size]

    def unmap(self, slot: int) -> None:
        view = self._maps.pop(slot, None)
        if view is not None:
            view.close()

    # --- names

    def mkdir(self, path: str | bytes, mode: int = 0o755) -> None:
        os.mkdir(path, mode)

    def rmdir(self, path: str | bytes) -> None:
        os.rmdir(path)

    def mknod(self, path: str | bytes, mode: int, device: int = 0) -> None:
        os.mknod(path, mode, device)

    def symlink(self, target: str | bytes, path: str | bytes) -> None:
        os.symlink(target, path)

    def readlink(self, path: str | bytes) -> bytes:
        return os.readlink(os.fsencode(path))

    def readlink_open(self, slot: int) -> bytes:
        """The target of a symlink that a slot holds by O_PATH."""
        return os.readlink(b"", dir_fd=self._fd(slot))

    def link(self, old: str | bytes, new: str | bytes, *, follow: bool = False) -> None:
        flags = _AT_SYMLINK_FOLLOW if follow else 0
        _check(_libc.linkat(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags))

    def link_open(self, slot: int, new: str) -> None:
        """linkat(2) with AT_EMPTY_PATH: a name for what a slot holds."""
        _check(_libc.linkat(self._fd(slot), b"", _AT_FDCWD, os.fsencode(new), _AT_EMPTY_PATH))

    def unlink(self, path: str | bytes) -> None:
        os.unlink(path)

    def rename(self, old: str | bytes, new: str | bytes, flags: int = 0) -> None:
        _check(_libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags))

    # --- attributes

    def chmod(self, path: str | bytes, mode: int) -> None:
        os.chmod(path, mode)

    def fchmod(self, slot: int, mode: int) -> None:
        os.fchmod(self._fd(slot), mode)

    def chown(self, path: str | bytes, uid: int, gid: int, *, follow: bool = True) -> None:
        os.chown(path, uid, gid, follow_symlinks=follow)

    def fchown(self, slot: int, uid: int, gid: int) -> None:
        os.fchown(self._fd(slot), uid, gid)

    def utimens(
        self, path: str | bytes, atime: int | str, mtime: int | str, *, follow: bool = True
    ) -> None:
        times = struct.pack("=4q", *_timespec(atime), *_timespec(mtime))
        flags = 0 if follow else _AT_SYMLINK_NOFOLLOW
        _check(_libc.utimensat(_AT_FDCWD, os.fsencode(path), times, flags))

    def futimens(self, slot: int, atime: int | str, mtime: int | str) -> None:
        times = struct.pack("=4q", *_timespec(atime), *_timespec(mtime))
        _check(_libc.futimens(self._fd(slot), times))

    def touch(self, path: str | bytes) -> None:
        """utimensat(2) without times."""
        _check(_libc.utimensat(_AT_FDCWD, os.fsencode(path), None, 0))

    def stat(self, path: str | bytes) -> os.stat_result:
        return os.stat(path)

    def lstat(self, path: str | bytes) -> os.stat_result:
        return os.lstat(path)

    def fstat(self, slot: int) -> os.stat_result:
        return os.fstat(self._fd(slot))

    def access(self, path: str | bytes, mode: int) -> bool:
        return os.access(path, mode)

    def statvfs(self, path: str | bytes = ".") -> tuple[int, ...]:
        """What two filesystems over one disk have in common: sizes, limits."""
        st = os.statvfs(path)
        return st.f_frsize, st.f_blocks, st.f_files, st.f_namemax

    def getxattr(self, path: str | bytes, name: str, *, follow: bool = True) -> bytes:
        return os.getxattr(path, name, follow_symlinks=follow)

    def setxattr(
        self, path: str | bytes, name: str, value: bytes, flags: int = 0, *, follow: bool = True
    ) -> None:
        os.setxattr(path, name, value, flags, follow_symlinks=follow)

    def removexattr(self, path: str | bytes, name: str, *, follow: bool = True) -> None:
        os.removexattr(path, name, follow_symlinks=follow)

    def listxattr(self, path: str | bytes, *, follow: bool = True) -> list[str]:
        return sorted(os.listxattr(path, follow_symlinks=follow))

    # --- directories

    def listdir(self, path: str | bytes = ".") -> list[bytes]:
        return sorted(os.listdir(os.fsencode(path)))

    def opendir(self, slot: int, path: str | bytes) -> None:
        stream = _libc.opendir(os.fsencode(path))
        if not stream:
            _check(-1)
        self.closedir(slot)
        self._streams[slot] = stream

    def readdir(self, slot: int, count: int) -> list[bytes]:
        """Up to `count` further names, `.` and `..` among them."""
        names: list[bytes] = []
        while len(names) < count:
            ctypes.set_errno(0)
            entry = _libc.readdir(self._stream(slot))
            if not entry:
                if ctypes.get_errno():
                    _check(-1)
                break
            names.append(ctypes.string_at(entry + 19))
        return names

    def telldir(self, slot: int) -> int:
        return int(_libc.telldir(self._stream(slot)))

    def seekdir(self, slot: int, position: int) -> None:
        _libc.seekdir(self._stream(slot), position)

    def rewinddir(self, slot: int) -> None:
        _libc.rewinddir(self._stream(slot))

    def fstatdir(self, slot: int) -> os.stat_result:
        return os.fstat(_libc.dirfd(self._stream(slot)))

    def fsyncdir(self, slot: int) -> None:
        os.fsync(_libc.dirfd(self._stream(slot)))

    def closedir(self, slot: int) -> None:
        stream = self._streams.pop(slot, None)
        if stream is not None:
            _check(_libc.closedir(stream))

    # --- several calls in one

    def tree(self) -> dict[bytes, tuple[os.stat_result, bytes | None]]:
        """Everything below the working directory: attributes, and targets of symlinks. Needs root."""
        found: dict[bytes, tuple[os.stat_result, bytes | None]] = {b".": (os.lstat("."), None)}
        for directory, names, files in os.walk(b"."):
            for name in names + files:
                path = directory + b"/" + name
                st = os.lstat(path)
                found[path] = (st, os.readlink(path) if stat.S_ISLNK(st.st_mode) else None)
        return found

    def content(self) -> dict[bytes, tuple[int, bytes]]:
        """Length and digest of every regular file below the working directory."""
        found = {}
        for directory, _, files in os.walk(b"."):
            for name in files:
                path = directory + b"/" + name
                if stat.S_ISREG(os.lstat(path).st_mode):
                    data = Path(os.fsdecode(path)).read_bytes()
                    found[path] = (len(data), hashlib.sha256(data).digest())
        return found

    def open_stats(self) -> dict[str, os.stat_result]:
        """fstat(2) of every slot."""
        return {f"fd{slot}": os.fstat(fd) for slot, fd in self._fds.items()} | {
            f"dir{slot}": os.fstat(_libc.dirfd(stream)) for slot, stream in self._streams.items()
        }

    def run(self, *, path: str) -> int:
        """Executes a file; its exit code."""
        pid = os.posix_spawn(path, [path], {})
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def flags(self, slot: int) -> int:
        """What a slot was opened with."""
        return fcntl.fcntl(self._fd(slot), fcntl.F_GETFL)

    def number(self, slot: int) -> int:
        """The descriptor itself, to be found below /proc."""
        return self._fd(slot)

    def link_often(self, path: str, most: int) -> tuple[str | None, int]:
        """Makes links l0, l1, … until it fails; the errno, and how many were made."""
        for number in range(most):
            try:
                os.link(path, f"l{number}")
            except OSError as error:
                return errno.errorcode[error.errno or 0], number
        return None, most

    # --- inside

    def _fd(self, slot: int) -> int:
        fd = self._fds.get(slot)
        if fd is None:
            raise OSError(errno.EBADF, "no such slot")
        return fd

    def _stream(self, slot: int) -> int:
        stream = self._streams.get(slot)
        if stream is None:
            raise OSError(errno.EBADF, "no such slot")
        return stream


def _timespec(time: int | str) -> tuple[int, int]:
    if isinstance(time, str):
        return 0, _SPECIAL_TIMES[time]
    return divmod(time, _SECOND_NS)


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _send(pipe: Any, message: object) -> None:
    data = pickle.dumps(message)
    pipe.write(struct.pack("=I", len(data)) + data)
    pipe.flush()


def _receive(pipe: Any) -> Any:
    header = pipe.read(4)
    if not header:
        raise EOFError
    return pickle.loads(pipe.read(struct.unpack("=I", header)[0]))


def _act(commands: BinaryIO, outcomes: BinaryIO) -> None:
    calls = _Calls()
    while True:
        try:
            call, arguments = _receive(commands)
        except EOFError:
            return
        try:
            outcome: Outcome | str = Outcome(getattr(calls, call)(**arguments))
        except OSError as error:
            outcome = Outcome(error=errno.errorcode[error.errno or errno.EIO])
        except Exception as error:
            outcome = f"{call}({arguments}): {error!r}"
        _send(outcomes, outcome)


def _become(uid: int, gid: int, groups: list[int]) -> None:
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    # Or /proc/self would be root's from here on.
    _libc.prctl(4, 1, 0, 0, 0)


if __name__ == "__main__":
    # Outcomes are pickled by the name that whoever hears them knows the class by.
    sys.modules["actors"] = sys.modules["__main__"]
    Outcome.__module__ = "actors"
    _become(int(sys.argv[1]), int(sys.argv[2]), [int(group) for group in sys.argv[3].split(",") if group])
    _act(sys.stdin.buffer, sys.stdout.buffer)
