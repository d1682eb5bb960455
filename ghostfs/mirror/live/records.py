"""What a live mirror remembers of an inode while somebody uses it, and of an open file."""

from __future__ import annotations

__all__ = ["FileHandle", "Record"]

import os
import stat

from ghostfs.content import BlockMap, Settlement
from ghostfs.model import InodeId, Kind, kind_of_mode

_SETID = stat.S_ISUID | stat.S_ISGID


class Record:
    """One inode in use: known to the kernel, open, or changed and not yet in the index.

    `parent` and `name` are one place where it can be reached; `others` holds further hard links, as far
    as `nlink` says that there are any. Guarded by the working set's lock.
    """

    __slots__ = (
        "attrs_dirty",
        "changed_at",
        "content_dirty",
        "due",
        "first_dirty_at",
        "handles",
        "id",
        "in_commit",
        "in_index",
        "kept_fd",
        "kind",
        "known",
        "logged",
        "map",
        "name",
        "nlink",
        "others",
        "parent",
        "setid",
        "settle_fd",
        "settled_at",
        "settling",
        "st",
        "synced",
        "writers",
        "xattrs",
    )

    def __init__(self, inode: InodeId, parent: InodeId, name: bytes, st: os.stat_result) -> None:
        self.id = inode
        self.parent = parent
        self.name = name
        self.kind: Kind = kind_of_mode(st.st_mode)
        # A directory has one name or none; what its own count says differs from filesystem to filesystem.
        self.nlink = 1 if self.kind is Kind.DIRECTORY else st.st_nlink
        self.others: set[tuple[InodeId, bytes]] | None = None
        self.setid = bool(st.st_mode & _SETID) and self.kind is Kind.FILE
        self.known = False
        """The kernel may ask for it by id."""
        self.in_index = True
        """A row of it has been committed."""
        self.in_commit = False
        """The capture thread is carrying it into the index."""
        self.handles: list[FileHandle] | None = None
        self.writers = 0
        self.map: BlockMap | None = None
        self.settle_fd: int | None = None
        """Kept open from the last writer's close until the content is settled."""
        self.kept_fd: int | None = None
        """Leads to what has no name any more (O_PATH, or a handle's that was closed) until the kernel forgets it."""
        self.st: os.stat_result | None = None
        """What stat(2) says of it, if that is known and nothing has changed since."""
        self.xattrs: bytes | None = None
        """Its user attributes, encoded, if they are known."""
        self.attrs_dirty = False
        self.content_dirty = False
        self.logged = -1
        """The generation of dirty.log that names it, if that was since it was last taken for a commit."""
        self.due = False
        """Its content settles with the next commit, whoever has it open."""
        self.first_dirty_at = 0.0
        self.changed_at = 0.0
        self.synced = False
        """Was fsynced since its content changed."""
        self.settled_at = float("-inf")
        self.settling: Settlement | None = None
        """What of its content is being read back: to be told before anything of it changes."""

    @property
    def is_directory(self) -> bool:
        return self.kind is Kind.DIRECTORY

    @property
    def unlinked(self) -> bool:
        """No name leads to it any more."""
        return self.nlink == 0

    @property
    def dirty(self) -> bool:
        return self.attrs_dirty or self.content_dirty

    @property
    def idle(self) -> bool:
        """Nobody would miss this record."""
        return not (self.known or self.attrs_dirty or self.content_dirty or self.handles or self.in_commit)

    def place_added(self, parent: InodeId, name: bytes) -> None:
        """A further hard link was made."""
        if self.others is None:
            self.others = set()
        self.others.add((parent, name))
        self.nlink += 1

    def place_removed(self, parent: InodeId, name: bytes) -> None:
        """A hard link, or the only name, was removed."""
        self.nlink = max(self.nlink - 1, 0)
        if (self.parent, self.name) != (parent, name):
            if self.others is not None:
                self.others.discard((parent, name))
        elif self.others:
            self.parent, self.name = self.others.pop()

    def place_moved(self, old: tuple[InodeId, bytes], new: tuple[InodeId, bytes]) -> None:
        """A name was renamed."""
        if (self.parent, self.name) == old:
            self.parent, self.name = new
        elif self.others is not None:
            self.others.discard(old)
            self.others.add(new)


class FileHandle:
    """An open file. `fd` can be read if at all possible, also when only writing was asked for."""

    __slots__ = ("fd", "record", "writable")

    def __init__(self, record: Record, fd: int, *, writable: bool) -> None:
        self.record = record
        self.fd = fd
        self.writable = writable

    @property
    def inode(self) -> InodeId:
        return self.record.id
