"""Assembling the files of one batch in staging, from what this mirror has and from what is fetched.

For each block, in this order: sent along with the batch; in the part that a crash left; in the inode's old
version, in a part of another version, in another file of the mirror; and else it is wanted. A block that
several files of the batch need is wanted once.
"""

from __future__ import annotations

__all__ = ["Assembly"]

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping

from ghostfs.content import BLOCK_SIZE, BlockList, block_digest
from ghostfs.errors import InvalidCell
from ghostfs.mirror.replica.batch import Want
from ghostfs.mirror.replica.donors import Donors
from ghostfs.mirror.replica.staging import ITS_OWN, Staging
from ghostfs.mirror.syscalls import data_ranges, pread_exactly
from ghostfs.model import Inode, InodeId

_FDS = 64
_REMEMBERED = 1 << 17
"""Blocks of one batch whose place in staging is remembered, so that a second need of them is a copy."""

_At = tuple[InodeId, int]


class Assembly:
    """The parts of one batch. Not thread-safe.

    `files` are the new versions to assemble. `inline` is content that was sent along; such files, and those
    without data, are left to be written in one go when they are published. `unmakeable` are files that this
    disk refuses to hold, a size beyond its limit for example, and why.
    """

    def __init__(
        self,
        staging: Staging,
        donors: Donors,
        files: Mapping[InodeId, Inode],
        blocks: Mapping[InodeId, BlockList],
        inline: Mapping[InodeId, bytes],
    ) -> None:
        """Raises:
        InvalidCell: inline content is not what its digest says.
        """
        self.reused = 0
        self.received = 0
        self.unmakeable: dict[InodeId, OSError] = {}
        self._staging = staging
        self._donors = donors
        self._files = files
        self._blocks = blocks
        self._inline = inline
        self._whole: set[InodeId] = set()
        self._todo: dict[InodeId, None] = {}
        self._wanted: dict[InodeId, set[int]] = {}
        self._fetching: dict[bytes, list[_At]] = {}
        self._placed: dict[bytes, _At] = {}
        self._parts: OrderedDict[InodeId, int] = OrderedDict()
        for inode in files:
            if not blocks[inode].digests:
                self._whole.add(inode)
            elif inode in inline:
                if block_digest(inline[inode]) != blocks[inode].get(0):
                    raise InvalidCell(f"inode {inode:x}: what was sent along is not what its digest says")
                self._whole.add(inode)
            else:
                self._todo[inode] = None

    def missing(self) -> Iterator[Want]:
        """The blocks to fetch. Files are looked through as the caller goes on, so a want may be fetched and
        put while later ones are still being found. Asking again repeats those that have not been put."""
        for inode, indices in list(self._wanted.items()):
            for index in sorted(indices):
                readers = self._fetching.get(self._digest(inode, index))
                if readers is not None and readers[0] == (inode, index):
                    yield self._want(inode, index)
        for inode in list(self._todo):
            if inode not in self._todo:
                continue
            try:
                yield from self._scan(inode)
            except OSError as error:
                if error.errno not in ITS_OWN:
                    raise
                self.unmakeable[inode] = error
                self.drop(inode)

    def put(self, inode: InodeId, index: int, data: bytes | memoryview) -> None:
        """A block that was wanted; one that is not, or no longer, is ignored.

        Raises:
            InvalidCell: it is not what its digest says.
        """
        if index not in self._wanted.get(inode, ()):
            return
        digest = self._digest(inode, index)
        if block_digest(data) != digest:
            raise InvalidCell(f"block {index} of inode {inode:x} is not what its digest says")
        self.received += len(data)
        for reader, at in self._fetching.pop(digest):
            os.pwrite(self._part(reader), data, at * BLOCK_SIZE)
            self._wanted[reader].discard(at)
        if len(self._placed) < _REMEMBERED:
            self._placed[digest] = (inode, index)

    def drop(self, inode: InodeId) -> None:
        """The file's content cannot be had; blocks that others need too are wanted for one of those."""
        self._todo.pop(inode, None)
        self._whole.discard(inode)
        for index in self._wanted.pop(inode, ()):
            digest = self._digest(inode, index)
            readers = self._fetching.pop(digest, [])  # gone already if the file has the block twice
            left = [at for at in readers if at[0] != inode]
            if left:
                self._fetching[digest] = left

    def complete(self) -> set[InodeId]:
        """The files that lack nothing."""
        return self._whole | {
            i for i, indices in self._wanted.items() if not indices and i not in self._todo
        }

    def is_whole(self, inode: InodeId) -> bool:
        """Whether the file has no part, because it is written in one go from `content`."""
        return inode in self._whole

    def content(self, inode: InodeId) -> bytes:
        """What a whole file begins with; zeros follow up to its size."""
        return self._inline.get(inode, b"") if self._blocks[inode].digests else b""

    def part(self, inode: InodeId) -> int:
        """A descriptor of the file's part, to be used at once."""
        return self._part(inode)

    def close(self) -> None:
        """Closes the parts; what is in them stays."""
        while self._parts:
            os.close(self._parts.popitem()[1])

    def _scan(self, inode: InodeId) -> Iterator[Want]:
        cell, blocks = self._files[inode], self._blocks[inode]
        fd, was_there = self._staging.open_part(cell)
        self._keep(inode, fd)
        have = _blocks_in(fd, blocks) if was_there else set()
        have |= self._donors.copy_old(cell, blocks, fd, have)
        self.reused += sum(map(blocks.length_of, have))
        wanted = self._wanted.setdefault(inode, set())
        for index, digest in blocks.data_blocks():
            if inode not in self._todo:
                return  # dropped while the caller was fetching
            if index in have or index in wanted:
                continue
            if digest in self._fetching:
                self._fetching[digest].append((inode, index))
                wanted.add(index)
            elif self._copy(inode, index, digest, blocks.length_of(index)):
                self.reused += blocks.length_of(index)
            else:
                self._fetching[digest] = [(inode, index)]
                wanted.add(index)
                yield self._want(inode, index)
        self._todo.pop(inode, None)

    def _copy(self, inode: InodeId, index: int, digest: bytes, length: int) -> bool:
        """Takes a block from another part of this batch, or from another file of the mirror."""
        placed = self._placed.get(digest)
        data = None
        if placed is not None:
            data = pread_exactly(self._part(placed[0]), length, placed[1] * BLOCK_SIZE)
        if data is None or block_digest(data) != digest:
            data = self._donors.find(digest, length)
        if data is None:
            return False
        os.pwrite(self._part(inode), data, index * BLOCK_SIZE)
        return True

    def _part(self, inode: InodeId) -> int:
        fd = self._parts.get(inode)
        if fd is None:
            fd = self._staging.open_again(self._files[inode])
            self._keep(inode, fd)
        else:
            self._parts.move_to_end(inode)
        return fd

    def _keep(self, inode: InodeId, fd: int) -> None:
        before = self._parts.pop(inode, None)
        if before is not None:
            os.close(before)
        self._parts[inode] = fd
        while len(self._parts) > _FDS:
            os.close(self._parts.popitem(last=False)[1])

    def _digest(self, inode: InodeId, index: int) -> bytes:
        return self._blocks[inode].digests[index]

    def _want(self, inode: InodeId, index: int) -> Want:
        return Want(inode, index, self._digest(inode, index), self._blocks[inode].length_of(index))


def _blocks_in(fd: int, blocks: BlockList) -> set[int]:
    """The blocks that a part holds already, re-hashed; its holes are not read."""
    found: set[int] = set()
    unread = 0
    for start, length in data_ranges(fd, blocks.size):
        first, unread = max(unread, start // BLOCK_SIZE), -(-(start + length) // BLOCK_SIZE)
        for index in range(first, unread):
            digest = blocks.get(index)
            data = pread_exactly(fd, blocks.length_of(index), index * BLOCK_SIZE)
            if digest is not None and block_digest(data) == digest:
                found.add(index)
    return found
