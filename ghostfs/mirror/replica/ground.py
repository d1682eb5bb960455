"""Where a plan's steps stand: directories, what their names hold, and whose that is.

The executor's view of a tree that belongs to its user. What is *ours*, and how the user's is kept, is said in
`conflict`; here it is asked about places and inodes of one plan.
"""

from __future__ import annotations

__all__ = ["Ground"]

import errno
import os
import stat

import structlog

from ghostfs.index import Index
from ghostfs.mirror.replica import conflict
from ghostfs.mirror.replica.attributes import Attributes
from ghostfs.mirror.replica.conflict import Keeper, look
from ghostfs.mirror.replica.planlog import PlanRecord
from ghostfs.mirror.replica.reach import Reach
from ghostfs.mirror.replica.steps import Place, Step
from ghostfs.model import HELD, ROOT, Backing, Inode, InodeId, Kind
from ghostfs.names import display

log = structlog.get_logger(__name__)

_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What opening a directory says when its name holds nothing, or something else."""

_TRIES = 16
"""How often a missing directory is made again, while a user puts something else there."""


class Ground:
    """One plan's. `again` says that some of its steps may have been done before.

    `at` has a place of every inode that the steps have touched so far, `verified` the inodes that were what
    the index says when they were touched, `created` those that got a new object. `strewn` are directories
    that need their attributes at the end, if no step sets them.
    """

    def __init__(
        self,
        record: PlanRecord,
        *,
        index: Index,
        reach: Reach,
        attributes: Attributes,
        keeper: Keeper,
        again: bool,
    ) -> None:
        self.at: dict[InodeId, Place] = {}
        self.verified: set[InodeId] = set()
        self.created: set[InodeId] = set()
        self.strewn: set[InodeId] = set()
        self.again = again
        self.objects = record.objects
        self.reach = reach
        self.attributes = attributes
        self._cells = {cell.id: cell for cell in record.outcome.inodes}
        self._rows: dict[InodeId, Inode | None] = {}
        self._backings: dict[InodeId, Backing | None] = {}
        self._index = index
        self._keeper = keeper

    def row(self, inode: InodeId) -> Inode | None:
        """What the index said of an inode before the plan, without its blocks."""
        if inode not in self._rows:
            self._rows[inode] = self._index.inode_light(inode)
        return self._rows[inode]

    def backing(self, inode: InodeId, at: Place) -> Backing | None:
        """The hash cache's key of an inode after the plan; None if its object is not known to be ours."""
        if inode in self._backings:
            return self._backings[inode]
        cell = self.cell(inode)
        try:
            # A directory by its own descriptor: those above may not let us in any more.
            directory = self.find(inode if cell.kind is Kind.DIRECTORY else at.parent)
            if directory is None:
                return None
            st = os.fstat(directory) if cell.kind is Kind.DIRECTORY else look(directory, at.name)
        except PermissionError:
            return None
        if st is None or stat.S_IFMT(st.st_mode) != cell.kind.format:
            return None
        if cell.kind is Kind.FILE:
            ours = st.st_ino == self.objects[inode].new if inode in self.created else inode in self.verified
            if not ours or (st.st_size, st.st_mtime_ns) != (cell.size, cell.mtime_ns):
                return None
        return Backing(st.st_ino, st.st_ctime_ns)

    def look_at_files(self) -> None:
        """Looks up `backing` of everything but directories, to be answered later."""
        for inode, at in self.at.items():
            if self.cell(inode).kind is not Kind.DIRECTORY:
                self._backings[inode] = self.backing(inode, at)

    def set_directory(self, inode: InodeId, *, restore: bool = False) -> None:
        """Gives a directory the attributes that its cell states; with `restore`, one that has changed on
        the hub is made again if the user has removed it."""
        directory = self.need(inode) if restore and inode in self._cells else self.find(inode)
        self.strewn.discard(inode)
        cell = self._cells.get(inode) or self.row(inode)
        if directory is not None and cell is not None:
            self.attributes.on_pin(directory, cell)
            self.verified.add(inode)

    def judge(self, directory: int, name: bytes, st: os.stat_result, inode: InodeId | None) -> bool:
        """Whether what a place holds is the inode's old version, or for all purposes its new one."""
        if inode is None:
            return False
        row, cell = self.row(inode), self._cells.get(inode)
        if inode in self.verified and row is not None and conflict.untouched(st, row):
            return True  # our own renames and links have changed its ctime
        if conflict.is_ours(directory, name, st, row):
            return True
        return cell is not None and conflict.is_ours(directory, name, st, cell, trusted=False)

    def dispose(
        self,
        source: int,
        name: bytes,
        target: int,
        at: Place,
        displaced: InodeId | None,
        before: os.stat_result | None,
        *,
        kept: bool = False,
    ) -> None:
        """Removes what came out of a place, if it is ours; else it goes back beside the place.

        `before` is how it looked when it was found to be ours; `kept`: it was found not to be.
        """
        st = look(source, name)
        if st is None:
            return
        ours = not kept and before is not None and conflict.same_version(before, st)
        if not ours and not kept and displaced is not None:
            row, cell = self.row(displaced), self._cells.get(displaced)
            ours = conflict.is_ours(source, name, st, row, trusted=False) or (
                cell is not None and conflict.is_ours(source, name, st, cell, trusted=False)
            )
        if ours and not stat.S_ISDIR(st.st_mode):
            self.unlink(source, name, st, target, at)
        else:
            self.keep(source, name, target, at)

    def unlink(self, source: int, name: bytes, st: os.stat_result, target: int, at: Place) -> None:
        """Removes a non-directory of ours, unless a user is writing to it."""
        if conflict.is_being_written(source, name, st):
            log.info("open_for_writing", path=display(self.reach.path(at)))
            self.keep(source, name, target, at)
        else:
            os.unlink(name, dir_fd=source)

    def keep(self, source: int, name: bytes, target: int, at: Place) -> None:
        """Gives a user's object a conflict name beside `at`; at the root, if `at` is held."""
        if at.parent == HELD:
            target = self.reach.fd(ROOT)
            self.strewn.add(ROOT)
        self._keeper.keep(source, name, target, at)

    def verify(self, inode: InodeId, directory: int, name: bytes, st: os.stat_result) -> None:
        """Before a step changes the ctime of an object: was it what the index says?"""
        row = self.row(inode)
        if row is None:
            return
        same = row.kind is not Kind.FILE or conflict.unchanged(st, row)
        if same or (self.again and conflict.is_ours(directory, name, st, row, trusted=False)):
            self.verified.add(inode)

    def is_still(self, inode: InodeId, st: os.stat_result) -> bool:
        """Whether a place still holds the inode: the object itself, or what the user made of it."""
        if self.again:
            return st.st_ino in self.objects[inode]
        return stat.S_IFMT(st.st_mode) == self.cell(inode).kind.format

    def has_directory(self, directory: int, name: bytes) -> bool:
        """Whether the name holds a directory, whoever's."""
        st = look(directory, name)
        return st is not None and stat.S_ISDIR(st.st_mode)

    def cell(self, inode: InodeId) -> Inode:
        """What the inode is to be, or goes on being."""
        cell = self._cells.get(inode) or self.row(inode)
        assert cell is not None, "the planner names no inode without a cell"
        return cell

    def note(self, inode: InodeId, at: Place) -> None:
        """The inode is at `at` now, or about to be."""
        self.at[inode] = at
        if self.cell(inode).kind is Kind.DIRECTORY:
            self.reach.moved(inode, at)

    def open_up(self, step: Step) -> None:
        """Lets this process, which is not root, into directories whose mode does not.

        They get their own mode back at the end; a crash before that leaves them open to their owner only.
        """
        named = [getattr(step, field, None) for field in ("source", "at", "a", "b")]
        parents = [place.parent for place in named if isinstance(place, Place) and place.parent != HELD]
        inodes = [getattr(step, field, None) for field in ("inode", "inode_a", "inode_b")]
        moved = [i for i in inodes if i is not None and self.cell(i).kind is Kind.DIRECTORY]
        for directory in (*parents, *moved):
            for opened in self.reach.open_up(directory):
                self.strewn.add(opened)

    def find(self, directory: InodeId) -> int | None:
        """A descriptor of the directory, if it is where it should be."""
        try:
            return self.reach.fd(directory)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            return None

    def need(self, directory: InodeId) -> int:
        """A descriptor of the directory, which is made again if the user has removed it."""
        gone: list[InodeId] = []
        while (fd := self.find(directory)) is None:
            gone.append(directory)
            directory = self._should_be(directory).parent
        for inode in reversed(gone):
            fd = self._restore(inode, fd)
        if gone:
            log.info(
                "directory_restored", path=display(self.reach.path(self.at[gone[0]])), levels=len(gone)
            )
        return fd

    def _should_be(self, directory: InodeId) -> Place:
        return self.at.get(directory) or self.reach.place(directory)

    def _restore(self, directory: InodeId, parent: int) -> int:
        place = self._should_be(directory)
        self.strewn.update((place.parent, directory))
        for _ in range(_TRIES):
            try:
                os.mkdir(place.name, 0o700, dir_fd=parent)
            except FileExistsError:
                if not self.has_directory(parent, place.name):
                    self.keep(parent, place.name, parent, place)
                    continue
            break
        self.at[directory] = place
        self.reach.moved(directory, place)
        return self.reach.fd(directory)
