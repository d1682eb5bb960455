"""Random histories of a hub, planned and executed on a replica under POSIX's rules.

The hub is a model that knows only what `rename`, `link` and the like do to a tree. The replica's disk is one
that refuses what a kernel refuses. Each example is a program of bytes: operations on the hub, and the moments
at which the replica is sent a delta, or the chunks of a snapshot, with some inodes parked.
"""

from __future__ import annotations

import copy
import errno
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostfs.mirror.replica.plan import Changes, Plan, plan
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
    held_place,
)
from ghostfs.model import HELD, ROOT, Inode, InodeId, Kind, Seq

NAMES = (b"a", b"b", b"c", b"d", b"e")
STALE = -1  # the mtime of a directory since an entry of it changed


def inode_cell(inode: int, kind: Kind, seq: int) -> Inode:
    return Inode(InodeId(inode), kind, 0o644, 0, 0, mtime_ns=seq, attr_seq=Seq(seq), content_seq=Seq(seq))


class Hub:
    """A session's tree, each operation as a kernel would have allowed it."""

    def __init__(self) -> None:
        self.seq = 1
        self.inodes = {ROOT: inode_cell(ROOT, Kind.DIRECTORY, 1)}
        self.entries: dict[Place, InodeId] = {}
        self.dirent_seqs: dict[Place, int] = {}
        self.last_id = 1

    def tick(self) -> int:
        self.seq += 1
        return self.seq

    def directories(self) -> list[InodeId]:
        return [i for i, cell in self.inodes.items() if cell.kind is Kind.DIRECTORY]

    def is_directory(self, inode: InodeId) -> bool:
        return self.inodes[inode].kind is Kind.DIRECTORY

    def children(self, directory: InodeId) -> list[Place]:
        return [place for place in self.entries if place.parent == directory]

    def is_within(self, directory: InodeId, ancestor: InodeId) -> bool:
        while directory != ancestor:
            if directory == ROOT:
                return False
            directory = next(place.parent for place, i in self.entries.items() if i == directory)
        return True

    def put(self, place: Place, inode: InodeId | None) -> None:
        old = self.entries.pop(place, None)
        if inode is not None:
            self.entries[place] = inode
        self.touch(place)
        if old is not None and old not in self.entries.values():
            del self.inodes[old]

    def touch(self, place: Place) -> None:
        self.dirent_seqs[place] = self.tick()
        parent = self.inodes[place.parent]
        self.inodes[place.parent] = replace(parent, mtime_ns=self.seq, attr_seq=Seq(self.seq))

    def make(self, place: Place, kind: Kind) -> None:
        if place in self.entries:
            return
        self.last_id += 1
        inode = InodeId(self.last_id)
        cell = inode_cell(inode, kind, self.tick())
        self.inodes[inode] = replace(cell, digest=b"%d" % self.seq, size=1) if kind is Kind.FILE else cell
        self.put(place, inode)

    def write(self, inode: InodeId) -> None:
        cell = self.inodes[inode]
        seq = Seq(self.tick())
        if cell.kind is Kind.FILE:
            cell = replace(cell, digest=b"%d" % seq, mtime_ns=seq, content_seq=seq, attr_seq=seq)
        else:
            cell = replace(cell, mode=seq % 0o777, attr_seq=seq)
        self.inodes[inode] = cell

    def link(self, source: Place, at: Place) -> None:
        if at not in self.entries and not self.is_directory(self.entries[source]):
            self.put(at, self.entries[source])

    def unlink(self, place: Place) -> None:
        inode = self.entries[place]
        if not (self.is_directory(inode) and self.children(inode)):
            self.put(place, None)

    def unlink_all(self, place: Place) -> None:
        for child in self.children(self.entries[place]):
            self.unlink_all(child)
        self.unlink(place)

    def rename(self, source: Place, at: Place) -> None:
        inode, displaced = self.entries[source], self.entries.get(at)
        if inode == displaced or (self.is_directory(inode) and self.is_within(at.parent, inode)):
            return
        if displaced is not None:
            if self.is_directory(inode) != self.is_directory(displaced) or self.children(displaced):
                return
            self.put(at, None)
        self.entries[at] = self.entries.pop(source)
        self.touch(source)
        self.touch(at)

    def exchange(self, a: Place, b: Place) -> None:
        inode_a, inode_b = self.entries[a], self.entries[b]
        for inode, target in ((inode_a, b), (inode_b, a)):
            if self.is_directory(inode) and self.is_within(target.parent, inode):
                return
        self.entries[a], self.entries[b] = inode_b, inode_a
        self.touch(a)
        self.touch(b)

    def rotate(self, places: list[Place]) -> None:
        """Each goes to the next one's place, the last to the first's, by way of a free name."""
        free = Place(ROOT, b"rotating")
        self.rename(places[-1], free)
        for source, at in zip(places[-2::-1], places[:0:-1], strict=True):
            self.rename(source, at)
        if free in self.entries:
            self.rename(free, places[0])
        if free in self.entries:
            self.unlink_all(free)

    def turn_over(self, place: Place) -> None:
        """A directory changes places with the one that it is in."""
        child, aside = self.entries[place], Place(ROOT, b"aside")
        if place.parent != ROOT and self.is_directory(child) and aside not in self.entries:
            above = next(p for p, i in self.entries.items() if i == place.parent)
            self.rename(place, aside)
            self.rename(above, Place(child, place.name))
            self.rename(aside, above)

    def delta(self, since: int) -> Changes:
        return Changes(
            {p: self.entries.get(p) for p, seq in self.dirent_seqs.items() if seq > since},
            {i: cell for i, cell in self.inodes.items() if cell.seq > since},
        )

    def operate(self, code: int, x: int, y: int) -> None:
        directories = self.directories()
        at = Place(directories[x % len(directories)], NAMES[x // 16 % 5])
        places = list(self.entries)
        if code in (0, 16, 17):
            self.make(at, Kind.FILE)
        elif code in (1, 18):
            self.make(at, Kind.DIRECTORY)
        elif code == 2:
            self.make(at, Kind.SYMLINK)
        elif code == 3:
            inodes = list(self.inodes)
            self.write(inodes[y % len(inodes)])
        elif places:
            source = places[y % len(places)]
            other = places[x % len(places)]
            match code:
                case 4 | 5 | 6:
                    self.rename(source, at)
                case 7:
                    self.rename(source, other)
                case 8:
                    self.exchange(source, other)
                case 9:
                    self.link(source, at)
                case 10:
                    self.unlink(source)
                case 11:
                    self.unlink_all(source)
                case 12:
                    kind = Kind.FILE if self.is_directory(self.entries[source]) else Kind.DIRECTORY
                    self.unlink_all(source)
                    self.make(source, kind)
                case 13:
                    self.rotate([places[(y + k) % len(places)] for k in range(min(3, len(places)))])
                case 14:  # a new version by rename, as editors write it, with a backup
                    self.rename(source, at)
                    self.make(source, Kind.FILE)
                case _:  # the parent goes into its child
                    self.turn_over(source)


@dataclass
class Thing:
    """An object on the disk: one version of an inode."""

    cell: Inode
    mtime_ns: int
    mode: int


@dataclass
class Disk:
    """A replica's filesystem: object numbers at places, and the few operations that steps are made of."""

    entries: dict[Place, int] = field(default_factory=dict)
    things: dict[int, Thing] = field(default_factory=dict)
    staging: dict[InodeId, int] = field(default_factory=dict)
    root: Thing = field(default_factory=lambda: thing(inode_cell(ROOT, Kind.DIRECTORY, 0)))

    def at(self, place: Place) -> int | None:
        return self.entries.get(place)

    def inode_at(self, place: Place) -> InodeId | None:
        number = self.entries.get(place)
        return None if number is None else self.things[number].cell.id

    def stage(self, cell: Inode) -> None:
        number = max(self.things, default=0) + 1
        self.things[number] = thing(cell)
        self.staging[cell.id] = number

    def is_directory(self, number: int) -> bool:
        return self.things[number].cell.kind is Kind.DIRECTORY

    def place_of(self, directory: InodeId) -> Place | None:
        return next((p for p in self.entries if self.inode_at(p) == directory), None)

    def check_directory(self, directory: InodeId) -> None:
        if directory in (ROOT, HELD):
            return
        place = self.place_of(directory)
        if place is None:
            raise OSError(errno.ENOENT, "no such directory")
        if not self.is_directory(self.entries[place]):
            raise OSError(errno.ENOTDIR, "not a directory")

    def check_not_below(self, number: int, parent: InodeId) -> None:
        while self.is_directory(number) and parent not in (ROOT, HELD):
            if parent == self.things[number].cell.id:
                raise OSError(errno.EINVAL, "below itself")
            place = self.place_of(parent)
            assert place is not None
            parent = place.parent

    def put(self, place: Place, number: int) -> None:
        self.check_directory(place.parent)
        self.check_not_below(number, place.parent)
        self.entries[place] = number
        self.dirty(place.parent)

    def take(self, place: Place) -> int:
        number = self.entries.pop(place, None)
        if number is None:
            raise OSError(errno.ENOENT, "no such entry")
        self.dirty(place.parent)
        return number

    def dirty(self, directory: InodeId) -> None:
        place = self.place_of(directory)
        if directory == ROOT:
            self.root.mtime_ns = STALE
        elif place is not None:
            self.things[self.entries[place]].mtime_ns = STALE

    def rename_noreplace(self, source: Place, at: Place) -> None:
        if source not in self.entries:
            raise OSError(errno.ENOENT, "no such entry")
        if at in self.entries:
            raise OSError(errno.EEXIST, "there is an entry")
        number = self.entries[source]
        self.check_directory(at.parent)
        self.check_not_below(number, at.parent)
        self.take(source)
        self.put(at, number)

    def rename_over(self, source: Place, at: Place) -> None:
        number, displaced = self.entries[source], self.entries[at]
        if number == displaced:
            raise AssertionError("rename between two links of one file does nothing")
        if self.is_directory(number) or self.is_directory(displaced):
            raise OSError(errno.EISDIR, "only for non-directories")
        self.take(source)
        self.put(at, number)

    def exchange(self, a: Place, b: Place) -> None:
        number_a, number_b = self.entries[a], self.entries[b]
        self.check_not_below(number_a, b.parent)
        self.check_not_below(number_b, a.parent)
        self.put(a, number_b)
        self.put(b, number_a)

    def link(self, source: Place, at: Place, displaced: InodeId | None) -> None:
        number = self.entries[source]
        if self.is_directory(number):
            raise OSError(errno.EPERM, "a directory has one name")
        self.displace(at, displaced)
        self.put(at, number)

    def displace(self, at: Place, displaced: InodeId | None) -> None:
        assert self.inode_at(at) == displaced, "found something else than the plan says"
        if displaced is not None and self.is_directory(self.entries[at]):
            raise OSError(errno.EISDIR, "a directory is not replaced")

    def remove(self, at: Place, *, directory: bool) -> None:
        number = self.entries[at]
        if self.is_directory(number) != directory:
            raise OSError(errno.EISDIR, "the other kind")
        if directory and any(p.parent == self.things[number].cell.id for p in self.entries):
            raise OSError(errno.ENOTEMPTY, "not empty")
        self.take(at)

    def execute(self, step: Step, cells: dict[InodeId, Inode]) -> None:
        match step:
            case Create(inode, at):
                self.displace(at, None)
                self.put(at, self.staging[inode])
                del self.staging[inode]
            case Replace(inode, at, displaced):
                self.displace(at, displaced)
                self.put(at, self.staging.pop(inode))
            case LinkAt(inode, source, at):
                self.check(source, inode)
                self.link(source, at, None)
            case ReplaceWithLink(inode, source, at, displaced):
                self.check(source, inode)
                assert self.entries[source] != self.entries[at]
                self.link(source, at, displaced)
            case Move(inode, source) | Hold(inode, source):
                self.check(source, inode)
                self.rename_noreplace(source, step.at)
            case MoveOver(inode, source, at, displaced):
                self.check(source, inode)
                self.displace(at, displaced)
                self.rename_over(source, at)
            case Exchange(a, b, inode_a, inode_b):
                self.check(a, inode_a)
                self.check(b, inode_b)
                self.exchange(a, b)
            case Remove(inode, at):
                self.check(at, inode)
                self.remove(at, directory=False)
            case RemoveDirectory(inode, at):
                self.check(at, inode)
                self.remove(at, directory=True)
            case SetAttributes(inode, at):
                target = self.root if at is None else self.things[self.entries[at]]
                assert target.cell.id == inode
                target.mtime_ns, target.mode = cells[inode].mtime_ns, cells[inode].mode

    def check(self, place: Place, inode: InodeId) -> None:
        assert self.inode_at(place) == inode, "found something else than the plan says"

    def is_done(self, step: Step) -> bool:
        """The rule in `steps` for running a plan again."""
        match step:
            case Create(inode) | Replace(inode):
                return inode not in self.staging
            case LinkAt(inode, source, at) | ReplaceWithLink(inode, source, at, _):
                return self.inode_at(source) != inode or self.at(at) == self.at(source)
            case Move(inode, source) | MoveOver(inode, source) | Hold(inode, source):
                return self.inode_at(source) != inode
            case Exchange(a, _, inode_a, _):
                return self.inode_at(a) != inode_a
            case Remove(inode, at) | RemoveDirectory(inode, at):
                return self.inode_at(at) != inode
            case SetAttributes():
                return False


def thing(cell: Inode) -> Thing:
    return Thing(cell, cell.mtime_ns, cell.mode)


class Replica:
    """The disk, and what an index would know of it; a TreeView."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.cells: dict[InodeId, Inode] = {}
        self.entries: dict[Place, InodeId] = {}
        self.unplaced: dict[Place, InodeId] = {}
        self.parked: set[InodeId] = set()

    def child(self, parent: InodeId, name: bytes) -> InodeId | None:
        return self.entries.get(Place(parent, name))

    def places(self, inode: InodeId) -> list[Place]:
        return [place for place, child in self.entries.items() if child == inode]

    def inode(self, inode: InodeId) -> Inode | None:
        return self.cells.get(inode)

    def has(self, cell: Inode) -> bool:
        known = self.cells.get(cell.id)
        return known is not None and known.digest == cell.digest

    def apply(self, news: Changes, *, park: set[InodeId], hold_removed: bool, kill: int) -> None:
        dirents = {**self.unplaced, **news.dirents}
        if not hold_removed:
            for place, inode in self.entries.items():
                if place.parent == HELD and inode not in dirents.values():
                    dirents.setdefault(place, None)
        staged = {
            i for i, cell in news.inodes.items() if i != ROOT and i not in park and not self.has(cell)
        }
        for inode in staged:
            self.disk.stage(news.inodes[inode])
        changes = Changes(dirents, news.inodes)
        made = plan(self, changes, staged=staged, hold_removed=hold_removed)
        cells = {**self.cells, **news.inodes}
        before = copy.deepcopy(self.disk)
        self._execute(made, cells, dirents=dirents, staged=staged, hold_removed=hold_removed)
        self._commit(made, news)
        if made.steps:
            restarted = run_again(before, made, cells, kill % (len(made.steps) + 1))
            assert restarted == self.disk

    def _execute(
        self,
        made: Plan,
        cells: dict[InodeId, Inode],
        *,
        dirents: dict[Place, InodeId | None],
        staged: set[InodeId],
        hold_removed: bool,
    ) -> None:
        disk = self.disk
        first = dict(disk.entries)
        seen: list[dict[Place, int | None]] = []
        for step in made.steps:
            assert not disk.is_done(step) or isinstance(step, SetAttributes)
            disk.execute(step, cells)
            seen.append({place: disk.at(place) for place in concerned(step)})
        last = disk.entries
        for moment in seen:
            for place, number in moment.items():
                old, new = first.get(place), last.get(place)
                if old is None or new is None or disk.is_directory(old) or disk.is_directory(new):
                    continue
                assert number in (old, new), "a name missed, or showed what never belonged there"
        if hold_removed:
            kept = {disk.things[n].cell.id for n in last.values()}
            assert kept >= {disk.things[n].cell.id for n in first.values()}
        asked = len(dirents) + sum(len(self.places(i)) for i in staged)
        entry_steps = [s for s in made.steps if not isinstance(s, SetAttributes)]
        assert len(entry_steps) <= 3 * asked
        touched = {place.parent for s in entry_steps for place in concerned(s)}
        assert len(made.steps) - len(entry_steps) <= len(touched | cells.keys())

    def _commit(self, made: Plan, news: Changes) -> None:
        for place, inode in made.entries.items():
            if inode is None:
                del self.entries[place]
            else:
                self.entries[place] = inode
        assert self.entries == {p: self.disk.inode_at(p) for p in self.disk.entries}
        self.unplaced = dict(made.unplaced)
        alive = set(self.entries.values()) | {ROOT}
        self.cells |= {i: cell for i, cell in news.inodes.items() if i not in made.parked}
        self.cells = {i: cell for i, cell in self.cells.items() if i in alive}
        self.parked = (self.parked - news.inodes.keys()) | made.parked
        self.disk.staging.clear()
        for number in set(self.disk.things) - set(self.disk.entries.values()):
            del self.disk.things[number]
        for found in (self.disk.root, *self.disk.things.values()):
            cell = self.cells.get(found.cell.id)
            if cell is not None:
                assert (found.mtime_ns, found.mode) == (cell.mtime_ns, cell.mode)

    def assert_equals(self, hub: Hub) -> None:
        assert self.entries == hub.entries
        assert self.cells == hub.inodes
        for place, number in self.disk.entries.items():
            assert self.disk.things[number].cell.digest == hub.inodes[hub.entries[place]].digest
        assert not self.unplaced
        assert not self.parked


def concerned(step: Step) -> Iterator[Place]:
    for field_name in ("source", "at", "a", "b"):
        place = getattr(step, field_name, None)
        if place is not None and not isinstance(step, SetAttributes):
            yield place


def run_again(disk: Disk, made: Plan, cells: dict[InodeId, Inode], killed_after: int) -> Disk:
    for step in made.steps[:killed_after]:
        disk.execute(step, cells)
    for step in made.steps:
        if not disk.is_done(step):
            disk.execute(step, cells)
    disk.staging.clear()
    for number in set(disk.things) - set(disk.entries.values()):
        del disk.things[number]
    return disk


class Program:
    """Bytes that decide; zeros when they have run out."""

    def __init__(self, code: bytes) -> None:
        self._code = iter(code)
        self.left = len(code)

    def byte(self) -> int:
        self.left -= 1
        return next(self._code, 0)

    def some(self, candidates: list[InodeId]) -> set[InodeId]:
        choice = self.byte()
        return {c for k, c in enumerate(candidates) if choice < 128 and choice >> k % 7 & 1}


def follow(hub: Hub, replica: Replica, since: int, program: Program, *, park: bool = True) -> int:
    """One delta, with what had been parked in its newer version, as a hub sends it."""
    news = hub.delta(since)
    inodes = {**news.inodes, **{i: hub.inodes[i] for i in replica.parked if i in hub.inodes}}
    replica.parked &= hub.inodes.keys()
    waits = program.some([i for i in inodes if i != ROOT]) if park else set()
    replica.apply(Changes(news.dirents, inodes), park=waits, hold_removed=False, kill=program.byte())
    return hub.seq


def snapshot(hub: Hub, replica: Replica, program: Program) -> int:
    """The hub's tree in chunks, in any order; then the sweep of what no chunk has named."""
    replica.unplaced.clear()
    replica.parked.clear()
    frozen = dict(hub.entries)
    places = list(frozen)
    for k in range(len(places) - 1, 0, -1) if program.byte() % 2 else ():
        j = program.byte() % (k + 1)
        places[k], places[j] = places[j], places[k]
    sent = {ROOT}
    first = {ROOT: hub.inodes[ROOT]}
    while places or first:
        size = 1 + program.byte() % 8
        chunk, places = places[:size], places[size:]
        inodes = first | {frozen[p]: hub.inodes[frozen[p]] for p in chunk if frozen[p] not in sent}
        first = {}
        sent |= inodes.keys()
        waits = program.some([i for i in inodes if i != ROOT and not hub.is_directory(i)])
        news = Changes({p: frozen[p] for p in chunk}, inodes)
        replica.apply(news, park=waits, hold_removed=True, kill=program.byte())
    stale: dict[Place, InodeId | None] = {p: None for p in replica.entries if p not in frozen}
    replica.apply(Changes(stale, {}), park=set(), hold_removed=False, kill=program.byte())
    return hub.seq


def grow(hub: Hub, program: Program) -> None:
    for _ in range(1 + program.byte() % 12):
        hub.operate(program.byte() % 19, program.byte(), program.byte())


def scatter(seed: int) -> Program:
    dice = random.Random(seed)
    return Program(dice.randbytes(dice.randint(30, 300)))


programs = st.binary(min_size=30, max_size=240).map(Program) | st.integers(0, 1 << 64).map(scatter)
"""The former shrink well, the latter differ more from each other."""

many = settings(max_examples=700, database=None)


@many
@given(programs)
def test_any_history_arrives_by_deltas(program: Program) -> None:
    hub, replica, since = Hub(), Replica(), 0
    while program.left > 0:
        grow(hub, program)
        since = follow(hub, replica, since, program)
    follow(hub, replica, since, program, park=False)
    replica.assert_equals(hub)


@many
@given(programs)
def test_any_history_arrives_by_a_snapshot_over_what_was_there(program: Program) -> None:
    hub, replica, since = Hub(), Replica(), 0
    grow(hub, program)
    since = follow(hub, replica, since, program)
    while program.left > 0:
        grow(hub, program)
        if program.byte() % 3 == 0:
            since = follow(hub, replica, since, program)
        else:
            since = snapshot(hub, replica, program)
    follow(hub, replica, since, program, park=False)
    replica.assert_equals(hub)


def test_the_disk_model_refuses_what_a_kernel_refuses() -> None:
    disk = Disk()
    for inode, kind in ((2, Kind.DIRECTORY), (3, Kind.DIRECTORY), (4, Kind.FILE)):
        disk.stage(inode_cell(inode, kind, 1))
    d, e, f = Place(ROOT, b"d"), Place(InodeId(2), b"e"), Place(ROOT, b"f")
    for inode, at in ((2, d), (3, e), (4, f)):
        disk.execute(Create(InodeId(inode), at), {})
    refused: dict[int, Step] = {
        errno.EINVAL: Move(InodeId(2), d, Place(InodeId(3), b"d")),
        errno.EEXIST: Move(InodeId(4), f, d),
        errno.ENOTEMPTY: RemoveDirectory(InodeId(2), d),
        errno.EPERM: LinkAt(InodeId(3), e, Place(ROOT, b"e")),
        errno.EISDIR: MoveOver(InodeId(4), f, d, InodeId(2)),
        errno.ENOENT: Move(InodeId(4), f, Place(InodeId(9), b"x")),
    }
    for code, step in refused.items():
        with pytest.raises(OSError, match=rf"Errno {code}\]"):
            disk.execute(step, {})
    assert held_place(InodeId(26)) == Place(HELD, b"1a")
