"""The transaction of the authority: cells that change get the next sequence numbers."""

from __future__ import annotations

__all__ = ["Commit"]

import secrets
import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ghostfs.errors import InvalidCell
from ghostfs.index.bulk import DirentPut, InodePut, RefusedCell, Store, probe_dirents, probe_inodes
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

        Raises:
            RefusedCell: a number is out of range.
        """
        return self._put_inodes([InodePut(inode, attrs=attrs, content=content, fresh=fresh)])

    def put_dirent(
        self, parent: InodeId, name: bytes, inode: InodeId | None, *, origin: Replica | None = None
    ) -> Seq:
        """Commit what a name means; `None` makes it a tombstone, unless it was never committed.

        `origin` is this index's own replica when not given.

        Returns:
            The cell's sequence, new or old; `NEVER` for a tombstone of a name that was never committed.

        Raises:
            InvalidCell: a number is out of range.
        """
        return self._put_dirents([(parent, name, inode)], self._replica if origin is None else origin)

    def put(self, inodes: Sequence[InodePut], dirents: Sequence[DirentPut]) -> None:
        """`put_inode` of each, and then `put_dirent` of each, for little more than the price of one.

        No inode and no name may be given twice.

        Raises:
            RefusedCell, InvalidCell: as those two.
        """
        self._put_inodes(inodes)
        self._put_dirents(dirents, self._replica)

    def new_epoch(self, epoch: Epoch | None = None) -> Epoch:
        """Give the index another epoch, random unless given: every cursor is worth nothing from now on.

        For the owner to call when sequences may have been lost that somebody has seen: after a power cut,
        or when an index was restored from a backup.
        """
        self._epoch = epoch or random_epoch()
        self._execute("UPDATE state SET epoch = ?", (self._epoch,))
        return Epoch(self._epoch)

    def _put_inodes(self, puts: Sequence[InodePut]) -> Seq:
        """The sequence of the last one, `NEVER` of none."""
        rows = probe_inodes(self._execute, [put.inode.id for put in puts if not put.fresh])
        store = Store(self._execute)
        seq = NEVER
        for put in puts:
            try:
                seq = self._put_inode(store, put, rows.get(put.inode.id))
            except (OverflowError, struct.error, InvalidCell) as error:
                raise RefusedCell(
                    f"a number in {put.inode} is out of range: {error}", put.inode.id
                ) from error
        store.flush()
        return seq

    def _put_inode(self, store: Store, put: InodePut, row: tuple[Any, ...] | None) -> Seq:
        inode = put.inode
        values = inode_values(inode)
        backing = (
            (None, None) if inode.backing is None else (signed64(inode.backing.ino), inode.backing.ctime_ns)
        )
        if row is None:
            self._touched.add(inode.id)
            self._sum += inode_term(*values)
            self._note_blocks(inode.id, inode.size, inode.blocks)
            seq = self._next_seq()
            store.inode(values, seq, seq, inode.origin, backing, inode.blocks)
            return seq
        attr_seq, content_seq, *old_backing, held = row[11:]
        content = put.content and values[1:6] != row[1:6]
        attrs = put.attrs and values[6:] != row[6:11]
        if inode.backing is None and not content:
            backing = (old_backing[0], old_backing[1])
        if not (attrs or content):
            if backing != tuple(old_backing):
                self._execute(SQL.SET_BACKING, (*backing, inode.id))
            return Seq(max(attr_seq, content_seq))
        merged = row[:1] + (values[1:6] if content else row[1:6]) + (values[6:] if attrs else row[6:11])
        if not held:
            self._sum += inode_term(*merged) - inode_term(*row[:11])
        seq = self._next_seq()
        if content:
            self._note_blocks(inode.id, inode.size, inode.blocks)
            store.inode(merged, seq if attrs else attr_seq, seq, inode.origin, backing, inode.blocks)
            return seq
        if backing[0] != old_backing[0]:
            self._execute(SQL.SET_BACKING, (*backing, inode.id))
        store.inode(merged, seq, content_seq, inode.origin, backing, None)
        return seq

    @checks_range
    def _put_dirents(self, puts: Sequence[DirentPut], origin: Replica) -> Seq:
        """The sequence of the last one, `NEVER` of none."""
        known = probe_dirents(self._execute, puts)
        store = Store(self._execute)
        seq = NEVER
        for position, (parent, name, inode) in enumerate(puts):
            old, old_seq = known.get(position, (None, NEVER))
            if old == inode:  # a tombstone of what was never committed, too
                seq = Seq(old_seq)
                continue
            seq = self._next_seq()
            if old is not None:
                self._sum -= dirent_term(parent, name, old)
                self._named.discard(old)
                self._touched.add(old)
            if inode is not None:
                self._sum += dirent_term(parent, name, inode)
                self._named.add(inode)
            store.dirent(parent, name, inode, seq, origin)
        store.flush()
        return seq

    def _next_seq(self) -> Seq:
        self._changed = True
        self._head += 1
        return Seq(self._head)


def random_epoch() -> Epoch:
    """63 random bits, not 0."""
    return Epoch(secrets.randbelow((1 << 63) - 1) + 1)
