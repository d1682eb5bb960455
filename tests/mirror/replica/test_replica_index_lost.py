"""A replica whose index is damaged or new: its files are compared again, an old plan is never carried out."""

from __future__ import annotations

from typing import Any

import pytest

from ghostfs.model import ROOT


def standing(world: Any) -> None:
    directory = world.hub.mkdir(ROOT, b"d")
    for number in range(5):
        world.hub.file(directory, b"f%d" % number, b"content %d" % number * 1000)
    world.node.sync(world.hub)
    world.assert_equal()


@pytest.mark.allows_log("index_damaged", "index_set_aside")
def test_a_damaged_index_is_set_aside_and_nothing_is_fetched_again(world: Any) -> None:
    standing(world)
    world.node.close()
    index = world.node.layout.index_db
    data = bytearray(index.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    index.write_bytes(data)
    fetched = world.node.fetched
    world.node.sync(world.hub)
    assert world.node.fetched == fetched
    world.assert_equal()
    assert list(index.parent.glob("index.db.damaged-*"))


@pytest.mark.allows_log("root_adopted", "index_set_aside", "plan_set_aside")
def test_a_plan_of_another_index_is_not_carried_out(world: Any) -> None:
    standing(world)
    world.node.close()
    staging = world.node.layout.staging
    (staging / "plan.journal").write_bytes(b"a plan that was interrupted")
    (staging / "new").mkdir(exist_ok=True)
    (staging / "new" / "users").write_bytes(b"displaced, and perhaps a user's")
    for path in sorted(world.node.tree.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    world.node.adopt = True
    world.node.sync(world.hub)
    world.assert_equal()
    (aside,) = staging.parent.glob("*.aside-*")
    assert (aside / "new" / "users").read_bytes() == b"displaced, and perhaps a user's"
