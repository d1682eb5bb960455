"""Carries out a plan's steps in a replica's tree, and what to do when the tree is not what the plan expects.

Every name is reached through a directory descriptor and without following symlinks. Nothing is overwritten:
a rename either finds its target free or exchanges, and what came out is looked at before it goes. A plan
that was interrupted is carried out again from its first step, each step asking the table in `steps` whether
it is still to be done.

What the user did in the tree, and what becomes of it:

    a changed file is moved on the hub           it moves along, still changed
    a changed file is replaced or removed        it is kept under a conflict name
    one that is open for writing is              likewise, with what is written later
    something untracked is where a new one goes  likewise; directories are merged
    a file is gone                               its next version is put there again, or a snapshot's
    a directory is gone                          it is made again when it changes, or something in it does
    untracked files in a removed directory       the directory stays with them, under a conflict name
"""

from __future__ import annotations

__all__ = ["Executor"]

import errno
import os
import stat
from collections.abc import Callable, Sequence

import structlog

from ghostfs.mirror.replica import conflict
from ghostfs.mirror.replica.conflict import look
from ghostfs.mirror.replica.ground import Ground
from ghostfs.mirror.replica.staging import ITS_OWN, Staging, staged_name
from ghostfs.mirror.replica.steps import (
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
from ghostfs.model import Inode, InodeId, Kind

log = structlog.get_logger(__name__)

_TRIES = 16
"""How often a step gives way to a user who keeps putting things where it wants to go."""


class Executor:
    """Carries out one plan on its `ground`."""

    def __init__(self, steps: Sequence[Step], ground: Ground, staging: Staging) -> None:
        self._steps = steps
        self._ground = ground
        self._staging = staging
        self.impossible: set[int] = set()
        self._refused: set[InodeId] = set()

    def run(self, between: Callable[[int], None]) -> None:
        """Does all the steps in order; calls `between` before each, with its number, and after the last.

        Raises:
            OSError: the disk or the rights do not allow a step; the plan can be run again.
        """
        ground = self._ground
        looked = False
        for number, step in enumerate(self._steps):
            between(number)
            if isinstance(step, SetAttributes) and not looked and self._is_about_directory(step):
                ground.look_at_files()  # while every directory lets us in
                looked = True
            try:
                self._attempt(step)
            except OSError as error:
                if error.errno not in ITS_OWN:
                    raise
                self._give_up(number, step, error)
        between(len(self._steps))
        for directory in list(ground.strewn):
            ground.set_directory(directory)

    def _attempt(self, step: Step) -> None:
        ground = self._ground
        if not isinstance(step, Exchange | SetAttributes) and (
            step.at.parent in self._refused or (isinstance(step, Remove) and step.inode in self._refused)
        ):
            raise OSError(errno.EINVAL, "what it needs was refused")
        try:
            self._do(step)
        except PermissionError:
            # What the step has done already is not to be done again.
            again, ground.again = ground.again, True
            try:
                ground.open_up(step)
                self._do(step)
            finally:
                ground.again = again

    def _give_up(self, number: int, step: Step, error: OSError) -> None:
        """The step is impossible for its own object; the others go on, and the outcome is amended."""
        ground = self._ground
        self.impossible.add(number)
        if isinstance(step, Create | Replace):
            self._refused.add(step.inode)
            ground.at.pop(step.inode, None)
        elif isinstance(step, Move | MoveOver | Hold):
            ground.note(step.inode, step.source)
        inode = step.inode_a if isinstance(step, Exchange) else step.inode
        log.warning("step_refused", step=type(step).__name__, inode=f"{inode:x}", error=error.strerror)

    def _is_about_directory(self, step: SetAttributes) -> bool:
        return step.at is None or self._ground.cell(step.inode).kind is Kind.DIRECTORY

    def _do(self, step: Step) -> None:
        match step:
            case Create(inode, at) | Replace(inode, at, _):
                self._publish(inode, at, getattr(step, "displaced", None))
            case SetAttributes(inode, None):
                self._ground.set_directory(inode, restore=True)
            case SetAttributes(inode, Place() as at):
                self._set_attributes(inode, at)
            case Remove(inode, at):
                self._remove(inode, at)
            case LinkAt(inode, source, at) | ReplaceWithLink(inode, source, at, _):
                self._link(inode, source, at, getattr(step, "displaced", None))
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
        ground = self._ground
        cell = ground.cell(inode)
        name = staged_name(cell)
        ground.note(inode, at)
        ground.created.add(inode)
        if cell.kind is Kind.DIRECTORY:
            ground.strewn.add(inode)
        if ground.again:
            staged = look(self._staging.new_fd, name)
            if staged is None:
                return
            if staged.st_ino != ground.objects[inode].new:
                came_from = inode if displaced is None else displaced
                ground.dispose(self._staging.new_fd, name, ground.need(at.parent), at, came_from, None)
                return
        self._install(self._staging.new_fd, name, at, displaced, cell)
        self._staging.published(inode, name)

    def _install(self, source: int, name: bytes, at: Place, displaced: InodeId | None, cell: Inode) -> None:
        """Puts `name` of the directory `source` at a place; what is there goes, or is kept if a user's."""
        ground = self._ground
        target = ground.need(at.parent)
        for _ in range(_TRIES):
            before = look(target, at.name) if displaced is not None else None
            try:
                if before is None:
                    renameat2(source, name, target, at.name, RENAME_NOREPLACE)
                    return
                ours = ground.judge(target, at.name, before, displaced)
                renameat2(source, name, target, at.name, RENAME_EXCHANGE)
            except FileExistsError:
                if cell.kind is Kind.DIRECTORY and ground.has_directory(target, at.name):
                    os.rmdir(name, dir_fd=source)  # what is there is used
                    return
                displaced = displaced if displaced is not None else cell.id
                continue
            except FileNotFoundError:
                # Gone between the look and the exchange, or the whole directory is.
                if look(source, name) is None:
                    raise
                ground.reach.forget(at.parent)
                target = ground.need(at.parent)
                continue
            ground.dispose(source, name, target, at, displaced, before if ours else None, kept=not ours)
            return
        raise FileExistsError(errno.EEXIST, "a user keeps changing it", ground.reach.path(at))

    def _link(self, inode: InodeId, source: Place, at: Place, displaced: InodeId | None) -> None:
        ground = self._ground
        ground.note(inode, at)
        origin = ground.find(source.parent)
        st = None if origin is None else look(origin, source.name)
        if origin is None or st is None or stat.S_ISDIR(st.st_mode):
            return
        target = ground.need(at.parent)
        there = look(target, at.name)
        spare = b"%x-link" % inode
        if ground.again:
            left = look(self._staging.new_fd, spare)
            if left is not None and left.st_ino == st.st_ino:
                os.unlink(spare, dir_fd=self._staging.new_fd)
            elif left is not None:
                ground.dispose(self._staging.new_fd, spare, target, at, displaced, None)
            if st.st_ino not in ground.objects[inode]:
                return
        if there is not None and there.st_ino == st.st_ino:
            return
        ground.verify(inode, origin, source.name, st)
        link = {"src_dir_fd": origin, "follow_symlinks": False}
        if there is None:
            os.link(source.name, at.name, dst_dir_fd=target, **link)  # type: ignore[arg-type]
            return
        os.link(source.name, spare, dst_dir_fd=self._staging.new_fd, **link)  # type: ignore[arg-type]
        self._install(
            self._staging.new_fd, spare, at, inode if displaced is None else displaced, ground.cell(inode)
        )

    # Renames.

    def _move(self, inode: InodeId, source: Place, at: Place) -> None:
        ground = self._ground
        origin = ground.find(source.parent)
        st = None if origin is None else look(origin, source.name)
        ground.note(inode, at)
        if origin is None or st is None or not ground.is_still(inode, st):
            return
        ground.verify(inode, origin, source.name, st)
        self._rename(origin, source.name, at)

    def _rename(self, origin: int, name: bytes, at: Place) -> None:
        """Renames to a place that should be free; what a user put there is kept."""
        ground = self._ground
        for _ in range(_TRIES):
            target = ground.need(at.parent)
            try:
                renameat2(origin, name, target, at.name, RENAME_NOREPLACE)
            except FileExistsError:
                ground.keep(target, at.name, target, at)
            else:
                return
        raise FileExistsError(errno.EEXIST, "a user keeps changing it", ground.reach.path(at))

    def _move_over(self, inode: InodeId, source: Place, at: Place, displaced: InodeId) -> None:
        ground = self._ground
        ground.note(inode, at)
        origin = ground.find(source.parent)
        st = None if origin is None else look(origin, source.name)
        if origin is None or st is None:
            return
        target = ground.need(at.parent)
        there = look(target, at.name)
        if ground.again and st.st_ino not in ground.objects[inode]:
            if there is not None and there.st_ino in ground.objects[inode]:
                ground.dispose(origin, source.name, target, at, displaced, None)
            return
        if not ground.is_still(inode, st):
            return
        ground.verify(inode, origin, source.name, st)
        if there is None:
            self._rename(origin, source.name, at)
            return
        if there.st_ino == st.st_ino:
            os.unlink(source.name, dir_fd=origin)
            return
        ours = ground.judge(target, at.name, there, displaced)
        renameat2(origin, source.name, target, at.name, RENAME_EXCHANGE)
        ground.dispose(origin, source.name, target, at, displaced, there if ours else None, kept=not ours)

    def _exchange(self, a: Place, b: Place, inode_a: InodeId, inode_b: InodeId) -> None:
        ground = self._ground
        at_a, at_b = ground.find(a.parent), ground.find(b.parent)
        st_a = None if at_a is None else look(at_a, a.name)
        st_b = None if at_b is None else look(at_b, b.name)
        done = ground.again and (st_a is None or st_a.st_ino not in ground.objects[inode_a])
        if not done and at_a is not None and st_a is not None:
            ground.verify(inode_a, at_a, a.name, st_a)
        if not done and at_b is not None and st_b is not None:
            ground.verify(inode_b, at_b, b.name, st_b)
        if not done and at_a is not None and at_b is not None:
            if st_a is not None and st_b is not None:
                renameat2(at_a, a.name, at_b, b.name, RENAME_EXCHANGE)
            elif st_a is not None:
                self._rename(at_a, a.name, b)
            elif st_b is not None:
                self._rename(at_b, b.name, a)
        ground.note(inode_a, b)
        ground.note(inode_b, a)

    # What goes.

    def _remove(self, inode: InodeId, at: Place) -> None:
        ground = self._ground
        directory = ground.find(at.parent)
        st = None if directory is None else look(directory, at.name)
        if directory is None or st is None or stat.S_ISDIR(st.st_mode):
            return
        if ground.again and st.st_ino not in ground.objects[inode]:
            return
        if ground.judge(directory, at.name, st, inode):
            ground.verified.add(inode)
            ground.unlink(directory, at.name, st, directory, at)
        else:
            ground.keep(directory, at.name, directory, at)

    def _remove_directory(self, inode: InodeId, at: Place) -> None:
        ground = self._ground
        parent = ground.find(at.parent)
        st = None if parent is None else look(parent, at.name)
        ground.strewn.discard(inode)
        if parent is None or st is None or not stat.S_ISDIR(st.st_mode):
            return
        if st.st_ino not in ground.objects[inode]:
            return  # done before, or a directory of the user's
        try:
            os.rmdir(at.name, dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            ground.keep(parent, at.name, parent, at)
        ground.reach.forget(inode)

    # Attributes.

    def _set_attributes(self, inode: InodeId, at: Place) -> None:
        ground = self._ground
        ground.note(inode, at)
        if ground.cell(inode).kind is Kind.DIRECTORY:
            ground.set_directory(inode, restore=True)
            return
        directory = ground.find(at.parent)
        st = None if directory is None else look(directory, at.name)
        if directory is None or st is None:
            return
        row = ground.row(inode)
        fresh = inode in ground.created and st.st_ino == ground.objects[inode].new
        known = fresh or inode in ground.verified or row is None
        if not known and not conflict.is_ours(directory, at.name, st, row):
            log.info("attributes_left", path=ground.reach.path(at), reason="changed locally")
            return
        ground.verified.add(inode)
        try:
            ground.attributes.on_name(directory, at.name, ground.cell(inode))
        except FileNotFoundError:
            ground.verified.discard(inode)
