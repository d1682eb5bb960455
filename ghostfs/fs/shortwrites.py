"""Writes of which the disk took a part, and about which somebody is still to be told.

Whoever calls write(2) is told how much was written. What the kernel writes of a memory map counts as written unless it
fails: there the next fsync(2) or msync(2) has to say it, and nobody knows from the request which of the two it was.
"""

from __future__ import annotations

__all__ = ["ShortWrites"]

from dataclasses import dataclass

from ghostfs.model import InodeId


@dataclass(slots=True)
class _Lacking:
    begin: int
    end: int
    errno: int


class ShortWrites:
    """By file, from where to where something lacks, and why; what lies between two short writes counts. Pure."""

    def __init__(self) -> None:
        self._lacking: dict[InodeId, _Lacking] = {}

    def __bool__(self) -> bool:
        return bool(self._lacking)

    def lacks(self, inode: InodeId, begin: int, end: int, errno: int) -> None:
        """These bytes were not taken."""
        there = self._lacking.get(inode)
        if there is not None:
            begin, end = min(begin, there.begin), max(end, there.end)
        self._lacking[inode] = _Lacking(begin, end, errno)

    def written(self, inode: InodeId, begin: int, end: int) -> None:
        """These bytes were taken: if they lacked before, they do no more."""
        there = self._lacking.get(inode)
        if there is None:
            return
        if begin <= there.begin:
            there.begin = max(there.begin, end)
        if end >= there.end:
            there.end = min(there.end, begin)
        if there.begin >= there.end:
            del self._lacking[inode]

    def tell(self, inode: InodeId) -> int | None:
        """Why something lacks of a file, as an errno; it counts as told from now on."""
        there = self._lacking.pop(inode, None)
        return None if there is None else there.errno
