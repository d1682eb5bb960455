"""Comparing a tree with its index, and finding what the index must learn.

Used where nobody watched the tree: after a kill (the names that dirty.log holds), after a power cut or a
lost index (everything), and to verify. Content is read only where backing inode, change time or size
are not what the index remembers. Nothing here writes: what was found is a `Findings`.
"""

from __future__ import annotations

__all__ = ["Findings", "Reconciler", "apply"]

import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import structlog

from ghostfs.content import EMPTY, BlockList
from ghostfs.errors import Superseded
from ghostfs.index import DirtyDirent, Index
from ghostfs.mirror.directories import Directories
from ghostfs.mirror.hashing import HashPool, hash_file
from ghostfs.mirror.xattrs import encode_xattrs
from ghostfs.model import ROOT, Backing, Inode, InodeId, Kind, kind_of_mode
from ghostfs.names import is_reserved

log = structlog.get_logger(__name__)

_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

Place = tuple[InodeId, bytes]


@dataclass(slots=True)
class Findings:
    """What the index must learn, and what it cost to find out."""

    names: dict[Place, InodeId | None] = field(default_factory=dict)
    inodes: dict[InodeId, Inode] = field(default_factory=dict)
    content_of: set[InodeId] = field(default_factory=set)
    """Which of `inodes` have new content."""
    looked_at: int = 0
    files_read: int = 0
    bytes_read: int = 0

    @property
    def empty(self) -> bool:
        return not (self.names or self.inodes)


@dataclass(frozen=True, slots=True)
class _ToHash:
    """A file whose content must be read: its cell so far, where it is, what the index has of it."""

    cell: Inode
    fd: int
    old: Inode | None


