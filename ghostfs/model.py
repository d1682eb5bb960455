"""The words of GhostFS as types: inodes, dirents, cursors.

Values here are immutable and know nothing of disks, databases or networks. A *cell* is the unit of
change: a `Dirent` or an `Inode`. See `docs/architecture.md` for how they travel.
"""

from __future__ import annotations

__all__ = [
    "HELD",
    "NEVER",
    "NO_DIGEST",
    "REPLICA_SHIFT",
    "ROOT",
    "Backing",
    "Cursor",
    "Dirent",
    "Epoch",
    "Inode",
    "InodeId",
    "Kind",
    "Replica",
    "Seq",
    "kind_of_mode",
]

import enum
import stat
from dataclasses import dataclass
from typing import NewType

InodeId = NewType("InodeId", int)
"""63 bits: the high 16 name the replica that made the file, the low 47 count up."""

Seq = NewType("Seq", int)
"""The number of a committed cell change within one session and epoch; the first is 1."""

Epoch = NewType("Epoch", int)
"""A random 63-bit number given to an index when it is made; never 0."""

Replica = NewType("Replica", int)
"""16 bits, handed out by the hub at enrolment; 0 is the hub itself."""

REPLICA_SHIFT = 47
ROOT = InodeId(1)
"""The root directory of every session; also FUSE's root node id. It has no dirent."""

HELD = InodeId(0)
"""A pseudo directory of a node's index: entries that left the tree and wait in staging for a new place
or for the end of a snapshot. Never on the wire."""

NEVER = Seq(0)
"""Before the first change: the cursor of a node that has nothing."""

NO_DIGEST = b""
"""The digest of an inode that has no content: anything but a regular file."""


class Kind(enum.IntEnum):
    """What an inode is. The value is the file type field of `st_mode`, shifted down by 12."""

    FIFO = stat.S_IFIFO >> 12
    CHAR = stat.S_IFCHR >> 12
    DIRECTORY = stat.S_IFDIR >> 12
    BLOCK = stat.S_IFBLK >> 12
    FILE = stat.S_IFREG >> 12
    SYMLINK = stat.S_IFLNK >> 12
    SOCKET = stat.S_IFSOCK >> 12

    @property
    def format(self) -> int:
        """The `S_IFMT` bits of this kind."""
        return self.value << 12


def kind_of_mode(st_mode: int) -> Kind:
    """The kind that an `st_mode` states."""
    return Kind(stat.S_IFMT(st_mode) >> 12)


@dataclass(frozen=True, slots=True)
class Backing:
    """What `lstat` said of a backing file when its inode was committed: the key of the hash cache.

    `mtime_ns` and `size` are in the inode itself. A backing file whose inode number, change time and
    size are these has the content that the inode's digest names, and need not be read.
    """

    ino: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class Inode:
    """An inode cell: what a file is, apart from its names.

    `mode` holds permission bits only (0 to 0o7777); the file type is `kind`. `mtime_ns` is nanoseconds
    since 1970. `size`, `digest` and `blocks` describe content and are set for regular files only (`size`
    0, `digest` and `blocks` empty otherwise). `blocks` is a `BlockList.encode()`. `rdev` is for devices,
    `target` for symlinks. `xattrs` is empty, or an `encode_xattrs` of user attributes. `attr_seq` and
    `content_seq` are the sequences of the last change of each half. `origin` is the replica that made
    the last change. `backing` is local knowledge, never on the wire, never in the fingerprint; `None`
    means not materialised here (a node still waits for the content).
    """

    id: InodeId
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    rdev: int = 0
    target: bytes = b""
    xattrs: bytes = b""
    digest: bytes = NO_DIGEST
    blocks: bytes = b""
    attr_seq: Seq = NEVER
    content_seq: Seq = NEVER
    origin: Replica = Replica(0)
    backing: Backing | None = None

    @property
    def seq(self) -> Seq:
        """The sequence of this cell's last change."""
        return max(self.attr_seq, self.content_seq)

    @property
    def st_mode(self) -> int:
        """Type and permission bits together, as in `struct stat`."""
        return self.kind.format | self.mode


@dataclass(frozen=True, slots=True)
class Dirent:
    """A dirent cell: under `parent`, the bytes `name` mean `inode`, or nothing (a tombstone)."""

    parent: InodeId
    name: bytes
    inode: InodeId | None
    seq: Seq = NEVER
    origin: Replica = Replica(0)


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a follower has durably applied a session; worth nothing under another epoch."""

    epoch: Epoch
    seq: Seq
