"""What a replica makes is its user's alone, whatever the umask, until the session's own modes say otherwise."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ghostfs.content import BLOCK_SIZE
from ghostfs.mirror.layout import DataDir
from ghostfs.mirror.replica.replica import Replica, ReplicaSettings
from ghostfs.model import ROOT


@pytest.fixture(autouse=True)
def _no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(top: Path) -> list[str]:
    found = [top, *top.rglob("*")]
    return [
        f"{stat.S_IMODE(path.lstat().st_mode):o} {path}" for path in found if path.lstat().st_mode & 0o077
    ]


def test_all_folders_of_a_new_replica(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "data")
    root = tmp_path / "copies"
    Replica.open(data.replica("demo", root), ReplicaSettings("n")).close()
    assert open_to_others(data.path) == []
    assert open_to_others(root / ".ghostfs") == []
    assert open_to_others(root / "demo") == []


def test_a_copy_under_way_and_then_with_the_modes_of_the_session(world: Any) -> None:
    d = world.hub.mkdir(ROOT, b"d", 0o777)
    world.hub.file(d, b"f", os.urandom(BLOCK_SIZE + 1), 0o666)
    moments: list[list[str]] = []
    world.node.between = lambda _: moments.append(open_to_others(world.node.layout.staging))
    replica = world.node.replica
    (batch,) = world.hub.chunks(100)
    replica.begin(batch)
    for want in replica.missing():
        replica.put(want.inode, want.index, world.hub.block(want))
    assert open_to_others(world.node.home / "state") == []
    assert open_to_others(world.node.tree) == []
    replica.publish()
    assert moments
    # A file has its mode before it has its name, inside of a folder that nobody can enter.
    assert all(line.startswith("666 ") and "/new/" in line for lines in moments for line in lines)
    world.assert_equal()