class Reconciler:
    """One comparison. Not thread-safe; hashing is spread over the pool."""

    def __init__(
        self,
        index: Index,
        root_fd: int,
        pool: HashPool,
        *,
        distrust_since_ns: int | None = None,
        xattrs: bool = False,
        progress: Callable[[int], None] | None = None,
        allocate: Callable[[int], Iterable[int]] | None = None,
    ) -> None:
        """`distrust_since_ns`: files changed since then are read even if they look unchanged, for after a
        power cut overwritten blocks may be lost though the times are not. `progress` gets bytes read. `allocate` gives so many ids for what is
        new; the index's own if not given."""
        self.findings = Findings()
        self._index = index
        self._root_fd = root_fd
        self._pool = pool
        self._distrust = distrust_since_ns
        self._xattrs = xattrs
        self._progress = progress
        self._allocate = allocate or index.allocate_ids
        self._assigned: dict[InodeId, int] = {}
        """Which backing inode each id stands for, in this pass."""
        self._by_backing: dict[int, InodeId] = {}
        self._hinted: dict[Place, list[InodeId]] = {}
        self._where: dict[InodeId, list[Place]] = {}
        self._locating: set[InodeId] = set()
        """Directories being located, so that names which once led in a circle end."""
        self._spare: list[int] = []

    def everything(self) -> Findings:
        """Compares the whole tree."""
        self._assign(ROOT, os.fstat(self._root_fd))
        self._pool_hash(self._walk([(ROOT, os.open(b".", _LOOK | os.O_DIRECTORY, dir_fd=self._root_fd))]))
        return self.findings

    def named(self, names: Iterable[DirtyDirent], inodes: Iterable[InodeId]) -> Findings:
        """Compares only some names and inodes, and the directories that hold those names.

        `names` are in the order in which they were to be changed.
        """
        for entry in names:
            place = entry.parent, entry.name
            hints = self._hinted.setdefault(place, [])
            if entry.child is not None:
                hints.append(entry.child)
                self._where.setdefault(entry.child, []).append(place)
        self._assign(ROOT, os.fstat(self._root_fd))
        directories = Directories(self._root_fd, self._locate)
        try:
            self._pool_hash(self._look_again(directories, list(inodes)))
        finally:
            directories.close()
        return self.findings

    # --- the two ways to go through a tree --------------------------------------------------------------

    def _walk(self, stack: list[tuple[InodeId, int]]) -> Iterable[_ToHash]:
        try:
            while stack:
                directory, fd = stack.pop()
                try:
                    listed = dict(self._index.children(directory))
                    for name in map(os.fsencode, os.listdir(fd)):
                        if directory == ROOT and is_reserved(name):
                            continue
                        st = os.stat(name, dir_fd=fd, follow_symlinks=False)
                        known = listed.pop(name, None)
                        inode = self._identify((directory, name), st, known)
                        if inode != known:
                            self.findings.names[directory, name] = inode
                        if kind_of_mode(st.st_mode) is Kind.DIRECTORY:
                            stack.append((inode, os.open(name, _LOOK | os.O_DIRECTORY, dir_fd=fd)))
                        yield from self._compare(inode, fd, name, st)
                    for name in listed:
                        self._absent((directory, name))
                    if directory == ROOT:
                        yield from self._compare(ROOT, fd, b".", os.fstat(fd))
                finally:
                    os.close(fd)
        finally:
            for _, fd in stack:
                os.close(fd)

    def _look_again(self, directories: Directories, inodes: list[InodeId]) -> Iterable[_ToHash]:
        parents = dict.fromkeys(parent for parent, _ in self._hinted)
        done: set[InodeId] = set()
        for parent, name in self._hinted:
            known = self._index.dirent(parent, name)
            try:
                fd = directories.fd(parent)
                st = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError:
                # The directory is gone with all its names, or the name is.
                if known is not None:
                    self._absent((parent, name))
                continue
            if parent == ROOT and is_reserved(name):
                continue
            inode = self._identify((parent, name), st, known)
            if inode != known:
                self.findings.names[parent, name] = inode
            if inode not in done:
                done.add(inode)
                yield from self._compare(inode, fd, name, st)
        for inode in dict.fromkeys([*inodes, *parents]):
            if inode not in done:
                done.add(inode)
                yield from self._look_at_inode(directories, inode)

    def _look_at_inode(self, directories: Directories, inode: InodeId) -> Iterable[_ToHash]:
        """Compares an inode at the first of its places that dirty.log does not name."""
        if inode == ROOT:
            yield from self._compare(ROOT, self._root_fd, b".", os.fstat(self._root_fd))
            return
        for parent, name in self._index.links(inode):
            if (parent, name) in self._hinted:
                continue
            try:
                fd = directories.fd(parent)
                st = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError:
                continue
            self._assign(inode, st)
            yield from self._compare(inode, fd, name, st)
            return

    def _locate(self, directory: InodeId) -> Place:
        """Where a directory is now: at one of the names the log has for it, or where the index has it."""
        row = self._index.inode_light(directory)
        links = self._index.links(directory) if row is not None else []
        candidates = [*reversed(self._where.get(directory, [])), *links]
        if len(candidates) == 1:
            return candidates[0]
        if directory not in self._locating:
            self._locating.add(directory)
            try:
                for parent, name in candidates:
                    ino = self._ino_at(parent, name)
                    if ino is not None and (row is None or row.backing is None or ino == row.backing.ino):
                        return parent, name
            finally:
                self._locating.discard(directory)
        raise FileNotFoundError(errno.ENOENT, f"directory {directory} is nowhere")

    def _ino_at(self, parent: InodeId, name: bytes) -> int | None:
        holder = Directories(self._root_fd, self._locate)
        try:
            return os.stat(name, dir_fd=holder.fd(parent), follow_symlinks=False).st_ino
        except OSError:
            return None
        finally:
            holder.close()

    # --- who is who ------------------------------------------------------------------------------------

    def _identify(self, place: Place, st: os.stat_result, known: InodeId | None) -> InodeId:
        """Which inode this is: the one that was there, one that moved here, or a new one."""
        same = self._by_backing.get(st.st_ino)
        if same is not None and self._assigned[same] == st.st_ino:
            return same
        kind = kind_of_mode(st.st_mode)
        row = self._index.inode_light(known) if known is not None else None
        if known is not None and row is not None and _is(row, kind, st.st_ino) and self._free(known, st):
            return self._assign(known, st)
        for hint in reversed(self._hinted.get(place, [])):
            if self._free(hint, st) and self._index.inode_light(hint) is None:
                return self._assign(hint, st)
        for candidate in self._index.by_backing(st.st_ino):
            if candidate.kind is kind and self._free(candidate.id, st):
                return self._assign(candidate.id, st)
        if known is not None and row is not None and row.kind is kind and self._free(known, st):
            return self._assign(known, st)
        return self._assign(self._new_id(), st)

    def _free(self, inode: InodeId, st: os.stat_result) -> bool:
        return self._assigned.get(inode, st.st_ino) == st.st_ino

    def _assign(self, inode: InodeId, st: os.stat_result) -> InodeId:
        self._assigned[inode] = st.st_ino
        self._by_backing[st.st_ino] = inode
        return inode

    def _new_id(self) -> InodeId:
        if not self._spare:
            self._spare = list(reversed(list(self._allocate(1024))))
        return InodeId(self._spare.pop())

    # --- what has changed ------------------------------------------------------------------------------

    def _absent(self, place: Place) -> None:
        """A name that the index has is gone, and with a directory everything that was in it."""
        pending = [place]
        while pending:
            parent, name = pending.pop()
            self.findings.names[parent, name] = None
            child = self._index.dirent(parent, name)
            if child is not None and child not in self._assigned:
                pending.extend((child, below) for below, _ in self._index.children(child))

    def _compare(self, inode: InodeId, fd: int, name: bytes, st: os.stat_result) -> Iterable[_ToHash]:
        if inode in self.findings.inodes:
            return
        self.findings.looked_at += 1
        old = self._index.inode_light(inode)
        backing = Backing(st.st_ino, st.st_ctime_ns)
        kind = kind_of_mode(st.st_mode)
        trusted = self._distrust is None or st.st_ctime_ns < self._distrust or kind is not Kind.FILE
        if old is not None and old.backing == backing and _same_attributes(old, st) and trusted:
            return
        cell = Inode(
            id=inode,
            kind=kind,
            mode=st.st_mode & 0o7777,
            uid=st.st_uid,
            gid=st.st_gid,
            mtime_ns=st.st_mtime_ns,
            rdev=st.st_rdev if kind in (Kind.CHAR, Kind.BLOCK) else 0,
            target=os.readlink(name, dir_fd=fd) if kind is Kind.SYMLINK else b"",
            xattrs=self._user_attributes(fd, name) if self._xattrs else b"",
            backing=backing,
        )
        if kind is not Kind.FILE:
            self.findings.inodes[inode] = cell
            return
        self.findings.inodes[inode] = cell
        if st.st_size == 0:
            self._content(cell, EMPTY, old)
            return
        yield _ToHash(cell, os.open(name, _LOOK, dir_fd=fd), old)

    def _user_attributes(self, fd: int, name: bytes) -> bytes:
        path = b"/proc/self/fd/%d/%s" % (fd, name)
        names = map(os.fsencode, os.listxattr(path, follow_symlinks=False))
        return encode_xattrs({key: os.getxattr(path, key, follow_symlinks=False) for key in names})

    def _pool_hash(self, files: Iterable[_ToHash]) -> None:
        for item, blocks in self._pool.map(self._hash, files):
            self._content(item.cell, blocks, item.old)

    def _hash(self, item: _ToHash) -> tuple[_ToHash, BlockList]:
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
        digest = blocks.digest()
        self.findings.files_read += blocks.size > 0
        self.findings.bytes_read += blocks.size
        done = replace(cell, size=blocks.size, digest=digest, blocks=blocks.encode())
        self.findings.inodes[cell.id] = done
        if old is None or old.digest != digest:
            self.findings.content_of.add(cell.id)


def _is(row: Inode, kind: Kind, ino: int) -> bool:
    return row.kind is kind and row.backing is not None and row.backing.ino == ino


def _same_attributes(row: Inode, st: os.stat_result) -> bool:
    return (
        row.mode == st.st_mode & 0o7777
        and row.uid == st.st_uid
        and row.gid == st.st_gid
        and row.mtime_ns == st.st_mtime_ns
        and (row.kind is not Kind.FILE or row.size == st.st_size)
    )


def apply(index: Index, findings: Findings) -> None:
    """Commits what was found, in one transaction: followers never see half of it."""
    with index.commit() as commit:
        for cell in findings.inodes.values():
            commit.put_inode(cell, attrs=True, content=cell.id in findings.content_of)
        for (parent, name), child in findings.names.items():
            commit.put_dirent(parent, name, child)
        commit.drop_orphans()
