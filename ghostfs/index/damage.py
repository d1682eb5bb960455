"""What SQLite reports, in the words of GhostFS, and how a damaged database is put out of the way.

This is the one boundary where `sqlite3.Error` is translated. Damage becomes `IndexDamaged`; a full disk, a
failing disk and a read-only filesystem become the `OSError` they are; a lock that nobody gave up becomes
`SessionBusy`. Anything else is a bug and stays as it is.
"""

from __future__ import annotations

__all__ = ["asides", "remedy", "reports_damage", "set_aside", "translate"]

import errno
import functools
import os
import sqlite3
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
        return IndexDamaged(f"{path} is damaged ({error}): {remedy(path)}")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return SessionBusy(f"{path} is locked by another process for too long: try again")
    if code == sqlite3.SQLITE_FULL or (extended in _NEEDS_ROOM and _is_full(path.parent)):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    if code in _ERRNO:
        return OSError(_ERRNO[code], f"{os.strerror(_ERRNO[code])} ({error})", str(path))
    return error


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
