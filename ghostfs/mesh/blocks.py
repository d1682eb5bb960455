"""Blocks out of a session's tree, by inode: what is handed out is always what its digest says.

The tree lives on while it is read. A file is found through the index's dirents, which may lag behind
the tree by the changes not yet committed, so a failed or misleading path lookup proves nothing: only the
index having another version, or the file itself having other bytes, means that content is superseded.
"""

from __future__ import annotations

__all__ = ["BlockReader", "BlockUnavailable"]

import errno
import os
import stat
from collections import OrderedDict
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ghostfs.content import BLOCK_SIZE, BlockList, block_digest
from ghostfs.errors import GhostError, Superseded
from ghostfs.mesh.indexpool import IndexPool
from ghostfs.mirror.layout import SessionLayout
from ghostfs.mirror.live.directories import Directories
from ghostfs.model import Inode, InodeId, Kind

_OPEN_ROOT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FILES_MAX = 8
_DIRECTORIES_MAX = 64
_MOVED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO)
"""What opening says when something else is at the path by now; ENXIO is a socket."""


class BlockUnavailable(GhostError):
    """The block could not be read now, and nothing says that it never can be: ask again."""


@dataclass(slots=True)
class _Open:
    """A file of the tree: `same` says whether it is the very file that the index knows."""

    fd: int
    row: Inode
    same: bool


class BlockReader:
    """Reads blocks of one session for one request. For one thread at a time; close it when done.

    Holds a few descriptors and no index connection between calls.
    """

    def __init__(self, layout: SessionLayout, indexes: IndexPool) -> None:
        self._layout = layout
        self._indexes = indexes
        self._root: int | None = None
        self._directories: Directories | None = None
        self._files: OrderedDict[InodeId, _Open] = OrderedDict()
        self._noatime = os.O_NOATIME

    def read(self, inode: InodeId, index: int, digest: bytes) -> bytes:
        """The bytes of block `index` of `inode`, whose digest is `digest`.

        Raises:
            Superseded: the content has changed since; a newer version will come with a later delta.
            BlockUnavailable: it could not be read now.
        """
        data = self._read_tree(inode, index, digest) or self._read_spool(digest)
        if data is not None:
            return data
        self._drop(inode)
        self._drop_directories()
        if not self._is_current(inode, index, digest):
            raise Superseded(f"inode {inode:x}: block {index} has another version")
        data = self._read_tree(inode, index, digest) or self._read_spool(digest)
        if data is not None:
            return data
        file = self._files.get(inode)
        if file is not None and file.same:
            raise Superseded(f"inode {inode:x}: block {index} has changed and is not committed yet")
        raise BlockUnavailable(f"inode {inode:x} is not where the index says; it may have been renamed")

    def close(self) -> None:
        """Give back all descriptors; may be called twice."""
        for inode in list(self._files):
            self._drop(inode)
        self._drop_directories()
        if self._root is not None:
            os.close(self._root)
            self._root = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_current(self, inode: InodeId, index: int, digest: bytes) -> bool:
        with self._indexes.use() as rows:
            row = rows.inode(inode)
        return row is not None and BlockList.decode(row.size, row.blocks).get(index) == digest

    def _read_tree(self, inode: InodeId, index: int, digest: bytes) -> bytes | None:
        """The block if the tree has it as it is wanted."""
        try:
            file = self._files.get(inode) or self._open(inode)
            if file is None:
                return None
            offset = index * BLOCK_SIZE
            data = _pread(file.fd, min(BLOCK_SIZE, file.row.size - offset), offset)
        except OSError as error:
            if error.errno in _MOVED:
                return None
            raise BlockUnavailable(f"inode {inode:x} cannot be read: {error.strerror}") from error
        return data if data and block_digest(data) == digest else None

    def _open(self, inode: InodeId) -> _Open | None:
        with self._indexes.use() as rows:
            row = rows.inode_light(inode)
            if row is None or row.kind is not Kind.FILE:
                return None
            places = rows.links(inode)
        found: _Open | None = None
        for parent, name in places:
            fd = self._open_at(parent, name)
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
                break
        if found is not None:
            self._files[inode] = found
            while len(self._files) > _FILES_MAX:
                os.close(self._files.popitem(last=False)[1].fd)
        return found

    def _open_at(self, parent: InodeId, name: bytes) -> int | None:
        try:
            directory = self._directory(parent)
            try:
                return os.open(name, _OPEN_FILE | self._noatime, dir_fd=directory)
            except PermissionError:
                if not self._noatime:
                    raise
                # Only a file's owner may leave its access time alone (open(2)).
                fd = os.open(name, _OPEN_FILE, dir_fd=directory)
                self._noatime = 0
                return fd
        except OSError as error:
            if error.errno in _MOVED:
                return None
            raise

    def _directory(self, parent: InodeId) -> int:
        if self._directories is None:
            if self._root is None:
                self._root = os.open(self._layout.tree, _OPEN_ROOT)
            self._directories = Directories(self._root, self._locate, limit=_DIRECTORIES_MAX)
        return self._directories.fd(parent)

    def _locate(self, directory: InodeId) -> tuple[InodeId, bytes]:
        with self._indexes.use() as rows:
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

    def _drop_directories(self) -> None:
        if self._directories is not None:
            self._directories.close()
            self._directories = None


def _pread(fd: int, length: int, offset: int) -> bytes:
    """`length` bytes at `offset`, fewer only at the end of the file."""
    data = os.pread(fd, length, offset) if length > 0 else b""
    while 0 < len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
