"""Carries out a plan's steps in a replica's tree, and what to do when the tree is not what the plan expects.

Every name is reached through a directory descriptor and without following symlinks. Nothing is overwritten:
a rename either finds its target free or exchanges, and what came out is looked at before it goes. A plan
that was interrupted is carried out again from its first step, each step asking the table in `steps` whether
it is still to be done.

What the user did in the tree, and what becomes of it:

    a changed file is moved on the hub           it moves along, still changed
    a changed file is replaced or removed        it is kept under a conflict name
    something untracked is where a new one goes  likewise; directories are merged
    a file is gone                               nothing; its next version is put there again
    a directory is gone                          it is made again when something is put in it
    untracked files in a removed directory       the directory stays with them, under a conflict name
"""

from __future__ import annotations

__all__ = ["Executor"]

import errno
import os
import stat
from collections.abc import Callable

import structlog

from ghostfs.index import Index
from ghostfs.mirror import conflict
from ghostfs.mirror.attributes import Attributes
from ghostfs.mirror.conflict import Keeper, look
from ghostfs.mirror.planlog import PlanRecord
from ghostfs.mirror.reach import Reach
from ghostfs.mirror.staging import Staging, staged_name
from ghostfs.mirror.steps import (
    Create,
    Exchange,
    Hold,
    LinkAt,
    Move,
    MoveOver,
    Place,
    Remove,
    RemoveDirectory,
    Replace,
    ReplaceWithLink,
    SetAttributes,
    Step,
)
from ghostfs.mirror.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from ghostfs.model import HELD, ROOT, Backing, Inode, InodeId, Kind

log = structlog.get_logger(__name__)

_TRIES = 16
"""How often a step gives way to a user who keeps putting things where it wants to go."""


