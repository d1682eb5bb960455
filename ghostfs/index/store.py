"""The index of one session's mirror: every inode and dirent, with what changed when.

`Index` is the way in: point look-ups, deltas, snapshots, and the two kinds of write transaction.
"""

from __future__ import annotations

__all__ = ["Index"]

import secrets
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from ghostfs.errors import GhostError, IndexDamaged
from ghostfs.index import holders
from ghostfs.index.adopt import Adopt
from ghostfs.index.check import check, recompute_fingerprint
from ghostfs.index.commit import Commit, random_epoch
from ghostfs.index.damage import damage_found, remedy, reports_damage, translate
from ghostfs.index.database import create_database, open_database
from ghostfs.index.delta import Delta, DeltaStream, read_delta
from ghostfs.index.fingerprint import pack, unpack
from ghostfs.index.frozen import freeze
from ghostfs.index.rows import SQL, dirent_of, inode_of, signed64
from ghostfs.index.schema import INDEX_FORMAT
from ghostfs.index.state import Counts, SnapshotPosition, State
from ghostfs.model import (
    REPLICA_SHIFT,
    ROOT,
    Cursor,
    Dirent,
    Epoch,
    Inode,
    InodeId,
    Replica,
    Seq,
)

_ID_SPREAD = 1 << 40
"""Counters start anywhere below this, so that ids of two epochs practically never meet."""


