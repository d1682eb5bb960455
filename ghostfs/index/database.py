"""Opening and creating the SQLite files of GhostFS: connection settings, versions, migrations.

A file is one of ours if its `application_id` says so, and readable if its `user_version` is not above the
number of migrations we know. A file of a newer version is refused before SQLite touches it.
"""

from __future__ import annotations

__all__ = ["Format", "connect", "create_database", "one_picture", "open_database", "uri_of"]

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ghostfs import private
from ghostfs.errors import GhostError, IndexDamaged, IndexTooNew
from ghostfs.index.damage import remedy, translate

_MAGIC = b"SQLite format 3\0"
_HEADER_SIZE = 100
_USER_VERSION_AT = 60
_APPLICATION_ID_AT = 68
_BUSY_TIMEOUT_MS = 10_000
_CACHE_KIB = 8192
_WAL_LIMIT = 64 << 20

_checking = threading.Lock()
_checked: set[tuple[int, int, int]] = set()
"""Device, inode number and application id of the files whose header was found right."""

_WAL_PAGES = 16_384
"""Pages of the write-ahead log (64 MiB) after which a commit carries them into the database by itself. That
syncs, and on a journalling filesystem makes everybody wait who changes files: whoever commits a lot does it
by `checkpoint` once nothing else goes on."""


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of database file: how it is recognised, and the steps that made its tables.

    `migrations[n]` leads from version n to version n + 1; each gets a `sqlite_utils.Database` inside a
    transaction, and must not end it. Steps that have been released never change.
    """

    what: str
    application_id: int
    tables: frozenset[str]
    migrations: tuple[Callable[[Any], None], ...]

    @property
    def version(self) -> int:
        """What `PRAGMA user_version` says when all migrations are done."""
        return len(self.migrations)


def uri_of(path: Path, mode: str) -> str:
    """How SQLite is told of a file; `mode` is `ro`, `rw` or `rwc`. Paths need not be UTF-8."""
    return f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}"


def connect(path: Path, mode: str, *, durable: bool = False) -> sqlite3.Connection:
    """A connection in explicit-transaction mode; `mode` is SQLite's `ro`, `rw` or `rwc`."""
    connection = sqlite3.connect(
        uri_of(path, mode), uri=True, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        for pragma in (
            f"busy_timeout={_BUSY_TIMEOUT_MS}",
            f"synchronous={'FULL' if durable else 'NORMAL'}",
            f"cache_size=-{_CACHE_KIB}",
            f"journal_size_limit={_WAL_LIMIT}",
            f"wal_autocheckpoint={_WAL_PAGES}",
            "temp_store=MEMORY",
            "trusted_schema=OFF",
            "cell_size_check=ON",  # damage is noticed where it is, not where it leads
        ):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def one_picture(connection: sqlite3.Connection) -> Iterator[None]:
    """Let the reads of a block see one moment; not inside a transaction."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:  # SQLite ends it by itself after some errors
            connection.execute("COMMIT")


def create_database(
    path: Path, form: Format, fill: Callable[[sqlite3.Connection], object], *, wal: bool = True
) -> None:
    """Make a database with all tables and what `fill` puts in, durably, and never half made.

    It is built under another name and renamed when complete. `wal` lets readers and a writer work at once.

    Raises:
        FileExistsError: something is at `path`.
        OSError: the disk is full, failing or read-only; nothing is left.
    """
    if path.exists():
        raise FileExistsError(f"{path} is already there")
    new = path.with_name(path.name + ".new")
    _remove(new)  # what a killed call left
    try:
        _build(new, form, fill, wal=wal)
        new.rename(path)
    except BaseException as error:
        _remove(new)
        if isinstance(error, sqlite3.Error):
            raise translate(error, path) from error
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _remove(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _build(new: Path, form: Format, fill: Callable[[sqlite3.Connection], object], *, wal: bool) -> None:
    # Made by us for its mode, which SQLite gives to the files beside it too.
    os.close(private.opener(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    connection = connect(new, "rw", durable=True)
    try:
        connection.execute("PRAGMA page_size=4096")
        connection.execute(f"PRAGMA application_id={form.application_id}")
        _migrate(connection, form)
        fill(connection)
        if wal:
            connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def open_database(
    path: Path, form: Format, *, readonly: bool = False, durable: bool = False
) -> sqlite3.Connection:
    """Open a database that `create_database` made, bringing an older one up to date.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        IndexTooNew: it was written by a newer version; it has not been changed.
        IndexDamaged: it is not a database, not one of this format, or broken.
    """
    _check_header(path, form)
    try:
        connection = connect(path, "ro" if readonly else "rw", durable=durable)
    except sqlite3.Error as error:
        raise translate(error, path) from error
    try:
        _check_version(connection, path, form, readonly=readonly)
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        if not tables >= form.tables:
            missing = ", ".join(sorted(form.tables - tables))
            raise IndexDamaged(f"{path} lacks the tables {missing}: {remedy(path)}")  # noqa: TRY301
    except sqlite3.Error as error:
        raised = translate(error, path)  # while its descriptors can tell whether the disk is at fault
        connection.close()
        raise raised from error
    except BaseException:
        connection.close()
        raise
    return connection


def _too_new(path: Path, version: int, form: Format) -> IndexTooNew:
    return IndexTooNew(
        f"{path} is an {form.what} of version {version}, and this GhostFS knows up to {form.version}: "
        "upgrade GhostFS; nothing was changed"
    )


def _check_header(path: Path, form: Format) -> None:
    """Look at the file itself, before SQLite may write a journal beside it.

    Once for each file: to close one takes away all locks that this process has on it, those of connections
    too, and other processes would then remove the log that these read.
    """
    with _checking:
        status = path.stat()
        identity = status.st_dev, status.st_ino, form.application_id
        if identity not in _checked:
            _read_header(path, form)
            _checked.add(identity)


def _read_header(path: Path, form: Format) -> None:
    with path.open("rb") as file:
        header = file.read(_HEADER_SIZE)
    if len(header) < _HEADER_SIZE or not header.startswith(_MAGIC):
        raise IndexDamaged(f"{path} is not a database: {remedy(path)}")
    if int.from_bytes(header[_APPLICATION_ID_AT : _APPLICATION_ID_AT + 4], "big") != form.application_id:
        raise IndexDamaged(f"{path} is a database, but not a GhostFS {form.what}: {remedy(path)}")
    version = int.from_bytes(header[_USER_VERSION_AT : _USER_VERSION_AT + 4], "big")
    if version > form.version:
        raise _too_new(path, version, form)


def _check_version(connection: sqlite3.Connection, path: Path, form: Format, *, readonly: bool) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > form.version:
        raise _too_new(path, version, form)
    if version < form.version:
        if readonly:
            raise GhostError(
                f"{path} is of an older version: mount the session, or start the hub, to upgrade it"
            )
        _migrate(connection, form)


def _migrate(connection: sqlite3.Connection, form: Format) -> None:
    # Loaded here because it takes 50 ms, and nearly every start finds nothing to migrate.
    import sqlite_utils

    db = sqlite_utils.Database(connection, recursive_triggers=False, execute_plugins=False)
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for migration in form.migrations[version:]:
            migration(db)
        connection.execute(f"PRAGMA user_version={form.version}")
        connection.execute("COMMIT")
    except BaseException:
        # Where the disk is full, SQLite may have rolled back by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
