"""Files of the mirror that a new version can take blocks from, instead of fetching them."""

from __future__ import annotations

__all__ = ["Donors"]

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Set

from ghostfs.content import BLOCK_SIZE, BlockList, block_digest
from ghostfs.index import Index
from ghostfs.mirror.replica.conflict import unchanged
from ghostfs.mirror.replica.reach import Reach
from ghostfs.mirror.replica.staging import Staging
from ghostfs.mirror.syscalls import pread_exactly
from ghostfs.model import Inode, InodeId

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FDS = 32
_CANDIDATES = 4
"""How many files that should hold a block are tried before it is fetched."""

_NO_COPY = frozenset({errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF})


class Donors:
    """Looks blocks up in the index and reads them from the tree. Not thread-safe.

    The tree may be changed by its user at any moment: what is read is verified, or was read from a file
    whose ctime was the index's before and after.
    """

    def __init__(self, index: Index, reach: Reach, staging: Staging) -> None:
        self._index = index
        self._reach = reach
        self._staging = staging
        self._fds: OrderedDict[InodeId, int | None] = OrderedDict()
        self._untracked: dict[InodeId, tuple[InodeId, tuple[bytes, ...]]] = {}

    def look_also(self, places: dict[InodeId, tuple[InodeId, tuple[bytes, ...]]]) -> None:
        """Where, by directory and names below it, an untracked file may have the content of a new inode."""
        self._untracked = places

    def copy_old(self, cell: Inode, blocks: BlockList, target: int, have: Set[int]) -> set[int]:
        """Copies what the inode's old version has in common with the new one, block for block.

        Also from parts of other versions that a crash left in staging, and from an untracked file at the
        place. Returns the blocks that were copied.
        """
        copied: set[int] = set()
        row = self._index.inode(cell.id)
        if row is not None and row.blocks:
            old = BlockList.decode(row.size, row.blocks)
            same = [i for i, digest in blocks.data_blocks() if i not in have and old.get(i) == digest]
            copied |= self._copy_version(row, same, blocks, target)
        for fd in self._others(cell):
            try:
                for index, digest in blocks.data_blocks():
                    if index not in have and index not in copied:
                        data = pread_exactly(fd, blocks.length_of(index), index * BLOCK_SIZE)
                        if block_digest(data) == digest:
                            os.pwrite(target, data, index * BLOCK_SIZE)
                            copied.add(index)
            finally:
                os.close(fd)
        return copied

    def find(self, digest: bytes, length: int) -> bytes | None:
        """A block from whatever file has it, verified; None if no file has."""
        for inode, index in self._index.holders(digest)[:_CANDIDATES]:
            fd = self._open(inode)
            if fd is not None:
                data = pread_exactly(fd, length, index * BLOCK_SIZE)
                if block_digest(data) == digest:
                    return data
        return None

    def close(self) -> None:
        """Closes all files; to be done before the tree changes."""
        while self._fds:
            fd = self._fds.popitem()[1]
            if fd is not None:
                os.close(fd)

    def _others(self, cell: Inode) -> list[int]:
        fds = self._staging.older_parts(cell)
        if cell.id in self._untracked:
            fd = self._open_below(*self._untracked[cell.id])
            if fd is not None:
                fds.append(fd)
        return fds

    def _copy_version(self, row: Inode, same: list[int], blocks: BlockList, target: int) -> set[int]:
        source = self._open(row.id) if same else None
        if source is None:
            return set()
        trusted = unchanged(os.fstat(source), row)
        for first, last in _runs(same):
            offset = first * BLOCK_SIZE
            _copy_range(source, target, offset, min((last + 1) * BLOCK_SIZE, blocks.size) - offset)
        if trusted and unchanged(os.fstat(source), row):
            return set(same)
        # Changed by its user, before or meanwhile: what was copied counts only if it is right.
        good = set()
        for index in same:
            data = pread_exactly(target, blocks.length_of(index), index * BLOCK_SIZE)
            if block_digest(data) == blocks.get(index):
                good.add(index)
        return good

    def _open(self, inode: InodeId) -> int | None:
        """A descriptor of the file's first name that can be opened; None is remembered too."""
        if inode in self._fds:
            self._fds.move_to_end(inode)
            return self._fds[inode]
        fd = None
        for parent, name in self._index.links(inode):
            fd = self._open_at(parent, name)
            if fd is not None:
                break
        self._fds[inode] = fd
        while len(self._fds) > _FDS:
            oldest = self._fds.popitem(last=False)[1]
            if oldest is not None:
                os.close(oldest)
        return fd

    def _open_below(self, directory: InodeId, names: tuple[bytes, ...]) -> int | None:
        opened: list[int] = []
        try:
            fd = self._reach.fd(directory)
            for name in names[:-1]:
                fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                opened.append(fd)
            return _open_regular(fd, names[-1])
        except OSError:
            return None
        finally:
            for fd in opened:
                os.close(fd)

    def _open_at(self, parent: InodeId, name: bytes) -> int | None:
        try:
            return _open_regular(self._reach.fd(parent), name)
        except OSError:
            return None


def _open_regular(directory: int, name: bytes) -> int | None:
    fd = os.open(name, _READ, dir_fd=directory)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


def _runs(indices: list[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and runs[-1][1] == index - 1:
            runs[-1] = (runs[-1][0], index)
        else:
            runs.append((index, index))
    return runs


def _copy_range(source: int, target: int, offset: int, length: int) -> None:
    """Copies within the kernel where that is possible, sharing the extents where the filesystem can."""
    while length > 0:
        try:
            done = os.copy_file_range(source, target, length, offset, offset)
        except OSError as error:
            if error.errno not in _NO_COPY:
                raise
            data = os.pread(source, min(length, 1 << 20), offset)
            done = os.pwrite(target, data, offset) if data else 0
        if done == 0:
            return  # the source was cut; the caller verifies
        offset += done
        length -= done
