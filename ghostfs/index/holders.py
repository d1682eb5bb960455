"""Which files hold a block: the table a node looks in before it fetches one."""

from __future__ import annotations

__all__ = ["find", "note_blocks"]

import sqlite3
from collections.abc import Callable

from ghostfs.content import BlockList
from ghostfs.index.rows import SQL
from ghostfs.model import InodeId

_Execute = Callable[..., sqlite3.Cursor]


def note_blocks(execute: _Execute, id_: int, size: int, blocks: bytes) -> None:
    """Make the table say what an inode's block list will be, given that it still says what the row is."""
    row = execute(SQL.INODE_BLOCKS, (id_,)).fetchone()
    old = set(BlockList.decode(*row).data_blocks()) if row is not None and row[1] else set()
    new = set(BlockList.decode(size, blocks).data_blocks()) if blocks else set()
    for index, digest in old - new:
        execute("DELETE FROM block_at WHERE digest = ? AND inode = ? AND idx = ?", (digest, id_, index))
    for index, digest in new - old:
        execute(
            "INSERT OR IGNORE INTO block_at (digest, inode, idx) VALUES (?, ?, ?)", (digest, id_, index)
        )


def find(execute: _Execute, digest: bytes) -> list[tuple[InodeId, int]]:
    """Where a block is: inode and block number, ascending."""
    return [
        (InodeId(id_), index)
        for id_, index in execute(
            "SELECT inode, idx FROM block_at WHERE digest = ? ORDER BY inode, idx", (digest,)
        )
    ]
