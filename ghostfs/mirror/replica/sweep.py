"""The end of a snapshot: what no chunk has named leaves the tree, in pieces of bounded size."""

from __future__ import annotations

__all__ = ["sweep"]

from ghostfs.index import Index
from ghostfs.mirror.replica.goal import Changes
from ghostfs.mirror.replica.indextree import IndexTree
from ghostfs.mirror.replica.plan import plan
from ghostfs.mirror.replica.planlog import Outcome
from ghostfs.mirror.replica.publish import Done, Publisher
from ghostfs.mirror.replica.steps import Place
from ghostfs.model import HELD, Cursor, Dirent, InodeId, Kind

_PIECE = 20_000
"""Entries that go in one plan."""


def sweep(index: Index, publisher: Publisher, cursor: Cursor, *, piece: int = _PIECE) -> Done:
    """Removes all stale entries and all held ones, then reaches the cursor. Goes on where it was stopped.

    A directory goes in one piece with all that is below it, or in a later one than that.
    """
    swept: list[Done] = []
    limit = piece
    while True:
        with index.adopt() as adopt:
            stale = adopt.stale_dirents(limit)
        last = len(stale) < limit
        chosen = stale if last else [dirent for dirent in stale if _is_leaf(index, dirent)]
        if chosen or last:
            swept.append(_sweep_some(index, publisher, chosen, cursor, last=last))
        else:
            limit *= 2  # nothing but directories that hold directories, and so on down
        if last:
            kept = tuple(change for done in swept for change in done.kept)
            return Done(0, 0, kept)


def _sweep_some(
    index: Index, publisher: Publisher, stale: list[Dirent], cursor: Cursor, *, last: bool
) -> Done:
    waiting = {Place(d.parent, d.name): d for d in publisher.unplaced()}
    goes: dict[Place, InodeId | None] = {}
    stays: list[Dirent] = []
    for dirent in stale:
        place = Place(dirent.parent, dirent.name)
        if place in waiting:
            stays.append(dirent)  # until what shall be there has come
        else:
            goes[place] = None
    if last:
        goes.update((Place(HELD, name), None) for name, _ in index.children(HELD))
    dirents = {**goes, **{place: dirent.inode for place, dirent in waiting.items()}}
    planned = plan(IndexTree(index), Changes(dirents, {}), staged=frozenset())
    forget = {place: None for place in goes if planned.entries.get(place) is None and place.parent != HELD}
    forget.update((place, None) for place, inode in planned.entries.items() if inode is None)
    outcome = Outcome(
        dirents=(
            *stays,
            *(Dirent(*place, inode) for place, inode in planned.entries.items() if inode is not None),
        ),
        forget=tuple(forget),
        unplaced=tuple(waiting[place] for place in planned.unplaced),
        cursor=cursor if last else None,
        sweep=None if last else cursor,
    )
    return publisher.publish(planned.steps, outcome, None)


def _is_leaf(index: Index, dirent: Dirent) -> bool:
    row = None if dirent.inode is None else index.inode_light(dirent.inode)
    return row is None or row.kind is not Kind.DIRECTORY or not index.children(row.id)
