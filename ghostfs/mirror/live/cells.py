"""From what `lstat` says to the values of a cell: the one place where the two are made to fit."""

from __future__ import annotations

__all__ = ["backing_of", "cell_of", "mtime_of"]

import os

from ghostfs.model import Backing, Inode, InodeId, Kind, kind_of_mode

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


def cell_of(inode: InodeId, st: os.stat_result, *, target: bytes, xattrs: bytes) -> Inode:
    """The cell of an inode that looks like this, still without content."""
    kind = kind_of_mode(st.st_mode)
    return Inode(
        id=inode,
        kind=kind,
        mode=st.st_mode & 0o7777,
        uid=st.st_uid,
        gid=st.st_gid,
        mtime_ns=mtime_of(st),
        rdev=st.st_rdev if kind in (Kind.CHAR, Kind.BLOCK) else 0,
        target=target,
        xattrs=xattrs,
        backing=backing_of(st),
    )
