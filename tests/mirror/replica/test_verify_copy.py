"""Verifying a copy: what differs is named, what a running node is changing is not."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ghostfs.content import BLOCK_SIZE
from ghostfs.errors import DriftError, GhostError
from ghostfs.index import Index
from ghostfs.mirror import xattrs
from ghostfs.mirror.replica import verify as replica_verify
from ghostfs.mirror.replica.replica import ReplicaSettings
from ghostfs.mirror.replica.verify import CopyReport, verify
from ghostfs.mirror.xattrs import encode_xattrs
from ghostfs.model import ROOT, Backing, Kind

module: Any = replica_verify
BIG = os.urandom(BLOCK_SIZE * 2 + 10)


@pytest.fixture
def tree(world: Any) -> Path:
    hub = world.hub
    world.d = hub.mkdir(ROOT, b"d")
    world.e = hub.mkdir(world.d, b"e", 0o750)
    world.f = hub.file(world.d, b"f.txt", b"from the hub")
    world.big = hub.file(world.e, b"big", BIG)
    hub.symlink(world.d, b"link", b"f.txt")
    hub.special(ROOT, b"pipe", Kind.FIFO)
    hub.link(hub.file(ROOT, b"one", b"two names"), world.e, b"other")
    hub.file(ROOT, os.fsencode("\udcff"), b"odd")
    world.node.sync(hub)
    return Path(world.node.tree)


def verified(world: Any, **how: Any) -> CopyReport:
    return verify("s", world.node.layout.state, **how)


def found(report: CopyReport) -> dict[str, str]:
    return {difference.path: difference.what for difference in report.differences}


@pytest.mark.parametrize("running", [True, False])
def test_a_copy_that_is_what_it_should_be(world: Any, tree: Path, running: bool) -> None:
    if not running:
        world.node.close()
    calls: list[tuple[int, int]] = []
    before = os.stat(tree / "d/e/big").st_ctime_ns
    report = verified(world, workers=2, progress=lambda done, total: calls.append((done, total)))
    assert report.ok, report
    assert (report.session, report.tree) == ("s", tree)
    assert report.head == world.hub.index.head()
    assert report.fingerprint == report.recomputed == world.hub.index.fingerprint()
    size = len(BIG) + 12 + 9 + 9 + 3  # both names of one file are read
    assert report.bytes_read == size
    assert calls[-1] == (size, size)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert (report.untracked, report.changed_meanwhile, report.waiting) == ((), 0, 0)
    assert report.inodes == 9
    assert os.stat(tree / "d/e/big").st_ctime_ns == before


def test_what_users_changed_is_named_and_what_becomes_of_it(world: Any, tree: Path) -> None:
    (tree / "d/f.txt").write_bytes(b"FROM THE HUB")
    with (tree / "d/e/big").open("r+b") as file:
        file.write(b"longer" + BIG)
    (tree / "d/link").unlink()
    (tree / "d/link").symlink_to("elsewhere")
    (tree / "pipe").unlink()
    (tree / "pipe").mkdir()
    (tree / os.fsdecode(b"\xff")).unlink()
    (tree / "d/e").chmod(0o700)
    wrong = found(verified(world))
    assert set(wrong) == {"d/f.txt", "d/e/big", "d/link", "pipe", "\\xff", "d/e"}
    for path in ("d/f.txt", "d/e/big", "d/link", "pipe"):
        assert "conflict copy when" in wrong[path]
    assert "comes back with its next version" in wrong["\\xff"]
    assert wrong["d/e"] == "has mode 700 instead of 750: set again when its attributes change"


def test_a_missing_directory_is_named_once(world: Any, tree: Path) -> None:
    shutil.rmtree(tree / "d")
    assert list(found(verified(world))) == ["d"]


def test_a_name_that_is_a_file_of_its_own(world: Any, tree: Path) -> None:
    shutil.copy2(tree / "one", tree / "copied")
    (tree / "copied").rename(tree / "one")
    assert list(found(verified(world))) == ["one"]
    assert "one file with its other names" in found(verified(world))["one"]


def test_a_touched_file(world: Any, tree: Path) -> None:
    (tree / "d/f.txt").touch()
    assert found(verified(world)) == {
        "d/f.txt": "has another time of modification: set again when its attributes change"
    }


def test_users_own_files_are_counted_and_are_no_difference(world: Any, tree: Path) -> None:
    (tree / "mine").mkdir()
    (tree / "mine/below").write_bytes(b"x")
    (tree / "d/e/f.conflict-n1-20260101T000000Z.txt").write_bytes(b"x")
    report = verified(world)
    assert report.ok
    assert report.untracked == ("d/e/f.conflict-n1-20260101T000000Z.txt", "mine")


def test_content_that_nobody_changed(world: Any, tree: Path) -> None:
    """As far as inode number and change time tell: what a failing disk looks like."""
    path = tree / "d/f.txt"
    before = path.stat()
    path.write_bytes(b"frOm the hub")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    st = path.stat()
    world.node.close()
    opened = Index.open(world.node.layout.index_db, durable=True, holders=True)
    with opened as index, index.adopt() as adopt:
        adopt.set_backing(world.f, Backing(st.st_ino, st.st_ctime_ns))
    assert "disk may be failing" in found(verified(world))["d/f.txt"]


def test_an_index_that_does_not_add_up(world: Any, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Index, "recomputed_fingerprint", lambda self: 7)
    report = verified(world)
    assert not report.ok
    assert (report.differences, report.recomputed) == ((), 7)


@pytest.fixture
def coloured(world: Any, tree: Path) -> Path:
    """The tree, of which a file, an empty file and a directory have an attribute."""
    hub = world.hub
    for inode in (world.f, world.e, hub.file(ROOT, b"empty", b"")):
        with hub.index.commit() as commit:
            row = replace(hub.index.inode(inode), xattrs=encode_xattrs({b"user.colour": b"red"}))
            commit.put_inode(row, attrs=True, content=False)
    world.node.sync(hub)
    assert verified(world).ok
    return tree


@pytest.mark.parametrize("path", ["d/f.txt", "d/e", "empty"])
@pytest.mark.parametrize("how", ["changed", "added", "removed"])
def test_extended_attributes_that_users_changed(world: Any, coloured: Path, path: str, how: str) -> None:
    if how == "removed":
        os.removexattr(coloured / path, "user.colour")
    else:
        os.setxattr(coloured / path, "user.colour" if how == "changed" else "user.more", b"x")
    wrong = "has other extended attributes: set again when its attributes change"
    assert found(verified(world)) == {path: wrong}
    (coloured / path).chmod(0o700)
    assert found(verified(world))[path].endswith(
        "and other extended attributes: set again when its attributes change"
    )


def test_content_counts_more_than_attributes(world: Any, coloured: Path) -> None:
    os.removexattr(coloured / "d/f.txt", "user.colour")
    (coloured / "d/f.txt").write_bytes(b"FROM THE HUB")
    assert "conflict copy" in found(verified(world))["d/f.txt"]


def test_attributes_of_the_machines_own_are_no_difference(world: Any, coloured: Path) -> None:
    os.setxattr(coloured / "d/f.txt", "trusted.own", b"x")
    assert verified(world).ok


@pytest.mark.parametrize("lists", [False, True], ids=["no list", "an empty list"])
def test_a_filesystem_without_extended_attributes_is_no_difference(
    world: Any, coloured: Path, monkeypatch: pytest.MonkeyPatch, lists: bool
) -> None:
    """Some say so when they are asked for the list, others only when they are asked for one of them."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(xattrs.os, "getxattr", refuse)
    monkeypatch.setattr(xattrs.os, "listxattr", (lambda *_, **__: []) if lists else refuse)
    assert verified(world).ok


