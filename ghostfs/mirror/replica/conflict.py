"""What a user has changed in a replica's tree: recognised before anything is overwritten, and kept.

An object is *ours* if it is what the index says: the same backing inode with size and times as they were
left, or, when those differ, the same content. Anything else is the user's, and so is what a user has open
for writing, because what is written later shall be in some file. It stays in the tree, beside the new version, under a conflict name; nothing of it is ever copied, so it keeps its owner, mode and times.
"""

from __future__ import annotations

__all__ = [
    "Keeper",
    "content_digest",
    "is_being_written",
    "is_ours",
    "look",
    "same_version",
    "unchanged",
    "untouched",
]

import errno
import fcntl
import os
import signal
import stat
import time
from collections.abc import Callable

import structlog

from ghostfs.content import scan
from ghostfs.errors import Superseded
from ghostfs.mirror.replica.batch import KeptChange
from ghostfs.mirror.replica.steps import Place
from ghostfs.mirror.syscalls import RENAME_NOREPLACE, data_ranges, pread_exactly, renameat2
from ghostfs.model import HELD, ROOT, Inode, Kind
from ghostfs.names import conflict_name, display

log = structlog.get_logger(__name__)

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def look(directory: int, name: bytes) -> os.stat_result | None:
    """lstat(2) of a name in a directory; None if it holds nothing."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def unchanged(st: os.stat_result, cell: Inode) -> bool:
    """Whether an object needs no second look: nobody has written to it since its cell was committed."""
    backing = cell.backing
    return (
        backing is not None
        and st.st_ino == backing.ino
        and st.st_ctime_ns == backing.ctime_ns
        and stat.S_IFMT(st.st_mode) == cell.kind.format
        and (st.st_size == cell.size or cell.kind is not Kind.FILE)
    )


def untouched(st: os.stat_result, cell: Inode) -> bool:
    """As `unchanged`, for an object whose ctime has been changed by ourselves since."""
    return (
        cell.backing is not None
        and st.st_ino == cell.backing.ino
        and stat.S_IFMT(st.st_mode) == cell.kind.format
        and (cell.kind is not Kind.FILE or (st.st_size, st.st_mtime_ns) == (cell.size, cell.mtime_ns))
    )


def same_version(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether nothing was written between two looks; a rename in between may have changed the ctime."""
    return (before.st_ino, before.st_size, before.st_mtime_ns) == (
        after.st_ino,
        after.st_size,
        after.st_mtime_ns,
    )


def is_ours(
    directory: int, name: bytes, st: os.stat_result, cell: Inode | None, *, trusted: bool = True
) -> bool:
    """Whether the object is what its cell says; reads it only when its times do not settle the question.

    Without `trusted` the times say nothing, and content alone counts.
    """
    if cell is None or stat.S_IFMT(st.st_mode) != cell.kind.format:
        return False
    if trusted and unchanged(st, cell):
        return True
    match cell.kind:
        case Kind.FILE:
            return st.st_size == cell.size and content_digest(directory, name) == cell.digest
        case Kind.SYMLINK:
            return os.readlink(name, dir_fd=directory) == cell.target
        case Kind.CHAR | Kind.BLOCK:
            return st.st_rdev == cell.rdev
        case _:
            return True


def content_digest(directory: int, name: bytes) -> bytes | None:
    """The digest of a regular file's content as it is now; None if it cannot be read or is being cut."""
    try:
        fd = os.open(name, _READ, dir_fd=directory)
    except OSError:
        return None
    try:
        size = os.fstat(fd).st_size

        def read(offset: int, length: int) -> bytes:
            return pread_exactly(fd, length, offset)

        return scan(read, size, data_ranges(fd, size)).digest()
    except Superseded:
        return None
    finally:
        os.close(fd)


def is_being_written(directory: int, name: bytes, st: os.stat_result) -> bool:
    """Whether unlinking the name would take the file from under somebody who has it open for writing.

    The kernel grants a read lease only on a file that nobody can write to, mappings included. Where it
    grants none for another reason (a network filesystem, a file of another user's), the answer is no.
    """
    if not stat.S_ISREG(st.st_mode) or st.st_nlink > 1:
        return False
    try:
        fd = os.open(name, _READ, dir_fd=directory)
    except OSError as error:
        return error.errno == errno.EAGAIN  # leased by somebody who writes
    try:
        # Who opens it just now breaks the lease, which would end this process by a SIGIO.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(fd)
    return False


class Keeper:
    """Moves users' objects aside and remembers which, for the report of the batch."""

    def __init__(self, node: str, path_of: Callable[[Place], bytes]) -> None:
        """`path_of` gives the path of a place from the root of the tree."""
        self._node = node
        self._path_of = path_of
        self.kept: list[KeptChange] = []

    def keep(self, source: int, name: bytes, target: int, at: Place) -> bool:
        """Gives the object `name` in `source` a free conflict name, made of `at`, in the directory `target`.

        `target` is a descriptor of `at.parent` (of the root, for what is held). Returns whether there was
        something to keep.
        """
        utc = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        home = ROOT if at.parent == HELD else at.parent
        attempt = 0
        while True:
            kept = conflict_name(at.name, self._node, utc, attempt)
            try:
                renameat2(source, name, target, kept, RENAME_NOREPLACE)
                break
            except FileNotFoundError:
                return False
            except OSError as error:
                if error.errno != errno.EEXIST:
                    raise
                attempt += 1
        change = KeptChange(self._path_of(Place(home, at.name)), self._path_of(Place(home, kept)))
        log.warning("local_change_kept", path=display(change.path), kept=display(change.kept))
        self.kept.append(change)
        return True
