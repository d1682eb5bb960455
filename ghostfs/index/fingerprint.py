"""The fingerprint of a mirror: a sum, modulo 2^128, of one xxh3-128 for each live cell.

A sum, because adding and removing a cell is one addition and any order of changes to the same tree ends in
the same number. Sequences, origins and backing files are left out: they say how a mirror came to be what it
is, not what it is. Tombstones say nothing about what is there, and are left out too.

Each cell is hashed in a canonical encoding, all integers big-endian, every variable part preceded by its
length in the fixed part, so that no two cells encode alike:

    inode   "I" id:8 kind:1 size:8 rdev:8 mode:2 uid:4 gid:4 mtime_ns:8 (signed)
            len(target):4 len(digest):4 len(xattrs):4 target digest xattrs
    dirent  "D" parent:8 inode:8 len(name):4 name

The block list is not in it, because the digest states it.
"""

from __future__ import annotations

__all__ = ["FINGERPRINT_SIZE", "MODULUS_MASK", "dirent_term", "inode_term", "pack", "unpack"]

import struct

from xxhash import xxh3_128_intdigest

FINGERPRINT_SIZE = 16
"""Bytes of a packed fingerprint."""

MODULUS_MASK = (1 << 128) - 1
"""Sums are kept modulo 2^128."""

_INODE = struct.Struct(">cQBQQHIIqIII").pack
_DIRENT = struct.Struct(">cQQI").pack


def inode_term(
    id_: int,
    kind: int,
    size: int,
    rdev: int,
    target: bytes,
    digest: bytes,
    mode: int,
    uid: int,
    gid: int,
    mtime_ns: int,
    xattrs: bytes,
) -> int:
    """What one inode adds to the sum; arguments in the order of the inode table's columns.

    Raises:
        struct.error: a number does not fit its field.
    """
    fixed = _INODE(
        b"I", id_, kind, size, rdev, mode, uid, gid, mtime_ns, len(target), len(digest), len(xattrs)
    )
    return xxh3_128_intdigest(fixed + target + digest + xattrs)


def dirent_term(parent: int, name: bytes, inode: int) -> int:
    """What one live dirent adds to the sum.

    Raises:
        struct.error: a number does not fit its field.
    """
    return xxh3_128_intdigest(_DIRENT(b"D", parent, inode, len(name)) + name)


def pack(fingerprint: int) -> bytes:
    """16 bytes, big-endian: how a fingerprint is stored and sent."""
    return fingerprint.to_bytes(FINGERPRINT_SIZE, "big")


def unpack(packed: bytes) -> int:
    """The fingerprint that `pack` made these bytes of."""
    return int.from_bytes(packed, "big")
