"""A mirror whose owner is not root: modes that forbid its owner something lose nothing and stop nothing."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from ghostfs.content import BLOCK_SIZE
from ghostfs.mirror.live import rights
from ghostfs.mirror.live.hashing import HashPool
from ghostfs.mirror.live.verify import verify
from ghostfs.mirror.syscalls import leave_access_time
from ghostfs.mirror.xattrs import decode_xattrs
from ghostfs.model import NEVER, Kind

if TYPE_CHECKING:
    from conftest import AsNobody


def change_in_a_directory_that_is_closed_then(live: Any) -> None:
    live.mkdir("dir")
    live.mkdir("dir/sub")
    live.write("dir/sub/deep", b"deep")
    live.write("dir/file", b"old content")
    live.drain()
    live.write("dir/file", b"new content")
    live.write("dir/new", b"new")
    live.mirror.setattr(live.id("dir"), mode=0)
    live.kill()


def test_what_may_not_be_looked_at_after_a_kill_is_not_taken_for_deleted(as_nobody: AsNobody) -> None:
    def history(live: Any) -> None:
        change_in_a_directory_that_is_closed_then(live)
        live.open()
        live.mirror.setattr(live.id("dir"), mode=0o755)
        assert {b"/dir/file", b"/dir/sub/deep"} <= live.indexed().keys()
        assert live.names("dir")[:1] == [b"file"]

    as_nobody(history)


def test_nor_what_is_deep_in_a_directory_that_is_closed(as_nobody: AsNobody) -> None:
    def history(live: Any) -> None:
        live.mkdir("shut")
        live.mkdir("shut/sub")
        live.write("shut/sub/deep", b"old")
        live.drain()
        live.write("shut/sub/deep", b"newer")
        live.mirror.setattr(live.id("shut/sub"), mode=0o300)
        live.mirror.setattr(live.id("shut"), mode=0)
        live.kill()
        live.open()
        assert live.indexed()[b"/shut/sub/deep"][5] == 5
        assert [live.indexed()[path][1] for path in (b"/shut", b"/shut/sub")] == [0, 0o300]
        assert not live.layout.lent_modes.exists()

    as_nobody(history)


def test_a_name_that_is_there_no_more_is_gone_also_in_a_closed_directory(as_nobody: AsNobody) -> None:
    def history(live: Any) -> None:
        live.mkdir("shut")
        live.write("shut/a", b"a")
        live.write("b", b"b")
        live.drain()
        live.unlink("b")
        live.rename("shut/a", "c")
        live.mirror.setattr(live.id("shut"), mode=0)
        live.kill()
        live.open()
        assert live.names() == [b"c", b"shut"]
        live.mirror.setattr(live.id("shut"), mode=0o755)
        assert live.names("shut") == []
        live.settled()

    as_nobody(history)


@pytest.mark.parametrize("rescan", [False, True])
@pytest.mark.parametrize("mode", [0, 0o200, 0o2070])
def test_a_file_that_may_not_be_read_is_read_at_a_start(
    as_nobody: AsNobody, mode: int, rescan: bool
) -> None:
    def history(live: Any) -> None:
        live.write("old", b"old")
        live.drain()
        live.write("old", b"older now")
        live.write("new", b"new")
        for name in ("old", "new"):
            live.mirror.setattr(live.id(name), mode=mode)
        live.kill()
        recovery = live.open(rescan=rescan).recovery
        assert recovery.files_read == 2
        found = live.indexed()
        assert [found[name][1] for name in (b"/old", b"/new")] == [mode, mode]
        assert [found[name][5] for name in (b"/old", b"/new")] == [9, 3]
        live.close()
        assert live.open(rescan=True).recovery.files_read == 0, "the change time is the one after all that"
        for name in ("old", "new"):
            live.mirror.setattr(live.id(name), mode=0o600)
        live.settled()

    as_nobody(history)


def test_a_mode_that_a_killed_process_had_changed_is_put_back(as_nobody: AsNobody) -> None:
    def history(live: Any) -> None:
        live.mkdir("shut")
        live.write("shut/file", b"new")
        live.mirror.setattr(live.id("shut/file"), mode=0o200)
        live.mirror.setattr(live.id("shut"), mode=0)
        live.kill()
        reading = os.fork()
        if reading == 0:
            HashPool.map = lambda *_: next(iter(_[2])) and os._exit(0)  # type: ignore[method-assign]
            live.open()
        os.waitpid(reading, 0)
        assert (live.layout.tree / "shut").stat().st_mode & 0o777 == 0o500, "killed at the worst moment"
        assert live.layout.lent_modes.exists()
        live.open()
        found = live.indexed()
        assert (found[b"/shut"][1], found[b"/shut/file"][1]) == (0, 0o200)
        assert not live.layout.lent_modes.exists()
        assert (live.layout.tree / "shut").stat().st_mode & 0o777 == 0

    as_nobody(history)


@pytest.mark.parametrize(
    "line", [b"garbage", b"1 0 500 \n", b"%d 0 500 6e6f6e65\n", b"1 0 500 2e2e\n", b"x y z w\n", b"\xff\n"]
)
@pytest.mark.allows_log("mode_not_put_back")
def test_a_note_that_fits_nothing_changes_nothing(live: Any, line: bytes) -> None:
    live.write("file", b"content")
    live.drain()
    live.kill()
    live.layout.lent_modes.write_bytes(line)
    live.open()
    assert not live.layout.lent_modes.exists()
    live.check()


@pytest.mark.parametrize("rescan", [False, True])
def test_what_is_not_ours_and_may_not_be_read_stops_no_start(
    as_nobody: AsNobody, live_class: Any, rescan: bool
) -> None:
    """Its owner has made it somebody else's behind the mount, and then everything goes on but that."""

    def before(live: Any) -> None:
        live.mkdir("dir")
        live.write("dir/inside", b"inside")
        live.write("old", b"old")
        live.drain()
        live.write("dir/inside", b"changed")
        live.write("old", b"changed")
        live.write("new", b"new")
        live.write("other", b"other")
        live.kill()

    def after(live: Any) -> None:
        live.open(rescan=rescan)
        found = live.indexed()
        assert found.keys() == {b"", b"/dir", b"/dir/inside", b"/old", b"/other"}
        assert found[b"/old"][5] == 3
        assert found[b"/dir/inside"][5] == 6
        live.write("dir2", b"")
        live.drain()
        live.close()

    as_nobody(before)
    for name in ("dir", "old", "new"):
        os.chown(as_nobody.tree / name, 0, 0)
        (as_nobody.tree / name).chmod(0o700)
    as_nobody(after)


