"""One write transaction of an index: what committing and adopting share.

Everything that is done inside the `with` block becomes visible to other connections at once, at its end,
or, if an exception leaves the block or the process is killed, not at all.
"""

from __future__ import annotations

__all__ = ["Transaction", "checks_range"]

import functools
import sqlite3
import struct
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NoReturn, ParamSpec, Self, TypeVar

from ghostfs.errors import InvalidCell
from ghostfs.index import holders
from ghostfs.index.bulk import find_orphans, probe_inodes, remove_inodes
from ghostfs.index.damage import translate
from ghostfs.index.fingerprint import MODULUS_MASK, inode_term, pack, unpack
from ghostfs.index.rows import SQL, signed64
from ghostfs.index.state import State
from ghostfs.model import ROOT, Backing, Epoch, InodeId, Seq

_P = ParamSpec("_P")
_R = TypeVar("_R")


def checks_range(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a number that fits neither the fingerprint's encoding nor an SQLite integer raise `InvalidCell`."""

    @functools.wraps(method)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(*args, **kwargs)
        except (OverflowError, struct.error) as error:
            raise InvalidCell(f"a number in {args[1:]} is out of range: {error}") from error

    return checked


class Transaction:
    """`BEGIN IMMEDIATE` … `COMMIT` around the state row; subclasses add the ways of changing cells.

    Used once, by one thread, as a context manager. While it is open its index must not be used to begin
    another one. After a normal exit `state()` is what was committed.

    Raises (on entry, in every method and on exit):
        SessionBusy: another process kept the write lock for too long.
        IndexDamaged, OSError: see `ghostfs.index.damage`.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, *, keep_holders: bool) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._keep_holders = keep_holders
        self._path = path
        self._touched: set[int] = set()
        """Inodes that may have no name: those that came, and those that lost one."""
        self._named: set[int] = set()
        """Inodes that were given a name here which they still have: no need to look for one."""
        self._epoch = 0
        self._head = 0
        self._sum = 0
        self._committed_ns = 0
        self._changed = False

    @property
    def path(self) -> Path:
        """The index this belongs to."""
        return self._path

    @property
    def head(self) -> Seq:
        """The last sequence given so far; after the exit, the committed head."""
        return Seq(self._head)

    @property
    def fingerprint(self) -> int:
        """The sum over all live cells as they are now in this transaction."""
        return self._sum & MODULUS_MASK

    def state(self) -> State:
        """The state as it is now in this transaction; after the exit, as committed."""
        return State(Epoch(self._epoch), Seq(self._head), self.fingerprint, self._committed_ns)

    def __enter__(self) -> Self:
        try:
            self._execute("BEGIN IMMEDIATE")
            try:
                epoch, head, fingerprint, committed_ns = self._execute(SQL.STATE).fetchone()
                self._begun()
            except BaseException:
                self._rollback()
                raise
        except sqlite3.Error as error:
            self._fail(error)
        self._epoch, self._head, self._committed_ns = epoch, head, committed_ns
        self._sum = unpack(fingerprint)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._rollback()
            if isinstance(error, sqlite3.Error):
                self._fail(error)
            return
        try:
            self._finish()
            if self._changed:
                self._committed_ns = time.time_ns()
                self._execute(SQL.SET_STATE, (self._head, pack(self.fingerprint), self._committed_ns))
            self._execute("COMMIT")
        except BaseException as failure:
            self._rollback()
            if isinstance(failure, sqlite3.Error):
                self._fail(failure)
            raise

    def set_meta(self, key: str, value: str) -> None:
        """Remember a small fact with this transaction."""
        self._execute("REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))

    def set_backing(self, id_: InodeId, backing: Backing | None) -> None:
        """Refresh the hash cache's key of an inode; no sequence, no change of the cell."""
        ino, ctime_ns = (None, None) if backing is None else (signed64(backing.ino), backing.ctime_ns)
        self._execute(SQL.SET_BACKING, (ino, ctime_ns, id_))

    def drop_inode(self, id_: InodeId) -> None:
        """Remove an inode's row, because nothing names it any more; nothing happens if there is none.

        To be done in the transaction that took its last name away: a fingerprint belongs to a head.
        """
        row = self._execute(SQL.INODE_PROBE, (id_,)).fetchone()
        if row is None:
            return
        if not row[15]:
            self._sum -= inode_term(*row[:11])
        self._note_blocks(id_, 0, b"")
        self._execute(SQL.DELETE_INODE, (id_,))
        self._execute("DELETE FROM parked WHERE inode = ?", (id_,))
        self._touched.discard(id_)
        self._changed = True

    def orphans(self) -> list[InodeId]:
        """Inodes touched in this transaction that nothing names now, ascending; never the root."""
        return find_orphans(self._execute, sorted(self._touched - self._named - {ROOT}))

    def drop_orphans(self) -> list[InodeId]:
        """Drop all `orphans()`, and return them."""
        dropped = self.orphans()
        if not dropped:
            return []
        for id_, row in probe_inodes(self._execute, dropped).items():
            if not row[15]:
                self._sum -= inode_term(*row[:11])
            self._note_blocks(id_, 0, b"")
        remove_inodes(self._execute, dropped)
        self._touched.difference_update(dropped)
        self._changed = True
        return dropped

    def park(self, id_: InodeId, seq: Seq) -> None:
        """Remember that the content of this version could not be had, and the old one is kept."""
        self._execute("REPLACE INTO parked (inode, seq) VALUES (?, ?)", (id_, seq))

    def unpark(self, id_: InodeId) -> None:
        """Forget `park`; nothing happens if the inode is not parked."""
        self._execute("DELETE FROM parked WHERE inode = ?", (id_,))

    def collect_tombstones(self, upto: Seq) -> int:
        """Remove the tombstones up to a sequence, inclusive, and return how many.

        From then on a cursor below the highest of them is too old: see `CursorTooOld`.
        """
        (highest,) = self._execute(
            "SELECT max(seq) FROM dirent WHERE inode IS NULL AND seq <= ?", (upto,)
        ).fetchone()
        if highest is None:
            return 0
        removed = self._execute("DELETE FROM dirent WHERE inode IS NULL AND seq <= ?", (upto,)).rowcount
        self._execute("UPDATE state SET floor = max(floor, ?)", (highest,))
        return removed

    def _begun(self) -> None:
        """Read what a subclass needs, inside the transaction."""

    def _finish(self) -> None:
        """Bring derived columns up to date before the state row is written."""

    def _note_blocks(self, id_: int, size: int, blocks: bytes) -> None:
        """Keep `block_at` equal to the block lists; called before the inode's row changes."""
        if self._keep_holders:
            holders.note_blocks(self._execute, id_, size, blocks)

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            self._execute("ROLLBACK")

    def _fail(self, error: sqlite3.Error) -> NoReturn:
        raised = translate(error, self._path)
        if raised is error:
            raise error
        raise raised from error
