"""Rights that an owner who is not root lends himself for a moment, where the modes in his tree forbid him.

A file of mode 0200 cannot be read back to be hashed, nor can a directory of mode 0 be looked into: not even by
their owner, who may change those modes, though. That is done here, and undone at once. What is about to be
changed is noted before, so that a process that is killed in between leaves no wrong mode: the next start puts
back what the note names, before it looks at anything. The note is not synced; see `Rights.lent`.
"""

from __future__ import annotations

__all__ = ["Rights", "path_of"]

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import structlog

from ghostfs import private
from ghostfs.mirror.live.directories import Directories, Locate
from ghostfs.mirror.syscalls import open_quietly
from ghostfs.model import ROOT, InodeId

log = structlog.get_logger(__name__)

_PINNED = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_SEARCH_AND_LIST = 0o500
_READ_FILE = 0o400


class Rights:
    """Lends rights on one tree. Not thread-safe: one lock of the caller's guards a tree and its modes."""

    def __init__(self, note: Path, root_fd: int) -> None:
        """`note` is the file for what is lent, which is there only meanwhile. `root_fd`, the tree's, stays
        the caller's."""
        self._note = note
        self._root_fd = root_fd
        self._root = os.readlink(b"/proc/self/fd/%d" % root_fd)
        self._lent = 0
        self._left = b""
        """Of the note: what could not be put back, for the next start."""

    def put_back(self) -> None:
        """Gives what a killed process left lent the mode that it had. To be called before anything is lent.

        What cannot be given back now stays in the note; what is gone, or makes no sense, does not.
        """
        try:
            said = self._note.read_bytes()
        except FileNotFoundError:
            return
        lines = [line for line in said.splitlines(keepends=True) if line.endswith(b"\n")]
        self._left = b"".join(lines)
        os.truncate(self._note, len(self._left))
        left = []
        # What is inside a directory that was opened up can be reached while that is still open.
        for line in reversed(lines):
            try:
                self._put_one_back(line)
            except (OSError, ValueError) as error:
                log.warning("mode_not_put_back", error=str(error))
                if isinstance(error, OSError) and error.errno not in _GONE:
                    left.append(line)
        self._left = b"".join(reversed(left))
        if left:
            new = self._note.with_name(self._note.name + ".new")
            with open(new, "wb", opener=private.opener) as file:
                file.write(self._left)
            new.replace(self._note)
        else:
            self._note.unlink(missing_ok=True)

    def _put_one_back(self, line: bytes) -> None:
        ino, before, lent, path = line.rstrip(b"\n").split(b" ")
        below = bytes.fromhex(path.decode())
        with contextlib.ExitStack() as undo:
            at = self._root_fd
            for name in below.split(b"/") if below else ():
                # It may be closed again: the process was killed later, or what is in it had to wait.
                undo.enter_context(self.lent(at, _SEARCH_AND_LIST))
                at = os.open(name, _PINNED, dir_fd=at)
                undo.callback(os.close, at)
            now = os.fstat(at)
            if now.st_ino == int(ino) and stat.S_IMODE(now.st_mode) == int(lent, 8):
                os.chmod(f"/proc/self/fd/{at}", int(before, 8))

    @contextlib.contextmanager
    def lent(self, fd: int, bits: int) -> Iterator[None]:
        """Meanwhile the mode of what `fd`, which may be an O_PATH descriptor, is of includes `bits`.

        What is not ours, or could not be put back as it was, is left alone: what the caller wants to do
        will say so. A power cut meanwhile may leave the wrong mode.

        Raises:
            OSError: it could not be noted; then nothing was changed.
        """
        now = os.fstat(fd)
        before = stat.S_IMODE(now.st_mode)
        if before & bits == bits or not _may_change(now):
            yield
            return
        own = os.dup(fd)
        try:
            pinned = b"/proc/self/fd/%d" % own
            self._write_down(now.st_ino, before, before | bits, os.readlink(pinned))
            self._lent += 1
            try:
                with contextlib.suppress(OSError):
                    os.chmod(pinned, before | bits)
                yield
            finally:
                os.chmod(pinned, before)
                self._lent -= 1
                if self._lent == 0:
                    self._clear_note()
        finally:
            os.close(own)

    @contextlib.contextmanager
    def way(self, directories: Directories, locate: Locate, directory: InodeId) -> Iterator[None]:
        """Meanwhile a directory can be reached, searched and listed, as far as modes go.

        Raises:
            OSError: it is not where `locate` says, or what is in the way is not ours.
        """
        way = [directory]
        while way[-1] != ROOT:
            way.append(locate(way[-1])[0])
        with contextlib.ExitStack() as lent:
            for each in reversed(way):
                lent.enter_context(self.lent(directories.fd(each), _SEARCH_AND_LIST))
            yield

    def open_file(self, name: bytes, dir_fd: int) -> int:
        """A descriptor to read a file by, though its mode does not let us.

        Raises:
            PermissionError: not even so.
            OSError: as open(2).
        """
        with self.readable(name, dir_fd) as pinned:
            return open_quietly(b"/proc/self/fd/%d" % pinned, _READ)

    @contextlib.contextmanager
    def readable(self, name: bytes, dir_fd: int) -> Iterator[int]:
        """Meanwhile a file may be read, if it is ours; gives an O_PATH descriptor of it.

        The name `.` is the directory itself, which may be searched as well: it is reached through itself.
        """
        itself = name == b"."
        pinned = os.dup(dir_fd) if itself else os.open(name, _PINNED, dir_fd=dir_fd)
        try:
            with self.lent(pinned, _SEARCH_AND_LIST if itself else _READ_FILE):
                yield pinned
        finally:
            os.close(pinned)

    def _clear_note(self) -> None:
        """Nothing is lent: the note names what an earlier process left, where there is such, or goes."""
        if self._left:
            os.truncate(self._note, len(self._left))
        else:
            self._note.unlink(missing_ok=True)

    def _write_down(self, ino: int, before: int, lent: int, path: bytes) -> None:
        below = path[len(self._root) :].lstrip(b"/")
        line = b"%d %o %o %s\n" % (ino, before, lent, below.hex().encode())
        with open(self._note, "ab", opener=private.opener) as file:
            file.write(line)


def path_of(locate: Locate, parent: InodeId, name: bytes) -> bytes:
    """The path of a place, relative to the session; `?` stands for what is not known."""
    parts = [name]
    try:
        while parent != ROOT:
            parent, above = locate(parent)
            parts.append(above)
    except OSError:
        parts.append(b"?")
    return b"/".join(reversed(parts))


def _may_change(now: os.stat_result) -> bool:
    """Whether we may change a mode, and change it back: set-group-id goes if the group is not one of ours."""
    if now.st_uid != os.geteuid() or stat.S_ISLNK(now.st_mode):
        return False
    return not now.st_mode & stat.S_ISGID or now.st_gid in (os.getegid(), *os.getgroups())