def test_verify_says_what_it_may_not_read_and_changes_no_mode(as_nobody: AsNobody) -> None:
    def history(live: Any) -> None:
        live.mkdir("shut")
        live.mkdir("shut/sub")
        live.write("shut/sub/file", b"file")
        live.write("file", b"file")
        live.drain()
        live.mirror.setattr(live.id("file"), mode=0)
        live.mirror.setattr(live.id("shut/sub"), mode=0o100)
        live.drain()
        live.close()
        before = os.stat(live.layout.tree / "shut/sub").st_ctime_ns
        report = verify(live.layout, workers=1)
        assert [problem.path for problem in report.problems] == ["file", "shut/sub"]
        assert all("may not be read" in problem.what for problem in report.problems)
        assert os.stat(live.layout.tree / "shut/sub").st_ctime_ns == before

    as_nobody(history)


# --- while it is mounted ------------------------------------------------------------------------------


def test_a_file_that_only_may_be_written_settles(as_nobody: AsNobody) -> None:
    def history(live: Any) -> None:
        inode = live.write("file", b"a" * (BLOCK_SIZE + 50))
        live.drain()
        live.mirror.setattr(inode, mode=0o200)
        live.drain()
        handle = live.mirror.open_file(inode, os.O_WRONLY)
        live.mirror.write(handle, 100, b"in the middle")
        live.drain()
        live.mirror.write(handle, BLOCK_SIZE + 3, b"and at the end")
        live.mirror.release(handle)
        live.drain()
        assert live.indexed()[b"/file"][1] == 0o200
        assert not live.layout.lent_modes.exists()
        live.close()
        assert live.open(rescan=True).recovery.files_read == 0
        live.mirror.setattr(inode, mode=0o600)
        live.settled()

    as_nobody(history)


def test_a_directory_that_is_closed_before_what_is_in_it_is_committed(as_nobody: AsNobody) -> None:
    def history(live: Any) -> None:
        live.mkdir("a")
        live.mkdir("a/b")
        live.drain()
        live.write("a/b/file", b"content")
        live.mirror.symlink(live.id("a/b"), b"link", b"target", 0, 0)
        live.mkdir("a/b/c")
        live.mirror.setxattr(live.id("a/b/file"), b"user.x", b"y")
        live.mirror.setattr(live.id("a/b/file"), mode=0)
        live.mirror.setattr(live.id("a/b"), mode=0)
        live.mirror.setattr(live.id("a"), mode=0o200)
        live.drain()
        assert live.owned.capture.stats.failures == 0
        found = live.indexed()
        assert [found[path][1] for path in (b"/a", b"/a/b", b"/a/b/file")] == [0o200, 0, 0]
        row = next(row for row in live.owned._lookups.delta_since(NEVER).inodes if row.kind is Kind.FILE)
        assert row.xattrs
        head = live.owned._lookups.head()
        live.close()
        live.open(rescan=True)
        assert live.owned._lookups.head() == head, "nothing that followers could see"
        live.mirror.setattr(live.id("a"), mode=0o700)
        live.mirror.setattr(live.id("a/b"), mode=0o700)
        live.mirror.setattr(live.id("a/b/file"), mode=0o700)
        live.settled()

    as_nobody(history)


