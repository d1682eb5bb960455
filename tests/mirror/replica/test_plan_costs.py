"""What planning costs in trees that are deep: counted in lines of code that ran, not in seconds."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import pytest

from ghostfs.mirror.replica.plan import Changes, Plan, plan
from ghostfs.mirror.replica.steps import Create, Hold, Move, Place, RemoveDirectory
from ghostfs.model import ROOT, Inode, InodeId, Kind

SHORT, LONG = 150, 600


class Tree:
    """A tree view of directories and files."""

    def __init__(self, entries: dict[Place, InodeId], cells: Iterable[Inode]) -> None:
        self.entries = entries
        self.cells = {cell.id: cell for cell in (directory(ROOT), *cells)}
        self.by_inode: dict[InodeId, list[Place]] = {}
        for place, inode in entries.items():
            self.by_inode.setdefault(inode, []).append(place)

    def child(self, parent: InodeId, name: bytes) -> InodeId | None:
        return self.entries.get(Place(parent, name))

    def places(self, inode: InodeId) -> list[Place]:
        return self.by_inode.get(inode, [])

    def inode(self, inode: InodeId) -> Inode | None:
        return self.cells.get(inode)


def directory(inode: InodeId) -> Inode:
    return Inode(inode, Kind.DIRECTORY, 0o755, 0, 0, 0)


def chain(length: int, name: bytes = b"d", first: int = 100) -> dict[Place, InodeId]:
    """A directory in the root, one in that, and so on."""
    ids = [ROOT, *(InodeId(first + k) for k in range(length))]
    return {Place(above, name): below for above, below in itertools.pairwise(ids)}


def lines(work: Callable[[], Any]) -> int:
    """How many lines of Python run."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def made(tree: Tree, dirents: dict[Place, InodeId | None], staged: Iterable[InodeId] = ()) -> Plan:
    new = {inode: directory(inode) for inode in staged}
    return plan(tree, Changes(dirents, new), staged=set(new))


def grown(length: int, order: str) -> Plan:
    """A new chain, its cells in some order."""
    places = list(chain(length).items())
    if order == "deepest first":
        places.reverse()
    elif order == "shuffled":
        random.Random(7).shuffle(places)
    return made(Tree({}, []), dict(places), [inode for _, inode in places])


def branched(length: int, order: str) -> Plan:
    """A chain that was there gets a new directory on each level."""
    there = chain(length)
    tree = Tree(there, map(directory, there.values()))
    new = {Place(inode, b"new"): InodeId(9000 + k) for k, inode in enumerate(there.values())}
    places = list(new.items())
    if order == "deepest first":
        places.reverse()
    elif order == "shuffled":
        random.Random(7).shuffle(places)
    return made(tree, dict(places), new.values())


def renamed(length: int, order: str) -> Plan:
    """Each directory of a chain gets another name."""
    there = chain(length)
    tree = Tree(there, map(directory, there.values()))
    moves = [(place, Place(place.parent, b"e"), inode) for place, inode in there.items()]
    if order == "deepest first":
        moves.reverse()
    elif order == "shuffled":
        random.Random(7).shuffle(moves)
    changes: dict[Place, InodeId | None] = {}
    for old, new, inode in moves:
        changes |= {old: None, new: inode}
    return made(tree, changes)


def removed(length: int, order: str) -> Plan:
    """A whole chain goes."""
    there = chain(length)
    places = list(there)
    if order == "deepest first":
        places.reverse()
    elif order == "shuffled":
        random.Random(7).shuffle(places)
    return made(Tree(there, map(directory, there.values())), dict.fromkeys(places))


@pytest.mark.parametrize("order", ["highest first", "deepest first", "shuffled"])
@pytest.mark.parametrize(
    ("change", "kind"),
    [(grown, Create), (branched, Create), (renamed, Move), (removed, RemoveDirectory)],
    ids=lambda value: value.__name__,
)
def test_the_cost_of_a_deep_chain_is_linear(change: Any, kind: type, order: str) -> None:
    plans: dict[int, Plan] = {}

    def work(length: int) -> int:
        return lines(lambda: plans.update({length: change(length, order)}))

    short, long = work(SHORT), work(LONG)
    assert long < short * (LONG / SHORT) * 1.3
    assert long < LONG * 400
    assert sum(isinstance(step, kind) for step in plans[LONG].steps) == LONG


def test_a_chain_that_hangs_in_the_air_is_tried_once() -> None:
    """A new chain takes the place of the very directory that goes to its end: no level can be made yet."""

    def swallowed(length: int) -> Plan:
        old, new = InodeId(9), chain(length)
        end = Place(list(new.values())[-1], b"d")
        return made(
            Tree({Place(ROOT, b"d"): old}, [directory(old)]), {**new, end: old}, staged=new.values()
        )

    assert lines(lambda: swallowed(80)) < lines(lambda: swallowed(20)) * 4 * 1.5
    kinds = [type(step) for step in swallowed(80).steps]
    assert kinds[:82] == [Hold, *[Create] * 80, Move]