class Index:
    """One connection to an index, for any one thread at a time; open several for several threads.

    Reads outside a transaction see the last commit, of whichever process, and never half of one. Inside a
    `commit()` or `adopt()` block, look-ups of cells through the same object see what the block has done so
    far; the state changes with the block's end (ask the transaction for its own), and deltas and checks
    cannot be asked for.

    Raises (every method):
        IndexDamaged: the database cannot be read; see `ghostfs.index.damage.set_aside`.
        SessionBusy: another process kept the write lock for too long.
        OSError: the disk is full, failing or read-only.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: Path, *, durable: bool, keep_holders: bool
    ) -> None:
        self._connection = connection
        self._execute: Callable[..., sqlite3.Cursor] = connection.execute
        self._path = path
        self._durable = durable
        self._keep_holders = keep_holders
        (replica,) = self._execute("SELECT replica FROM state").fetchone()
        self._replica = Replica(replica)

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        epoch: Epoch | None = None,
        replica: Replica = Replica(0),  # noqa: B008 - a NewType of an int
        durable: bool = False,
        holders: bool = False,
    ) -> Self:
        """Make an empty index and open it; the root's row is put by the first commit.

        Raises:
            FileExistsError: something is at `path`.
        """
        first_id = ROOT + 1 + secrets.randbelow(_ID_SPREAD)

        def fill(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO state (id, epoch, replica, head, fingerprint, committed_ns, floor, next_id, generation)"
                " VALUES (1, ?, ?, 0, ?, 0, 0, ?, 0)",
                (epoch or random_epoch(), replica, pack(0), first_id),
            )

        create_database(path, INDEX_FORMAT, fill)
        return cls.open(path, durable=durable, holders=holders)

    @classmethod
    def open(
        cls, path: Path, *, readonly: bool = False, durable: bool = False, holders: bool = False
    ) -> Self:
        """Open an index that `create` made.

        `durable` makes every commit survive a power cut; otherwise the last ones may be lost in one (but
        never half of one, and nothing by the end of a process). `holders` keeps the table behind
        `holders()`; it must be given whenever the index is written, or never.

        Raises:
            FileNotFoundError: there is nothing at `path`.
            IndexTooNew: a newer GhostFS wrote it; it is left untouched.
            IndexDamaged: it cannot be read.
        """
        connection = open_database(path, INDEX_FORMAT, readonly=readonly, durable=durable)
        try:
            index = cls(connection, path, durable=durable, keep_holders=holders)
            index.state()
        except BaseException as error:
            # Before it is closed: its descriptors tell whether the disk is at fault.
            raised = translate(error, path) if isinstance(error, sqlite3.Error) else error
            connection.close()
            if raised is not error:
                raise raised from error
            if isinstance(error, TypeError):
                raise IndexDamaged(f"{path} has no state: {remedy(path)}") from error
            raise
        return index

    def close(self) -> None:
        """Close the connection; a second time does nothing. The last one leaves no `-wal` behind."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """Where the database is."""
        return self._path

    @property
    def replica(self) -> Replica:
        """Whose ids `allocate_ids` hands out."""
        return self._replica

    @property
    def epoch(self) -> Epoch:
        """The epoch as it is now; see `Commit.new_epoch` and `Adopt.set_cursor`."""
        return self.state().epoch

    @reports_damage
    def state(self) -> State:
        """Epoch, head, fingerprint and commit time, of one moment."""
        epoch, head, fingerprint, committed_ns = self._execute(SQL.STATE).fetchone()
        return State(epoch, head, unpack(fingerprint), committed_ns)

    def head(self) -> Seq:
        """The last committed sequence; `NEVER` before the first commit."""
        return self.state().head

    def fingerprint(self) -> int:
        """The sum over all live cells; see `ghostfs.index.fingerprint`."""
        return self.state().fingerprint

    def committed_ns(self) -> int:
        """When the head was committed, ns since 1970; 0 before the first commit."""
        return self.state().committed_ns

    @reports_damage
    def data_version(self) -> int:
        """A number that changes when another connection has committed; costs a microsecond."""
        return int(self._execute("PRAGMA data_version").fetchone()[0])

    @reports_damage
    def inode(self, id_: InodeId) -> Inode | None:
        """The inode, block list included."""
        row = self._execute(SQL.INODE, (id_,)).fetchone()
        return None if row is None else inode_of(row)

    @reports_damage
    def inode_light(self, id_: InodeId) -> Inode | None:
        """The inode with empty `blocks`; does not read the pages of the block list."""
        row = self._execute(SQL.INODE_LIGHT, (id_,)).fetchone()
        return None if row is None else inode_of(row)

    def dirent(self, parent: InodeId, name: bytes) -> InodeId | None:
        """What a name means; `None` also for a tombstone."""
        try:
            row = self._execute(SQL.DIRENT, (parent, name)).fetchone()
        except sqlite3.Error as error:
            raise translate(error, self._path) from error
        return None if row is None else row[0]

    @reports_damage
    def dirent_cell(self, parent: InodeId, name: bytes) -> Dirent | None:
        """The dirent with its sequence, also if it is a tombstone."""
        row = self._execute(
            "SELECT parent, name, inode, seq, origin FROM dirent WHERE parent = ? AND name = ?",
            (parent, name),
        ).fetchone()
        return None if row is None else dirent_of(row)

    @reports_damage
    def children(self, parent: InodeId, most: int = -1) -> list[tuple[bytes, InodeId]]:
        """The names in a directory, ordered as bytes, and what they mean; no tombstones. The first `most` of them."""
        return self._execute(SQL.CHILDREN, (parent, most)).fetchall()

    @reports_damage
    def links(self, id_: InodeId) -> list[tuple[InodeId, bytes]]:
        """The names of an inode: parent and name, those under `HELD` included."""
        return self._execute(SQL.LINKS, (id_,)).fetchall()

    @reports_damage
    def by_backing(self, ino: int) -> list[Inode]:
        """The inodes whose backing file had this inode number when they were committed."""
        return [inode_of(row) for row in self._execute(SQL.INODES_BY_BACKING, (signed64(ino),))]

    @reports_damage
    def counts(self) -> Counts:
        """How much there is; reads all rows, about 0.2 µs each."""
        inodes, size = self._execute("SELECT count(*), coalesce(sum(size), 0) FROM inode").fetchone()
        (dirents,) = self._execute("SELECT count(*) FROM dirent WHERE inode IS NOT NULL").fetchone()
        (tombstones,) = self._execute("SELECT count(*) FROM dirent WHERE inode IS NULL").fetchone()
        return Counts(inodes, dirents, tombstones, size)

    def all_inodes(self, *, light: bool = True) -> Iterator[Inode]:
        """Every inode by ascending id, as of the moment of the first; `light` leaves `blocks` empty."""
        for row in self._rows(SQL.INODES_LIGHT if light else SQL.INODES):
            yield inode_of(row)

    def all_dirents(self) -> Iterator[Dirent]:
        """Every live dirent by parent and name, as of the moment of the first."""
        for row in self._rows(SQL.DIRENTS):
            yield dirent_of(row)

    @reports_damage
    def delta_since(self, since: Seq) -> Delta:
        """All cells above a cursor, in memory; for one that may be large see `stream_since`.

        Raises:
            CursorTooOld: tombstones above it were collected, or it is above the head.
        """
        return read_delta(self._connection, since)

    def stream_since(self, since: Seq) -> DeltaStream:
        """All cells above a cursor, read as they are used, through a connection of their own."""
        return DeltaStream(self._path, since)

    @reports_damage
    def delta_size(self, since: Seq) -> int:
        """How many cells are above a cursor, tombstones included; reads as many index entries."""
        return sum(
            self._execute(f"SELECT count(*) FROM {table} WHERE seq > ?", (since,)).fetchone()[0]
            for table in ("inode", "dirent")
        )

    @reports_damage
    def allocate_ids(self, count: int) -> range:
        """Reserve ids that nobody else will ever get in this epoch, also after a power cut.

        Waits for the disk: ask for thousands at a time. Not inside a transaction.

        Raises:
            GhostError: this replica has used up its ids.
        """
        self._execute("PRAGMA synchronous=FULL")
        self._execute("BEGIN IMMEDIATE")
        try:
            (first,) = self._execute("SELECT next_id FROM state").fetchone()
            if (first + count) >> REPLICA_SHIFT:
                raise GhostError(f"replica {self._replica} of {self._path} has used up its inode ids")
            self._execute("UPDATE state SET next_id = ?", (first + count,))
            self._execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
            if not self._durable:
                self._execute("PRAGMA synchronous=NORMAL")
        base = self._replica << REPLICA_SHIFT
        return range(base + first, base + first + count)

    def commit(self) -> Commit:
        """A transaction in which cells get new sequences, as a context manager."""
        return Commit(self._connection, self._path, replica=self._replica, keep_holders=self._keep_holders)

    def adopt(self, head: Seq | None = None, *, fingerprint_expected: int | None = None) -> Adopt:
        """A transaction in which cells from the hub are stored as they are, as a context manager.

        `head`, if given, becomes the head (as does the sequence of `set_cursor`). With
        `fingerprint_expected`, leaving the block with another one raises `DriftError` and rolls back.
        """
        return Adopt(
            self._connection,
            self._path,
            keep_holders=self._keep_holders,
            head=head,
            fingerprint_expected=fingerprint_expected,
        )

    def collect_tombstones(self, upto: Seq) -> int:
        """Remove tombstones up to a sequence, in a transaction of its own; returns how many."""
        with self.commit() as commit:
            return commit.collect_tombstones(upto)

    @reports_damage
    def meta(self, key: str) -> str | None:
        """What `Transaction.set_meta` remembered."""
        row = self._execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    @reports_damage
    def cursor(self) -> Cursor | None:
        """A node's durable cursor; `None` before the first full sync, and while a snapshot is half applied."""
        epoch, seq = self._execute("SELECT cursor_epoch, cursor_seq FROM state").fetchone()
        return None if epoch is None else Cursor(Epoch(epoch), Seq(seq))

    @reports_damage
    def snapshot(self) -> SnapshotPosition | None:
        """How much of a snapshot a node has applied; `None` when none is half applied."""
        snapshot_id, position = self._execute("SELECT snapshot_id, snapshot_position FROM state").fetchone()
        return None if snapshot_id is None else SnapshotPosition(snapshot_id, position)

    @reports_damage
    def parked(self) -> set[InodeId]:
        """The inodes whose newest content could not be had."""
        return {id_ for (id_,) in self._execute("SELECT inode FROM parked")}

    @reports_damage
    def holders(self, digest: bytes) -> list[tuple[InodeId, int]]:
        """Which files hold a block, and where; always empty if the index is not kept with `holders`."""
        return holders.find(self._execute, digest)

    @reports_damage
    def freeze(self, path: Path) -> None:
        """Write the tree of this moment to a file that `Frozen.open` reads; replaces what is at `path`."""
        freeze(self._path, path)

    @reports_damage
    def checkpoint(self) -> None:
        """Carry the write-ahead log into the database as far as readers allow; syncs, so choose the moment."""
        self._execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    @reports_damage
    def recomputed_fingerprint(self) -> int:
        """The fingerprint from scratch, about 3 µs a cell: must equal `fingerprint()`."""
        return recompute_fingerprint(self._connection)

    @reports_damage
    def check_pages(self) -> None:
        """Look at every page, about 0.2 ms a MiB: quick enough for every start.

        Raises:
            IndexDamaged: a page does not hold what belongs there.
            OSError: it cannot be read.
        """
        (found,) = self._execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise damage_found(found, self._path)

    @reports_damage
    def check(self) -> None:
        """Look at every page and every cell.

        Raises:
            IndexDamaged: the database is broken, the cells do not add up to the fingerprint, or a block
                list is not the one that its inode's digest stands for.
        """
        check(self._connection, self._path)

    def _rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._execute(sql)
        except sqlite3.Error as error:
            raise translate(error, self._path) from error
