"""What has changed of an inode since the index was told: its attributes, and, where they leave that open, its content.

Content and extended attributes are read only where backing inode, change time or size are not what the index
remembers, or where these are not to be trusted.
"""

from __future__ import annotations

__all__ = ["Comparison", "ToHash"]

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ghostfs.content import EMPTY, BlockList
from ghostfs.errors import Superseded
from ghostfs.index import Index
from ghostfs.mirror.live.cells import backing_of, cell_of, mtime_of
from ghostfs.mirror.live.findings import Findings
from ghostfs.mirror.live.hashing import HashPool, hash_file
from ghostfs.mirror.live.rights import Rights
from ghostfs.mirror.syscalls import open_quietly
from ghostfs.mirror.xattrs import UserAttributes
from ghostfs.model import Inode, InodeId, Kind, kind_of_mode

_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class ToHash:
    """A file whose content must be read: its cell so far, a descriptor of it, what the index has of it."""

    cell: Inode
    fd: int
    old: Inode | None


class Comparison:
    """Compares inodes one by one, each once. Not thread-safe; hashing is spread over the pool."""

    def __init__(
        self,
        index: Index,
        findings: Findings,
        pool: HashPool,
        *,
        distrust_since_ns: int | None,
        progress: Callable[[int], None] | None,
        rights: Rights | None,
    ) -> None:
        """`findings` is where to put what has changed. For the rest see `reconcile.Reconciler`."""
        self.touched: frozenset[InodeId] = frozenset()
        """Inodes that were about to be changed. Times do not tell whether they were: before Linux 6.13 they
        stand still for milliseconds, and a write may have come within the tick of the commit before it."""
        self._index = index
        self._findings = findings
        self._pool = pool
        self._distrust = distrust_since_ns
        self._attributes = UserAttributes()
        self._progress = progress
        self._rights = rights
        self._compared: set[InodeId] = set()

    def __contains__(self, inode: InodeId) -> bool:
        return inode in self._compared

    def compare(self, inode: InodeId, fd: int, name: bytes, st: os.stat_result) -> Iterable[ToHash]:
        """Compares what is at `name` below the directory `fd`; what must be hashed for that, if anything.

        Raises:
            PermissionError: we may not look at it, and cannot give ourselves the right to.
            OSError: as the system calls.
        """
        if inode in self._compared:
            return
        self._compared.add(inode)
        self._findings.looked_at += 1
        old = self._index.inode_light(inode)
        kind = kind_of_mode(st.st_mode)
        # Of all others no more can change than what `st` tells.
        trusted = kind not in (Kind.FILE, Kind.DIRECTORY) or (
            inode not in self.touched and (self._distrust is None or st.st_ctime_ns < self._distrust)
        )
        if old is not None and old.backing == backing_of(st) and _same_attributes(old, st) and trusted:
            return
        try:
            cell, opened = self._look(inode, fd, name, st)
        except PermissionError:
            if self._rights is None:
                raise
            cell, opened = self._look_with(self._rights, inode, fd, name, st)
        if opened >= 0:
            yield ToHash(cell, opened, old)
        elif kind is Kind.FILE:
            self._content(cell, EMPTY, old)
        elif not _is(old, cell):
            self._findings.inodes[inode] = cell

    def hash_all(self, files: Iterable[ToHash]) -> None:
        """Reads and hashes, by the pool, as the files come."""
        for item, blocks in self._pool.map(self._hash, files):
            self._content(item.cell, blocks, item.old)

    def _look(self, inode: InodeId, fd: int, name: bytes, st: os.stat_result) -> tuple[Inode, int]:
        """The cell, and a descriptor of content that is to be read, or -1."""
        kind = kind_of_mode(st.st_mode)
        cell = cell_of(
            inode,
            st,
            target=os.readlink(name, dir_fd=fd) if kind is Kind.SYMLINK else b"",
            xattrs=self._attributes.read(b"/proc/self/fd/%d/%s" % (fd, name), kind),
            kind=kind,
        )
        return cell, open_quietly(name, _LOOK, dir_fd=fd) if kind is Kind.FILE and st.st_size else -1

    def _look_with(
        self, rights: Rights, inode: InodeId, fd: int, name: bytes, st: os.stat_result
    ) -> tuple[Inode, int]:
        with rights.readable(name, fd):
            cell, opened = self._look(inode, fd, name, st)
        # Lending and giving back has changed the change time: by this one it will be known again.
        now = os.fstat(fd) if name == b"." else os.stat(name, dir_fd=fd, follow_symlinks=False)
        return replace(cell, backing=backing_of(now)), opened

    def _hash(self, item: ToHash) -> tuple[ToHash, BlockList]:
        try:
            while True:
                size = os.fstat(item.fd).st_size
                try:
                    return item, hash_file(item.fd, size, self._progress)
                except Superseded:
                    continue
        finally:
            os.close(item.fd)

    def _content(self, cell: Inode, blocks: BlockList, old: Inode | None) -> None:
        findings = self._findings
        digest = blocks.digest()
        findings.files_read += blocks.size > 0
        findings.bytes_read += blocks.size
        done = replace(cell, size=blocks.size, digest=digest, blocks=blocks.encode())
        if _is(old, done):
            return
        findings.inodes[cell.id] = done
        if old is None or old.digest != digest:
            findings.content_of.add(cell.id)


def _is(old: Inode | None, cell: Inode) -> bool:
    """Whether the index has just this, backing included."""
    return old is not None and replace(cell, blocks=b"") == replace(
        old, attr_seq=cell.attr_seq, content_seq=cell.content_seq, origin=cell.origin
    )


def _same_attributes(row: Inode, st: os.stat_result) -> bool:
    return (
        row.mode == st.st_mode & 0o7777
        and row.uid == st.st_uid
        and row.gid == st.st_gid
        and row.mtime_ns == mtime_of(st)
        and (row.kind is not Kind.FILE or row.size == st.st_size)
    )
