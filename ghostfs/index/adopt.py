"""The transaction of a follower: cells that arrive with the hub's sequences are stored as they are."""

from __future__ import annotations

__all__ = ["Adopt"]

import sqlite3
from pathlib import Path

from ghostfs.errors import DriftError
from ghostfs.index.fingerprint import dirent_term, inode_term
from ghostfs.index.rows import SQL, dirent_of, inode_values, signed64
from ghostfs.index.transaction import Transaction, checks_range
from ghostfs.model import HELD, ROOT, Dirent, Epoch, Inode, InodeId, Seq


class Adopt(Transaction):
    """Stores cells as given; see `Transaction` for what a transaction promises.

    What is linked only from `HELD` is out of the tree, and so out of the fingerprint, until it is linked
    from the tree again. Storing what is already there changes nothing, so a batch may be adopted again
    after a crash.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        *,
        keep_holders: bool,
        head: Seq | None,
        fingerprint_expected: int | None,
    ) -> None:
        super().__init__(connection, path, keep_holders=keep_holders)
        self._new_head = head
        self._expected = fingerprint_expected
        self._generation = 0
        self._any_held = False
        self._maybe_held: set[int] = set()

    @property
    def fingerprint(self) -> int:
        """The sum over all live cells as they are now in this transaction, `HELD` ones left out."""
        self._recount_held()
        return super().fingerprint

    @checks_range
    def store_inode(self, inode: Inode) -> None:
        """Store an inode as given, sequences, origin, backing and blocks included."""
        values = inode_values(inode)
        row = self._execute(SQL.INODE_PROBE, (inode.id,)).fetchone()
        held = 0 if row is None else row[15]
        if not held:
            self._sum += inode_term(*values) - (0 if row is None else inode_term(*row[:11]))
        backing = inode.backing
        ino, ctime_ns = (None, None) if backing is None else (signed64(backing.ino), backing.ctime_ns)
        self._note_blocks(inode.id, inode.size, inode.blocks)
        fixed = (*values, inode.attr_seq, inode.content_seq, inode.seq, inode.origin)
        if row is None:
            self._execute(SQL.INSERT_INODE, (*fixed, ino, ctime_ns, 0, inode.blocks))
        else:
            if ino != row[13]:
                self._execute(SQL.SET_BACKING, (ino, ctime_ns, inode.id))
            self._execute(SQL.SET_INODE, (*fixed, ctime_ns, inode.blocks))
        self._touched.add(inode.id)
        if row is None and self._any_held:
            self._maybe_held.add(inode.id)
        self._changed = True

    @checks_range
    def store_dirent(self, dirent: Dirent) -> None:
        """Store a dirent or a tombstone as given, and take it off the stale ones.

        Under `HELD` there are no tombstones: there, `None` removes the entry.
        """
        if dirent.parent == HELD and dirent.inode is None:
            self.forget_dirent(dirent.parent, dirent.name)
            return
        self._unlink(dirent.parent, dirent.name)
        self._execute(
            SQL.STORE_DIRENT,
            (dirent.parent, dirent.name, dirent.inode, dirent.seq, dirent.origin, self._generation),
        )
        if dirent.inode is not None:
            self._link(dirent.parent, dirent.name, dirent.inode)
        self._changed = True

    def forget_dirent(self, parent: InodeId, name: bytes) -> None:
        """Remove a dirent without a trace; nothing happens if there is none."""
        self._unlink(parent, name)
        self._execute(SQL.DELETE_DIRENT, (parent, name))
        self._changed = True

    def rebind(self, old: InodeId, new: InodeId) -> None:
        """Let what is known as `old`, as an inode, a name's meaning, a parent and parked, be known as `new`.

        For an object of the tree that turns out to be the one the hub calls `new`. Costs a write for each
        child of a directory.

        Raises:
            ValueError: `new` is already known, as an inode or as a parent, or one of the two is reserved.
        """
        if HELD in (old, new) or ROOT in (old, new):
            raise ValueError("neither the root nor HELD can be rebound")
        known = "SELECT 1 FROM inode WHERE id = ? UNION ALL SELECT 1 FROM dirent WHERE parent = ? LIMIT 1"
        if self._execute(known, (new, new)).fetchone() is not None:
            raise ValueError(f"inode {new:x} is already known")
        names = self._execute("SELECT parent, name FROM dirent WHERE inode = ?", (old,)).fetchall()
        children = self._execute("SELECT name, inode FROM dirent WHERE parent = ?", (old,)).fetchall()
        row = self._execute(SQL.INODE_PROBE, (old,)).fetchone()
        if row is not None and not row[15]:
            self._sum += inode_term(new, *row[1:11]) - inode_term(*row[:11])
        for parent, name in names:
            if parent != HELD:
                self._sum += dirent_term(parent, name, new) - dirent_term(parent, name, old)
        # A directory is never its own child, so no dirent is in both lists.
        for name, inode in children:
            if inode is not None:
                self._sum += dirent_term(new, name, inode) - dirent_term(old, name, inode)
        for statement in (
            "UPDATE inode SET id = ? WHERE id = ?",
            "UPDATE dirent SET inode = ? WHERE inode = ?",
            "UPDATE dirent SET parent = ? WHERE parent = ?",
            "UPDATE parked SET inode = ? WHERE inode = ?",
        ):
            self._execute(statement, (new, old))
        if self._keep_holders:
            self._execute("UPDATE block_at SET inode = ? WHERE inode = ?", (new, old))
        for touched in (self._touched, self._maybe_held):
            if old in touched:
                touched.remove(old)
                touched.add(new)
        self._changed = True

    def mark_stale(self) -> None:
        """Call every dirent stale until it is stored again, and forget the tombstones: a snapshot begins."""
        self._generation += 1
        self._execute("UPDATE state SET generation = ?", (self._generation,))
        self._execute("DELETE FROM dirent WHERE inode IS NULL")

    def stale_dirents(self, limit: int = -1) -> list[Dirent]:
        """Live dirents of the tree that have not been stored since `mark_stale`; all, or at most `limit`."""
        return [
            dirent_of(row)
            for row in self._execute(
                "SELECT parent, name, inode, seq, origin FROM dirent"
                " WHERE generation < ? AND inode IS NOT NULL AND parent <> ? LIMIT ?",
                (self._generation, HELD, limit),
            )
        ]

    def is_current(self, id_: InodeId) -> bool:
        """Whether a name of this inode has been stored since `mark_stale`."""
        row = self._execute(
            "SELECT 1 FROM dirent WHERE inode = ? AND generation = ? LIMIT 1", (id_, self._generation)
        ).fetchone()
        return row is not None

    def set_cursor(self, epoch: Epoch, seq: Seq) -> None:
        """Everything of the hub's `epoch` up to `seq` is in; epoch and head become these; no snapshot is open."""
        self._epoch, self._head, self._changed = epoch, seq, True
        self._execute(
            "UPDATE state SET epoch = ?, cursor_epoch = ?, cursor_seq = ?, snapshot_id = NULL,"
            " snapshot_position = NULL",
            (epoch, epoch, seq),
        )

    def set_snapshot(self, snapshot_id: bytes, position: int) -> None:
        """Chunks up to `position` are in; until the snapshot is complete there is no usable cursor."""
        self._execute(
            "UPDATE state SET cursor_epoch = NULL, cursor_seq = NULL, snapshot_id = ?, snapshot_position = ?",
            (snapshot_id, position),
        )

    def _begun(self) -> None:
        (self._generation,) = self._execute("SELECT generation FROM state").fetchone()
        held = self._execute("SELECT 1 FROM dirent WHERE parent = ? LIMIT 1", (HELD,)).fetchone()
        self._any_held = held is not None

    def _finish(self) -> None:
        self._recount_held()
        if self._new_head is not None:
            self._head, self._changed = self._new_head, True
        if self._expected is not None and self.fingerprint != self._expected:
            raise DriftError(
                f"{self._path} would have fingerprint {self.fingerprint:032x} at {self._head},"
                f" not {self._expected:032x}: nothing was adopted"
            )

    def _link(self, parent: InodeId, name: bytes, inode: InodeId) -> None:
        self._touched.add(inode)
        if parent == HELD:
            self._any_held = True
        else:
            self._sum += dirent_term(parent, name, inode)
        if self._any_held:
            self._maybe_held.add(inode)

    def _unlink(self, parent: InodeId, name: bytes) -> None:
        row = self._execute(SQL.DIRENT, (parent, name)).fetchone()
        if row is None or row[0] is None:
            return
        self._touched.add(row[0])
        if parent != HELD:
            self._sum -= dirent_term(parent, name, row[0])
        if self._any_held:
            self._maybe_held.add(row[0])

    def _recount_held(self) -> None:
        """Set `held` of the inodes whose links changed while something was held, and correct the sum."""
        for id_ in self._maybe_held:
            row = self._execute(SQL.INODE_PROBE, (id_,)).fetchone()
            if row is None:
                continue
            # HELD is the least of all parents, so it is the greatest one only if there is no other.
            (last,) = self._execute("SELECT max(parent) FROM dirent WHERE inode = ?", (id_,)).fetchone()
            held = int(last == HELD)
            if held != row[15]:
                self._sum += -inode_term(*row[:11]) if held else inode_term(*row[:11])
                self._execute("UPDATE inode SET held = ? WHERE id = ?", (held, id_))
        self._maybe_held.clear()