def test_verifying_moves_no_access_time(world: Any, tree: Path) -> None:
    paths = [tree / "d/e/big", tree / "d/e"]
    for path in paths:
        os.utime(path, ns=(10**18, path.stat().st_mtime_ns))
    assert verified(world).ok
    assert [path.stat().st_atime_ns for path in paths] == [10**18] * 2


@pytest.mark.allows_log("setuid_not_kept")
@pytest.mark.parametrize("ownership", ["ignore", "preserve"])
def test_modes_are_those_that_the_copy_keeps(world: Any, ownership: Any) -> None:
    world.node.settings = ReplicaSettings("n", ownership)
    world.hub.file(ROOT, b"f", b"x", 0o4755)
    world.node.sync(world.hub)
    assert verified(world).ok
    (world.node.tree / "f").chmod(0o755 if ownership == "preserve" else 0o4755)
    assert set(found(verified(world))) == {"f"}


def test_a_copy_of_which_something_waits(world: Any, tree: Path) -> None:
    world.hub.write(world.big, BIG + b"new")
    cursor = world.node.replica.position().cursor
    world.node.apply(world.hub, world.hub.delta(cursor.seq), superseded=frozenset({world.big}))
    report = verified(world)
    assert report.ok
    assert report.waiting == 1


def test_a_copy_in_the_middle_of_a_snapshot(world: Any, tree: Path) -> None:
    world.hub.rename(world.d, b"e", ROOT, b"moved")
    world.hub.file(ROOT, b"late", b"x")
    for batch in world.hub.chunks(1)[:-1]:
        world.node.apply(world.hub, batch)
        assert found(verified(world)) == {}
    assert verified(world).head is None


def test_a_copy_that_vanished_was_emptied_or_exchanged(world: Any, tree: Path) -> None:
    world.node.close()
    aside = tree.with_name("aside")
    tree.rename(aside)
    with pytest.raises(DriftError, match="has vanished"):
        verified(world)
    tree.mkdir()
    with pytest.raises(DriftError, match="another directory"):
        verified(world)
    tree.rmdir()
    aside.rename(tree)
    assert verified(world).ok
    for path in tree.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DriftError, match="was emptied"):
        verified(world)


def test_a_copy_that_was_moved_is_found_where_it_was_opened_last(world: Any, tree: Path) -> None:
    state, home = world.node.layout.state, world.home / os.fsdecode(b"n\xffw")
    world.node.close()
    world.node.home.rename(home)
    world.node.home = home
    with pytest.raises(DriftError, match="has vanished"):
        verify("s", home / "state")
    world.node.open()
    assert verify("s", home / "state").tree == home / "tree"
    assert not state.exists()


