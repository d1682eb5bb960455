"""What SQLite reports, in the words of GhostFS, and how a damaged database is put out of the way.

This is the one boundary where `sqlite3.Error` is translated. Damage becomes `IndexDamaged`; a full disk, a
failing disk and a read-only filesystem become the `OSError` they are; a lock that nobody gave up becomes
`SessionBusy`. Anything else is a bug and stays as it is. A page that the disk did not give is no damage, though SQLite
says so: whoever took it for damage would throw away an index that is whole.
"""

from __future__ import annotations

__all__ = ["asides", "damage_found", "remedy", "reports_damage", "set_aside", "translate"]

import errno
import functools
import os
import re
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import structlog

from ghostfs.errors import GhostError, IndexDamaged, SessionBusy

_log = structlog.get_logger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_ERRNO = {
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_TOOBIG: errno.EFBIG,
}

_NEEDS_ROOM = {
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_DIR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMMAP,
}
"""What SQLite calls a failing disk where a full one is as likely: it asks for room without looking at why it
got none. Even a reader needs some, for the index of the write-ahead log."""

_CHUNK = 1 << 20
_BELIEVED_S = 10.0
_NOT_GIVEN = re.compile(r"error code=(\d+)")
"""How SQLite's own check says that it could not read a page, and why."""

_read_through: dict[Path, float] = {}
"""Until when (monotonic, seconds) it is believed of a database that it can be read."""

_LITTLE = 64 << 10
"""Free bytes below which a disk is full: SQLite asks for 32 KiB at most at once."""


class _HasPath(Protocol):
    @property
    def path(self) -> Path: ...


_S = TypeVar("_S", bound=_HasPath)


def remedy(path: Path) -> str:
    """What to do about the damaged database at `path`: of an index nothing, as it is made anew by itself."""
    if path.name == "index.db":
        return (
            "nothing needs to be done by hand: the next `ghostfs mount` of the session, or of a copy the next start "
            "of its node, will set it aside and rebuild it from the files"
        )
    if path.name == "hub.db":
        return (
            "set it aside, and the hub will make a new one, which knows no nodes until they connect again"
        )
    return "set it aside"


def translate(error: sqlite3.Error, path: Path) -> Exception:
    """What to raise instead of `error`, which came up while the database at `path` was used."""
    # The low byte is the primary code; errors that Python itself raises have none.
    extended = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    code = extended & 0xFF
    if code in _DAMAGED:
        failure = _unreadable(path)
        if failure is not None:
            return OSError(failure.errno, os.strerror(failure.errno or errno.EIO), str(path))
        return IndexDamaged(f"{path} is damaged ({error}): {remedy(path)}")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return SessionBusy(f"{path} is locked by another process for too long: try again")
    if code == sqlite3.SQLITE_FULL or (extended in _NEEDS_ROOM and _is_full(path.parent)):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and _is_read_only(path.parent):
        return OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
    if code in _ERRNO:
        return OSError(_ERRNO[code], f"{os.strerror(_ERRNO[code])} ({error})", str(path))
    return error


def damage_found(finding: str, path: Path) -> Exception:
    """What to raise of a finding of `PRAGMA quick_check` or `integrity_check`."""
    code = _NOT_GIVEN.search(finding)
    if code and int(code[1]) & 0xFF == sqlite3.SQLITE_IOERR:
        return OSError(errno.EIO, os.strerror(errno.EIO), str(path))
    return IndexDamaged(f"{path} is damaged ({finding}): {remedy(path)}")


def _unreadable(path: Path) -> OSError | None:
    """Why the database, or its log, cannot be read to its end; None if it can, or nobody has it open.

    It is read by the descriptors that SQLite has: to close one of our own would take all locks from it.
    """
    now = time.monotonic()
    if _read_through.get(path, 0.0) > now:
        return None
    ours = {os.fspath(path), os.fspath(path) + "-wal"}
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if os.readlink(f"/proc/self/fd/{fd}") not in ours:
                continue
        except OSError:
            continue  # closed meanwhile
        try:
            at = 0
            while data := os.pread(fd, _CHUNK, at):
                at += len(data)
        except OSError as error:
            if error.errno != errno.EBADF:
                return error
    _read_through[path] = now + _BELIEVED_S
    return None


def _is_read_only(directory: Path) -> bool:
    try:
        return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _is_full(directory: Path) -> bool:
    try:
        filesystem = os.statvfs(directory)
    except OSError:
        return False
    # Some blocks may be kept for root.
    blocks = filesystem.f_bavail if os.geteuid() else filesystem.f_bfree
    return blocks * filesystem.f_frsize < _LITTLE


def reports_damage(
    method: Callable[Concatenate[_S, _P], _R],
) -> Callable[Concatenate[_S, _P], _R]:
    """Let a method of an object with a `path` raise what `translate` says instead of `sqlite3.Error`."""

    @functools.wraps(method)
    def translated(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(self, *args, **kwargs)
        except sqlite3.Error as error:
            raised: Any = translate(error, self.path)
            if raised is error:
                raise
            raise raised from error

    return translated


def asides(path: Path) -> frozenset[Path]:
    """The databases that `set_aside` has put out of the way of `path`, as far as they are still there."""
    try:
        names = os.listdir(path.parent)
    except FileNotFoundError:
        return frozenset()
    start = f"{path.name}.damaged-"
    return frozenset(
        path.with_name(name)
        for name in names
        if name.startswith(start) and not name.endswith(("-wal", "-shm"))
    )


def set_aside(path: Path) -> Path:
    """Rename a damaged database, its `-wal` and its `-shm`, and return the database's new path.

    The new name ends in `.damaged-<utc>`, so that nothing opens it by mistake and somebody can still look
    at it. It may be deleted by hand.

    Raises:
        FileNotFoundError: there is no database at `path`.
        GhostError: no free name was found.
    """
    utc = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    for attempt in range(1000):
        aside = path.with_name(f"{path.name}.damaged-{utc}" + (f"-{attempt}" if attempt else ""))
        if not aside.exists():
            break
    else:
        raise GhostError(f"{path} cannot be set aside: remove old {path.name}.damaged-* files")
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            companion.rename(aside.with_name(aside.name + suffix))
    _log.warning("index_set_aside", path=str(path), aside=str(aside))
    return aside
