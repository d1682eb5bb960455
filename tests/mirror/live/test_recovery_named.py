"""After a kill: what dirty.log names is looked at, nothing else is read, and everything is found."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ghostfs.index import DirtyLog, Index
from ghostfs.mirror.live.cells import backing_of
from ghostfs.mirror.live.session import Ending, Recovery
from ghostfs.mirror.syscalls import RENAME_EXCHANGE
from ghostfs.model import ROOT

UID, GID = os.geteuid(), os.getegid()


def reopened(live: Any) -> Recovery:
    """Kills, opens, and checks that the index is what the tree is."""
    live.kill()
    recovery: Recovery = live.open().recovery
    assert recovery.ending is Ending.KILLED
    live.check()
    return recovery


def standing(live: Any) -> None:
    """A tree that the index knows."""
    for name in ("a", "b", "c"):
        live.mkdir(name)
        live.write(f"{name}/file", name.encode())
        live.mkdir(f"{name}/sub")
        live.write(f"{name}/sub/deep", b"deep in " + name.encode())
    live.drain()


def test_only_what_changed_is_read(live: Any) -> None:
    for number in range(50):
        live.write(f"file{number}", b"x" * 100)
    live.drain()
    live.write("file7", b"changed")
    live.mirror.setattr(live.id("file8"), mode=0o600)
    live.write("new", b"new")
    recovery = reopened(live)
    assert recovery.files_read == 3
    assert recovery.bytes_read == 203


def test_a_clean_start_reads_nothing(live: Any) -> None:
    standing(live)
    live.close()
    recovery = live.open().recovery
    assert (recovery.ending, recovery.looked_at, recovery.files_read) == (Ending.CLEAN, 0, 0)
    live.check()


def test_what_was_announced_and_failed_is_forgotten_by_a_clean_stop(live: Any) -> None:
    standing(live)
    with pytest.raises(FileExistsError):
        live.mkdir("a")
    live.close()
    assert live.open().recovery.ending is Ending.CLEAN


def test_a_chain_of_moves_of_one_directory_keeps_what_is_in_it(live: Any) -> None:
    standing(live)
    kept = live.id("a/sub/deep")
    live.rename("a", "x")
    live.rename("x", "y")
    live.rename("y", "b/z")
    assert reopened(live).files_read == 0
    assert live.id("b/z/sub/deep") == kept


def test_directories_moved_around_in_a_circle(live: Any) -> None:
    standing(live)
    ids = {name: live.id(f"{name}/sub/deep") for name in "abc"}
    live.rename("a", "t")
    live.rename("b", "a")
    live.rename("c", "b")
    live.rename("t", "c")
    live.write("a/sub/deep", b"changed in what was b")
    assert reopened(live).files_read == 1
    assert [live.id(f"{name}/sub/deep") for name in "cab"] == [ids[name] for name in "abc"]


def test_directories_moved_into_each_other(live: Any) -> None:
    standing(live)
    live.rename("a", "b/a")
    live.rename("b", "c/b")
    live.rename("c", "top")
    live.write("top/b/a/sub/deep", b"changed")
    live.rename("top/b/a/sub", "sub")
    live.unlink("sub/deep")
    live.write("top/b/a/new", b"new")
    assert reopened(live).files_read == 1


def test_known_directories_in_new_ones_in_known_ones(live: Any) -> None:
    standing(live)
    live.mkdir("b/new")
    live.mkdir("b/new/newer")
    live.rename("a", "b/new/newer/a")
    live.rename("b/new", "c/new")
    live.write("c/new/newer/a/sub/deep", b"changed")
    live.rename("c/new/newer/a/sub", "c/new/sub")
    live.unlink("c/new/newer/a/file")
    reopened(live)
    assert live.names("c/new/newer/a") == []
    assert live.names("c/new/sub") == [b"deep"]


@pytest.mark.parametrize("done", [True, False])
def test_new_directories_exchanged_or_about_to_be(live: Any, done: bool) -> None:
    a, b = live.mkdir("a"), live.mkdir("b")
    live.write("a/in-a", b"a")
    live.write("b/in-b", b"b")
    live.mkdir("b/below")
    live.write("b/below/file", b"below")
    if done:
        live.rename("a", "b", RENAME_EXCHANGE)
    else:
        log = live.owned._dirty_log
        log.append_dirent(ROOT, b"b", a)
        log.append_dirent(ROOT, b"a", b)
    reopened(live)
    assert live.names("a" if done else "b") == [b"below", b"in-b"]


def test_a_directory_made_again_in_the_same_place(live: Any) -> None:
    """The filesystem below may give the new one the inode number of the old one."""
    standing(live)
    for name in ("a/sub/deep", "a/file"):
        live.unlink(name)
    live.rmdir("a/sub")
    live.rmdir("a")
    live.mkdir("a")
    live.write("a/new", b"new")
    live.mkdir("a/sub")
    live.write("a/sub/newer", b"newer")
    reopened(live)
    assert live.names("a") == [b"new", b"sub"]


def test_backing_inode_numbers_used_again_elsewhere(live: Any) -> None:
    standing(live)
    for round_ in range(10):
        live.unlink("a/file")
        live.write(f"b/new{round_}", b"%d" % round_)
        live.mirror.symlink(ROOT, b"s%d" % round_, b"t", UID, GID)
        live.write("a/file", b"again %d" % round_)
        live.unlink(f"s{round_}")
        live.mkdir(f"s{round_}")
        live.write(f"s{round_}/file", b"f")
    reopened(live)


def test_a_symlink_made_again_points_where_it_points(live: Any) -> None:
    live.mirror.symlink(ROOT, b"current", b"one", UID, GID)
    live.drain()
    live.unlink("current")
    live.mirror.symlink(ROOT, b"current", b"two", UID, GID)
    reopened(live)
    live.mirror.symlink(ROOT, b"next", b"six", UID, GID)
    live.rename("next", "current")
    reopened(live)


def test_a_file_that_was_being_written_is_found_as_it_is(live: Any) -> None:
    live.write("known", b"x" * 300_000)
    live.drain()
    known = live.mirror.open_file(live.id("known"), os.O_RDWR)
    live.mirror.write(known, 7, b"overwritten")
    new = live.create("new", b"not closed")
    live.step()
    live.mirror.write(new, 10, b" and written on")
    assert reopened(live).files_read == 2


def test_hard_links_of_known_and_of_new_files(live: Any) -> None:
    standing(live)
    known = live.id("a/file")
    live.mirror.link(known, live.id("b"), b"link")
    live.unlink("a/file")
    new = live.write("new", b"new")
    live.mirror.link(new, live.id("c"), b"one")
    live.mirror.link(new, live.id("c"), b"two")
    live.rename("c/one", "c/three")
    live.unlink("new")
    reopened(live)
    assert live.id("b/link") == known
    assert live.id("c/two") == live.id("c/three")
    live.unlink("c/two")
    live.settled()


def test_replaced_while_it_has_another_name(live: Any) -> None:
    standing(live)
    live.mirror.link(live.id("a/file"), ROOT, b"other")
    live.drain()
    live.write("tmp", b"replacement")
    live.rename("tmp", "a/file")
    reopened(live)
    assert live.id("other") != live.id("a/file")


def test_a_known_directory_where_a_new_file_was_for_a_while(live: Any) -> None:
    standing(live)
    kept = live.id("a")
    live.write("place", b"for a while")
    live.unlink("place")
    live.rename("a", "place")
    live.write("place/new", b"new")
    live.unlink("place/file")
    reopened(live)
    assert live.id("place") == kept


def test_announced_and_never_done(live: Any) -> None:
    standing(live)
    log = live.owned._dirty_log
    a, c = live.id("a"), live.id("c")
    log.append_dirent(ROOT, b"never", 12345)
    log.append_dirent(c, b"a", a)
    log.append_dirent(ROOT, b"a", None)
    log.append_dirent(a, b"file", None)
    log.append_inode(live.id("b/file"))
    log.append_inode(99999)
    assert reopened(live).files_read == 1, "the file that was about to be changed, and no other"
    assert live.id("a") == a


def test_a_whole_tree_removed(live: Any) -> None:
    standing(live)
    for name in ("a/sub/deep", "a/file"):
        live.unlink(name)
    live.rename("a/sub", "a/gone")
    live.rmdir("a/gone")
    live.rename("a", "x")
    live.rmdir("x")
    reopened(live)
    assert live.names() == [b"b", b"c"]


def test_fifos_sockets_and_attributes(live: Any) -> None:
    live.mirror.mknod(ROOT, b"fifo", 0o10600, 0, UID, GID)
    live.mirror.mknod(ROOT, b"socket", 0o140600, 0, UID, GID)
    live.mirror.mknod(ROOT, b"device", 0o20600, os.makedev(1, 3), UID, GID)
    live.mirror.setattr(ROOT, mode=0o711, mtime_ns=1)
    reopened(live)
    live.mirror.setattr(live.id("fifo"), mode=0o640)
    reopened(live)


def test_odd_names_and_a_deep_path(live: Any) -> None:
    directory = ROOT
    for _ in range(2000):
        directory = live.mirror.mkdir(directory, b"d" * 20, 0o755, UID, GID)[0]
    for name in (b"\xff\xfe", b"n" * 255, b"new\nline"):
        live.mirror.create(directory, name, 0o644, os.O_RDWR, UID, GID)
        live.mirror.create(ROOT, name, 0o644, os.O_RDWR, UID, GID)
    live.kill()
    live.open()
    assert live.mirror.getattr(live.id(b"/".join([b"d" * 20] * 2000)))
    assert [name for name, _ in live.mirror.readdir(live.id(b"/".join([b"d" * 20] * 2000)))] == [
        b"new\nline",
        b"n" * 255,
        b"\xff\xfe",
    ]
    # The recovery of the deepest alone.
    live.write(b"/".join([b"d" * 20] * 2000) + b"/\xff\xfe", b"content")
    live.kill()
    assert live.open().recovery.files_read == 1
    live.close()
    # Too deep for shutil.rmtree, with which old temporary folders are cleared away.
    subprocess.run(["rm", "-rf", live.layout.tree], check=True)


def test_killed_before_the_log_was_emptied(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    standing(live)
    monkeypatch.setattr(DirtyLog, "reset", lambda *_: None)
    live.rename("a", "b/a")
    live.write("b/a/file", b"changed")
    live.mkdir("new")
    live.write("new/file", b"new")
    live.drain()
    assert reopened(live).changed == 0


def test_recovery_killed_at_any_moment_begins_again(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    standing(live)
    live.rename("a", "b/a")
    live.write("b/a/file", b"changed")
    live.mkdir("new")
    live.write("new/file", b"new")
    live.kill()

    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    for target in (
        "ghostfs.mirror.live.session.apply",
        "ghostfs.mirror.live.session._report",
        "ghostfs.mirror.live.session._mark",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, kill)
            with pytest.raises(Killed):
                live.open()
    live.open()
    live.check()
    live.close()


def test_after_a_kill_the_same_ids_are_never_given_twice(live: Any) -> None:
    seen = set()
    for round_ in range(3):
        seen.add(live.mkdir(f"d{round_}"))
        seen.add(live.write(f"d{round_}/f", b"f"))
        live.kill()
    assert len(seen) == 6
    live.open()
    live.check()


@pytest.mark.allows_log("dirty_log_damaged")
@pytest.mark.parametrize("damage", ["missing", "garbage", "torn"])
def test_a_log_that_tells_nothing_is_not_believed(live: Any, damage: str) -> None:
    standing(live)
    live.write("a/file", b"changed")
    live.write("new", b"new")
    live.kill()
    log = live.layout.dirty_log
    if damage == "missing":
        log.unlink()
    elif damage == "garbage":
        log.write_bytes(b"not a log at all")
    else:
        log.write_bytes(log.read_bytes() + b"I\0\10abc")
    live.open()
    live.check()


def many_moves(live: Any) -> None:
    """Moves between three levels, so that every directory has been somewhere else's parent."""
    live.rename("a/sub", "b/x")
    live.rename("b", "a/b")
    live.rename("a/b/x", "c/x")
    live.rename("a", "c/x/a")
    live.rename("c/x/a/b", "b")
    live.rename("c", "b/c")


def moves_and_commits(live: Any) -> None:
    live.rename("a", "t")
    live.step()
    live.rename("t", "b/t")
    live.mkdir("a")
    live.rename("b/t/sub", "a/sub")
    live.write("a/sub/deep", b"changed")


@pytest.mark.parametrize("history", [many_moves, moves_and_commits])
def test_histories(live: Any, history: Callable[[Any], None]) -> None:
    standing(live)
    history(live)
    reopened(live)


def test_a_file_that_the_log_names_is_read_however_unchanged_it_looks(live: Any) -> None:
    """Before Linux 6.13 two writes within one tick of the clock leave the same times."""
    live.write("other", b"A" * 100)
    handle = live.create("db", b"A" * 100)
    live.drain()
    row = live.owned._lookups.inode_light(live.id("db"))
    live.mirror.write(handle, 0, b"B" * 100)
    live.kill()
    path = live.layout.tree / "db"
    os.utime(path, ns=(row.mtime_ns, row.mtime_ns))
    with Index.open(live.layout.index_db) as index, index.commit() as commit:
        old = index.inode(row.id)
        assert old is not None
        commit.put_inode(replace(old, backing=backing_of(path.stat())), attrs=False, content=False)
    assert live.open().recovery.files_read == 1
    live.check()
