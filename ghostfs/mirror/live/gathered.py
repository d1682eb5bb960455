"""One commit in the making: what was taken out of the working set for it, and what of that is final."""

from __future__ import annotations

__all__ = ["Gathered", "Sealed", "Taken"]

import os
from dataclasses import dataclass, field

from ghostfs.content import BlockList, Settlement
from ghostfs.errors import GhostError
from ghostfs.index import DirentPut
from ghostfs.mirror.live.records import Record
from ghostfs.mirror.live.working import Names
from ghostfs.model import InodeId


@dataclass(slots=True)
class Taken:
    """One inode taken out of the working set."""

    record: Record
    settlement: Settlement | None = None
    """The content too, if it settles."""
    at: float = 0.0
    """When it was taken, monotonic."""
    st: os.stat_result | None = None
    """Its attributes then, if content must be read back that may change meanwhile."""
    failed: OSError | GhostError | None = None


@dataclass(frozen=True, slots=True)
class Sealed:
    """One inode as it goes into the index."""

    record: Record
    st: os.stat_result
    blocks: BlockList | None
    """New content; `None` leaves the content that the index has."""
    target: bytes
    xattrs: bytes


@dataclass(slots=True)
class Gathered:
    """One commit in the making."""

    names: Names
    taken: list[Taken]
    sealed: list[Sealed] = field(default_factory=list)
    held: list[tuple[InodeId, bytes]] = field(default_factory=list)
    """Places whose files the index cannot have yet: they stay behind."""
    dirents: list[DirentPut] = field(default_factory=list)
    """The names as the index was given them."""
    bytes_hashed: int = 0
    bytes_reread: int = 0
    """What hashing this content has cost since it last settled."""
    returned: int = 0
    """Inodes that went back, because somebody wrote to them or they could not be read."""
    trouble: OSError | GhostError | None = None
    """Why something went back that should have been committed."""

    @property
    def empty(self) -> bool:
        return not (self.names or self.taken)
