"""Blocks out of a session's tree, by inode: what is handed out is always what its digest says.

The tree lives on while it is read. A file is found through the index's dirents, which may lag behind
the tree by the changes not yet committed, so a failed or misleading path lookup proves nothing: only the
index having another version, or the file itself having other bytes, means that content is superseded.

A hub that is not root may not read all that is in its sessions: a mode may forbid the owner too. The hub changes no
modes, for the tree is the mount's. What it may not read is superseded, so that nothing else waits for it.
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
from ghostfs.index import Index
from ghostfs.mesh.forbidden import Forbidden
from ghostfs.mesh.indexpool import IndexPool
from ghostfs.mirror.layout import SessionLayout
from ghostfs.mirror.live.directories import Directories
from ghostfs.model import ROOT, Inode, InodeId, Kind
from ghostfs.names import display

_OPEN_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
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

    def __init__(
        self, layout: SessionLayout, indexes: IndexPool, forbidden: Forbidden | None = None
    ) -> None:
        """`forbidden` is told what may not be read; it outlives the reader, so that it says so once."""
        self._layout = layout
        self._indexes = indexes
        self._forbidden = forbidden or Forbidden(layout.name)
        self._refusal: PermissionError | None = None
        self._root: int | None = None
        self._directories: Directories | None = None
        self._files: OrderedDict[InodeId, _Open] = OrderedDict()
        self._noatime = os.O_NOATIME

    def read(self, inode: InodeId, index: int, digest: bytes) -> bytes:
        """The bytes of block `index` of `inode`, whose digest is `digest`.

        Raises:
            Superseded: the content has changed since, and a newer version will come with a later delta; or this
                process may not read it, until a mode is changed.
            BlockUnavailable: it could not be read now.
        """
        self._refusal = None
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
        if self._refusal is not None and (path := self._forbidden_path(inode)) is not None:
            self._forbidden.add(inode, path, self._refusal.strerror)
            raise Superseded(f"inode {inode:x}: this user may not read {path}")
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
        top = self._top()
        with self._indexes.use() as rows:
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
                break
        if found is not None:
            self._forbidden.discard(inode)
            self._files[inode] = found
            while len(self._files) > _FILES_MAX:
                os.close(self._files.popitem(last=False)[1].fd)
        return found

    def _open_at(self, top: int, parent: InodeId, name: bytes) -> int | None:
        try:
            directory = self._directory(top, parent)
            try:
                return os.open(name, _OPEN_FILE | self._noatime, dir_fd=directory)
            except PermissionError:
                if not self._noatime:
                    raise
                # Only a file's owner may leave its access time alone (open(2)).
                fd = os.open(name, _OPEN_FILE, dir_fd=directory)
                self._noatime = 0
                return fd
        except PermissionError as error:
            self._refusal = error  # another link may lie elsewhere
            return None
        except OSError as error:
            if error.errno in _MOVED:
                return None
            raise

    def _top(self) -> int:
        if self._root is None:
            self._root = os.open(self._layout.tree, _OPEN_ROOT)
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
        with self._indexes.use() as rows:
            for place in rows.links(inode):
                way = _way(rows, inode, place)
                if way and self._is_in_place(rows, way):
                    return display(b"/".join(name for _, name in way))
        return None

    def _is_in_place(self, rows: Index, way: list[tuple[InodeId, bytes]]) -> bool:
        """Whether all on the way is what the index says, up to where this process may not look any further."""
        at = os.dup(self._top())
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


def _way(rows: Index, inode: InodeId, place: tuple[InodeId, bytes]) -> list[tuple[InodeId, bytes]]:
    """Each object from the root's entry down to the inode, with its name; empty if it hangs in the air."""
    parent, name = place
    way = [(inode, name)]
    while parent != ROOT:
        links = rows.links(parent)
        if not links:
            return []
        inode, (parent, name) = parent, links[0]
        way.append((inode, name))
    return way[::-1]


def _pread(fd: int, length: int, offset: int) -> bytes:
    """`length` bytes at `offset`, fewer only at the end of the file."""
    data = os.pread(fd, length, offset) if length > 0 else b""
    while 0 < len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
