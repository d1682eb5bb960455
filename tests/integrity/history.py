"""Changes a tree in every way there is, at random: a program of its own, for a directory on any filesystem.

    python tests/integrity/history.py DIRECTORY --seed 1 --operations 500 [--xattrs]

Each operation is written to standard output, with what came of it. Files stay open and mapped for a while,
also when they have lost their name. After the last operation it says "done" and waits until standard input
ends; only then does it let go of what is open.
"""

from __future__ import annotations

__all__: list[str] = []

import argparse
import ctypes
import errno
import mmap
import os
import random
import stat
import sys
from collections.abc import Callable
from typing import Final

_NOREPLACE: Final = 1
_EXCHANGE: Final = 2
_AT_FDCWD: Final = -100

_NAMES: Final = (b"a", b"b", b"c", b"d", b"name with spaces", b"\xff\xfe", "ü".encode(), b"n" * 255)
_MODES: Final = (0o600, 0o644, 0o755, 0o000, 0o4755, 0o2775, 0o1777, 0o6711)
_TIMES: Final = (0, 1, -(10**18), 1_600_000_000_123_456_789, 4_000_000_000_999_999_999)
_OWNERS: Final = (-1, 0, 1000, 65534)
_ATTRIBUTES: Final = (b"user.one", b"user.two", b"user.\xc3\xbc")
_SIZES: Final = (0, 1, 100, 4096, 5000, 65536, 262143, 262144, 262145, 600_000)

_REFUSALS: Final = frozenset(
    {
        *(errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ELOOP),
        *(errno.EINVAL, errno.EPERM, errno.ENODATA, errno.ENXIO, errno.EBUSY, errno.ENAMETOOLONG),
        *(errno.EXDEV, errno.ENODEV),
    }
)
"""What a filesystem may answer to what makes no sense; anything else ends the history."""


