"""A snapshot: the tree of one moment in tree order, in a file of its own, readable from any position.

Followers that have no usable cursor are fed from it, each at its own pace, across restarts of either side,
while the session goes on. Breadth first, so that a parent always comes before its children; an inode
travels with the first of its names.
"""

from __future__ import annotations

__all__ = ["Chunk", "Frozen", "freeze"]

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ghostfs.errors import IndexDamaged
from ghostfs.index.damage import remedy, reports_damage, translate
from ghostfs.index.database import Format, connect, create_database, open_database, uri_of
from ghostfs.index.fingerprint import unpack
from ghostfs.index.rows import INODE_FIXED, inode_of
from ghostfs.index.state import State
from ghostfs.model import ROOT, Dirent, Inode, Kind

_TABLES = (
    """
CREATE TABLE snapshot (
  -- One row: which snapshot this is, and the state of the index it was made from.
  snapshot_id BLOB NOT NULL,     -- 16 random bytes
  epoch INTEGER NOT NULL,
  head INTEGER NOT NULL,
  fingerprint BLOB NOT NULL,     -- 16 bytes, big-endian
  committed_ns INTEGER NOT NULL,
  entries INTEGER NOT NULL       -- how many rows entry has; 0 when there is not even a root
)""",
    """
CREATE TABLE entry (
  -- The live dirents in tree order; the first is the root, which has no name.
  position INTEGER PRIMARY KEY,  -- 1, 2, 3 ...
  parent INTEGER NOT NULL,       -- 0 for the root
  name BLOB NOT NULL,            -- empty for the root
  inode INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  origin INTEGER NOT NULL,
  first INTEGER NOT NULL         -- 1: the inode travels with this one; 0: a further hard link
)""",
    f"""
CREATE TABLE inode (
  -- As in the index.
  id INTEGER PRIMARY KEY,
  {INODE_FIXED.removeprefix("id, ")},
  attr_seq, content_seq, origin, backing_ino, backing_ctime_ns, blocks
)""",
)

_INODE_COLUMNS = f"{INODE_FIXED}, attr_seq, content_seq, origin, backing_ino, backing_ctime_ns, blocks"
_CELL_OVERHEAD = 96
"""Bytes reckoned for the fixed part of a cell."""


def _first_tables(db: Any) -> None:
    for statement in _TABLES:
        db.execute(statement)


