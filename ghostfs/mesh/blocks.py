"""Blocks out of a session's tree, by inode: what is handed out is always what its digest says.

The tree lives on while it is read. A file is found through the index's dirents, which may lag behind
the tree by the changes not yet committed, so a failed or misleading path lookup proves nothing: only the
index having another version, or the file itself having other bytes, means that content is superseded.

Whatever is the matter with one file must not keep others back: what cannot be read is superseded in the end. A mode
may forbid the hub to read, which changes no modes, for the tree is the mount's; that is superseded at once. What leads
nowhere is waited for as long as a change may take to be committed; what the disk does not give is tried a few times.
Only trouble with the tree as a whole, or with the index, says nothing of a file.
"""

from __future__ import annotations

__all__ = ["PATIENCE_SECONDS", "BlockReader", "BlockUnavailable", "FileUnavailable"]

import errno
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from ghostfs.content import BLOCK_SIZE, BlockList, block_digest
from ghostfs.errors import GhostError, Superseded
from ghostfs.index import Index
from ghostfs.mesh.indexpool import IndexPool
from ghostfs.mesh.unreadable import Unreadable
from ghostfs.mesh.whereabouts import is_in_place, shown, ways
from ghostfs.mirror.layout import SessionLayout
from ghostfs.mirror.live.directories import Directories
from ghostfs.model import Inode, InodeId, Kind

_OPEN_ROOT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FILES_MAX = 8
_DIRECTORIES_MAX = 64
_MOVED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO)
"""What opening says when something else is at the path by now; ENXIO is a socket."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_PASSING = (errno.EACCES, errno.EPERM, errno.EAGAIN, errno.EBUSY)
"""What goes away with a commit, or when somebody else is done; any other error is the disk's."""

PATIENCE_SECONDS = 5.0
"""How long a file may lead nowhere: a rename is committed far sooner, if its owner lives."""

_TRIES = 3
"""How often one request tries what the disk does not give; a drive may take half a minute for each."""


class BlockUnavailable(GhostError):
    """The block could not be read now, and nothing says that it never can be: ask again."""


class FileUnavailable(BlockUnavailable):
    """It is this one file's trouble. Whoever asks the same reader again and again is told in the end that it is
    superseded."""


@dataclass(slots=True)
class _Open:
    """A file of the tree: `same` says whether it is the very file that the index knows."""

    fd: int
    row: Inode
    same: bool


@dataclass(slots=True)
class _Failing:
    """A file that could not be read, at no try since then (monotonic)."""

    since: float = field(default_factory=time.monotonic)
    tries: int = 0


