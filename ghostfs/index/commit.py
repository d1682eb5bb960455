"""The transaction of the authority: cells that change get the next sequence numbers."""

from __future__ import annotations

__all__ = ["Commit"]

import secrets
import sqlite3
from pathlib import Path

from ghostfs.index.fingerprint import dirent_term, inode_term
from ghostfs.index.rows import SQL, inode_values, signed64
from ghostfs.index.transaction import Transaction, checks_range
from ghostfs.model import NEVER, Epoch, Inode, InodeId, Replica, Seq


class Commit(Transaction):
    """Puts cells into the index; see `Transaction` for what a transaction promises.

    Putting what is already there changes nothing and takes no sequence, so a caller may put whatever it
    has looked at, and may put it again after a crash.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: Path, *, replica: Replica, keep_holders: bool
    ) -> None:
        super().__init__(connection, path, keep_holders=keep_holders)
        self._replica = replica

    @checks_range
    def put_inode(self, inode: Inode, *, attrs: bool, content: bool, fresh: bool = False) -> Seq:
        """Commit an inode: the halves that the caller vouches for and that differ get the next sequence.

        `attrs` covers mode, uid, gid, mtime_ns and xattrs; `content` covers kind, size, rdev, target,
        digest and blocks. A half that is not vouched for stays as it was committed, with its sequence.
        A new inode gets both halves in any case. The inode's own sequences are not looked at; `origin` is
        stored if anything changed. `backing`, if given, is always stored; without it, a change of content
        makes the stored one unknown. `fresh` says that the id is one that no commit has put before; it only
        saves a look.

        Returns:
            The cell's sequence, new or old.
        """
        row = None if fresh else self._execute(SQL.INODE_PROBE, (inode.id,)).fetchone()
        values = inode_values(inode)
        if row is None:
            return self._insert(inode, values)
        attr_seq, content_seq, old_ino, old_ctime_ns, held = row[11:]
        content = content and values[1:6] != row[1:6]
        attrs = attrs and values[6:] != row[6:11]
        if inode.backing is not None:
            ino: int | None = signed64(inode.backing.ino)
            ctime_ns: int | None = inode.backing.ctime_ns
        elif content:
            ino = ctime_ns = None
        else:
            ino, ctime_ns = old_ino, old_ctime_ns
        if not (attrs or content):
            if (ino, ctime_ns) != (old_ino, old_ctime_ns):
                self._execute(SQL.SET_BACKING, (ino, ctime_ns, inode.id))
            return Seq(max(attr_seq, content_seq))
        seq = self._next_seq()
        merged = row[:1] + (values[1:6] if content else row[1:6]) + (values[6:] if attrs else row[6:11])
        if not held:
            self._sum += inode_term(*merged) - inode_term(*row[:11])
        if ino != old_ino:
            self._execute(SQL.SET_BACKING, (ino, ctime_ns, inode.id))
        if not content:
            self._execute(SQL.SET_ATTRIBUTES, (*merged[6:], seq, seq, inode.origin, ctime_ns, inode.id))
            return seq
        if attrs:
            attr_seq = seq
        self._note_blocks(inode.id, inode.size, inode.blocks)
        self._execute(SQL.SET_INODE, (*merged, attr_seq, seq, seq, inode.origin, ctime_ns, inode.blocks))
        return seq

    @checks_range
    def put_dirent(
        self, parent: InodeId, name: bytes, inode: InodeId | None, *, origin: Replica | None = None
    ) -> Seq:
        """Commit what a name means; `None` makes it a tombstone, unless it was never committed.

        `origin` is this index's own replica when not given.

        Returns:
            The cell's sequence, new or old; `NEVER` for a tombstone of a name that was never committed.
        """
        by = self._replica if origin is None else origin
        # Most names that come to mean something were never committed: the insert is tried before any look.
        if (
            inode is not None
            and self._execute(SQL.TRY_DIRENT, (parent, name, inode, self._head + 1, by)).rowcount
        ):
            self._sum += dirent_term(parent, name, inode)
            self._named.add(inode)
            return self._next_seq()
        row = self._execute(SQL.DIRENT_PROBE, (parent, name)).fetchone()
        if row is None:
            return NEVER
        old, old_seq = row
        if old == inode:
            return Seq(old_seq)
        seq = self._next_seq()
        self._execute(SQL.SET_DIRENT, (inode, seq, by, parent, name))
        if old is not None:
            self._sum -= dirent_term(parent, name, old)
            self._named.discard(old)
            self._touched.add(old)
        if inode is not None:
            self._sum += dirent_term(parent, name, inode)
            self._named.add(inode)
        return seq

    def new_epoch(self, epoch: Epoch | None = None) -> Epoch:
        """Give the index another epoch, random unless given: every cursor is worth nothing from now on.

        For the owner to call when sequences may have been lost that somebody has seen: after a power cut,
        or when an index was restored from a backup.
        """
        self._epoch = epoch or random_epoch()
        self._execute("UPDATE state SET epoch = ?", (self._epoch,))
        return Epoch(self._epoch)

    def _insert(self, inode: Inode, values: tuple[int | bytes, ...]) -> Seq:
        backing = inode.backing
        ino, ctime_ns = (None, None) if backing is None else (signed64(backing.ino), backing.ctime_ns)
        self._note_blocks(inode.id, inode.size, inode.blocks)
        self._touched.add(inode.id)
        seq = self._next_seq()
        self._sum += inode_term(*values)  # type: ignore[arg-type]
        self._execute(
            SQL.INSERT_INODE, (*values, seq, seq, seq, inode.origin, ino, ctime_ns, 0, inode.blocks)
        )
        return seq

    def _next_seq(self) -> Seq:
        self._changed = True
        self._head += 1
        return Seq(self._head)


def random_epoch() -> Epoch:
    """63 random bits, not 0."""
    return Epoch(secrets.randbelow((1 << 63) - 1) + 1)
