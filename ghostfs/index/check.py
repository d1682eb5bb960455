"""Whether an index is whole: what SQLite can tell, and what only the cells can."""

from __future__ import annotations

__all__ = ["check", "recompute_fingerprint"]

import sqlite3
from pathlib import Path

from ghostfs.content import BlockList
from ghostfs.errors import InvalidCell
from ghostfs.index.damage import damage_found
from ghostfs.index.database import one_picture
from ghostfs.index.fingerprint import MODULUS_MASK, dirent_term, inode_term, unpack
from ghostfs.index.rows import INODE_FIXED, SQL
from ghostfs.model import HELD, Kind


def recompute_fingerprint(connection: sqlite3.Connection) -> int:
    """The sum over all live cells, each hashed again."""
    total = 0
    for row in connection.execute(f"SELECT {INODE_FIXED} FROM inode WHERE NOT held"):
        total += inode_term(*row)
    for row in connection.execute(
        "SELECT parent, name, inode FROM dirent WHERE inode IS NOT NULL AND parent <> ?", (HELD,)
    ):
        total += dirent_term(*row)
    return total & MODULUS_MASK


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Look at every page and every cell, in one transaction.

    Raises:
        IndexDamaged: something contradicts something else; the message says what.
        OSError: a page cannot be read.
    """
    with one_picture(connection):
        (finding,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if finding == "ok":
            finding = _contradiction(connection)
        if finding:
            raise damage_found(finding, path)


def _contradiction(connection: sqlite3.Connection) -> str:
    # The fingerprint covers the digests, and this ties the block lists to them.
    for id_, size, digest, blocks in connection.execute(
        "SELECT id, size, digest, blocks FROM inode WHERE kind = ?", (Kind.FILE.value,)
    ):
        try:
            stated = BlockList.decode(size, blocks).digest()
        except InvalidCell as error:
            return f"blocks of inode {id_:x}: {error}"
        if stated != digest:
            return f"blocks of inode {id_:x}: they are not what its digest stands for"
    if recompute_fingerprint(connection) != unpack(connection.execute(SQL.STATE).fetchone()[2]):
        return "the cells do not add up to the fingerprint"
    return ""
