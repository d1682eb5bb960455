"""Where the index has an inode, and whether the tree bears that out."""

from __future__ import annotations

__all__ = ["Way", "is_in_place", "shown", "ways"]

import os
from collections.abc import Iterator
from typing import TypeAlias

from ghostfs.index import Index
from ghostfs.model import ROOT, InodeId, Kind
from ghostfs.names import display

_OPEN_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Way: TypeAlias = list[tuple[InodeId, bytes]]
"""Each object from the root's entry down to an inode, with its name."""


def ways(rows: Index, inode: InodeId) -> Iterator[Way]:
    """One for each hard link that does not hang in the air."""
    for parent, name in rows.links(inode):
        at = parent
        way = [(inode, name)]
        while at != ROOT:
            links = rows.links(at)
            if not links:
                break
            above, called = links[0]
            way.append((at, called))
            at = above
        else:
            yield way[::-1]


def shown(way: Way) -> str:
    """The path, for people."""
    return display(b"/".join(name for _, name in way))


def is_in_place(rows: Index, top: int, way: Way) -> bool:
    """Whether all on the way is what the index says, up to where this process may not look any further.

    `top` is a descriptor of the tree's root.
    """
    at = os.dup(top)
    try:
        for inode, name in way:
            try:
                status = os.stat(name, dir_fd=at, follow_symlinks=False)
                row = rows.inode_light(inode)
                if row is None or (row.backing is not None and row.backing.ino != status.st_ino):
                    return False
                if row.kind is Kind.DIRECTORY:
                    below = os.open(name, _OPEN_DIRECTORY, dir_fd=at)
                    os.close(at)
                    at = below
            except PermissionError:
                return True
            except OSError:
                return False
        return True
    finally:
        os.close(at)
