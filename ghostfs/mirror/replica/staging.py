"""The staging folder of a replica: objects on their way into the tree, and entries on their way through it.

    new/<inode id>-<first 16 hex digits of the digest>   a file that is being assembled, or is complete
    new/<inode id>-<kind>                                an object of another kind
    held/<inode id>                                      see `steps.held_place`

A file is assembled under a name that says which version it is, so what a crash leaves behind is used again.
Before it is published it is sparse, readable by nobody else, and of the size that it will have.
"""

from __future__ import annotations

__all__ = ["ITS_OWN", "Staging", "Unmakeable", "staged_name"]

import errno
import os
from pathlib import Path

from ghostfs import private
from ghostfs.model import Inode, InodeId, Kind

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PART = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE = 0o600

ITS_OWN = frozenset(
    {errno.EFBIG, errno.ENAMETOOLONG, errno.EINVAL, errno.EPERM, errno.EOVERFLOW, errno.EOPNOTSUPP}
)
"""Errors that are about one object, not about the disk: trying again changes nothing, others are not concerned."""


class Unmakeable(Exception):
    """Some objects of a batch cannot be made here, with why; nothing of the tree has been touched."""

    def __init__(self, why: dict[InodeId, OSError]) -> None:
        super().__init__(f"{len(why)} objects cannot be made here")
        self.why = why


def staged_name(cell: Inode) -> bytes:
    """The name under `new/` of the object that this version of an inode becomes."""
    if cell.kind is Kind.FILE:
        return b"%x-%s" % (cell.id, cell.digest[:8].hex().encode())
    return b"%x-%s" % (cell.id, cell.kind.name.lower().encode())


class Staging:
    """The folders, open. What is in `new/` is listed once and then known."""

    def __init__(self, path: Path) -> None:
        """Makes the folders where they are missing.

        Raises:
            OSError: they cannot be made.
        """
        private.make_directory(path)
        self.path = path
        self.fd = os.open(path, _DIRECTORY)
        for name in ("new", "held"):
            private.make_directory(path / name)
        self.new_fd = os.open("new", _DIRECTORY, dir_fd=self.fd)
        self.held_fd = os.open("held", _DIRECTORY, dir_fd=self.fd)
        self._left: dict[InodeId, set[bytes]] = {}
        for name in os.listdir(path / "new"):
            self._note(os.fsencode(name))

    def open_part(self, cell: Inode) -> tuple[int, bool]:
        """A descriptor of the file's part, of the right size, and whether it was there before.

        The caller closes it.
        """
        name = staged_name(cell)
        if name in self._left.get(cell.id, ()):
            fd = self._reopen(name, cell.size)
            if fd is not None:
                return fd, True
        fd = os.open(name, _PART | os.O_CREAT | os.O_EXCL, _PRIVATE, dir_fd=self.new_fd)
        self._note(name)
        try:
            if cell.size:
                os.ftruncate(fd, cell.size)
        except OSError:
            os.close(fd)
            raise
        return fd, False

    def open_again(self, cell: Inode) -> int:
        """A descriptor of a part that `open_part` made; the caller closes it."""
        return os.open(staged_name(cell), _PART, dir_fd=self.new_fd)

    def older_parts(self, cell: Inode) -> list[int]:
        """Descriptors of parts of other versions of the same file; the caller closes them."""
        found = []
        for name in self._left.get(cell.id, set()) - {staged_name(cell)}:
            try:
                found.append(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.new_fd))
            except OSError:
                continue
        return found

    def make(self, cell: Inode) -> bytes:
        """Makes the object of a cell that is no regular file, without its attributes; returns its name.

        Raises:
            PermissionError: a device, and this process may not make one.
        """
        name = staged_name(cell)
        self.discard(name)
        match cell.kind:
            case Kind.DIRECTORY:
                os.mkdir(name, 0o700, dir_fd=self.new_fd)
            case Kind.SYMLINK:
                os.symlink(cell.target, name, dir_fd=self.new_fd)
            case _:
                os.mknod(name, cell.kind.format | _PRIVATE, cell.rdev, dir_fd=self.new_fd)
        self._note(name)
        return name

    def discard(self, name: bytes) -> None:
        """Removes one object, if it is there."""
        try:
            os.unlink(name, dir_fd=self.new_fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            os.rmdir(name, dir_fd=self.new_fd)

    def clean(self, keep: frozenset[InodeId] | set[InodeId]) -> None:
        """Removes what is left of all inodes but `keep`."""
        for inode in [i for i in self._left if i not in keep]:
            for name in self._left.pop(inode):
                self.discard(name)

    def published(self, inode: InodeId, name: bytes) -> None:
        """The object has left `new/`."""
        names = self._left.get(inode)
        if names is not None:
            names.discard(name)
            if not names:
                del self._left[inode]

    def close(self) -> None:
        """Closes the folders; a second time does nothing."""
        for fd in (self.new_fd, self.held_fd, self.fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.new_fd = self.held_fd = -1

    def _note(self, name: bytes) -> None:
        try:
            inode = InodeId(int(name.partition(b"-")[0], 16))
        except ValueError:
            inode = InodeId(-1)  # not one of ours; goes with the next `clean`
        self._left.setdefault(inode, set()).add(name)

    def _reopen(self, name: bytes, size: int) -> int | None:
        """A part that a crash left, if it can be used."""
        try:
            fd = os.open(name, _PART, dir_fd=self.new_fd)
        except OSError:
            self.discard(name)
            return None
        st = os.fstat(fd)
        if st.st_size == size and st.st_nlink == 1:
            return fd
        os.close(fd)
        self.discard(name)
        return None
