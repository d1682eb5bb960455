"""Directories that are read while they change: what POSIX promises of readdir, telldir, seekdir and rewinddir."""

from __future__ import annotations

import stat

import pytest
from actors import Actor
from sites import Site

DOTS = {b".", b".."}


def fill(actor: Actor, count: int) -> set[bytes]:
    actor.do("mkdir", path="d")
    for number in range(count):
        actor.do("mknod", path=f"d/n{number:04}", mode=stat.S_IFREG | 0o644)
    return {b"n%04d" % number for number in range(count)}


@pytest.mark.parametrize("count", [0, 1, 10, 700])
def test_each_name_is_read_once_and_again_after_a_rewind(site: Site, count: int) -> None:
    root = site.actors["root"]
    names = fill(root, count)
    root.do("opendir", slot=0, path="d")
    for _ in range(2):
        read = root.do("readdir", slot=0, count=10_000)
        assert len(read) == len(set(read))
        assert set(read) == names | DOTS
        assert root.do("readdir", slot=0, count=10) == []
        root.do("rewinddir", slot=0)


@pytest.mark.parametrize("count", [10, 700])
@pytest.mark.parametrize("before", [0, 3, 300])
def test_what_stays_is_read_once_while_others_come_and_go(site: Site, count: int, before: int) -> None:
    root, other = site.actors["root"], site.actors["other"]
    names = fill(root, count)
    root.do("opendir", slot=0, path="d")
    read = root.do("readdir", slot=0, count=before)
    gone, moved = {f"d/n{n:04}" for n in range(0, count, 3)}, {f"d/n{n:04}" for n in range(1, count, 3)}
    for path in sorted(gone):
        other.do("unlink", path=path)
    for path in sorted(moved):
        other.do("rename", old=path, new=path + "-moved")
    for number in range(50):
        other.do("mkdir", path=f"d/new{number}")
    read += root.do("readdir", slot=0, count=10_000)
    stayed = {b"n%04d" % number for number in range(2, count, 3)}
    assert len(read) == len(set(read))
    assert stayed | DOTS <= set(read)
    root.do("rewinddir", slot=0)
    now = set(root.do("listdir", path="d"))
    assert now & names == stayed
    assert set(root.do("readdir", slot=0, count=10_000)) == now | DOTS


@pytest.mark.parametrize("before", [0, 3, 300])
def test_what_is_replaced_has_a_name_all_the_time(site: Site, before: int) -> None:
    root, other = site.actors["root"], site.actors["other"]
    names = fill(root, 700)
    root.do("opendir", slot=0, path="d")
    read = root.do("readdir", slot=0, count=before)
    for number in range(0, 700, 3):
        other.do("mknod", path="new", mode=stat.S_IFREG | 0o600)
        other.do("rename", old="new", new=f"d/n{number:04}")
    read += root.do("readdir", slot=0, count=10_000)
    assert len(read) == len(set(read))
    assert set(read) == names | DOTS


@pytest.mark.parametrize("change", ["nothing", "others come", "others go"])
def test_a_position_leads_back_to_where_it_was_taken(site: Site, change: str) -> None:
    root, other = site.actors["root"], site.actors["other"]
    fill(root, 600)
    root.do("opendir", slot=0, path="d")
    first = root.do("readdir", slot=0, count=200)
    position = root.do("telldir", slot=0)
    rest = root.do("readdir", slot=0, count=10_000)
    gone: set[bytes] = set()
    if change == "others come":
        for number in range(100):
            other.do("symlink", target="x", path=f"d/new{number}")
    elif change == "others go":
        gone = set(first[50:150] + rest[50:150]) - DOTS
        for name in gone:
            other.do("unlink", path=b"d/" + name)
    root.do("seekdir", slot=0, position=position)
    again = root.do("readdir", slot=0, count=10_000)
    known = set(first) | set(rest)
    assert set(rest) - gone <= set(again)
    assert not set(first) & set(again)
    assert {name for name in again if name not in known} <= {b"new%d" % number for number in range(100)}


def test_two_streams_are_two(site: Site) -> None:
    root, other = site.actors["root"], site.actors["other"]
    names = fill(root, 30) | DOTS
    root.do("opendir", slot=0, path="d")
    other.do("opendir", slot=0, path="d")
    root.do("readdir", slot=0, count=20)
    assert set(other.do("readdir", slot=0, count=100)) == names
    assert len(root.do("readdir", slot=0, count=100)) == 12


def test_a_directory_is_emptied_as_it_is_read(site: Site) -> None:
    root = site.actors["root"]
    fill(root, 900)
    root.do("opendir", slot=0, path="d")
    while names := root.do("readdir", slot=0, count=40):
        for name in set(names) - DOTS:
            root.do("unlink", path=b"d/" + name)
    assert root.do("listdir", path="d") == []
    root.do("rmdir", path="d")
