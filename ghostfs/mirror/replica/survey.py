"""What users have done to objects whose cells have not changed.

A delta looks at what it changes and at nothing else. A snapshot names every cell, so with it each object that
stays as it is can be looked at for the price of one lstat(2) a name: what is missing is put there again. Where
a copy is adopted, what is there and differs is replaced, too; the user's then gets a conflict name.
"""

from __future__ import annotations

__all__ = ["Finding", "Survey"]

import enum
import stat

from ghostfs.index import Index
from ghostfs.mirror.replica.conflict import is_ours, look, unchanged
from ghostfs.mirror.replica.reach import Reach
from ghostfs.model import HELD, ROOT, Inode, InodeId, Kind


class Finding(enum.Enum):
    """How an object is."""

    WHOLE = enum.auto()
    AMISS = enum.auto()
    """Its attributes are to be set again; a directory is made again if it is gone."""
    LOST = enum.auto()
    """It is to be made again: gone from one of its names, or another one is there."""


class Survey:
    """Looks objects up where the index says they are, before a plan changes that."""

    def __init__(self, index: Index, reach: Reach, *, thorough: bool) -> None:
        """`thorough`: whether what is there is compared, or only whether something is."""
        self._index = index
        self._reach = reach
        self._thorough = thorough

    def look_at(self, row: Inode) -> Finding:
        """How the object of an inode is that the index knows."""
        if row.id == ROOT:
            return Finding.WHOLE
        findings = {
            self._look_at(row, parent, name) for parent, name in self._index.links(row.id) if parent != HELD
        }
        if Finding.LOST in findings:
            return Finding.AMISS if row.kind is Kind.DIRECTORY else Finding.LOST
        return Finding.AMISS if Finding.AMISS in findings else Finding.WHOLE

    def _look_at(self, row: Inode, parent: InodeId, name: bytes) -> Finding:
        try:
            directory = self._reach.fd(parent)
            st = look(directory, name)
        except PermissionError:
            return Finding.WHOLE  # nobody can tell
        except OSError:
            return Finding.LOST  # no directory is where it should be
        if st is None or (row.kind is Kind.DIRECTORY and not stat.S_ISDIR(st.st_mode)):
            return Finding.LOST
        if not self._thorough or unchanged(st, row):
            return Finding.WHOLE
        return Finding.AMISS if is_ours(directory, name, st, row) else Finding.LOST
