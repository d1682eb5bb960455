"""Giving an object of a replica the mode, owner, times and user attributes that its cell states.

Nothing here follows a symlink: what a name holds is pinned by a descriptor first.
"""

from __future__ import annotations

__all__ = ["Attributes"]

import errno
import os

import structlog

from ghostfs.mirror.replica.ownership import UNPRIVILEGED, Owner
from ghostfs.mirror.xattrs import PREFIX, decode_xattrs
from ghostfs.model import Inode, Kind

log = structlog.get_logger(__name__)

_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_HERE = frozenset(
    {
        errno.ENOTSUP,
        errno.EPERM,
        errno.EACCES,
        errno.EINVAL,
        errno.ENOSPC,
        errno.ENODATA,
        errno.E2BIG,
        errno.ERANGE,
    }
)
"""Answers to xattr calls that say: this filesystem, or this object, does not keep it."""


class Attributes:
    """Sets attributes by one owner rule; what cannot be kept here is said once, and is no failure."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._said: set[str] = set()

    def on_fd(self, fd: int, cell: Inode) -> None:
        """All attributes of a new regular file, through a descriptor that can write."""
        if cell.xattrs:
            self._set_xattrs(fd, cell, fresh=True)
        self._chown(fd, cell)
        os.fchmod(fd, self._mode(cell))
        os.utime(fd, ns=(cell.mtime_ns, cell.mtime_ns))

    def on_name(self, directory: int, name: bytes, cell: Inode, *, fresh: bool = False) -> None:
        """All attributes of whatever `name` holds, which must be of the cell's kind.

        Raises:
            FileNotFoundError: it holds nothing, or an object of another kind.
        """
        fd = os.open(name, _PIN, dir_fd=directory)
        try:
            self.on_pin(fd, cell, fresh=fresh)
        finally:
            os.close(fd)

    def on_pin(self, fd: int, cell: Inode, *, fresh: bool = False) -> None:
        """All attributes of the object that an O_PATH descriptor pins.

        Raises:
            FileNotFoundError: it is of another kind than the cell.
        """
        if (os.fstat(fd).st_mode & 0o170000) != cell.kind.format:
            raise FileNotFoundError(errno.ENOENT, "of another kind")
        pinned = f"/proc/self/fd/{fd}"  # leads to the object itself, also when that is a symlink
        if cell.xattrs or not fresh:
            self._set_xattrs(pinned, cell, fresh=fresh)
        self._chown(pinned, cell)
        if cell.kind is not Kind.SYMLINK:
            os.chmod(pinned, self._mode(cell))
        os.utime(pinned, ns=(cell.mtime_ns, cell.mtime_ns))

    def _mode(self, cell: Inode) -> int:
        mode = self._owner.mode(cell)
        if mode != cell.mode:
            self._say("setuid_not_kept", reason=UNPRIVILEGED)
        return mode

    def _chown(self, where: int | str, cell: Inode) -> None:
        owner = self._owner.of(cell.uid, cell.gid)
        if owner is None:
            return
        try:
            os.chown(where, *owner)
        except OSError as error:
            # A user namespace may not map the owner, a network filesystem may not let it be set.
            if error.errno not in (errno.EPERM, errno.EINVAL):
                raise
            self._say("owner_not_kept", uid=owner[0], gid=owner[1], error=error.strerror)

    def _set_xattrs(self, where: int | str, cell: Inode, *, fresh: bool) -> None:
        if cell.kind not in (Kind.FILE, Kind.DIRECTORY):
            return
        wanted = decode_xattrs(cell.xattrs)
        try:
            if not fresh:
                for name in map(os.fsencode, os.listxattr(where)):
                    if name.startswith(PREFIX) and name not in wanted:
                        os.removexattr(where, name)
            for name, value in wanted.items():
                os.setxattr(where, name, value)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            if wanted:
                self._say("xattrs_not_kept", error=error.strerror)

    def _say(self, event: str, **facts: object) -> None:
        if event not in self._said:
            self._said.add(event)
            log.warning(event, **facts)
