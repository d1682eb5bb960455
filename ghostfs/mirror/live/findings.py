"""What an index must learn of its tree, and how it learns it: in one transaction."""

from __future__ import annotations

__all__ = ["Findings", "Place", "apply"]

from dataclasses import dataclass, field

from ghostfs.index import Index, InodePut
from ghostfs.model import Inode, InodeId, Kind

Place = tuple[InodeId, bytes]
"""A name in a directory."""


@dataclass(slots=True)
class Findings:
    """What the index must learn, and what it cost to find out."""

    names: dict[Place, InodeId | None] = field(default_factory=dict)
    inodes: dict[InodeId, Inode] = field(default_factory=dict)
    content_of: set[InodeId] = field(default_factory=set)
    """Which of `inodes` have new content."""
    unreadable: dict[Place, InodeId | None] = field(default_factory=dict)
    """Places that could not be looked at for want of rights, and whose content it is, where that is known.
    What the index says of them stands."""
    looked_at: int = 0
    files_read: int = 0
    bytes_read: int = 0

    @property
    def empty(self) -> bool:
        return not (self.names or self.inodes)


def apply(index: Index, findings: Findings) -> None:
    """Commits what was found, in one transaction: followers never see half of it."""
    with index.commit() as commit:
        commit.put(
            [
                InodePut(
                    cell, attrs=True, content=cell.kind is not Kind.FILE or cell.id in findings.content_of
                )
                for cell in findings.inodes.values()
            ],
            [(parent, name, child) for (parent, name), child in findings.names.items()],
        )
        commit.drop_orphans()
