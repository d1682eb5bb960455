"""Known cases of the planner: the exact steps, what is not placed, and what planning costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from ghostfs.errors import InvalidCell
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
from ghostfs.model import HELD, ROOT, Inode, InodeId, Kind

A, B, C, D, E = (InodeId(i) for i in (10, 11, 12, 13, 14))


def cell(inode: InodeId, kind: Kind = Kind.FILE, digest: bytes = b"old") -> Inode:
    return Inode(inode, kind, 0o644, 0, 0, 0, digest=digest if kind is Kind.FILE else b"")


def directory(inode: InodeId) -> Inode:
    return cell(inode, Kind.DIRECTORY)


class Tree:
    """A tree view that counts its questions."""

    def __init__(self, entries: dict[Place, InodeId], cells: Iterable[Inode]) -> None:
        self.entries = entries
        self.cells = {c.id: c for c in (directory(ROOT), *cells)}
        self.by_inode: dict[InodeId, list[Place]] = {}
        self.questions = 0
        for place, inode in entries.items():
            self.by_inode.setdefault(inode, []).append(place)

    def child(self, parent: InodeId, name: bytes) -> InodeId | None:
        self.questions += 1
        return self.entries.get(Place(parent, name))

    def places(self, inode: InodeId) -> list[Place]:
        self.questions += 1
        return self.by_inode.get(inode, [])

    def inode(self, inode: InodeId) -> Inode | None:
        return self.cells.get(inode)


def at(name: str, parent: InodeId = ROOT) -> Place:
    return Place(parent, name.encode())


def made(
    tree: Tree,
    dirents: dict[Place, InodeId | None],
    *new: Inode,
    staged: Iterable[Inode] = (),
    hold_removed: bool = False,
) -> Plan:
    ready = {c.id: c for c in staged}
    changes = Changes(dirents, ready | {c.id: c for c in new})
    return plan(tree, changes, staged=set(ready), hold_removed=hold_removed)


def entry_steps(result: Plan) -> list[Step]:
    return [step for step in result.steps if not isinstance(step, SetAttributes)]


def test_a_new_directory_comes_before_what_is_in_it() -> None:
    result = made(
        Tree({}, []), {at("f", A): B, at("d"): A}, directory(ROOT), staged=[directory(A), cell(B)]
    )
    assert result.steps == (
        Create(A, at("d")),
        Create(B, at("f", A)),
        SetAttributes(A, at("d")),
        SetAttributes(ROOT, None),
    )
    assert result.entries == {at("d"): A, at("f", A): B}


def test_renaming_a_directory_is_one_step_however_much_is_in_it() -> None:
    costs = []
    for files in (10, 10_000):
        entries = {at("d"): A} | {at(str(k), A): InodeId(100 + k) for k in range(files)}
        tree = Tree(entries, [directory(A)])
        result = made(tree, {at("d"): None, at("e"): A})
        assert result.steps == (Move(A, at("d"), at("e")), SetAttributes(ROOT, None))
        costs.append(tree.questions)
    assert costs[0] == costs[1]


def test_new_content_goes_to_one_name_and_from_there_to_the_other_links() -> None:
    tree = Tree({at("a"): A, at("b"): A, at("c"): B}, [cell(A), cell(B)])
    dirents: dict[Place, InodeId | None] = {at("c"): A, at("d"): A}
    assert entry_steps(made(tree, dirents, staged=[cell(A, digest=b"new")])) == [
        Replace(A, at("c"), B),
        LinkAt(A, at("c"), at("d")),
        ReplaceWithLink(A, at("c"), at("a"), A),
        ReplaceWithLink(A, at("c"), at("b"), A),
    ]


def test_new_content_and_a_move_leave_no_old_version() -> None:
    tree = Tree({at("a"): A, at("b"): B}, [cell(A), cell(B)])
    result = made(tree, {at("a"): None, at("b"): A}, staged=[cell(A, digest=b"new")])
    assert entry_steps(result) == [Replace(A, at("b"), B), Remove(A, at("a"))]


def test_a_file_saved_by_rename_is_moved_over_the_old_one() -> None:
    tree = Tree({at("f"): A, at("f.tmp"): B}, [cell(A), cell(B)])
    result = made(tree, {at("f"): B, at("f.tmp"): None})
    assert entry_steps(result) == [MoveOver(B, at("f.tmp"), at("f"), A)]


def test_rotated_logs_run_from_the_free_end_and_no_name_misses() -> None:
    tree = Tree({at("log"): A, at("log.1"): B, at("log.2"): C}, [cell(A), cell(B), cell(C)])
    dirents: dict[Place, InodeId | None] = {
        at("log"): D, at("log.1"): A, at("log.2"): B, at("log.3"): C,
    }  # fmt: skip
    assert entry_steps(made(tree, dirents, staged=[cell(D)])) == [
        LinkAt(C, at("log.2"), at("log.3")),
        ReplaceWithLink(B, at("log.1"), at("log.2"), C),
        ReplaceWithLink(A, at("log"), at("log.1"), B),
        Replace(D, at("log"), A),
    ]


def test_a_chain_of_ten_thousand_renames_is_no_recursion() -> None:
    n = 10_000
    inodes = [InodeId(100 + k) for k in range(n)]
    tree = Tree({at(str(k)): inode for k, inode in enumerate(inodes)}, map(cell, inodes))
    dirents: dict[Place, InodeId | None] = {at(str(k + 1)): inode for k, inode in enumerate(inodes)}
    steps = entry_steps(made(tree, {at("0"): None, **dirents}))
    assert len(steps) == n
    assert steps[0] == LinkAt(inodes[-1], at(str(n - 1)), at(str(n)))
    assert steps[-1] == MoveOver(inodes[0], at("0"), at("1"), inodes[1])


@pytest.mark.parametrize("kinds", [(cell, cell), (directory, directory), (cell, directory)])
def test_two_that_change_places_are_exchanged(kinds: tuple[type, type]) -> None:
    tree = Tree({at("a"): A, at("b"): B}, [kinds[0](A), kinds[1](B)])
    assert entry_steps(made(tree, {at("a"): B, at("b"): A})) == [Exchange(at("a"), at("b"), A, B)]


def test_two_that_change_places_while_one_gets_new_content_are_not_exchanged() -> None:
    tree = Tree({at("a"): A, at("b"): B}, [cell(A), cell(B)])
    dirents: dict[Place, InodeId | None] = {at("a"): B, at("b"): A}
    assert entry_steps(made(tree, dirents, staged=[cell(A, digest=b"new")])) == [
        ReplaceWithLink(B, at("b"), at("a"), A),
        Replace(A, at("b"), B),
    ]


def test_a_longer_cycle_of_files_keeps_all_its_names() -> None:
    tree = Tree({at("a"): A, at("b"): B, at("c"): C}, [cell(A), cell(B), cell(C)])
    steps = entry_steps(made(tree, {at("a"): C, at("b"): A, at("c"): B}))
    assert len(steps) == 4
    assert not any(isinstance(step, Move | Hold | Remove) for step in steps)


def test_a_longer_cycle_of_directories_goes_by_one_hold() -> None:
    tree = Tree({at("a"): A, at("b"): B, at("c"): C}, [directory(A), directory(B), directory(C)])
    steps = entry_steps(made(tree, {at("a"): C, at("b"): A, at("c"): B}))
    assert [type(step) for step in steps] == [Hold, Move, Move, Move]


def test_a_directory_and_the_one_in_it_change_places() -> None:
    tree = Tree({at("a"): A, at("b", A): B}, [directory(A), directory(B)])
    dirents: dict[Place, InodeId | None] = {at("b", B): A, at("a"): B, at("b", A): None}
    assert entry_steps(made(tree, dirents)) == [
        Hold(A, at("a")),
        Move(B, at("b", A), at("a")),
        Move(A, held_place(A), at("b", B)),
    ]


def test_a_file_goes_into_a_new_directory_of_its_name() -> None:
    tree = Tree({at("f"): A}, [cell(A)])
    assert entry_steps(made(tree, {at("f"): B, at("f", B): A}, staged=[directory(B)])) == [
        Hold(A, at("f")),
        Create(B, at("f")),
        Move(A, held_place(A), at("f", B)),
    ]


def test_the_old_version_of_a_file_is_not_held_when_the_new_one_is_staged() -> None:
    tree = Tree({at("f"): A, at("d"): B}, [cell(A), directory(B)])
    staged = [cell(A, digest=b"new")]
    into_new = made(tree, {at("f"): C, at("f", C): A}, staged=[directory(C), *staged])
    assert entry_steps(into_new) == [Remove(A, at("f")), Create(C, at("f")), Create(A, at("f", C))]
    swapped = made(tree, {at("f"): B, at("d"): A}, staged=staged)
    assert entry_steps(swapped) == [Remove(A, at("f")), Move(B, at("d"), at("f")), Create(A, at("d"))]


def test_a_file_where_a_directory_was_takes_the_name_first() -> None:
    tree = Tree(
        {at("d"): A, at("e", A): B, at("f", B): C, at("g", A): D},
        [directory(A), directory(B), cell(C), cell(D)],
    )
    gone = dict.fromkeys([at("e", A), at("f", B), at("g", A)])
    assert entry_steps(made(tree, {**gone, at("d"): E, at("g"): D}, staged=[cell(E)])) == [
        Hold(A, at("d")),
        Create(E, at("d")),
        Move(D, at("g", A), at("g")),
        Remove(C, at("f", B)),
        RemoveDirectory(B, at("e", A)),
        RemoveDirectory(A, held_place(A)),
    ]


def test_a_directory_where_a_file_was() -> None:
    tree = Tree({at("f"): A}, [cell(A)])
    assert entry_steps(made(tree, {at("f"): B}, staged=[directory(B)])) == [
        Remove(A, at("f")),
        Create(B, at("f")),
    ]


def test_a_parked_file_leaves_the_old_one_under_the_name() -> None:
    tree = Tree({at("f"): A, at("g"): B}, [cell(A), cell(B)])
    result = made(tree, {at("f"): C, at("g"): D, at("h"): B}, cell(C), cell(D))
    assert entry_steps(result) == [LinkAt(B, at("g"), at("h"))]
    assert result.unplaced == {at("f"): C, at("g"): D}
    assert result.parked == {C, D}
    assert result.entries == {at("h"): B}


def test_what_was_unplaced_is_placed_when_it_is_staged() -> None:
    tree = Tree({at("f"): A}, [cell(A)])
    waiting = made(tree, {at("f"): C, at("g"): C}, cell(C)).unplaced
    assert entry_steps(made(tree, {**waiting, at("g"): None}, staged=[cell(C)])) == [Replace(C, at("f"), A)]


def test_a_parked_version_leaves_the_old_one_with_its_attributes() -> None:
    tree = Tree({at("f"): A, at("g"): B}, [cell(A), cell(B)])
    parked, changed = replace(cell(A, digest=b"new"), mode=0o600), replace(cell(B), mode=0o600)
    result = made(tree, {}, parked, changed)
    assert result.steps == (SetAttributes(B, at("g")),)
    assert result.parked == {A}


def test_what_goes_into_a_directory_that_is_not_here_is_held_until_it_is() -> None:
    tree = Tree({at("d"): A}, [directory(A)])
    result = made(tree, {at("d"): None, at("d", B): A, at("p"): B}, directory(B))
    assert entry_steps(result) == [Hold(A, at("d"))]
    assert result.unplaced == {at("d", B): A, at("p"): B}
    later = Tree({held_place(A): A}, [directory(A)])
    assert entry_steps(made(later, dict(result.unplaced), staged=[directory(B)])) == [
        Create(B, at("p")),
        Move(A, held_place(A), at("d", B)),
    ]


def test_a_directory_may_go_below_one_that_was_below_it_and_is_held() -> None:
    tree = Tree({at("a"): A, at("b", A): B}, [directory(A), directory(B)])
    dirents: dict[Place, InodeId | None] = {
        at("a"): None, at("b", A): None, at("b", C): B, at("a", B): A,
    }  # fmt: skip
    result = made(tree, dirents)
    assert entry_steps(result) == [Hold(B, at("b", A)), Move(A, at("a"), at("a", B))]
    assert result.unplaced == {at("b", C): B}


def test_a_staged_inode_without_a_place_to_go_is_parked() -> None:
    result = made(Tree({}, []), {at("f", B): A}, staged=[cell(A)])
    assert not result.steps
    assert result.parked == {A}


def test_within_a_snapshot_nothing_is_removed() -> None:
    tree = Tree({at("f"): A, at("g"): B, at("h"): B, at("d"): D}, [cell(A), cell(B), directory(D)])
    new = [cell(InodeId(k)) for k in (20, 21, 22)]
    dirents: dict[Place, InodeId | None] = {
        at("f"): new[0].id, at("g"): new[1].id, at("d"): new[2].id,
    }  # fmt: skip
    assert entry_steps(made(tree, dirents, staged=new, hold_removed=True)) == [
        LinkAt(A, at("f"), held_place(A)),
        Replace(new[0].id, at("f"), A),
        Replace(new[1].id, at("g"), B),
        Hold(D, at("d")),
        Create(new[2].id, at("d")),
    ]


def test_a_snapshot_may_send_a_directory_before_the_one_above_it() -> None:
    tree = Tree({at("a"): A, at("b", A): B}, [directory(A), directory(B)])
    assert entry_steps(made(tree, {at("x", B): A}, hold_removed=True)) == [
        Hold(B, at("b", A)),
        Move(A, at("a"), at("x", B)),
    ]


def test_what_is_held_goes_when_its_held_place_is_emptied() -> None:
    tree = Tree({held_place(A): A, at("f", A): B, held_place(C): C}, [directory(A), cell(B), cell(C)])
    gone = dict.fromkeys([held_place(A), at("f", A), held_place(C)])
    assert made(tree, gone).steps == (
        Remove(B, at("f", A)),
        Remove(C, held_place(C)),
        RemoveDirectory(A, held_place(A)),
    )


def test_attributes_are_set_where_they_differ_and_the_deepest_directories_first() -> None:
    tree = Tree({at("d"): A, at("e", A): B, at("f", B): C}, [directory(A), directory(B), cell(C)])
    closed = [replace(tree.cells[i], mode=0) for i in (ROOT, A, B, C)]
    assert made(tree, {}, *closed, cell(D)).steps == (
        SetAttributes(C, at("f", B)),
        SetAttributes(B, at("e", A)),
        SetAttributes(A, at("d")),
        SetAttributes(ROOT, None),
    )
    assert made(tree, {}, *tree.cells.values()).steps == ()


@pytest.mark.parametrize(
    "dirents",
    [
        {at("x"): B, at("y"): B},
        {at("x", B): A},
        {at("x", C): A},
        {at("x"): ROOT},
        {Place(HELD, b"x"): C},
        {at("x"): HELD},
    ],
    ids=["two places", "below itself", "in a file", "the root", "held from afar", "no inode"],
)
def test_cells_that_are_no_tree_are_refused(dirents: dict[Place, InodeId | None]) -> None:
    tree = Tree({at("a"): A, at("b", A): B, at("f"): C}, [directory(A), directory(B), cell(C)])
    with pytest.raises(InvalidCell):
        made(tree, dirents)


def test_the_cost_follows_the_changes_not_the_tree() -> None:
    costs = []
    for files in (10, 10_000):
        entries = {at(str(k)): InodeId(100 + k) for k in range(files)} | {at("d"): A, at("x", A): B}
        tree = Tree(entries, [directory(A), *(cell(i) for i in entries.values() if i != A)])
        moved: dict[Place, InodeId | None] = {at("x", A): None, at("1"): B, at("2"): None}
        made(tree, moved, directory(A), staged=[cell(InodeId(103), digest=b"new")])
        costs.append(tree.questions)
    assert costs[0] == costs[1] < 60