FROZEN_FORMAT = Format(
    what="snapshot",
    application_id=0x47465346,  # "GFSF"
    tables=frozenset({"snapshot", "entry", "inode"}),
    migrations=(_first_tables,),
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some cells of a snapshot: those after an earlier position, up to `position`."""

    position: int
    last: bool
    inodes: list[Inode]
    dirents: list[Dirent]


def freeze(index: Path, path: Path) -> None:
    """Write the snapshot of the index at `index` to `path`, atomically replacing what is there.

    Reads through a connection of its own; the session goes on meanwhile.

    Raises:
        IndexDamaged: the directories do not form a tree, or a name means nothing that is there.
    """
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    create_database(partial, FROZEN_FORMAT, lambda _: None, wal=False)
    source = connect(index, "ro")
    try:
        source.execute("ATTACH ? AS frozen", (uri_of(partial, "rw"),))
        source.execute("PRAGMA frozen.journal_mode=OFF")
        source.execute("PRAGMA frozen.synchronous=OFF")
        source.execute("BEGIN")
        _copy(source, index)
        source.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            source.close()
        partial.unlink(missing_ok=True)
        raise
    source.close()
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def _copy(source: sqlite3.Connection, index: Path) -> None:
    state = source.execute("SELECT epoch, head, fingerprint, committed_ns FROM main.state").fetchone()
    source.execute(
        f"INSERT INTO frozen.inode ({_INODE_COLUMNS}) SELECT {_INODE_COLUMNS} FROM main.inode ORDER BY id"
    )
    source.execute(
        "INSERT INTO frozen.entry SELECT 1, 0, x'', id, 0, 0, 1 FROM main.inode WHERE id = ?", (ROOT,)
    )
    (most,) = source.execute("SELECT count(*) + 1 FROM main.dirent WHERE inode IS NOT NULL").fetchone()
    low, high = 0, source.execute("SELECT count(*) FROM frozen.entry").fetchone()[0]
    while high > low:
        # One level of the tree; CROSS JOIN keeps SQLite from reordering, so no sorting is needed.
        source.execute(
            "INSERT INTO frozen.entry (parent, name, inode, seq, origin, first)"
            " SELECT d.parent, d.name, d.inode, d.seq, d.origin, 1"
            " FROM frozen.entry e CROSS JOIN main.inode i ON i.id = e.inode AND i.kind = ?"
            " CROSS JOIN main.dirent d ON d.parent = i.id AND d.inode IS NOT NULL"
            " WHERE e.position > ? AND e.position <= ? ORDER BY e.position, d.name",
            (Kind.DIRECTORY.value, low, high),
        )
        low, high = high, source.execute("SELECT max(position) FROM frozen.entry").fetchone()[0]
        if high > most:
            raise IndexDamaged(f"{index}: a directory contains itself: {remedy(index)}")
    dangling = source.execute(
        "SELECT inode FROM frozen.entry WHERE inode NOT IN (SELECT id FROM frozen.inode) LIMIT 1"
    ).fetchone()
    if dangling is not None:
        raise IndexDamaged(f"{index}: {dangling[0]:x} has a name and no inode: {remedy(index)}")
    source.execute(
        "CREATE TEMP TABLE first_name AS SELECT inode, min(position) AS position FROM frozen.entry"
        " WHERE inode IN (SELECT inode FROM main.dirent WHERE inode IS NOT NULL GROUP BY inode HAVING count(*) > 1)"
        " GROUP BY inode"
    )
    source.execute(
        "UPDATE frozen.entry SET first = 0 WHERE position IN"
        " (SELECT e.position FROM first_name f JOIN frozen.entry e ON e.inode = f.inode"
        "  WHERE e.position <> f.position)"
    )
    source.execute(
        "INSERT INTO frozen.snapshot VALUES (?, ?, ?, ?, ?, (SELECT count(*) FROM frozen.entry))",
        (secrets.token_bytes(16), *state),
    )


class Frozen:
    """A snapshot, opened for reading by any one thread at a time.

    Raises (every method):
        IndexDamaged: the file cannot be read.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path
        row = connection.execute(
            "SELECT snapshot_id, epoch, head, fingerprint, committed_ns, entries FROM snapshot"
        ).fetchone()
        if row is None:
            raise IndexDamaged(f"{path} was never finished: delete it")
        self._id: bytes = row[0]
        epoch, head, fingerprint, committed_ns = row[1:5]
        self._entries: int = row[5]
        self._state = State(epoch, head, unpack(fingerprint), committed_ns)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open what `Index.freeze` wrote.

        Raises:
            FileNotFoundError: there is nothing at `path`.
        """
        connection = open_database(path, FROZEN_FORMAT, readonly=True)
        try:
            return cls(connection, path)
        except sqlite3.Error as error:
            connection.close()
            raise translate(error, path) from error
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def snapshot_id(self) -> bytes:
        """16 random bytes, another for each snapshot."""
        return self._id

    @property
    def state(self) -> State:
        """The state of the index at the moment of the snapshot."""
        return self._state

    @property
    def entries(self) -> int:
        """The highest position: the number of names, and the root."""
        return self._entries

    @reports_damage
    def chunk(self, after_position: int, max_cells: int, max_bytes: int) -> Chunk:
        """The cells that follow a position; 0 is the beginning, and the first chunk has the root's inode.

        At most `max_cells` cells and about `max_bytes` bytes, block lists included; but at least one name
        with its inode, whatever its size. `last` says that nothing follows.
        """
        inodes: list[Inode] = []
        dirents: list[Dirent] = []
        position, size = after_position, 0
        for at, dirent, inode in self._after(after_position):
            cost = _CELL_OVERHEAD + len(dirent.name)
            if inode is not None:
                cost += _CELL_OVERHEAD + len(inode.blocks) + len(inode.target) + len(inode.xattrs)
            cells = len(inodes) + len(dirents) + 1 + (inode is not None)
            if position > after_position and (cells > max_cells or size + cost > max_bytes):
                break
            position, size = at, size + cost
            if inode is not None:
                inodes.append(inode)
            if dirent.name:
                dirents.append(dirent)
        return Chunk(position, position >= self._entries, inodes, dirents)

    def _after(self, position: int) -> Iterator[tuple[int, Dirent, Inode | None]]:
        columns = ", ".join(f"i.{column}" for column in _INODE_COLUMNS.split(", "))
        for row in self._connection.execute(
            f"SELECT e.position, e.parent, e.name, e.inode, e.seq, e.origin, e.first, {columns}"
            " FROM entry e LEFT JOIN inode i ON e.first AND i.id = e.inode WHERE e.position > ? ORDER BY e.position",
            (position,),
        ):
            at, parent, name, id_, seq, origin, first = row[:7]
            yield at, Dirent(parent, name, id_, seq, origin), inode_of(row[7:]) if first else None