class History:
    """One tree and its random future."""

    def __init__(self, top: bytes, seed: int, *, xattrs: bool) -> None:
        self.top = top
        self.rng = random.Random(seed)
        self.pool = self.rng.randbytes(1 << 20)
        self.open: list[int] = []
        self.mapped: list[tuple[int, mmap.mmap]] = []
        self.paths: list[bytes] = []
        self.libc = ctypes.CDLL(None, use_errno=True)
        attributes = (self.set_attribute, self.remove_attribute) if xattrs else ()
        self.operations: list[Callable[[], str]] = [
            *(self.write, self.write, self.append, self.save, self.save_by_rename, self.create),
            *(self.open_one, self.write_open, self.write_open, self.resize_open, self.close_one, self.sync),
            *(self.map_one, self.write_mapped, self.write_mapped, self.unmap, self.resize, self.copy),
            *(self.mkdir, self.mkdir, self.symlink, self.special, self.link, self.link),
            *(self.unlink, self.rmdir, self.rename, self.rename, self.rename, self.exchange, self.exchange),
            *(self.chmod, self.chown, self.times, self.time_now),
            *attributes,
        ]

    def go(self, count: int) -> None:
        for number in range(count):
            if number % 5 == 0:
                self.paths = self._walk()
            operation = self.rng.choice(self.operations)
            try:
                said = operation()
            except OSError as error:
                if error.errno not in _REFUSALS:
                    raise
                said = errno.errorcode[error.errno]
            sys.stdout.write(f"{number} {operation.__name__} {said}\n")

    def let_go(self) -> None:
        for fd, mapping in self.mapped:
            mapping.close()
            os.close(fd)
        for fd in self.open:
            os.close(fd)

    # --- what it is done to ------------------------------------------------------------------------------

    def _walk(self) -> list[bytes]:
        found = []
        for directory, below, files in os.walk(self.top):
            found += [os.path.join(directory, name) for name in (*below, *files)]
        return sorted(path for path in found if not path.startswith(self.top + b"/.skills"))

    def _any(self) -> bytes:
        return self.rng.choice(self.paths) if self.paths else self._new()

    def _new(self) -> bytes:
        """A name, perhaps taken, in some directory, which is seldom deep down."""
        directories = [path for path in self.paths if path.count(b"/") < self.top.count(b"/") + 4]
        parent = self.rng.choice([self.top, *directories])
        return os.path.join(parent, self.rng.choice(_NAMES))

    def _file(self) -> bytes:
        files = [path for path in self.paths if _is(path, stat.S_IFREG)]
        return self.rng.choice(files) if files and self.rng.random() < 0.8 else self._new()

    def _data(self) -> bytes:
        size = self.rng.choice(_SIZES) if self.rng.random() < 0.3 else self.rng.randrange(3000)
        start = self.rng.randrange(len(self.pool) - size)
        return self.pool[start : start + size]

    def _write(self, path: bytes, flags: int, data: bytes, offset: int) -> str:
        if os.path.lexists(path) and not _is(path, stat.S_IFREG):
            return f"{path!r} is no file"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | flags, 0o644)
        try:
            os.pwrite(fd, data, offset)
        finally:
            os.close(fd)
        return f"{path!r} {offset} + {len(data)}"

    # --- content -----------------------------------------------------------------------------------------

    def write(self) -> str:
        return self._write(self._file(), 0, self._data(), self.rng.choice(_SIZES))

    def append(self) -> str:
        return self._write(self._file(), os.O_APPEND, self._data(), 0)

    def save(self) -> str:
        return self._write(self._file(), os.O_TRUNC, self._data(), 0)

    def save_by_rename(self) -> str:
        path = self._file()
        new = path[:-1] + b"~"
        said = self._write(new, os.O_TRUNC, self._data(), 0)
        os.rename(new, path)
        return f"{said} renamed to {path!r}"

    def create(self) -> str:
        return self._write(self._new(), os.O_EXCL, self._data(), 0)

    def resize(self) -> str:
        path, size = self._file(), self.rng.choice(_SIZES)
        if not _is(path, stat.S_IFREG):
            return f"{path!r} is no file"
        os.truncate(path, size)
        return f"{path!r} to {size}"

    def copy(self) -> str:
        source, target = self._file(), self._file()
        if not (_is(source, stat.S_IFREG) and _is(target, stat.S_IFREG)):
            return "no files"
        from_fd, to_fd = os.open(source, os.O_RDONLY), os.open(target, os.O_WRONLY)
        try:
            count = os.copy_file_range(from_fd, to_fd, 300_000, 0, self.rng.choice(_SIZES))
        finally:
            os.close(from_fd)
            os.close(to_fd)
        return f"{source!r} to {target!r}: {count}"

    # --- what stays open ---------------------------------------------------------------------------------

    def open_one(self) -> str:
        path = self._file()
        if not _is(path, stat.S_IFREG):
            return f"{path!r} is no file"
        self.open.append(os.open(path, os.O_RDWR))
        return repr(path)

    def close_one(self) -> str:
        if len(self.open) < 3:
            return "few are open"
        os.close(self.open.pop(self.rng.randrange(len(self.open))))
        return ""

    def write_open(self) -> str:
        if not self.open:
            return "none is open"
        data, offset = self._data(), self.rng.choice(_SIZES)
        os.pwrite(self.rng.choice(self.open), data, offset)
        return f"{offset} + {len(data)}"

    def resize_open(self) -> str:
        if not self.open:
            return "none is open"
        size = self.rng.choice(_SIZES)
        os.ftruncate(self.rng.choice(self.open), size)
        return f"{size}"

    def sync(self) -> str:
        if not self.open:
            return "none is open"
        os.fsync(self.rng.choice(self.open))
        return ""

    def map_one(self) -> str:
        path = self._file()
        if not _is(path, stat.S_IFREG) or os.path.getsize(path) == 0:
            return f"{path!r} has nothing to map"
        fd = os.open(path, os.O_RDWR)
        self.mapped.append((fd, mmap.mmap(fd, 0)))
        return f"{path!r} {len(self.mapped[-1][1])} bytes"

    def write_mapped(self) -> str:
        if not self.mapped:
            return "none is mapped"
        fd, mapping = self.rng.choice(self.mapped)
        # Beyond the end of the file, which may have come nearer, lies SIGBUS.
        size = min(len(mapping), os.fstat(fd).st_size)
        data = self._data()[:size]
        offset = self.rng.randrange(size - len(data) + 1)
        mapping[offset : offset + len(data)] = data
        return f"{offset} + {len(data)}"

    def unmap(self) -> str:
        if not self.mapped:
            return "none is mapped"
        fd, mapping = self.mapped.pop(self.rng.randrange(len(self.mapped)))
        mapping.close()
        os.close(fd)
        return ""

    # --- names -------------------------------------------------------------------------------------------

    def mkdir(self) -> str:
        path = self._new()
        os.mkdir(path, self.rng.choice((0o755, 0o700, 0o2755)))
        return repr(path)

    def symlink(self) -> str:
        path, target = self._new(), self.rng.choice((b"a", b"../nowhere", b"/etc/hostname", b"\xfe" * 300))
        os.symlink(target, path)
        return f"{path!r} to {target!r}"

    def special(self) -> str:
        path = self._new()
        kind = self.rng.choice((stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, stat.S_IFCHR))
        os.mknod(path, kind | 0o640, os.makedev(1, 3) if kind == stat.S_IFCHR else 0)
        return f"{path!r} {kind:o}"

    def link(self) -> str:
        old, new = self._any(), self._new()
        os.link(old, new, follow_symlinks=False)
        return f"{old!r} as {new!r}"

    def unlink(self) -> str:
        path = self._any()
        os.unlink(path)
        return repr(path)

    def rmdir(self) -> str:
        path = self._any()
        os.rmdir(path)
        return repr(path)

    def rename(self) -> str:
        new = self._any() if self.rng.random() < 0.5 else self._new()
        return self._rename(self._any(), new, self.rng.choice((0, 0, _NOREPLACE)))

    def exchange(self) -> str:
        return self._rename(self._any(), self._any(), _EXCHANGE)

    def _rename(self, old: bytes, new: bytes, flags: int) -> str:
        if self.libc.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, flags) != 0:
            raise OSError(ctypes.get_errno(), "renameat2")
        return f"{old!r} to {new!r}, flags {flags}"

    # --- attributes --------------------------------------------------------------------------------------

    def chmod(self) -> str:
        path, mode = self._any(), self.rng.choice(_MODES)
        if os.path.islink(path):
            return f"{path!r} is a symlink"
        os.chmod(path, mode)
        return f"{path!r} {mode:o}"

    def chown(self) -> str:
        path, owner = self._any(), (self.rng.choice(_OWNERS), self.rng.choice(_OWNERS))
        os.chown(path, *owner, follow_symlinks=False)
        return f"{path!r} {owner}"

    def times(self) -> str:
        path, time = self._any(), self.rng.choice(_TIMES)
        os.utime(path, ns=(time, time), follow_symlinks=False)
        return f"{path!r} {time}"

    def time_now(self) -> str:
        path = self._any()
        os.utime(path, follow_symlinks=False)
        return repr(path)

    def set_attribute(self) -> str:
        path, name, value = self._file(), self.rng.choice(_ATTRIBUTES), self._data()[:900]
        os.setxattr(path, name, value, follow_symlinks=False)
        return f"{path!r} {name!r} {len(value)}"

    def remove_attribute(self) -> str:
        path, name = self._file(), self.rng.choice(_ATTRIBUTES)
        os.removexattr(path, name, follow_symlinks=False)
        return f"{path!r} {name!r}"


def _is(path: bytes, kind: int) -> bool:
    try:
        return stat.S_IFMT(os.lstat(path).st_mode) == kind
    except OSError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description="Changes a tree in every way there is.")
    parser.add_argument("directory", type=os.fsencode)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--operations", type=int, default=500)
    parser.add_argument("--xattrs", action="store_true")
    asked = parser.parse_args()
    history = History(asked.directory, asked.seed, xattrs=asked.xattrs)
    history.go(asked.operations)
    sys.stdout.write("done\n")
    sys.stdout.flush()
    sys.stdin.read()
    history.let_go()


if __name__ == "__main__":
    main()
