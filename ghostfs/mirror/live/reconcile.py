"""Comparing a tree with its index, and finding what the index must learn: the two ways to go through a tree.

Used where nobody watched the tree: after a kill (the names that dirty.log holds), after a power cut or a
lost index (everything), and to verify. Nothing here writes to the index: what was found is a `Findings`.
What may not be looked at is never taken for gone: what the index says of it stands.
"""

from __future__ import annotations

__all__ = ["Reconciler"]

import contextlib
import errno
import itertools
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

import structlog

from ghostfs.index import DirtyDirent, Index
from ghostfs.mirror.live.comparison import Comparison, ToHash
from ghostfs.mirror.live.directories import Directories
from ghostfs.mirror.live.findings import Findings, Place
from ghostfs.mirror.live.hashing import HashPool
from ghostfs.mirror.live.recognition import Recognition
from ghostfs.mirror.live.rights import Rights, path_of
from ghostfs.mirror.syscalls import open_quietly
from ghostfs.model import ROOT, InodeId, Kind, kind_of_mode
from ghostfs.names import display, is_reserved

log = structlog.get_logger(__name__)

Result = TypeVar("Result")

_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO})
"""What is said of something that was there a moment ago: a tree may be verified while it is in use."""


class Reconciler:
    """One comparison. Not thread-safe; hashing is spread over the pool."""

    def __init__(
        self,
        index: Index,
        root_fd: int,
        pool: HashPool,
        *,
        distrust_since_ns: int | None = None,
        progress: Callable[[int], None] | None = None,
        allocate: Callable[[int], Iterable[int]] | None = None,
        rights: Rights | None = None,
    ) -> None:
        """`distrust_since_ns`: files changed since then are read even if they look unchanged, for after a
        power cut overwritten blocks may be lost though the times are not. `progress` gets bytes read.
        `allocate` gives so many ids for what is new; the index's own if not given. `rights`: where to get
        those that the modes of the tree do not give us; not given, nothing in the tree is changed."""
        self.findings = Findings()
        self._index = index
        self._root_fd = root_fd
        self._rights = rights
        self._who = Recognition(index, allocate or index.allocate_ids)
        self._comparison = Comparison(
            index,
            self.findings,
            pool,
            distrust_since_ns=distrust_since_ns,
            progress=progress,
            rights=rights,
        )
        self._directories = Directories(root_fd, self._who.locate)
        self._listed: set[InodeId] = set()
        self._absent: list[Place] = []
        self._displaced: list[InodeId] = []
        """What the index has at places where something else is now."""

    def everything(self, inodes: Iterable[InodeId] = ()) -> Findings:
        """Compares the whole tree, and the content of these `inodes` even where nothing tells that it has changed."""
        self._comparison.touched = frozenset(inodes)
        self._who.assign(ROOT, os.fstat(self._root_fd))
        return self._finish(itertools.chain(self._list(ROOT), self._look_at_inode(ROOT)))

    def named(self, names: Iterable[DirtyDirent], inodes: Iterable[InodeId]) -> Findings:
        """Compares only some names and inodes, the directories that hold those names, and all that is
        below directories which the index may not have.

        `names` are in the order in which they were to be changed.
        """
        self._comparison.touched = touched = frozenset(inodes)
        self._who.hint(names)
        self._who.assign(ROOT, os.fstat(self._root_fd))
        return self._finish(self._look_again(sorted(touched)))

    def _finish(self, files: Iterable[ToHash]) -> Findings:
        with contextlib.closing(self._directories):
            self._comparison.hash_all(files)
        self._take_away()
        self._leave_unreadable()
        return self.findings

    # --- the two ways to go through a tree --------------------------------------------------------------

    def _list(self, top: InodeId) -> Iterable[ToHash]:
        """Compares all that is in and below a directory."""
        pending = [top]
        while pending:
            directory = pending.pop()
            if directory in self._listed:
                continue
            self._listed.add(directory)
            with contextlib.ExitStack() as undo:
                try:
                    fd = self._permitted(undo, directory, self._open)
                except PermissionError:
                    self._unreadable(self._place_of(directory), None)
                    continue
                except OSError as error:
                    if error.errno in _GONE:
                        continue
                    raise
                undo.callback(os.close, fd)
                listed = dict(self._index.children(directory))
                for name in map(os.fsencode, os.listdir(fd)):
                    place = directory, name
                    known = listed.pop(name, None)
                    if (st := _stat(place, fd)) is None:
                        continue
                    inode = self._found(place, st, known)
                    if kind_of_mode(st.st_mode) is Kind.DIRECTORY:
                        pending.append(inode)
                    yield from self._compare(place, inode, fd, st)
                self._absent.extend((directory, name) for name in listed)

    def _look_again(self, inodes: list[InodeId]) -> Iterable[ToHash]:
        hinted = self._who.hinted
        pending = list(hinted)
        while pending:
            # Directories whose place is not known yet may be found in others: these names wait.
            waiting = []
            for place in pending:
                if place[0] in self._listed:
                    continue
                try:
                    yield from self._look_at(place)
                except PermissionError:
                    self._unreadable(place, None)
                except OSError as error:
                    if error.errno not in _GONE:
                        raise
                    waiting.append(place)
            if len(waiting) == len(pending):
                self._absent.extend(waiting)
                break
            pending = waiting
        for inode in dict.fromkeys([*inodes, *(parent for parent, _ in hinted)]):
            yield from self._look_at_inode(inode)

    def _look_at(self, place: Place) -> Iterable[ToHash]:
        with contextlib.ExitStack() as undo:
            fd, st = self._permitted(undo, place[0], partial(self._reach, place[1]))
            if st is None:
                self._absent.append(place)
                return
            inode = self._found(place, st, self._index.dirent(*place))
            yield from self._compare(place, inode, fd, st)
        if kind_of_mode(st.st_mode) is Kind.DIRECTORY and self._who.doubtful(place, inode):
            yield from self._list(inode)

    def _look_at_inode(self, inode: InodeId) -> Iterable[ToHash]:
        """Compares an inode at the first of its places that dirty.log does not name."""
        if inode == ROOT:
            yield from self._compare((ROOT, b"."), ROOT, self._root_fd, os.fstat(self._root_fd))
            return
        if inode in self._comparison:
            return
        for place in self._index.links(inode):
            if place in self._who.hinted:
                continue
            with contextlib.ExitStack() as undo:
                try:
                    fd, st = self._permitted(undo, place[0], partial(self._reach, place[1]))
                except PermissionError:
                    self._unreadable(place, inode)
                    return
                except OSError as error:
                    if error.errno not in _GONE:
                        raise
                    continue
                if st is None:
                    continue
                self._who.assign(inode, st)
                yield from self._compare(place, inode, fd, st)
                return

    # --- one place --------------------------------------------------------------------------------------

    def _permitted(
        self, undo: contextlib.ExitStack, directory: InodeId, act: Callable[[InodeId], Result]
    ) -> Result:
        """Does something in a directory, with the rights to, which are given back by `undo`."""
        try:
            return act(directory)
        except PermissionError:
            if self._rights is None:
                raise
            undo.enter_context(self._rights.way(self._directories, self._who.locate, directory))
            return act(directory)

    def _open(self, directory: InodeId) -> int:
        return open_quietly(b".", _LIST, dir_fd=self._directories.fd(directory))

    def _reach(self, name: bytes, directory: InodeId) -> tuple[int, os.stat_result | None]:
        """A descriptor of the directory, and what is in it under the name."""
        fd = self._directories.fd(directory)
        return fd, _stat((directory, name), fd)

    def _found(self, place: Place, st: os.stat_result, known: InodeId | None) -> InodeId:
        inode = self._who.found_at(place, st, known)
        if inode != known:
            self.findings.names[place] = inode
            if known is not None:
                self._displaced.append(known)
        return inode

    def _compare(self, place: Place, inode: InodeId, fd: int, st: os.stat_result) -> Iterable[ToHash]:
        try:
            yield from self._comparison.compare(inode, fd, place[1], st)
        except PermissionError:
            self._unreadable(place, inode)
        except OSError as error:
            if error.errno not in _GONE:
                raise

    def _place_of(self, directory: InodeId) -> Place:
        return (ROOT, b".") if directory == ROOT else self._who.locate(directory)

    def _unreadable(self, place: Place, inode: InodeId | None) -> None:
        self.findings.unreadable[place] = inode
        if self._rights is not None:
            log.warning("unreadable", path=display(path_of(self._who.locate, *place)))

    # --- what is no longer there ------------------------------------------------------------------------

    def _take_away(self) -> None:
        """Names that the index has are gone, and with a directory everything that was in it. To be done when
        all directories that have moved were found where they are now."""
        names = self.findings.names
        pending = self._absent
        for inode in self._displaced:
            if inode not in self._who:
                pending.extend((inode, below) for below, _ in self._index.children(inode))
        while pending:
            place = pending.pop()
            child = self._index.dirent(*place)
            if child is None or place in names:
                continue
            names[place] = None
            if child not in self._who:
                pending.extend((child, below) for below, _ in self._index.children(child))

    def _leave_unreadable(self) -> None:
        """What the index has of places that could not be looked at stands; what it never had stays out."""
        names = self.findings.names
        unborn = {
            inode
            for inode in self.findings.unreadable.values()
            if inode is not None and self._index.inode_light(inode) is None
        }
        for place in [place for place, child in names.items() if child in unborn]:
            del names[place]
            if self._index.dirent(*place) is not None:
                names[place] = None
        # Directories are in one place only: one that was found elsewhere is not where nobody could look.
        pending = list(self.findings.unreadable)
        while pending:
            place = pending.pop()
            child = self._index.dirent(*place)
            row = self._index.inode_light(child) if child is not None else None
            if child is None or row is None or row.kind is not Kind.DIRECTORY or place in names:
                continue
            if child in self._who and self._who.locate(child) != place:
                names[place] = None
            else:
                pending.extend((child, below) for below, _ in self._index.children(child))


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
