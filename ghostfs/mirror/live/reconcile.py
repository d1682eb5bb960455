"""Comparing a tree with its index, and finding what the index must learn.

Used where nobody watched the tree: after a kill (the names that dirty.log holds), after a power cut or a
lost index (everything), and to verify. Content is read only where backing inode, change time or size
are not what the index remembers. Nothing here writes: what was found is a `Findings`.
"""

from __future__ import annotations

__all__ = ["Findings", "Reconciler", "apply"]

import contextlib
import errno
import itertools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import structlog

from ghostfs.content import EMPTY, BlockList
from ghostfs.errors import Superseded
from ghostfs.index import DirtyDirent, Index
from ghostfs.mirror.live.cells import backing_of, cell_of, mtime_of
from ghostfs.mirror.live.directories import Directories
from ghostfs.mirror.live.hashing import HashPool, hash_file
from ghostfs.mirror.xattrs import encode_xattrs
from ghostfs.model import ROOT, Inode, InodeId, Kind, kind_of_mode
from ghostfs.names import is_reserved

log = structlog.get_logger(__name__)

_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO})
"""What is said of something that was there a moment ago: a tree may be verified while it is in use."""

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
        power cut overwritten blocks may be lost though the times are not. `progress` gets bytes read.
        `allocate` gives so many ids for what is new; the index's own if not given."""
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
        self._found_at: dict[InodeId, Place] = {}
        """Where directories are in this tree."""
        self._listed: set[InodeId] = set()
        self._compared: set[InodeId] = set()
        self._touched: frozenset[InodeId] = frozenset()
        """Inodes that were about to be changed. Times do not tell whether they were: before Linux 6.13 they
        stand still for milliseconds, and a write may have come within the tick of the commit before it."""
        self._absent: list[Place] = []
        self._displaced: list[InodeId] = []
        """What the index has at places where something else is now."""
        self._spare: list[int] = []

    def everything(self) -> Findings:
        """Compares the whole tree."""
        self._assign(ROOT, os.fstat(self._root_fd))
        with contextlib.closing(Directories(self._root_fd, self._locate)) as directories:
            self._pool_hash(
                itertools.chain(self._list(directories, ROOT), self._look_at_inode(directories, ROOT))
            )
        self._take_away()
        return self.findings

    def named(self, names: Iterable[DirtyDirent], inodes: Iterable[InodeId]) -> Findings:
        """Compares only some names and inodes, the directories that hold those names, and all that is
        below directories which the index may not have.

        `names` are in the order in which they were to be changed.
        """
        self._touched = frozenset(inodes)
        for entry in names:
            place = entry.parent, entry.name
            hints = self._hinted.setdefault(place, [])
            if entry.child is not None:
                hints.append(entry.child)
        self._assign(ROOT, os.fstat(self._root_fd))
        with contextlib.closing(Directories(self._root_fd, self._locate)) as directories:
            self._pool_hash(self._look_again(directories, sorted(self._touched)))
        self._take_away()
        return self.findings

    # --- the two ways to go through a tree --------------------------------------------------------------

    def _list(self, directories: Directories, top: InodeId) -> Iterable[_ToHash]:
        """Compares all that is in and below a directory."""
        pending = [top]
        while pending:
            directory = pending.pop()
            if directory in self._listed:
                continue
            self._listed.add(directory)
            try:
                fd = os.open(b".", _LOOK | os.O_DIRECTORY, dir_fd=directories.fd(directory))
            except OSError as error:
                if error.errno in _GONE:
                    continue
                raise
            try:
                listed = dict(self._index.children(directory))
                for name in map(os.fsencode, os.listdir(fd)):
                    place = directory, name
                    known = listed.pop(name, None)
                    if (st := _stat(place, fd)) is None:
                        continue
                    inode = self._found(place, st, known)
                    if kind_of_mode(st.st_mode) is Kind.DIRECTORY:
                        pending.append(inode)
                    yield from self._compare(inode, fd, name, st)
                self._absent.extend((directory, name) for name in listed)
            finally:
                os.close(fd)

    def _look_again(self, directories: Directories, inodes: list[InodeId]) -> Iterable[_ToHash]:
        pending = list(self._hinted)
        while pending:
            # Directories whose place is not known yet may be found in others: these names wait.
            waiting = []
            for place in pending:
                if place[0] in self._listed:
                    continue
                try:
                    fd = directories.fd(place[0])
                except OSError:
                    waiting.append(place)
                    continue
                yield from self._look_at(directories, fd, place)
            if len(waiting) == len(pending):
                self._absent.extend(waiting)
                break
            pending = waiting
        for inode in dict.fromkeys([*inodes, *(parent for parent, _ in self._hinted)]):
            yield from self._look_at_inode(directories, inode)

    def _look_at(self, directories: Directories, fd: int, place: Place) -> Iterable[_ToHash]:
        st = _stat(place, fd)
        if st is None:
            self._absent.append(place)
            return
        inode = self._found(place, st, self._index.dirent(*place))
        yield from self._compare(inode, fd, place[1], st)
        if kind_of_mode(st.st_mode) is Kind.DIRECTORY and self._doubtful(place, inode):
            yield from self._list(directories, inode)

    def _look_at_inode(self, directories: Directories, inode: InodeId) -> Iterable[_ToHash]:
        """Compares an inode at the first of its places that dirty.log does not name."""
        if inode == ROOT:
            yield from self._compare(ROOT, self._root_fd, b".", os.fstat(self._root_fd))
            return
        if inode in self._compared:
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

    def _found(self, place: Place, st: os.stat_result, known: InodeId | None) -> InodeId:
        inode = self._identify(place, st, known)
        if inode != known:
            self.findings.names[place] = inode
            if known is not None:
                self._displaced.append(known)
        if kind_of_mode(st.st_mode) is Kind.DIRECTORY:
            self._found_at[inode] = place
        return inode

    def _doubtful(self, place: Place, directory: InodeId) -> bool:
        """Whether a directory may hold what neither the index nor the names in the log tell of.

        That is one which the index has not, and one which passes for the one that was here before though
        the log speaks of a new one: backing inode numbers are used again.
        """
        return self._index.inode_light(directory) is None or any(
            hint != directory and self._index.inode_light(hint) is None
            for hint in self._hinted.get(place, ())
        )

    def _locate(self, directory: InodeId) -> Place:
        """Where a directory was found, or where the index has it if the log does not name that place.

        One that has moved is nowhere until its new place was looked at: the log names that too.
        """
        found = self._found_at.get(directory)
        if found is not None:
            return found
        links = self._index.links(directory)
        if len(links) == 1 and links[0] not in self._hinted:
            return links[0]
        raise FileNotFoundError(errno.ENOENT, f"directory {directory} is nowhere")

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
        hints = [
            (hint, self._index.inode_light(hint))
            for hint in reversed(self._hinted.get(place, []))
            if self._free(hint, st)
        ]
        # First what the index has: a directory that keeps its id keeps what is in it.
        for hint, hinted in hints:
            if hinted is not None and _is(hinted, kind, st.st_ino):
                return self._assign(hint, st)
        for hint, hinted in hints:
            if hinted is None:
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

    def _take_away(self) -> None:
        """Names that the index has are gone, and with a directory everything that was in it. To be done when
        all directories that have moved were found where they are now."""
        names = self.findings.names
        pending = self._absent
        for inode in self._displaced:
            if inode not in self._assigned:
                pending.extend((inode, below) for below, _ in self._index.children(inode))
        while pending:
            place = pending.pop()
            child = self._index.dirent(*place)
            if child is None or place in names:
                continue
            names[place] = None
            if child not in self._assigned:
                pending.extend((child, below) for below, _ in self._index.children(child))

    def _compare(self, inode: InodeId, fd: int, name: bytes, st: os.stat_result) -> Iterable[_ToHash]:
        if inode in self._compared:
            return
        self._compared.add(inode)
        self.findings.looked_at += 1
        old = self._index.inode_light(inode)
        backing = backing_of(st)
        kind = kind_of_mode(st.st_mode)
        trusted = kind is not Kind.FILE or (
            inode not in self._touched and (self._distrust is None or st.st_ctime_ns < self._distrust)
        )
        if old is not None and old.backing == backing and _same_attributes(old, st) and trusted:
            return
        try:
            cell = cell_of(
                inode,
                st,
                target=os.readlink(name, dir_fd=fd) if kind is Kind.SYMLINK else b"",
                xattrs=self._user_attributes(fd, name) if self._xattrs else b"",
            )
            opened = os.open(name, _LOOK, dir_fd=fd) if kind is Kind.FILE and st.st_size else -1
        except OSError as error:
            if error.errno in _GONE:
                return
            raise
        self.findings.inodes[inode] = cell
        if opened >= 0:
            yield _ToHash(cell, opened, old)
        elif kind is Kind.FILE:
            self._content(cell, EMPTY, old)

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
        if old is not None and replace(done, blocks=b"") == replace(
            old, attr_seq=done.attr_seq, content_seq=done.content_seq, origin=done.origin
        ):
            del self.findings.inodes[cell.id]
            return
        self.findings.inodes[cell.id] = done
        if old is None or old.digest != digest:
            self.findings.content_of.add(cell.id)


def _stat(place: Place, fd: int) -> os.stat_result | None:
    """What is at a place, of whose directory `fd` is a descriptor; `None` if there is nothing of a session's."""
    parent, name = place
    if parent == ROOT and is_reserved(name):
        return None
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise


def _is(row: Inode, kind: Kind, ino: int) -> bool:
    return row.kind is kind and row.backing is not None and row.backing.ino == ino


def _same_attributes(row: Inode, st: os.stat_result) -> bool:
    return (
        row.mode == st.st_mode & 0o7777
        and row.uid == st.st_uid
        and row.gid == st.st_gid
        and row.mtime_ns == mtime_of(st)
        and (row.kind is not Kind.FILE or row.size == st.st_size)
    )


def apply(index: Index, findings: Findings) -> None:
    """Commits what was found, in one transaction: followers never see half of it."""
    with index.commit() as commit:
        for cell in findings.inodes.values():
            changed = cell.kind is not Kind.FILE or cell.id in findings.content_of
            commit.put_inode(cell, attrs=True, content=changed)
        for (parent, name), child in findings.names.items():
            commit.put_dirent(parent, name, child)
        commit.drop_orphans()
