"""What SQLite reports, in the words of GhostFS, and how a damaged database is put out of the way.

This is the one boundary where `sqlite3.Error` is translated. Damage becomes `IndexDamaged`; a full disk, a
failing disk and a read-only filesystem become the `OSError` they are; a lock that nobody gave up becomes
`SessionBusy`. Anything else is a bug and stays as it is.
"""

from __future__ import annotations

__all__ = ["reports_damage", "set_aside", "translate"]

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
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_TOOBIG: errno.EFBIG,
}


class _HasPath(Protocol):
    @property
    def path(self) -> Path: ...


_S = TypeVar("_S", bound=_HasPath)


def translate(error: sqlite3.Error, path: Path) -> Exception:
    """What to raise instead of `error`, which came up while the database at `path` was used."""
    # The low byte is the primary code; errors that Python itself raises have none.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _DAMAGED:
        return IndexDamaged(f"{path} is damaged ({error}): set it aside and rebuild it from the tree")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return SessionBusy(f"{path} is locked by another process for too long: try again")
    if code in _ERRNO:
        return OSError(_ERRNO[code], f"{os.strerror(_ERRNO[code])} ({error})", str(path))
    return error


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
