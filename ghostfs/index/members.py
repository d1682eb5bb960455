"""hub.db: which nodes there are, which sessions each follows, and how far it is.

What a hub promises about replica numbers must hold for ever, so every change but a repeated
acknowledgement waits for the disk.
"""

from __future__ import annotations

__all__ = ["Lease", "Members", "Membership", "Node"]

import secrets
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ghostfs.errors import GhostError, NameTaken
from ghostfs.index.damage import reports_damage, translate
from ghostfs.index.database import Format, create_database, open_database
from ghostfs.model import Cursor, Epoch, Replica, Seq

_REPLICAS = 1 << 16

_TABLES = (
    """
CREATE TABLE hub (
  -- One row: who this hub is.
  hub_id BLOB NOT NULL,          -- 16 random bytes, made with the database
  next_replica INTEGER NOT NULL  -- the next replica number to hand out; only grows: none is ever given twice
)""",
    """
CREATE TABLE node (
  node_id BLOB PRIMARY KEY,      -- 16 random bytes, made once and kept by the node
  name TEXT NOT NULL,            -- what it called itself last; not unique
  replica INTEGER NOT NULL UNIQUE, -- 1 to 65535: the high bits of the inode ids it makes
  first_seen_ns INTEGER NOT NULL, -- wall clock, ns since 1970
  last_seen_ns INTEGER NOT NULL
) WITHOUT ROWID""",
    """
CREATE TABLE membership (
  session TEXT NOT NULL,         -- name of the session
  node_id BLOB NOT NULL REFERENCES node (node_id),
  epoch INTEGER NOT NULL,        -- of the acknowledged cursor; 0 = nothing acknowledged yet
  seq INTEGER NOT NULL,          -- the acknowledged cursor; 0 = nothing yet
  fingerprint BLOB,              -- the node's at that cursor, 16 bytes; NULL = it did not say
  acked_ns INTEGER NOT NULL,     -- wall clock of the last acknowledgement; 0 = none yet
  PRIMARY KEY (session, node_id)
) WITHOUT ROWID""",
    "CREATE INDEX membership_by_node ON membership (node_id)",
)


_LEASE = """
CREATE TABLE lease (
  -- A first sync under way: what its member will need deltas from once it is through.
  session TEXT NOT NULL,
  node_id BLOB NOT NULL,
  epoch INTEGER NOT NULL,        -- the snapshot's
  seq INTEGER NOT NULL,          -- the snapshot's head
  taken_ns INTEGER NOT NULL,     -- wall clock when serving it began, or went on
  PRIMARY KEY (session, node_id)
) WITHOUT ROWID"""


def _first_tables(db: Any) -> None:
    for statement in _TABLES:
        db.execute(statement)


def _lease_table(db: Any) -> None:
    db.execute(_LEASE)


MEMBERS_FORMAT = Format(
    what="hub database",
    application_id=0x47465348,  # "GFSH"
    tables=frozenset({"hub", "node", "membership", "lease"}),
    migrations=(_first_tables, _lease_table),
)


@dataclass(frozen=True, slots=True)
class Node:
    """A machine that has enrolled."""

    node_id: bytes
    name: str
    replica: Replica
    first_seen_ns: int
    last_seen_ns: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A snapshot, of the state `cursor`, that a member is being served; `taken_ns` is a wall clock's."""

    cursor: Cursor
    taken_ns: int


@dataclass(frozen=True, slots=True)
class Membership:
    """A node that follows a session. `cursor` is `None` until it has acknowledged anything.

    `fingerprint` is the node's at that cursor, `None` if it did not say; `acked_ns` is 0 until then.
    """

    session: str
    node: Node
    cursor: Cursor | None
    fingerprint: bytes | None
    acked_ns: int


_MEMBERSHIP = (
    "SELECT m.session, n.node_id, n.name, n.replica, n.first_seen_ns, n.last_seen_ns,"
    " m.epoch, m.seq, m.fingerprint, m.acked_ns FROM membership m JOIN node n USING (node_id)"
)