def test_attributes_that_may_not_be_read_stay_as_the_index_has_them(as_nobody: AsNobody) -> None:
    """Whoever may not read a file may not read what else it holds; it can be renamed all the same."""

    def before(live: Any) -> None:
        live.mirror.setxattr(live.write("theirs", b"content"), b"user.colour", b"blue")
        live.drain()

    def after(live: Any) -> None:
        inode = live.id("theirs")
        live.rename("theirs", "moved")
        with capture_logs() as said:
            live.drain()
        assert said == []
        assert live.indexed()[b"/moved"][1:3] == (0o600, 0)
        assert decode_xattrs(live.owned._lookups.inode(inode).xattrs) == {b"user.colour": b"blue"}

    as_nobody(before)
    os.chown(as_nobody.tree / "theirs", 0, 0)
    (as_nobody.tree / "theirs").chmod(0o600)
    as_nobody(after)


def test_another_users_file_is_read_back_though_its_access_time_cannot_stay(as_nobody: AsNobody) -> None:
    def before(live: Any) -> None:
        live.write("theirs", bytes(2 * BLOCK_SIZE))
        live.drain()

    def after(live: Any) -> None:
        inode = live.id("theirs")
        for closed in (False, True):
            handle = live.mirror.open_file(inode, os.O_RDWR)
            leave_access_time(handle.fd)
            assert not fcntl.fcntl(handle.fd, fcntl.F_GETFL) & os.O_NOATIME
            live.mirror.write(handle, 100, b"closed" if closed else b"open")
            if closed:
                live.mirror.release(handle)
            live.drain()
            if not closed:
                live.mirror.release(handle)
        assert live.owned.capture.stats.bytes_reread > 0
        live.settled()

    as_nobody(before)
    os.chown(as_nobody.tree / "theirs", 0, 0)
    (as_nobody.tree / "theirs").chmod(0o666)
    as_nobody(after)


def not_ours(now: os.stat_result) -> bool:
    return now is None


def nothing_is_ours() -> None:
    rights._may_change = not_ours


@pytest.mark.parametrize("end", ["close", "kill"])
def test_what_may_not_be_read_back_stops_nothing_else_and_is_read_when_it_may(
    as_nobody: AsNobody, end: str
) -> None:
    def history(live: Any) -> None:
        inode = live.write("file", b"a" * 500)
        live.drain()
        live.mirror.setattr(inode, mode=0o200)
        live.drain()
        handle = live.mirror.open_file(inode, os.O_WRONLY)
        live.mirror.write(handle, 100, b"in the middle")
        live.mirror.release(handle)
        allowed = rights._may_change
        nothing_is_ours()
        live.write("other", b"other")
        with capture_logs() as said:
            live.drain()
            live.mirror.setattr(live.id("other"), mode=0o600)
            live.drain()
        assert [event["path"] for event in said if event["event"] == "unreadable"] == ["file"]
        before = live.indexed()
        assert before[b"/other"][1] == 0o600
        rights._may_change = allowed
        getattr(live, end)()
        with capture_logs() as said:
            live.open()
        assert live.indexed()[b"/file"] != before[b"/file"], "what dirty.log says was looked at"
        live.mirror.setattr(inode, mode=0o600)
        live.settled()

    as_nobody(history)


def test_what_could_not_be_read_is_read_when_its_mode_says_so(as_nobody: AsNobody) -> None:
    def history(live: Any) -> None:
        inode = live.write("file", b"a" * 500)
        live.drain()
        live.mirror.setattr(inode, mode=0o200)
        handle = live.mirror.open_file(inode, os.O_WRONLY)
        live.mirror.write(handle, 100, b"in the middle")
        live.mirror.release(handle)
        nothing_is_ours()
        live.drain()
        descriptors = len(os.listdir("/proc/self/fd"))
        live.mirror.forget(inode)
        live.kill()
        live.open()
        live.write("other", b"other")
        live.drain()
        live.mirror.setattr(live.id("file"), mode=0o600)
        live.settled()
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 1

    as_nobody(history)