class BlockReader:
    """Reads blocks of one session for one request. For one thread at a time; close it when done.

    Holds a few descriptors and no index connection between calls.
    """

    def __init__(
        self,
        layout: SessionLayout,
        indexes: IndexPool,
        unreadable: Unreadable | None = None,
        *,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """`unreadable` is told what cannot be read; it outlives the reader, so that it says so once. `patience` is
        for how many seconds a file may lead nowhere before it is superseded."""
        self._layout = layout
        self._indexes = indexes
        self._unreadable = unreadable or Unreadable(layout.name)
        self._patience = patience
        self._failing: dict[InodeId, _Failing] = {}
        self._given_up: set[InodeId] = set()
        self._trouble: OSError | None = None
        self._root: int | None = None
        self._directories: Directories | None = None
        self._files: OrderedDict[InodeId, _Open] = OrderedDict()

    def read(self, inode: InodeId, index: int, digest: bytes) -> bytes:
        """The bytes of block `index` of `inode`, whose digest is `digest`.

        Raises:
            Superseded: the content has changed since, and a newer version will come with a later delta; or this
                process may not read it, until a mode is changed; or it could not be read at several tries.
            FileUnavailable: it could not be read now, but may be at another try.
            BlockUnavailable: nothing of the tree can be read now.
        """
        data = self._read(inode, index, digest)
        if data is not None:
            return data
        self._drop(inode)
        self._drop_tree()
        if not self._is_current(inode, index, digest):
            raise Superseded(f"inode {inode:x}: block {index} has another version")
        if inode in self._given_up:
            raise Superseded(f"inode {inode:x}: block {index} was given up with another one")
        data = self._read(inode, index, digest)
        if data is not None:
            return data
        file = self._files.get(inode)
        if file is not None and file.same and self._trouble is None:
            raise Superseded(f"inode {inode:x}: block {index} has changed and is not committed yet")
        self._forbid(inode)
        self._fail(inode, index if file is not None else None)
        raise FileUnavailable(f"inode {inode:x} cannot be read: {self._reason()}")

    def seek(self, inodes: Iterable[InodeId]) -> None:
        """Take note of those that are not where the index says, so that all of them are waited for at once.

        Raises:
            BlockUnavailable: nothing of the tree can be read now.
        """
        for inode in inodes:
            self._trouble = None
            if inode in self._failing:
                continue
            file = self._find(inode)
            if (file is None or not file.same) and self._trouble is None:
                self._failing[inode] = _Failing()

    def close(self) -> None:
        """Give back all descriptors; may be called twice."""
        for inode in list(self._files):
            self._drop(inode)
        self._drop_tree()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_current(self, inode: InodeId, index: int, digest: bytes) -> bool:
        with self._rows() as rows:
            row = rows.inode(inode)
        return row is not None and BlockList.decode(row.size, row.blocks).get(index) == digest

    def _read(self, inode: InodeId, index: int, digest: bytes) -> bytes | None:
        """The block, if tree or spool have it; what was in the way is noted."""
        self._trouble = None
        data = None if inode in self._given_up else self._read_tree(inode, index, digest)
        if data is not None:
            self._failing.pop(inode, None)
            self._unreadable.discard(inode, index)
        return data or self._read_spool(digest)

    def _read_tree(self, inode: InodeId, index: int, digest: bytes) -> bytes | None:
        """The block if the tree has it as it is wanted."""
        file = self._find(inode)
        if file is None:
            return None
        offset = index * BLOCK_SIZE
        try:
            data = _pread(file.fd, min(BLOCK_SIZE, file.row.size - offset), offset)
        except OSError as error:
            self._note(error)
            return None
        return data if data and block_digest(data) == digest else None

    def _find(self, inode: InodeId) -> _Open | None:
        return self._files.get(inode) or self._open(inode)

    def _open(self, inode: InodeId) -> _Open | None:
        top = self._top()
        with self._rows() as rows:
            row = rows.inode_light(inode)
            if row is None or row.kind is not Kind.FILE:
                return None
            places = rows.links(inode)
        found: _Open | None = None
        for parent, name in places:
            fd = self._open_at(top, parent, name)
            if fd is None:
                continue
            status = os.fstat(fd)
            same = row.backing is None or row.backing.ino == status.st_ino
            if not stat.S_ISREG(status.st_mode) or (found is not None and not same):
                os.close(fd)
                continue
            if found is not None:
                os.close(found.fd)
            found = _Open(fd, row, same)
            if same:
                self._unreadable.discard(inode)
                self._trouble = None  # another link's
                break
        if found is not None:
            self._files[inode] = found
            while len(self._files) > _FILES_MAX:
                os.close(self._files.popitem(last=False)[1].fd)
        return found

    def _open_at(self, top: int, parent: InodeId, name: bytes) -> int | None:
        """None, and a note of what was in the way: another link may lie elsewhere."""
        try:
            directory = self._directory(top, parent)
            try:
                return os.open(name, _OPEN_FILE | os.O_NOATIME, dir_fd=directory)
            except PermissionError:
                # Only a file's owner may leave its access time alone (open(2)).
                return os.open(name, _OPEN_FILE, dir_fd=directory)
        except OSError as error:
            self._note(error)
            return None

    def _note(self, error: OSError) -> None:
        """What is in the way of a file. That something else is at its path is no trouble."""
        if error.errno in _EXHAUSTED:
            raise BlockUnavailable(f"nothing can be read now: {error.strerror}") from error
        if error.errno not in _MOVED:
            self._trouble = error

    def _forbid(self, inode: InodeId) -> None:
        """Nothing, unless it is certain that the inode may not be read."""
        if isinstance(self._trouble, PermissionError) and (path := self._forbidden_path(inode)) is not None:
            self._unreadable.add(inode, path, self._reason())
            raise Superseded(f"inode {inode:x}: this user may not read {path}")

    def _fail(self, inode: InodeId, block: int | None) -> None:
        """Count a try; nothing else, unless it was the last. `block` is None if the file could not be opened."""
        failing = self._failing.setdefault(inode, _Failing())
        failing.tries += 1
        disk = self._trouble is not None and self._trouble.errno not in _PASSING
        if time.monotonic() - failing.since < self._patience and not (disk and failing.tries >= _TRIES):
            return
        self._given_up.add(inode)
        path, reason = self._any_path(inode), self._reason()
        self._unreadable.add(inode, path, reason, block if disk else None)
        raise Superseded(f"inode {inode:x}: {path} cannot be read: {reason}")

    def _reason(self) -> str:
        if self._trouble is None:
            return "it is not where the index says"
        return self._trouble.strerror or str(self._trouble)

    @contextmanager
    def _rows(self) -> Iterator[Index]:
        """The index, whose own trouble is no file's."""
        try:
            with self._indexes.use() as rows:
                yield rows
        except OSError as error:
            raise BlockUnavailable(f"the index of {self._layout.name} cannot be read: {error}") from error

    def _top(self) -> int:
        if self._root is None:
            try:
                self._root = os.open(self._layout.tree, _OPEN_ROOT)
            except OSError as error:
                raise BlockUnavailable(f"{self._layout.tree} cannot be opened: {error.strerror}") from error
        return self._root

    def _directory(self, top: int, parent: InodeId) -> int:
        if self._directories is None:
            self._directories = Directories(top, self._locate, limit=_DIRECTORIES_MAX)
        return self._directories.fd(parent)

    def _forbidden_path(self, inode: InodeId) -> str | None:
        """A path that is the inode's without doubt, as far as it can be gone; None if there is none.

        What may not be entered or read may be another one that was moved there, of which the index does not
        know yet: that says nothing of the inode.
        """
        with self._rows() as rows:
            found = (way for way in ways(rows, inode) if is_in_place(rows, self._top(), way))
            way = next(found, None)
        return None if way is None else shown(way)

    def _any_path(self, inode: InodeId) -> str:
        """Where the index has the inode, for people."""
        with self._rows() as rows:
            way = next(ways(rows, inode), None)
        return f"inode {inode:x}" if way is None else shown(way)

    def _locate(self, directory: InodeId) -> tuple[InodeId, bytes]:
        with self._rows() as rows:
            links = rows.links(directory)
        if not links:
            raise FileNotFoundError(errno.ENOENT, "no such directory in the index")
        return links[0]

    def _read_spool(self, digest: bytes) -> bytes | None:
        """The block if the mirror put it aside, as it does for files that never rest."""
        try:
            fd = os.open(self._layout.spool / digest.hex(), _OPEN_FILE)
        except OSError:
            return None
        try:
            data = _pread(fd, BLOCK_SIZE, 0)
        except OSError:
            return None
        finally:
            os.close(fd)
        return data if block_digest(data) == digest else None

    def _drop(self, inode: InodeId) -> None:
        file = self._files.pop(inode, None)
        if file is not None:
            os.close(file.fd)

    def _drop_tree(self) -> None:
        """The next look begins at the tree's path, where another one may be by now."""
        if self._directories is not None:
            self._directories.close()
            self._directories = None
        if self._root is not None:
            os.close(self._root)
            self._root = None


def _pread(fd: int, length: int, offset: int) -> bytes:
    """`length` bytes at `offset`, fewer only at the end of the file."""
    data = os.pread(fd, length, offset) if length > 0 else b""
    while 0 < len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