class Members:
    """The store, for any one thread at a time.

    Every change is one transaction, durable when the method returns unless it says otherwise.

    Raises (every method): as `ghostfs.index.damage` says.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._execute = connection.execute
        self.path = path
        self._hub_id: bytes = self._execute("SELECT hub_id FROM hub").fetchone()[0]

    @classmethod
    def open(cls, path: Path, *, readonly: bool = False) -> Self:
        """Open hub.db; it is made if it is not there, unless `readonly`.

        Raises:
            FileNotFoundError: it is not there, and `readonly`.
            IndexTooNew, IndexDamaged: as for an index.
        """
        if not readonly and not path.exists():
            fill = ("INSERT INTO hub (hub_id, next_replica) VALUES (?, 1)", (secrets.token_bytes(16),))
            create_database(path, MEMBERS_FORMAT, lambda new: new.execute(*fill))
        connection = open_database(path, MEMBERS_FORMAT, readonly=readonly, durable=True)
        try:
            return cls(connection, path)
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise translate(error, path) from error
            raise

    def close(self) -> None:
        """Close the connection; a second time does nothing."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def hub_id(self) -> bytes:
        """16 random bytes, made once with the database."""
        return self._hub_id

    @reports_damage
    def enrol(self, node_id: bytes, name: str) -> Replica:
        """Give a node its replica number: the same one every time it asks. Remembers its name and the time.

        Raises:
            NameTaken: another node has that name. Two that have shared one since before go on.
            GhostError: all 65,535 numbers have been given.
        """
        now = time.time_ns()
        self._execute("BEGIN IMMEDIATE")
        try:
            row = self._execute("SELECT replica, name FROM node WHERE node_id = ?", (node_id,)).fetchone()
            if row is None or row[1] != name:
                self._check_free(name)
            if row is not None:
                replica = row[0]
                self._execute(
                    "UPDATE node SET name = ?, last_seen_ns = ? WHERE node_id = ?", (name, now, node_id)
                )
            else:
                (replica,) = self._execute("SELECT next_replica FROM hub").fetchone()
                if replica >= _REPLICAS:
                    raise GhostError(f"{self.path}: all {_REPLICAS - 1} node numbers have been given")
                self._execute("UPDATE hub SET next_replica = ?", (replica + 1,))
                self._execute("INSERT INTO node VALUES (?, ?, ?, ?, ?)", (node_id, name, replica, now, now))
            self._execute("COMMIT")
        finally:
            self._rollback_unfinished()
        return Replica(replica)

    @reports_damage
    def node(self, node_id: bytes) -> Node | None:
        """The node, if it has enrolled."""
        row = self._execute("SELECT * FROM node WHERE node_id = ?", (node_id,)).fetchone()
        return None if row is None else Node(*row)

    @reports_damage
    def nodes(self) -> list[Node]:
        """All nodes, by name."""
        return [Node(*row) for row in self._execute("SELECT * FROM node ORDER BY name, node_id")]

    @reports_damage
    def named(self, name: str) -> list[Node]:
        """The nodes of that name: one at most, but for those that shared it before names were unique."""
        rows = self._execute("SELECT * FROM node WHERE name = ? ORDER BY node_id", (name,))
        return [Node(*row) for row in rows]

    @reports_damage
    def join(self, session: str, node_id: bytes) -> None:
        """Make an enrolled node a member of a session; one that is a member keeps its cursor.

        Raises:
            GhostError: the node has not enrolled.
        """
        if self.node(node_id) is None:
            raise GhostError(f"node {node_id.hex()} is not known to this hub: let it enrol first")
        self._execute(
            "INSERT OR IGNORE INTO membership VALUES (?, ?, 0, 0, NULL, 0)",
            (session, node_id),
        )

    @reports_damage
    def acknowledge(
        self,
        session: str,
        node_id: bytes,
        cursor: Cursor,
        fingerprint: bytes | None = None,
        *,
        durable: bool = True,
    ) -> bool:
        """Remember how far a member has durably applied a session; nothing happens, and False is returned, if it
        is not a member.

        Without `durable` a power cut may take the hub back to an earlier acknowledgement. That costs
        nothing but tombstones kept for longer, because a node says its own cursor when it connects.
        """
        now = time.time_ns()
        if not durable:
            self._execute("PRAGMA synchronous=NORMAL")
        try:
            rows = self._execute(
                "UPDATE membership SET epoch = ?, seq = ?, fingerprint = ?, acked_ns = ?"
                " WHERE session = ? AND node_id = ?",
                (cursor.epoch, cursor.seq, fingerprint or None, now, session, node_id),
            ).rowcount
            self._execute("DELETE FROM lease WHERE session = ? AND node_id = ?", (session, node_id))
        finally:
            if not durable:
                self._execute("PRAGMA synchronous=FULL")
        return rows > 0

    @reports_damage
    def lease(self, session: str, node_id: bytes, cursor: Cursor) -> None:
        """Note that a node is being served a snapshot of that state. Ends with its next acknowledgement.

        Not durable: what a power cut takes costs the node another snapshot.
        """
        self._execute("PRAGMA synchronous=NORMAL")
        try:
            self._execute(
                "INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?, ?)",
                (session, node_id, cursor.epoch, cursor.seq, time.time_ns()),
            )
        finally:
            self._execute("PRAGMA synchronous=FULL")

    @reports_damage
    def leases(self, session: str) -> list[Lease]:
        """The first syncs of a session that are under way, or were given up."""
        rows = self._execute("SELECT epoch, seq, taken_ns FROM lease WHERE session = ?", (session,))
        return [Lease(Cursor(Epoch(epoch), Seq(seq)), taken) for epoch, seq, taken in rows]

    @reports_damage
    def membership(self, session: str, node_id: bytes) -> Membership | None:
        """One member of a session."""
        row = self._execute(
            f"{_MEMBERSHIP} WHERE m.session = ? AND m.node_id = ?", (session, node_id)
        ).fetchone()
        return None if row is None else _membership_of(row)

    def cursor(self, session: str, node_id: bytes) -> Cursor | None:
        """What a member acknowledged last; `None` if nothing, or if it is no member."""
        member = self.membership(session, node_id)
        return None if member is None else member.cursor

    @reports_damage
    def members(self, session: str) -> list[Membership]:
        """The members of a session, by name."""
        rows = self._execute(f"{_MEMBERSHIP} WHERE m.session = ? ORDER BY n.name, n.node_id", (session,))
        return [_membership_of(row) for row in rows]

    @reports_damage
    def sessions(self) -> list[str]:
        """The sessions that have members, by name."""
        return [
            name for (name,) in self._execute("SELECT DISTINCT session FROM membership ORDER BY session")
        ]

    def least_cursor(self, session: str, epoch: Epoch) -> Seq | None:
        """The sequence that every member has passed: tombstones up to it are of no more use.

        A member with a cursor of another epoch, or none, needs a snapshot, and so no tombstones. `None`
        if no member has a cursor of this epoch.
        """
        cursors = [member.cursor for member in self.members(session)]
        return min((c.seq for c in cursors if c is not None and c.epoch == epoch), default=None)

    @reports_damage
    def leave(self, session: str, node_id: bytes) -> bool:
        """End a membership; says whether there was one."""
        self._execute("DELETE FROM lease WHERE session = ? AND node_id = ?", (session, node_id))
        rows = self._execute(
            "DELETE FROM membership WHERE session = ? AND node_id = ?", (session, node_id)
        ).rowcount
        return rows > 0

    @reports_damage
    def remove_session(self, session: str) -> int:
        """End all memberships of a session that is no more; returns how many."""
        self._execute("DELETE FROM lease WHERE session = ?", (session,))
        return self._execute("DELETE FROM membership WHERE session = ?", (session,)).rowcount

    @reports_damage
    def remove_node(self, node_id: bytes) -> bool:
        """Forget a node and its memberships; says whether it was known. Its replica number stays used."""
        self._execute("BEGIN IMMEDIATE")
        try:
            self._execute("DELETE FROM lease WHERE node_id = ?", (node_id,))
            self._execute("DELETE FROM membership WHERE node_id = ?", (node_id,))
            rows = self._execute("DELETE FROM node WHERE node_id = ?", (node_id,)).rowcount
            self._execute("COMMIT")
        finally:
            self._rollback_unfinished()
        return rows > 0

    def _check_free(self, name: str) -> None:
        for holder in self.named(name):
            raise NameTaken(
                f"the name {name} is that of another node, {holder.node_id.hex()[:8]}: give this one another with "
                f"--name, or, if that one is gone for good, run `ghostfs forget {name}` where the hub is"
            )

    def _rollback_unfinished(self) -> None:
        if self._connection.in_transaction:
            self._execute("ROLLBACK")


def _membership_of(row: tuple[Any, ...]) -> Membership:
    session, *node, epoch, seq, fingerprint, acked_ns = row
    cursor = Cursor(Epoch(epoch), Seq(seq)) if epoch else None
    return Membership(session, Node(*node), cursor, fingerprint, acked_ns)
