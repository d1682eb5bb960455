"""All that changed since a cursor, as one consistent picture."""

from __future__ import annotations

__all__ = ["CursorTooOld", "Delta", "DeltaStream"]

import heapq
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ghostfs.errors import GhostError
from ghostfs.index.damage import reports_damage, translate
from ghostfs.index.database import connect, one_picture
from ghostfs.index.fingerprint import unpack
from ghostfs.index.rows import SQL, dirent_of, inode_of
from ghostfs.model import Dirent, Epoch, Inode, Seq


class CursorTooOld(GhostError):
    """What changed since that cursor is no longer known, or it is above the head: a snapshot is needed."""


@dataclass(frozen=True, slots=True)
class Delta:
    """The cells with `since` < seq <= `head`, each list by ascending sequence; dirents include tombstones.

    An inode that lost its last name is in none of them: whoever follows drops what is no longer named.
    """

    epoch: Epoch
    since: Seq
    head: Seq
    fingerprint: int
    committed_ns: int
    inodes: list[Inode]
    dirents: list[Dirent]


def check_cursor(connection: sqlite3.Connection, since: Seq) -> tuple[Epoch, Seq, int, int]:
    """Epoch, head, fingerprint and committed_ns, if the journal reaches back to `since`.

    `NEVER` is never too old: whoever has nothing needs no tombstones.
    """
    epoch, head, fingerprint, committed_ns, floor = connection.execute(
        "SELECT epoch, head, fingerprint, committed_ns, floor FROM state"
    ).fetchone()
    if 0 < since < floor:
        raise CursorTooOld(f"cursor {since} is older than {floor}, up to which deletions were forgotten")
    if since > head:
        raise CursorTooOld(f"cursor {since} is above the head {head}: it is of another history")
    return epoch, head, unpack(fingerprint), committed_ns


def read_delta(connection: sqlite3.Connection, since: Seq) -> Delta:
    """The whole delta in memory, read in one transaction."""
    with one_picture(connection):
        epoch, head, fingerprint, committed_ns = check_cursor(connection, since)
        inodes = [inode_of(row) for row in connection.execute(SQL.INODES_SINCE, (since,))]
        dirents = [dirent_of(row) for row in connection.execute(SQL.DIRENTS_SINCE, (since,))]
    return Delta(epoch, since, head, fingerprint, committed_ns, inodes, dirents)


class DeltaStream:
    """A delta that is read as it is used: memory holds one cell, whatever the delta's size.

    A context manager. It has a connection of its own, and reads the state of the moment it was entered,
    whatever is committed meanwhile; until it is left the WAL cannot shrink, so leave it soon. The fields
    are those of `Delta`; each iterator can be asked for as often as wanted.

    Raises (on entry):
        CursorTooOld: see there.
    """

    epoch: Epoch
    head: Seq
    fingerprint: int
    committed_ns: int

    def __init__(self, path: Path, since: Seq) -> None:
        self.path = path
        self.since = since
        self._connection: sqlite3.Connection | None = None

    @reports_damage
    def __enter__(self) -> Self:
        connection = connect(self.path, "ro")
        try:
            connection.execute("BEGIN")
            self.epoch, self.head, self.fingerprint, self.committed_ns = check_cursor(
                connection, self.since
            )
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def inodes(self) -> Iterator[Inode]:
        """The inodes, by ascending sequence."""
        for row in self._rows(SQL.INODES_SINCE):
            yield inode_of(row)

    @property
    def dirents(self) -> Iterator[Dirent]:
        """The dirents, tombstones included, by ascending sequence."""
        for row in self._rows(SQL.DIRENTS_SINCE):
            yield dirent_of(row)

    def cells(self) -> Iterator[Inode | Dirent]:
        """All cells, by ascending sequence."""
        return heapq.merge(self.inodes, self.dirents, key=lambda cell: cell.seq)

    def _rows(self, sql: str) -> Iterator[tuple[object, ...]]:
        if self._connection is None:
            raise ValueError("the delta stream is not open")
        try:
            yield from self._connection.execute(sql, (self.since,))
        except sqlite3.Error as error:
            raise translate(error, self.path) from error
