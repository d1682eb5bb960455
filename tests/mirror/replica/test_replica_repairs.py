"""A snapshot brings back what users have taken away, and with `adopt_root` all that they have changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ghostfs.content import BLOCK_SIZE
from ghostfs.model import ROOT, Kind

BIG = os.urandom(BLOCK_SIZE * 2 + 10)


@pytest.fixture
def tree(world: Any) -> Path:
    hub = world.hub
    d = hub.mkdir(ROOT, b"d")
    world.f = hub.file(d, b"f.txt", b"from the hub")
    world.d = d
    hub.file(d, b"big", BIG)
    hub.symlink(d, b"link", b"f.txt")
    hub.special(d, b"pipe", Kind.FIFO)
    hub.mkdir(d, b"empty", 0o750)
    hub.link(hub.file(ROOT, b"one", b"two names"), ROOT, b"other")
    hub.file(ROOT, b"stays", b"s")
    world.node.sync(hub)
    return Path(world.node.tree)


def resync(world: Any, cells: int = 7) -> list[Any]:
    """Whatever a node asks a snapshot for; what was kept."""
    published = [world.node.apply(world.hub, batch) for batch in world.hub.chunks(cells)]
    return [change for done in published for change in done.conflicts]


@pytest.mark.parametrize("cells", [1, 3, 100])
def test_what_was_deleted_comes_back_with_a_snapshot(world: Any, tree: Path, cells: int) -> None:
    for name in ("d/f.txt", "d/big", "d/link", "d/pipe", "other"):
        (tree / name).unlink()
    (tree / "d/empty").rmdir()
    assert resync(world, cells) == []
    world.assert_equal()
    assert (tree / "other").stat().st_nlink == 2


@pytest.mark.parametrize("cells", [1, 3, 100])
def test_a_deleted_directory_comes_back_with_all_that_was_in_it(world: Any, tree: Path, cells: int) -> None:
    shutil.rmtree(tree / "d")
    assert resync(world, cells) == []
    world.assert_equal()


def test_only_what_is_missing_is_fetched(world: Any, tree: Path) -> None:
    (tree / "d/big").unlink()
    world.node.fetched = 0
    resync(world)
    assert world.node.fetched == 3
    resync(world)
    assert world.node.fetched == 3
    world.assert_equal()


def test_what_was_deleted_and_cannot_be_had_stays_away_and_is_not_waited_for(
    world: Any, tree: Path
) -> None:
    (tree / "d/big").unlink()
    big = world.hub.index.dirent(world.d, b"big")
    for batch in world.hub.chunks():
        published = world.node.apply(world.hub, batch, superseded=frozenset({big}))
    assert not (tree / "d/big").exists()
    assert world.node.replica.parked() == set()
    assert published.fingerprint == world.hub.index.fingerprint()
    resync(world)
    world.assert_equal()


def test_of_its_own_a_snapshot_leaves_changed_files_alone(world: Any, tree: Path) -> None:
    (tree / "d/f.txt").write_bytes(b"my own words")
    (tree / "mine").write_bytes(b"mine")
    assert resync(world) == []
    assert (tree / "d/f.txt").read_bytes() == b"my own words"
    assert (tree / "mine").read_bytes() == b"mine"


def test_a_deletion_within_a_delta_stays(world: Any, tree: Path) -> None:
    """Deltas look at what they change and at nothing else: their cost follows the change."""
    (tree / "d/big").unlink()
    world.hub.chmod(world.f, 0o600)
    world.hub.file(world.d, b"beside", b"it")
    world.node.sync(world.hub)
    assert not (tree / "d/big").exists()


@pytest.mark.allows_log("local_change_kept")
def test_a_copy_that_is_adopted_again_becomes_whole(world: Any, tree: Path) -> None:
    world.node.close()
    (tree / "d/f.txt").write_bytes(b"my own words")
    (tree / "d/big").unlink()
    (tree / "stays").chmod(0o600)
    (tree / "one").unlink()
    (tree / "one").symlink_to("elsewhere")
    shutil.rmtree(tree / "d/empty")
    (tree / "d/empty").write_bytes(b"a file of mine")
    (tree / "mine").write_bytes(b"mine")
    world.node.adopt = True
    world.node.fetched = 0
    assert world.node.replica.position().cursor is None
    kept = resync(world)
    assert sorted(change.path for change in kept) == [b"d/empty", b"d/f.txt", b"one"]
    assert {(tree / os.fsdecode(change.kept)).is_symlink() for change in kept} == {True, False}
    assert world.node.fetched == 3
    for change in kept:
        (tree / os.fsdecode(change.kept)).unlink()
    assert (tree / "mine").read_bytes() == b"mine"
    (tree / "mine").unlink()
    for name, entry in world.hub.tree().items():
        if entry.kind is Kind.DIRECTORY:
            os.utime(os.fsencode(tree) + name, ns=(0, entry.mtime_ns))
    world.assert_equal()
    assert world.node.replica.position().cursor is not None
    world.hub.file(ROOT, b"goes on", b"x")
    world.node.sync(world.hub)


@pytest.mark.allows_log("local_change_kept")
def test_an_adoption_that_was_killed_goes_on_without_the_flag(world: Any, tree: Path) -> None:
    world.node.close()
    world.node.adopt = True
    names = [b"d/f.txt", b"stays"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tree) + b"/" + name)).write_bytes(b"mine: " + name)
    world.node.open()
    world.node.close()
    world.node.adopt = False
    assert world.node.replica.position().cursor is None
    chunks = world.hub.chunks(2)
    kept = list(world.node.apply(world.hub, chunks[0]).conflicts)
    world.node.close()
    assert world.node.replica.position().snapshot is not None
    for batch in chunks[1:]:
        kept += world.node.apply(world.hub, batch).conflicts
    assert sorted(change.path for change in kept) == names
    world.node.close()
    assert world.node.replica.position().cursor is not None


@pytest.mark.allows_log("local_change_kept")
def test_an_adoption_begins_a_half_applied_snapshot_anew(world: Any, tree: Path) -> None:
    (tree / "stays").write_bytes(b"mine")
    for batch in world.hub.chunks(2)[:-1]:
        world.node.apply(world.hub, batch)
    world.node.close()
    world.node.adopt = True
    position = world.node.replica.position()
    assert (position.cursor, position.snapshot) == (None, None)
    (change,) = resync(world)
    assert change.path == b"stays"


class Killed(BaseException):
    pass


def test_a_repair_that_is_killed_at_any_step_is_finished(new_world: Any, discard: Any) -> None:
    killed = True
    at = -1
    while killed:
        at += 1
        world = new_world()
        d = world.hub.mkdir(ROOT, b"d")
        world.hub.link(world.hub.file(d, b"f", BIG), d, b"g")
        world.hub.mkdir(d, b"empty")
        world.hub.symlink(ROOT, b"l", b"d")
        world.node.sync(world.hub)
        shutil.rmtree(world.node.tree / "d")
        (world.node.tree / "l").unlink()
        (world.node.tree / "mine").write_bytes(b"keeps the root from being empty")
        (batch,) = world.hub.chunks(100)

        def kill(step: int, at: int = at) -> None:
            if step == at:
                raise Killed

        world.node.between = kill
        try:
            world.node.apply(world.hub, batch)
            killed = False
        except Killed:
            killed = True
        world.node.between = lambda _: None
        world.node.close()
        world.node.open()
        (world.node.tree / "mine").unlink()
        os.utime(world.node.tree, ns=(0, world.hub.tree()[b""].mtime_ns))
        world.assert_equal()
        discard(world)
    assert at > 5
