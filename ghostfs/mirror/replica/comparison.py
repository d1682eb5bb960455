"""What a place of a copy holds, against what the index says it holds: one look, nothing changed.

Owners are not compared: a copy keeps them as far as its machine can; nor are user attributes where its filesystem
has none. Times of directories are not either, because whatever their users do in them changes those.
"""

from __future__ import annotations

__all__ = ["UNTRACKED", "Comparison", "Held", "listed", "open_file"]

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from ghostfs.content import scan
from ghostfs.errors import Superseded
from ghostfs.index import Index
from ghostfs.mirror.replica.conflict import look, unchanged
from ghostfs.mirror.replica.ownership import Owner
from ghostfs.mirror.replica.reach import Reach
from ghostfs.mirror.replica.steps import Place
from ghostfs.mirror.syscalls import data_ranges, open_quietly, pread_exactly
from ghostfs.mirror.xattrs import UserAttributes, decode_xattrs
from ghostfs.model import HELD, ROOT, Inode, Kind

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_S = 1_000_000_000

UNTRACKED = "is not the session's: it stays, whatever comes"
_MISSING = "is missing: it comes back with its next version"
_CHANGED = "was changed here: it is kept as a conflict copy when its next version comes"
_DAMAGED = "has another content than was written, and nobody has changed it: the disk may be failing"
_REPLACED = "is of another kind here: it is kept as a conflict copy when the session's next version comes"
_APART = "is no longer one file with its other names: it is again with its next version"
_UNKNOWN = "is named in the index, which knows nothing of it: the index is damaged"


def open_file(directory: int, name: bytes) -> int:
    """A descriptor for reading that leaves the access time; the caller closes it.

    Raises:
        OSError: it cannot be read, or is something else by now.
    """
    return open_quietly(name, _READ, dir_fd=directory)


@dataclass(frozen=True, slots=True)
class Held:
    """What an open file holds: the digest of its content, and whether its user attributes are those of its cell."""

    digest: bytes | None
    """None if it is being cut."""
    same_attributes: bool


class Comparison:
    """Compares place by place, where `reach` says that they are; its `begin` has it look anew."""

    def __init__(
        self, index: Index, reach: Reach, *, privileged: bool, progress: Callable[[int], None]
    ) -> None:
        """`progress` is called with bytes that were read, by whichever thread reads them."""
        self.reach = reach
        self._index = index
        self._owner = Owner("ignore", privileged=privileged)
        self._progress = progress
        self._user_attributes = UserAttributes()

    def held(self, row: Inode, fd: int) -> Held:
        """What an open file of a cell holds. For any thread.

        Raises:
            OSError: it cannot be read.
        """
        return Held(self._digest(fd), self._same_attributes(row, fd))

    def _digest(self, fd: int) -> bytes | None:
        def read(offset: int, length: int) -> bytes:
            data = pread_exactly(fd, length, offset)
            self._progress(len(data))
            return data

        size = os.fstat(fd).st_size
        try:
            return scan(read, size, data_ranges(fd, size)).digest()
        except Superseded:
            return None

    def facts(self, place: Place) -> object:
        """What the index says of a place: equal before and after a look, it was not changed in between."""
        inode = self._index.dirent(*place)
        row = None if inode is None else self._index.inode_light(inode)
        here = place.parent == ROOT or bool(self._index.links(place.parent))
        return here, inode, row, () if inode is None else tuple(self._index.links(inode))

    def judge(self, place: Place) -> str | None:
        """What is wrong with a place, content included; None if nothing is."""
        inode = self._index.dirent(*place)
        row = None if inode is None else self._index.inode_light(inode)
        if place.parent != ROOT and not self._index.links(place.parent):
            return None  # the directory is not the session's any more
        try:
            directory, st = self._find(place)
            if inode is None:
                return None if st is None else UNTRACKED
            if row is None or directory is None or st is None:
                return _UNKNOWN if row is None else _MISSING
            wrong = self.glance(row, directory, place.name, st)
            if wrong is None and row.kind is Kind.FILE:
                fd = open_file(directory, place.name)
                try:
                    wrong = self.content(row, st, self.held(row, fd))
                finally:
                    os.close(fd)
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return wrong

    def glance(self, row: Inode, directory: int, name: bytes, st: os.stat_result) -> str | None:
        """What is wrong with an object, as far as can be said without reading a file."""
        if stat.S_IFMT(st.st_mode) != row.kind.format:
            return _REPLACED
        if row.kind is Kind.FILE and st.st_size != row.size:
            return _CHANGED
        if row.kind is Kind.SYMLINK and os.readlink(name, dir_fd=directory) != row.target:
            return _CHANGED
        if row.kind in (Kind.CHAR, Kind.BLOCK) and st.st_rdev != row.rdev:
            return _CHANGED
        if row.kind is Kind.DIRECTORY:
            same = self._same_attributes(row, b"/proc/self/fd/%d/%s" % (directory, name))
            return self._attributes(row, st, same=same)
        if self._is_apart(row, st):
            return _APART
        return None if row.kind is Kind.FILE else self._attributes(row, st)

    def content(self, row: Inode, st: os.stat_result, held: Held) -> str | None:
        """What is wrong with a file of the right size, of which is known what it holds."""
        if held.digest != row.digest:
            return _DAMAGED if unchanged(st, row) else _CHANGED
        return self._attributes(row, st, same=held.same_attributes)

    def _find(self, place: Place) -> tuple[int | None, os.stat_result | None]:
        try:
            directory = self.reach.fd(place.parent)
            return directory, look(directory, place.name)
        except (FileNotFoundError, NotADirectoryError):
            return None, None

    def _same_attributes(self, row: Inode, where: int | bytes) -> bool:
        """Whether an object has the user attributes of its cell, as far as its filesystem has any."""
        found = self._user_attributes.read(where, row.kind)
        if found == row.xattrs:
            return True
        missing = decode_xattrs(row.xattrs).keys() - decode_xattrs(found).keys()
        return not all(self._user_attributes.keeps(where, name) for name in missing)

    def _attributes(self, row: Inode, st: os.stat_result, *, same: bool = True) -> str | None:
        wrong = []
        if row.kind is not Kind.SYMLINK and stat.S_IMODE(st.st_mode) != self._owner.mode(row):
            wrong.append(f"mode {stat.S_IMODE(st.st_mode):o} instead of {self._owner.mode(row):o}")
        kept = (row.mtime_ns, row.mtime_ns // _S * _S)  # some filesystems keep whole seconds
        if row.kind is not Kind.DIRECTORY and st.st_mtime_ns not in kept:
            wrong.append("another time of modification")
        if not same:
            wrong.append("other extended attributes")
        return f"has {' and '.join(wrong)}: set again when its attributes change" if wrong else None

    def _is_apart(self, row: Inode, st: os.stat_result) -> bool:
        """Whether names of one inode hold several files."""
        if st.st_nlink == 1 and row.backing is not None and row.backing.ino == st.st_ino:
            return False
        names = [Place(*link) for link in self._index.links(row.id) if link[0] != HELD]
        if len(names) < 2:
            return False
        found = (self._find(name)[1] for name in names)
        return any(other is not None and other.st_ino != st.st_ino for other in found)


def listed(directory: int) -> list[bytes]:
    """The names in a directory that an O_PATH descriptor pins.

    Raises:
        OSError: it cannot be read.
    """
    fd = open_quietly(b".", _LIST, dir_fd=directory)
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]
    finally:
        os.close(fd)