def test_an_index_that_does_not_know_where_the_copy_is(world: Any, tree: Path) -> None:
    world.node.close()
    with sqlite3.connect(world.node.layout.index_db) as connection:
        connection.execute("DELETE FROM meta WHERE key = 'replica.copy'")
    connection.close()
    with pytest.raises(GhostError, match="start its node"):
        verified(world)
    world.node.open()
    assert verified(world).ok


# A node that publishes meanwhile.


class Killed(BaseException):
    pass


def busy_batch(world: Any) -> Any:
    """Everything that can happen to names at once."""
    since = world.hub.index.head()
    hub = world.hub
    hub.write(world.f, b"newer")
    hub.rename(ROOT, b"d", ROOT, b"renamed")
    hub.rename(world.d, b"e", ROOT, b"d")
    hub.rename(ROOT, b"one", world.d, b"one")
    hub.remove(ROOT, b"pipe")
    hub.chmod(world.d, 0o700)
    below = hub.mkdir(world.e, b"below")
    hub.file(below, b"new", BIG[::-1])
    return hub.delta(since)


def steps_of(world: Any, batch: Any) -> int:
    last = 0

    def note(step: int) -> None:
        nonlocal last
        last = step

    world.node.between = note
    world.node.apply(world.hub, batch)
    return last


@pytest.mark.parametrize("which", range(12))
def test_a_copy_that_is_being_changed(
    world: Any, tree: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    """It is looked at while the node stands still between two steps; then the node goes on."""
    batch = busy_batch(world)
    waits = threading.Event()
    reports: list[CopyReport] = []
    threads: list[threading.Thread] = []
    real = module.time.sleep

    class Time:
        monotonic = staticmethod(module.time.monotonic)

        @staticmethod
        def sleep(seconds: float) -> None:
            waits.set()
            real(seconds)

    monkeypatch.setattr(module, "time", Time)

    def look() -> None:
        try:
            reports.append(verified(world))
        finally:
            waits.set()

    def between(step: int) -> None:
        if step == which:
            threads.append(threading.Thread(target=look))
            threads[0].start()
            assert waits.wait(30)

    world.node.between = between
    world.node.apply(world.hub, batch)
    for thread in threads:
        thread.join()
    assert threads, "the plan has fewer steps"
    assert found(reports[0]) == {}
    assert reports[0].untracked == ()
    assert verified(world).ok
    world.assert_equal()


def test_a_change_between_the_first_look_and_the_second(
    world: Any, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "d/f.txt").write_bytes(b"mine")
    real: Callable[..., Any] = module._Verification._judge
    changes = iter([b"1", b"2"])

    def judged(self: Any, comparison: Any, place: Any) -> Any:
        for content in changes:
            world.hub.write(world.big, content)
            world.node.sync(world.hub)
        return real(self, comparison, place)

    monkeypatch.setattr(module._Verification, "_judge", judged)
    assert set(found(verified(world))) == {"d/f.txt"}


def test_a_file_that_the_node_changes_at_each_look(
    world: Any, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.Comparison.judge
    looks = 0

    def judge(self: Any, place: Any) -> str | None:
        nonlocal looks
        looks += 1
        wrong = real(self, place)
        world.hub.write(world.f, b"%d" % looks)
        world.node.sync(world.hub)
        return wrong or "differs from what it was a moment ago"

    (tree / "d/f.txt").touch()
    monkeypatch.setattr(module.Comparison, "judge", judge)
    report = verified(world)
    assert (report.ok, report.changed_meanwhile, looks) == (True, 1, 5)


def test_a_directory_that_is_moved_away_before_it_was_entered(
    world: Any, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is gone from where it was; it is found, and what is in it read, where it is now."""
    (tree / "d/e/big").write_bytes(b"mine")
    real = module.listed
    first = True

    def listed(fd: int) -> Any:
        nonlocal first
        names = real(fd)
        if first:
            first = False
            world.hub.rename(ROOT, b"d", ROOT, b"elsewhere")
            world.node.sync(world.hub)
        return names

    monkeypatch.setattr(module, "listed", listed)
    assert set(found(verified(world))) == {"elsewhere/e/big"}


def test_a_plan_that_nobody_carries_on(world: Any, tree: Path) -> None:
    batch = busy_batch(world)

    def stop(step: int) -> None:
        if step == 3:
            raise Killed

    world.node.between = stop
    with pytest.raises(Killed):
        world.node.apply(world.hub, batch)
    world.node.between = lambda _: None
    world.node.close()
    assert "interrupted" in found(verified(world))["."]
    world.node.open()
    assert verified(world).ok


def test_a_node_that_never_comes_to_rest(world: Any, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "d/f.txt").unlink()
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    (world.node.layout.staging / "plan.journal").write_bytes(b"x")
    try:
        with pytest.raises(GhostError, match="publishing"):
            verified(world)
    finally:
        (world.node.layout.staging / "plan.journal").unlink()
