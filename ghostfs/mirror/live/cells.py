"""From what `lstat` says to the values of a cell: the one place where the two are made to fit."""

from __future__ import annotations

__all__ = ["backing_of", "cell_of", "mtime_of"]

import os

from ghostfs.content import BlockList, file_digest
from ghostfs.model import NO_DIGEST, Backing, Inode, InodeId, Kind, kind_of_mode

_LEAST = -(1 << 63)
_MOST = (1 << 63) - 1


def _clamped(ns: int) -> int:
    return min(max(ns, _LEAST), _MOST)


def mtime_of(st: os.stat_result) -> int:
    """The time of change that a cell states: one outside of the years 1677 to 2262 becomes the nearest inside."""
    return _clamped(st.st_mtime_ns)


def backing_of(st: os.stat_result) -> Backing:
    """What is remembered of the backing file."""
    return Backing(st.st_ino, _clamped(st.st_ctime_ns))


def cell_of(
    inode: InodeId,
    st: os.stat_result,
    *,
    target: bytes,
    xattrs: bytes,
    blocks: BlockList | None = None,
    kind: Kind | None = None,
) -> Inode:
    """The cell of an inode that looks like this; of a file with its content, if `blocks` tells it.

    `kind` saves finding it out, where it is known.
    """
    if kind is None:
        kind = kind_of_mode(st.st_mode)
    size, digest, encoded = 0, NO_DIGEST, b""
    if blocks is not None:
        size, encoded = blocks.size, blocks.encode()
        digest = file_digest(size, encoded)
    return Inode(
        id=inode,
        kind=kind,
        mode=st.st_mode & 0o7777,
        uid=st.st_uid,
        gid=st.st_gid,
        mtime_ns=mtime_of(st),
        size=size,
        rdev=st.st_rdev if kind in (Kind.CHAR, Kind.BLOCK) else 0,
        target=target,
        xattrs=xattrs,
        digest=digest,
        blocks=encoded,
        backing=backing_of(st),
    )
