"""A replica that is killed at any moment is, when it is opened again, on its way to the same tree."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from ghostfs.content import BLOCK_SIZE
from ghostfs.mirror.replica import planlog, publish
from ghostfs.model import ROOT, Kind

BIG = os.urandom(BLOCK_SIZE * 2 + 10)


def in_child(work: Callable[[], None]) -> int:
    """Runs `work` in a process of its own; returns its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def fill(hub: Any) -> dict[str, Any]:
    ids: dict[str, Any] = {"root": ROOT}
    for name in ("a", "b", "c"):
        ids[name] = hub.mkdir(ROOT, name.encode())
        ids[name + "/sub"] = hub.mkdir(ids[name], b"sub")
        ids[name + "/f"] = hub.file(ids[name], b"f", b"file in " + name.encode())
        ids[name + "/sub/big"] = hub.file(ids[name + "/sub"], b"big", BIG + name.encode())
    ids["x"] = hub.file(ROOT, b"x", b"1")
    hub.link(ids["x"], ids["a"], b"x2")
    hub.link(ids["x"], ids["b"], b"x3")
    return ids


def change(hub: Any, ids: dict[str, Any]) -> None:
    """One of every kind of step, with moves in a circle."""
    hub.write(ids["x"], b"2" * 100)
    hub.write(ids["b/sub/big"], BIG[::-1])
    hub.exchange((ROOT, b"a"), (ROOT, b"b"))
    hub.rename(ids["a"], b"sub", ids["c"], b"from a")
    hub.rename(ROOT, b"c", ids["b"], b"c")
    hub.rename(ids["a"], b"f", ids["b"], b"f")
    hub.remove(ids["b/sub"], b"big")
    hub.remove(ids["b"], b"sub")
    hub.exchange((ids["c"], b"f"), (ids["c/sub"], b"big"))
    new = hub.mkdir(ids["a"], b"new")
    hub.file(new, b"n1", b"new 1")
    hub.file(new, b"n2", BIG)
    hub.link(ids["c/f"], new, b"linked")
    hub.symlink(ROOT, b"c", b"was a directory")
    hub.special(new, b"fifo", Kind.FIFO)
    hub.chmod(ids["c"], 0o700)
    hub.rename(ids["a"], b"x2", ids["a"], b"x4")


@pytest.fixture(scope="module")
def step_count(new_world: Any, discard: Any) -> int:
    world = new_world()
    ids = fill(world.hub)
    world.node.sync(world.hub)
    change(world.hub, ids)
    steps: list[int] = []
    world.node.between = steps.append
    world.node.sync(world.hub)
    world.assert_equal()
    discard(world)
    return steps[-1]


def begin(world: Any) -> Any:
    """A synced node, closed, and the delta that it is to be killed in."""
    ids = fill(world.hub)
    world.node.sync(world.hub)
    cursor = world.node.replica.position().cursor
    world.node.close()
    change(world.hub, ids)
    return world.hub.delta(cursor.seq)


def kill_at(number: int) -> Callable[[int], None]:
    def between(step: int) -> None:
        if step == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return between


def nothing(step: int) -> None:
    """Lives."""


def test_killed_at_every_step(step_count: int, new_world: Any, discard: Any) -> None:
    assert step_count > 20
    for number in range(step_count + 1):
        world = new_world()
        batch = begin(world)
        world.node.between = kill_at(number)
        assert in_child(partial(world.node.apply, world.hub, batch)) == signal.SIGKILL
        # Killed once more while it makes up for it.
        world.node.between = kill_at(random.Random(number).randint(0, step_count))
        assert in_child(world.node.open) == signal.SIGKILL
        world.node.between = nothing
        assert world.node.replica.position().cursor.seq == batch.head
        world.assert_equal()
        assert os.listdir(world.node.layout.staging / "new") == []
        assert os.listdir(world.node.layout.staging / "held") == []
        before = {i.id: i.backing for i in world.node.replica._index.all_inodes()}
        assert all(backing.ino for backing in before.values())
        world.node.sync(world.hub)
        world.assert_equal()
        discard(world)


@pytest.mark.parametrize("moment", ["before the plan is put down", "before it is cleared"])
def test_killed_around_the_plan(world: Any, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    batch = begin(world)
    fetched = world.node.fetched
    name = "write" if moment.startswith("before the plan") else "clear"

    def die(*args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(planlog.PlanLog, name, die)
        assert in_child(partial(world.node.apply, world.hub, batch)) == signal.SIGKILL
    done = world.node.replica.position().cursor.seq == batch.head
    assert done is (name == "clear")
    if not done:
        world.node.apply(world.hub, batch)
        assert world.node.fetched == fetched  # nothing that was staged comes again
    world.assert_equal()


def test_killed_between_the_steps_and_the_index(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = begin(world)

    def die(*args: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(publish.Publisher, "_commit", die)
        assert in_child(partial(world.node.apply, world.hub, batch)) == signal.SIGKILL
    assert world.node.replica.position().cursor.seq == batch.head
    world.assert_equal()


@pytest.mark.parametrize("seed", range(12))
def test_killed_at_random_moments_of_a_snapshot(world: Any, seed: int) -> None:
    ids = fill(world.hub)
    world.node.sync(world.hub)
    world.node.close()
    change(world.hub, ids)
    chunks = world.hub.chunks(9)
    rng = random.Random(seed)

    def work() -> None:
        while True:
            snapshot = world.node.replica.position().snapshot
            at = snapshot[1] if snapshot and snapshot[0] == chunks[0].snapshot.snapshot_id else 0
            left = [chunk for chunk in chunks if chunk.snapshot.position > at]
            if world.node.replica.position().cursor is not None and snapshot is None and done[0]:
                return
            for batch in left:
                world.node.apply(world.hub, batch)
            done[0] = True

    done = [False]
    for _ in range(6):
        pid = os.fork()
        if pid == 0:
            try:
                work()
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0.001, 0.06))  # the moment is what is random here
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    replica = world.node.replica
    position = replica.position()
    if position.snapshot is not None:
        for batch in chunks:
            if batch.snapshot.position > position.snapshot[1]:
                world.node.apply(world.hub, batch)
    else:
        for batch in chunks:
            world.node.apply(world.hub, batch)
    world.assert_equal()


@pytest.mark.allows_log("local_change_kept")
def test_what_a_user_writes_after_the_kill_is_kept(step_count: int, new_world: Any, discard: Any) -> None:
    for number in range(0, step_count + 1, 3):
        world = new_world()
        batch = begin(world)
        world.node.between = kill_at(number)
        assert in_child(partial(world.node.apply, world.hub, batch)) == signal.SIGKILL
        mine = set()
        for path in [p for p in world.node.tree.rglob("*") if p.is_file() and not p.is_symlink()]:
            if path.stat().st_nlink == 1:
                mine.add(b"mine " + str(path).encode())
                path.write_bytes(b"mine " + str(path).encode())
        world.node.between = nothing
        assert world.node.replica.position().cursor.seq == batch.head
        found = {p.read_bytes() for p in world.node.tree.rglob("*") if p.is_file() and not p.is_symlink()}
        assert mine <= found
        discard(world)
