"""Between rows and cells, and the statements of the hot paths.

All of them are constants, so that each connection prepares each of them once.
"""

from __future__ import annotations

__all__ = [
    "INODE_FIXED",
    "SQL",
    "InodeValues",
    "dirent_of",
    "inode_of",
    "inode_values",
    "signed64",
]

from typing import Any

from ghostfs.errors import IndexDamaged
from ghostfs.model import Backing, Dirent, Inode, InodeId, Kind, Seq

INODE_FIXED = "id, kind, size, rdev, target, digest, mode, uid, gid, mtime_ns, xattrs"
"""The columns that the fingerprint is made of: id, then 5 of content, then 5 of attributes."""

_SEQS = "attr_seq, content_seq, origin, backing_ino, backing_ctime_ns"
_LIGHT = f"{INODE_FIXED}, {_SEQS}, x''"
_FULL = f"{INODE_FIXED}, {_SEQS}, blocks"
_INSERT_INODE = (
    f"INSERT INTO inode ({INODE_FIXED}, attr_seq, content_seq, seq, origin, backing_ino, backing_ctime_ns,"
    " held, blocks) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)

InodeValues = tuple[int, int, int, int, bytes, bytes, int, int, int, int, bytes]
"""`INODE_FIXED` of one inode."""

_KINDS = {kind.value: kind for kind in Kind}
_MASK64 = (1 << 64) - 1


class SQL:
    """The statements of the hot paths, by name."""

    STATE = "SELECT epoch, head, fingerprint, committed_ns FROM state"
    SET_STATE = "UPDATE state SET head = ?, fingerprint = ?, committed_ns = ?"

    INODE = f"SELECT {_FULL} FROM inode WHERE id = ?"
    INODE_LIGHT = f"SELECT {_LIGHT} FROM inode WHERE id = ?"
    INODE_PROBE = f"SELECT {INODE_FIXED}, attr_seq, content_seq, backing_ino, backing_ctime_ns, held FROM inode WHERE id = ?"
    INODES = f"SELECT {_FULL} FROM inode ORDER BY id"
    INODES_LIGHT = f"SELECT {_LIGHT} FROM inode ORDER BY id"
    INODES_BY_BACKING = f"SELECT {_FULL} FROM inode WHERE backing_ino = ? ORDER BY id"
    INODES_SINCE = f"SELECT {_FULL} FROM inode WHERE seq > ? ORDER BY seq"
    INODE_BLOCKS = "SELECT size, blocks FROM inode WHERE id = ?"
    INSERT_INODE = _INSERT_INODE
    # Neither names backing_ino: SQLite would rewrite its index entry even if the value stays the same.
    SET_INODE = (
        "UPDATE inode SET kind = ?2, size = ?3, rdev = ?4, target = ?5, digest = ?6, mode = ?7, uid = ?8, gid = ?9,"
        " mtime_ns = ?10, xattrs = ?11, attr_seq = ?12, content_seq = ?13, seq = ?14, origin = ?15,"
        " backing_ctime_ns = ?16, blocks = ?17 WHERE id = ?1"
    )
    SET_BACKING = "UPDATE inode SET backing_ino = ?, backing_ctime_ns = ? WHERE id = ?"
    DELETE_INODE = "DELETE FROM inode WHERE id = ?"

    DIRENT = "SELECT inode FROM dirent WHERE parent = ? AND name = ?"
    DIRENTS = (
        "SELECT parent, name, inode, seq, origin FROM dirent WHERE inode IS NOT NULL ORDER BY parent, name"
    )
    DIRENTS_SINCE = "SELECT parent, name, inode, seq, origin FROM dirent WHERE seq > ? ORDER BY seq"
    CHILDREN = "SELECT name, inode FROM dirent WHERE parent = ? AND inode IS NOT NULL ORDER BY name LIMIT ?"
    LINKS = "SELECT parent, name FROM dirent WHERE inode = ? ORDER BY parent, name"
    LINKED = "SELECT 1 FROM dirent WHERE inode = ? LIMIT 1"
    STORE_DIRENT = "REPLACE INTO dirent (parent, name, inode, seq, origin, generation) VALUES (?,?,?,?,?,?)"
    DELETE_DIRENT = "DELETE FROM dirent WHERE parent = ? AND name = ?"


def signed64(value: int) -> int:
    """An unsigned 64-bit number as SQLite holds it: some filesystems use all bits of an inode number."""
    return value - (1 << 64) if value >> 63 else value


def inode_values(inode: Inode) -> InodeValues:
    """`INODE_FIXED` of a cell."""
    return (
        inode.id,
        int(inode.kind),
        inode.size,
        inode.rdev,
        inode.target,
        inode.digest,
        inode.mode,
        inode.uid,
        inode.gid,
        inode.mtime_ns,
        inode.xattrs,
    )


def inode_of(row: tuple[Any, ...]) -> Inode:
    """The cell of a row of `SQL.INODE` and its like.

    Raises:
        IndexDamaged: the row has a kind that does not exist.
    """
    (id_, kind, size, rdev, target, digest, mode, uid, gid, mtime_ns, xattrs) = row[:11]
    (attr_seq, content_seq, origin, backing_ino, backing_ctime_ns, blocks) = row[11:]
    backing = None if backing_ino is None else Backing(backing_ino & _MASK64, backing_ctime_ns)
    try:
        kind = _KINDS[kind]
    except KeyError:
        raise IndexDamaged(
            f"inode {id_:x} is of kind {kind}, which does not exist: rebuild the index"
        ) from None
    return Inode(
        id_,
        kind,
        mode,
        uid,
        gid,
        mtime_ns,
        size,
        rdev,
        target,
        xattrs,
        digest,
        blocks,
        attr_seq,
        content_seq,
        origin,
        backing,
    )


def dirent_of(row: tuple[Any, ...]) -> Dirent:
    """The cell of a row of `SQL.DIRENTS_SINCE` and its like."""
    parent, name, inode, seq, origin = row
    return Dirent(InodeId(parent), name, inode, Seq(seq), origin)
