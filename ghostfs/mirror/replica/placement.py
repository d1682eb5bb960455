"""The order in which a tree can be brought to a goal: each step legal, no name missing, nothing lost.

Pure. Each wanted place is one *task*: a generator that first yields the places that must be done before it
(a directory above it, the new place of what is in its way) and then emits its own steps. The driver runs
those on a stack of its own, so a chain of ten thousand renames is no recursion. A place that is yielded while
it is already under way is a cycle; the task that yielded it goes on, finds its obstacle still there, and
breaks the cycle: by an exchange where that completes both sides, else by holding the obstacle.
"""

from __future__ import annotations

__all__ = ["Placement"]

from collections.abc import Iterator

from ghostfs.mirror.replica.goal import Goal
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
    Step,
    held_place,
)
from ghostfs.mirror.replica.treeview import Overlay
from ghostfs.model import HELD, ROOT, InodeId

_Task = Iterator[Place]


class Placement:
    """Emits the steps that change entries; `now` is the tree after the steps so far."""

    def __init__(self, goal: Goal, *, hold_removed: bool) -> None:
        self.steps: list[Step] = []
        self.now = Overlay(goal.tree)
        self._goal = goal
        self._hold_removed = hold_removed
        self._busy: set[Place] = set()
        self._published: dict[InodeId, Place] = {}
        self._renewed: set[Place] = set()
        self._leaving: dict[InodeId, list[Place]] = {}
        self._doomed: list[InodeId] = []
        self._up: dict[InodeId, InodeId] = {}

    def run(self) -> None:
        """Emits all the steps, those that remove last."""
        for directory in self._goal.displaced:
            self._hold(directory, self._place_of(directory))
        for place in self._goal.wants:
            self._drive(place)
            assert self._settled(place), f"no way to put an inode at {place!r}"
        self._empty_vacant_places()
        self._empty_held_places()
        self._remove_directories()

    def _drive(self, place: Place) -> None:
        stack = [self._task(place)]
        while stack:
            needed = next(stack[-1], None)
            if needed is None:
                stack.pop()
            elif needed not in self._busy and not self._settled(needed):
                stack.append(self._task(needed))

    def _task(self, place: Place) -> _Task:
        inode = self._goal.wants[place]
        self._busy.add(place)
        if self._goal.is_directory(inode):
            yield from self._place_directory(inode, place)
        else:
            yield from self._place_leaf(inode, place)
        self._busy.remove(place)

    def _settled(self, place: Place) -> bool:
        inode = self._goal.wants[place]
        if inode in self._goal.fresh:
            return place in self._renewed
        return self.now.child(place) == inode

    # Directories: those above first, so that at its own turn none is above its new place.

    def _place_directory(self, inode: InodeId, place: Place) -> _Task:
        above = self._unfinished_above(place)
        if above is not None:
            yield above
        if self._settled(place) or not self._can_enter(inode, place):
            return
        obstacle = self.now.child(place)
        if obstacle is not None:
            yield from self._evict(obstacle, place)
            if self._settled(place) or not self._can_enter(inode, place):
                return
        source = self.now.place(inode)
        if source is None:
            self._emit(Create(inode, place))
        else:
            self._emit(Move(inode, source, place))
            self.now.clear(source)
        self.now.put(place, inode)

    def _unfinished_above(self, place: Place) -> Place | None:
        """The place of the nearest directory above that must be placed yet; its task sees to those above it.

        What is settled stays so, hence each level that was passed is passed only once in a plan: from then
        on `_up` leads from it to the next one that was not settled.
        """
        passed = []
        unfinished = None
        directory = place.parent
        while directory not in (ROOT, HELD):
            home = self._goal.home(directory)
            if home is not None and not self._settled(home):
                unfinished = home
                break
            passed.append(directory)
            up = self._up.get(directory)
            directory = self._parent(directory, home) if up is None else up
        for below in passed:
            self._up[below] = directory
        return unfinished

    def _parent(self, directory: InodeId, home: Place | None) -> InodeId:
        above = home or self.now.place(directory)
        return HELD if above is None else above.parent

    def _can_enter(self, inode: InodeId, place: Place) -> bool:
        """Whether a directory can be put at a place now; if not, what is under way must be done first."""
        if not self.now.exists(place.parent):
            return False
        source = self.now.place(inode)
        stays = source is None or source.parent == place.parent
        return stays or not self.now.is_within(place.parent, inode)

    # Everything else: names are taken over, never freed and taken.

    def _place_leaf(self, inode: InodeId, place: Place) -> _Task:
        if self._settled(place):
            return
        if not self.now.exists(place.parent):
            home = self._goal.home(place.parent)
            if home is not None:
                yield home
            if not self.now.exists(place.parent):
                return
        obstacle = self.now.child(place)
        if obstacle is not None and obstacle != inode:
            if self._goal.is_directory(obstacle):
                yield from self._evict(obstacle, place)
            else:
                yield from self._rescue(obstacle, place)
            if self._settled(place):
                return
        self._put_leaf(inode, place)

    def _put_leaf(self, inode: InodeId, place: Place) -> None:
        displaced = self.now.child(place)
        if inode in self._goal.fresh:
            source = self._published.setdefault(inode, place)
            self._renewed.add(place)
            if source == place:
                self._emit(Create(inode, place) if displaced is None else Replace(inode, place, displaced))
            else:
                self._emit_link(inode, source, place, displaced)
        else:
            leaving = self._leaving_place(inode)
            if leaving is None:
                self._emit_link(inode, self._place_of(inode), place, displaced)
            else:
                self._emit(
                    Move(inode, leaving, place)
                    if displaced is None
                    else MoveOver(inode, leaving, place, displaced)
                )
                self.now.clear(leaving)
        self.now.put(place, inode)

    def _leaving_place(self, inode: InodeId) -> Place | None:
        """A place that a non-directory can be taken from, the held one first; looked for once an inode."""
        held = held_place(inode)
        if self.now.child(held) == inode:
            return held
        leaving = self._leaving.get(inode)
        if leaving is None:
            leaving = self._leaving[inode] = [p for p in self.now.places(inode) if self._is_leaving(p)]
        while leaving:
            place = leaving.pop()
            if self.now.child(place) == inode:
                return place
        return None

    def _is_leaving(self, source: Place) -> bool:
        """Whether a name can be taken from a non-directory: no other non-directory shall take it over."""
        wanted = self._goal.wants.get(source)
        return source in self._goal.vacant if wanted is None else self._goal.is_directory(wanted)

    def _emit_link(self, inode: InodeId, source: Place, at: Place, displaced: InodeId | None) -> None:
        self._emit(
            LinkAt(inode, source, at)
            if displaced is None
            else ReplaceWithLink(inode, source, at, displaced)
        )

    # What is in the way.

    def _rescue(self, obstacle: InodeId, place: Place) -> _Task:
        """Before another non-directory takes over the last name of one that is still needed: one more name."""
        if obstacle in self._goal.fresh:
            return
        for home in self._goal.homes.get(obstacle, ()):
            if self._is_only_name(obstacle, place):
                yield home
        if not self._is_only_name(obstacle, place) or self._exchange(place):
            return
        if self._is_needed(obstacle):
            self._emit(LinkAt(obstacle, place, held_place(obstacle)))
            self.now.put(held_place(obstacle), obstacle)

    def _evict(self, obstacle: InodeId, place: Place) -> _Task:
        """Frees a place that changes between directory and non-directory, or between two directories."""
        if obstacle not in self._goal.fresh:
            for home in self._goal.homes.get(obstacle, ()):
                if self.now.child(place) == obstacle:
                    yield home
        if self.now.child(place) != obstacle or self._exchange(place):
            return
        if self._goal.is_directory(obstacle):
            if not self._is_needed(obstacle):
                self._doomed.append(obstacle)
            self._hold(obstacle, place)
        else:
            self._discard(obstacle, place)

    def _exchange(self, place: Place) -> bool:
        """Exchanges two inodes, if each then is where it shall be and neither goes below itself."""
        a, b = self._goal.wants[place], self.now.child(place)
        assert b is not None
        if a in self._goal.fresh or b in self._goal.fresh:
            return False
        for source in self.now.places(a):
            if self._goal.wants.get(source) == b and not (
                self.now.is_within(place.parent, a) or self.now.is_within(source.parent, b)
            ):
                self._emit(Exchange(source, place, a, b))
                self.now.put(source, b)
                self.now.put(place, a)
                return True
        return False

    def _is_needed(self, inode: InodeId) -> bool:
        return self._hold_removed or inode in self._goal.homes or inode in self._goal.awaited

    def _is_only_name(self, inode: InodeId, place: Place) -> bool:
        return list(self.now.places(inode)) == [place]

    # What goes.

    def _hold(self, inode: InodeId, source: Place) -> None:
        self._emit(Hold(inode, source))
        self.now.clear(source)
        self.now.put(held_place(inode), inode)

    def _discard(self, inode: InodeId, place: Place) -> None:
        """A non-directory leaves a place; it is held if that was its last one and it is needed."""
        expendable = inode in self._goal.fresh or not self._is_needed(inode)
        if expendable or not self._is_only_name(inode, place):
            self._emit(Remove(inode, place))
            self.now.clear(place)
        elif place.parent != HELD:
            self._hold(inode, place)

    def _empty_vacant_places(self) -> None:
        for place in self._goal.vacant:
            inode = self.now.child(place)
            if inode is None:
                continue
            if not self._goal.is_directory(inode):
                self._discard(inode, place)
            elif not self._is_needed(inode):
                self._doomed.append(inode)
            elif place.parent != HELD:
                self._hold(inode, place)

    def _empty_held_places(self) -> None:
        """What was held, by this plan or an earlier one, and has a name in the tree again."""
        for inode in self._goal.homes:
            held = held_place(inode)
            if self.now.child(held) == inode and len(self.now.places(inode)) > 1:
                self._emit(Remove(inode, held))
                self.now.clear(held)

    def _remove_directories(self) -> None:
        for directory in self.now.deepest_first(self._doomed):
            place = self._place_of(directory)
            self._emit(RemoveDirectory(directory, place))
            self.now.clear(place)

    def _place_of(self, inode: InodeId) -> Place:
        place = self.now.place(inode)
        assert place is not None
        return place

    def _emit(self, step: Step) -> None:
        self.steps.append(step)