class Executor:
    """One plan. `again` says that some of its steps may have been done before.

    After `run`: `at` has a place of every inode that the steps touched, `verified` the files that were
    what the index says when they were touched, `created` the inodes that got a new object.
    """

    def __init__(
        self,
        record: PlanRecord,
        *,
        index: Index,
        staging: Staging,
        reach: Reach,
        attributes: Attributes,
        keeper: Keeper,
        again: bool,
    ) -> None:
        self.at: dict[InodeId, Place] = {}
        self.verified: set[InodeId] = set()
        self.created: set[InodeId] = set()
        self._record = record
        self._cells = {cell.id: cell for cell in record.outcome.inodes}
        self._rows: dict[InodeId, Inode | None] = {}
        self._index = index
        self._staging = staging
        self._reach = reach
        self._attributes = attributes
        self._keeper = keeper
        self._again = again
        self._strewn: set[InodeId] = set()  # directories that need their attributes, if no step says so

    def run(self, between: Callable[[int], None]) -> None:
        """Does all the steps in order; calls `between` before each, with its number, and after the last.

        Raises:
            OSError: the disk or the rights do not allow a step; the plan can be run again.
        """
        for number, step in enumerate(self._record.steps):
            between(number)
            self._do(step)
        between(len(self._record.steps))
        for directory in list(self._strewn):
            self._set_directory(directory)

    def row(self, inode: InodeId) -> Inode | None:
        """What the index said of an inode before the plan, without its blocks."""
        if inode not in self._rows:
            self._rows[inode] = self._index.inode_light(inode)
        return self._rows[inode]

    def backing(self, inode: InodeId, at: Place) -> Backing | None:
        """The hash cache's key of an inode after the plan; None if its object is not known to be ours."""
        directory = self._find(at.parent)
        st = None if directory is None else look(directory, at.name)
        cell = self._cell(inode)
        if st is None or stat.S_IFMT(st.st_mode) != cell.kind.format:
            return None
        if cell.kind is Kind.FILE:
            ours = (
                st.st_ino == self._record.objects[inode].new
                if inode in self.created
                else inode in self.verified
            )
            if not ours or (st.st_size, st.st_mtime_ns) != (cell.size, cell.mtime_ns):
                return None
        return Backing(st.st_ino, st.st_ctime_ns)

    def _do(self, step: Step) -> None:
        match step:
            case Create(inode, at):
                self._publish(inode, at, None)
            case Replace(inode, at, displaced):
                self._publish(inode, at, displaced)
            case SetAttributes(inode, at):
                self._set_attributes(inode, at)
            case Remove(inode, at):
                self._remove(inode, at)
            case LinkAt(inode, source, at):
                self._link(inode, source, at, None)
            case ReplaceWithLink(inode, source, at, displaced):
                self._link(inode, source, at, displaced)
            case Move(inode, source, at):
                self._move(inode, source, at)
            case MoveOver(inode, source, at, displaced):
                self._move_over(inode, source, at, displaced)
            case Hold(inode, source):
                self._move(inode, source, step.at)
            case Exchange(a, b, inode_a, inode_b):
                self._exchange(a, b, inode_a, inode_b)
            case RemoveDirectory(inode, at):
                self._remove_directory(inode, at)

    # New objects and further names.

    def _publish(self, inode: InodeId, at: Place, displaced: InodeId | None) -> None:
        cell = self._cells[inode]
        name = staged_name(cell)
        self._note(inode, at)
        self.created.add(inode)
        if cell.kind is Kind.DIRECTORY:
            self._strewn.add(inode)
        if self._again:
            staged = look(self._staging.new_fd, name)
            if staged is None:
                return
            if staged.st_ino != self._record.objects[inode].new:
                came_from = inode if displaced is None else displaced
                self._dispose(self._staging.new_fd, name, self._need(at.parent), at, came_from, None)
                return
        self._install(self._staging.new_fd, name, at, displaced, cell)
        self._staging.published(inode, name)

    def _install(self, source: int, name: bytes, at: Place, displaced: InodeId | None, cell: Inode) -> None:
        """Puts `name` of the directory `source` at a place; what is there goes, or is kept if a user's."""
        target = self._need(at.parent)
        for _ in range(_TRIES):
            before = look(target, at.name) if displaced is not None else None
            try:
                if before is None:
                    renameat2(source, name, target, at.name, RENAME_NOREPLACE)
                    return
                ours = self._judge(target, at.name, before, displaced)
                renameat2(source, name, target, at.name, RENAME_EXCHANGE)
            except FileExistsError:
                if cell.kind is Kind.DIRECTORY and self._is_directory(target, at.name):
                    os.rmdir(name, dir_fd=source)  # what is there is used
                    return
                displaced = displaced if displaced is not None else cell.id
                continue
            except FileNotFoundError:
                # Gone between the look and the exchange, or the whole directory is.
                if look(source, name) is None:
                    raise
                self._reach.forget(at.parent)
                target = self._need(at.parent)
                continue
            self._dispose(source, name, target, at, displaced, before if ours else None, kept=not ours)
            return
        raise FileExistsError(errno.EEXIST, "a user keeps changing it", self._reach.path(at))

    def _link(self, inode: InodeId, source: Place, at: Place, displaced: InodeId | None) -> None:
        self._note(inode, at)
        origin = self._find(source.parent)
        st = None if origin is None else look(origin, source.name)
        if origin is None or st is None or stat.S_ISDIR(st.st_mode):
            return
        target = self._need(at.parent)
        there = look(target, at.name)
        spare = b"%x-link" % inode
        if self._again:
            left = look(self._staging.new_fd, spare)
            if left is not None and left.st_ino == st.st_ino:
                os.unlink(spare, dir_fd=self._staging.new_fd)
            elif left is not None:
                self._dispose(self._staging.new_fd, spare, target, at, displaced, None)
            if st.st_ino not in self._record.objects[inode]:
                return
        if there is not None and there.st_ino == st.st_ino:
            return
        self._verify(inode, origin, source.name, st)
        link = {"src_dir_fd": origin, "follow_symlinks": False}
        if there is None:
            os.link(source.name, at.name, dst_dir_fd=target, **link)  # type: ignore[arg-type]
            return
        os.link(source.name, spare, dst_dir_fd=self._staging.new_fd, **link)  # type: ignore[arg-type]
        self._install(
            self._staging.new_fd, spare, at, inode if displaced is None else displaced, self._cell(inode)
        )

    # Renames.

    def _move(self, inode: InodeId, source: Place, at: Place) -> None:
        origin = self._find(source.parent)
        st = None if origin is None else look(origin, source.name)
        self._note(inode, at)
        if origin is None or st is None or not self._is_still(inode, st):
            return
        self._verify(inode, origin, source.name, st)
        self._rename(origin, source.name, at)

    def _rename(self, origin: int, name: bytes, at: Place) -> None:
        """Renames to a place that should be free; what a user put there is kept."""
        for _ in range(_TRIES):
            target = self._need(at.parent)
            try:
                renameat2(origin, name, target, at.name, RENAME_NOREPLACE)
            except FileExistsError:
                self._keep(target, at.name, target, at)
            else:
                return
        raise FileExistsError(errno.EEXIST, "a user keeps changing it", self._reach.path(at))

    def _move_over(self, inode: InodeId, source: Place, at: Place, displaced: InodeId) -> None:
        self._note(inode, at)
        origin = self._find(source.parent)
        st = None if origin is None else look(origin, source.name)
        if origin is None or st is None:
            return
        target = self._need(at.parent)
        there = look(target, at.name)
        if self._again and st.st_ino not in self._record.objects[inode]:
            if there is not None and there.st_ino in self._record.objects[inode]:
                self._dispose(origin, source.name, target, at, displaced, None)
            return
        if not self._is_still(inode, st):
            return
        self._verify(inode, origin, source.name, st)
        if there is None:
            self._rename(origin, source.name, at)
            return
        if there.st_ino == st.st_ino:
            os.unlink(source.name, dir_fd=origin)
            return
        ours = self._judge(target, at.name, there, displaced)
        renameat2(origin, source.name, target, at.name, RENAME_EXCHANGE)
        self._dispose(origin, source.name, target, at, displaced, there if ours else None, kept=not ours)

    def _exchange(self, a: Place, b: Place, inode_a: InodeId, inode_b: InodeId) -> None:
        at_a, at_b = self._find(a.parent), self._find(b.parent)
        st_a = None if at_a is None else look(at_a, a.name)
        st_b = None if at_b is None else look(at_b, b.name)
        done = self._again and (st_a is None or st_a.st_ino not in self._record.objects[inode_a])
        if not done and at_a is not None and st_a is not None:
            self._verify(inode_a, at_a, a.name, st_a)
        if not done and at_b is not None and st_b is not None:
            self._verify(inode_b, at_b, b.name, st_b)
        if not done and at_a is not None and at_b is not None:
            if st_a is not None and st_b is not None:
                renameat2(at_a, a.name, at_b, b.name, RENAME_EXCHANGE)
            elif st_a is not None:
                self._rename(at_a, a.name, b)
            elif st_b is not None:
                self._rename(at_b, b.name, a)
        self._note(inode_a, b)
        self._note(inode_b, a)

    # What goes.

    def _remove(self, inode: InodeId, at: Place) -> None:
        directory = self._find(at.parent)
        st = None if directory is None else look(directory, at.name)
        if directory is None or st is None or stat.S_ISDIR(st.st_mode):
            return
        if self._again and st.st_ino not in self._record.objects[inode]:
            return
        if self._judge(directory, at.name, st, inode):
            self.verified.add(inode)
            os.unlink(at.name, dir_fd=directory)
        else:
            self._keep(directory, at.name, directory, at)

    def _remove_directory(self, inode: InodeId, at: Place) -> None:
        parent = self._find(at.parent)
        st = None if parent is None else look(parent, at.name)
        self._strewn.discard(inode)
        if parent is None or st is None or not stat.S_ISDIR(st.st_mode):
            return
        if st.st_ino not in self._record.objects[inode]:
            return  # done before, or a directory of the user's
        try:
            os.rmdir(at.name, dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            self._keep(parent, at.name, parent, at)
        self._reach.forget(inode)

    # Attributes.

    def _set_attributes(self, inode: InodeId, at: Place | None) -> None:
        if at is not None:
            self._note(inode, at)
        if at is None or self._cell(inode).kind is Kind.DIRECTORY:
            self._set_directory(inode)
            return
        directory = self._find(at.parent)
        st = None if directory is None else look(directory, at.name)
        if directory is None or st is None:
            return
        row = self.row(inode)
        fresh = inode in self.created and st.st_ino == self._record.objects[inode].new
        known = fresh or inode in self.verified or row is None
        if not known and not conflict.is_ours(directory, at.name, st, row):
            log.info("attributes_left", path=self._reach.path(at), reason="changed locally")
            return
        self.verified.add(inode)
        try:
            self._attributes.on_name(directory, at.name, self._cell(inode))
        except FileNotFoundError:
            self.verified.discard(inode)

    def _set_directory(self, inode: InodeId) -> None:
        self._strewn.discard(inode)
        directory = self._find(inode)
        cell = self._cells.get(inode) or self.row(inode)
        if directory is not None and cell is not None:
            self._attributes.on_pin(directory, cell)
            self.verified.add(inode)

    # Looking, keeping, disposing.

    def _judge(self, directory: int, name: bytes, st: os.stat_result, inode: InodeId | None) -> bool:
        """Whether what a place holds is the inode's old version, or for all purposes its new one."""
        if inode is None:
            return False
        row, cell = self.row(inode), self._cells.get(inode)
        if inode in self.verified and row is not None and conflict.untouched(st, row):
            return True  # our own renames and links have changed its ctime
        if conflict.is_ours(directory, name, st, row):
            return True
        return cell is not None and conflict.is_ours(directory, name, st, cell, trusted=False)

    def _dispose(
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
            os.unlink(name, dir_fd=source)
        else:
            self._keep(source, name, target, at)

    def _keep(self, source: int, name: bytes, target: int, at: Place) -> None:
        if at.parent == HELD:
            target = self._reach.fd(ROOT)
            self._strewn.add(ROOT)
        self._keeper.keep(source, name, target, at)

    def _verify(self, inode: InodeId, directory: int, name: bytes, st: os.stat_result) -> None:
        """Before a step changes the ctime of an object: was it what the index says?"""
        row = self.row(inode)
        if row is None:
            return
        same = row.kind is not Kind.FILE or conflict.unchanged(st, row)
        if same or (self._again and conflict.is_ours(directory, name, st, row, trusted=False)):
            self.verified.add(inode)

    def _is_still(self, inode: InodeId, st: os.stat_result) -> bool:
        """Whether a place still holds the inode: the object itself, or what the user made of it."""
        if self._again:
            return st.st_ino in self._record.objects[inode]
        return stat.S_IFMT(st.st_mode) == self._cell(inode).kind.format

    def _is_directory(self, directory: int, name: bytes) -> bool:
        st = look(directory, name)
        return st is not None and stat.S_ISDIR(st.st_mode)

    def _cell(self, inode: InodeId) -> Inode:
        cell = self._cells.get(inode) or self.row(inode)
        assert cell is not None, "the planner names no inode without a cell"
        return cell

    def _note(self, inode: InodeId, at: Place) -> None:
        self.at[inode] = at
        if self._cell(inode).kind is Kind.DIRECTORY:
            self._reach.moved(inode, at)

    # Directories.

    def _find(self, directory: InodeId) -> int | None:
        try:
            return self._reach.fd(directory)
        except OSError:
            return None

    def _need(self, directory: InodeId) -> int:
        """A descriptor of the directory, which is made again if the user has removed it."""
        try:
            return self._reach.fd(directory)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
        place = self.at.get(directory) or self._reach.place(directory)
        parent = self._need(place.parent)
        self._strewn.update((place.parent, directory))
        for _ in range(_TRIES):
            try:
                os.mkdir(place.name, 0o700, dir_fd=parent)
            except FileExistsError:
                if not self._is_directory(parent, place.name):
                    self._keep(parent, place.name, parent, place)
                    continue
            log.info("directory_restored", path=self._reach.path(place))
            break
        self.at[directory] = place
        self._reach.moved(directory, place)
        return self._reach.fd(directory)
