"""Operations that come in the middle of a commit, at each of its moments, and commits that fail."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ghostfs.errors import IndexDamaged
from ghostfs.index import DirtyLog
from ghostfs.mirror.syscalls import RENAME_EXCHANGE
from ghostfs.model import NEVER, ROOT

MOMENTS = ["hash", "seal", "commit", "committed"]
UID, GID = os.geteuid(), os.getegid()
BLOCK = 262144


def prepared(live: Any) -> None:
    """Things that the index has (`old…`), and, not committed, new ones (`new…`)."""
    live.mkdir("olddir")
    live.write("olddir/file", b"in a directory")
    live.write("old", b"x" * (BLOCK + 5))
    live.write("old2", b"second")
    live.mirror.link(live.id("old2"), ROOT, b"old2-link")
    live.mirror.symlink(ROOT, b"oldsymlink", b"target", UID, GID)
    live.drain()
    live.write("old", b"changed", offset=3)
    live.write("new", b"n" * (BLOCK + 9))
    live.write("new", b"patched", offset=100)
    live.mkdir("newdir")
    live.write("newdir/file", b"in a new directory")
    live.mirror.symlink(ROOT, b"newsymlink", b"target", UID, GID)


def write_again(live: Any) -> None:
    live.write("old", b"again", offset=BLOCK)
    live.write("new", b"again", offset=7)


def truncate(live: Any) -> None:
    live.mirror.setattr(live.id("old"), size=10)
    live.mirror.setattr(live.id("new"), size=BLOCK * 2)


def exchange_files(live: Any) -> None:
    live.rename("old", "new", RENAME_EXCHANGE)


def exchange_directory_with_file(live: Any) -> None:
    live.rename("olddir", "new", RENAME_EXCHANGE)


def replace_directories_name(live: Any) -> None:
    live.rename("olddir", "elsewhere")
    live.rename("new", "olddir")


def move_new_directory_away(live: Any) -> None:
    live.rename("newdir", "olddir/moved")
    live.rename("olddir", "newdir")


def in_and_out_of_a_directory_that_goes(live: Any) -> None:
    live.unlink("newdir/file")
    live.rename("old", "newdir/guest")
    live.rename("newdir/guest", "back")
    live.rmdir("newdir")


def remove_all(live: Any) -> None:
    for name in ("old", "old2", "new", "newsymlink", "oldsymlink", "newdir/file", "olddir/file"):
        live.unlink(name)
    live.rmdir("newdir")
    live.rmdir("olddir")


def make_again(live: Any) -> None:
    remove_all(live)
    live.write("old", b"another")
    live.mkdir("new")
    live.write("new/newdir", b"deeper")
    live.write("newdir", b"a file now")


def link_and_unlink(live: Any) -> None:
    live.mirror.link(live.id("new"), live.id("newdir"), b"link")
    live.unlink("new")
    live.unlink("old2")
    live.mirror.link(live.id("old"), live.id("newdir"), b"old")
    live.unlink("old")


def replace_by_rename(live: Any) -> None:
    live.rename("new", "old")
    live.rename("newdir/file", "old2")


def forget(live: Any) -> None:
    for name in ("newdir/file", "newdir", "new", "old", "olddir", "newsymlink"):
        live.mirror.forget(live.id(name))
    live.rename("newdir", "renamed")
    live.write("renamed/file", b"more")
    live.rename("newsymlink", "olddir/s")


def attributes(live: Any) -> None:
    for name in ("old", "new", "newdir", "olddir"):
        live.mirror.setattr(live.id(name), mode=0o700, mtime_ns=5)


ACTIONS = [
    write_again,
    truncate,
    exchange_files,
    exchange_directory_with_file,
    replace_directories_name,
    move_new_directory_away,
    in_and_out_of_a_directory_that_goes,
    remove_all,
    make_again,
    link_and_unlink,
    replace_by_rename,
    forget,
    attributes,
]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
@pytest.mark.parametrize("moment", MOMENTS)
def test_anything_at_any_moment(
    live: Any, moment: str, action: Callable[[Any], None], invariants: Callable[[Any], None]
) -> None:
    prepared(live)
    live.at(moment, lambda: action(live))
    live.step()
    invariants(live.owned._lookups.delta_since(NEVER))
    live.settled()


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
def test_anything_before_a_commit_that_fails(live: Any, action: Callable[[Any], None]) -> None:
    prepared(live)
    fail_once(live, OSError(errno.ENOSPC, "No space left on device"), lambda: action(live))
    live.step()
    assert live.owned.capture.trouble
    assert live.owned.capture.stats.failures == 1
    live.settled()
    assert live.owned.capture.trouble is None


def fail_once(live: Any, error: Exception, action: Callable[[], None] = lambda: None) -> None:
    capture = live.owned.capture

    def fail(_gathered: object) -> None:
        del capture._commit
        action()
        raise error

    capture._commit = fail


pytestmark = pytest.mark.allows_log("commit_failed")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), IndexDamaged("bad page")])
def test_no_failure_of_whatever_kind_loses_a_change_or_a_drain(live: Any, error: Exception) -> None:
    prepared(live)
    done = threading.Event()
    live.owned.capture._drain_wanted.append(done)
    fail_once(live, error)
    with contextlib.suppress(RuntimeError):
        live.step()
    assert not done.is_set()
    live.step()
    assert done.is_set()
    live.settled()


def test_a_file_written_to_after_a_failed_commit_is_committed_whole(live: Any) -> None:
    handle = live.create("new", b"first")
    live.owned.working.settle(handle.record)
    fail_once(live, OSError(errno.ENOSPC, ""), lambda: live.mirror.write(handle, 5, b" second"))
    live.step()
    live.step()
    live.settled()
    live.mirror.setattr(handle.inode, mode=0o600)
    live.settled()
    live.mirror.release(handle)


def test_a_file_open_for_writing_is_held_back_and_then_born(live: Any) -> None:
    handle = live.create("log", b"line\n")
    live.step()
    assert b"/log" not in live.indexed()
    assert live.names() == [b"log"]
    live.mirror.release(handle)
    live.step()
    assert live.indexed()[b"/log"][5] == 5
    live.settled()


@pytest.mark.parametrize("flags", [0, RENAME_EXCHANGE])
def test_a_held_file_where_a_directory_was_never_leaves_the_directory_in_two_places(
    live: Any, flags: int, invariants: Callable[[Any], None]
) -> None:
    live.mkdir("place")
    live.write("place/file", b"stays")
    live.drain()
    handle = live.create("growing", b"begun")
    if flags:
        live.rename("growing", "place", RENAME_EXCHANGE)
    else:
        live.rename("place", "elsewhere")
        live.rename("growing", "place")
    # However it was hurried along, a writer spoils the settle.
    live.at("seal", lambda: live.mirror.write(handle, 5, b" on"))
    live.step()
    invariants(live.owned._lookups.delta_since(NEVER))
    live.step()
    invariants(live.owned._lookups.delta_since(NEVER))
    live.settled()
    live.mirror.release(handle)
    live.settled()


def test_a_held_file_over_another_leaves_the_old_one_until_it_is_there(live: Any) -> None:
    live.write("config", b"old")
    live.drain()
    handle = live.create("config.tmp", b"newer")
    live.rename("config.tmp", "config")
    live.step()
    assert live.indexed()[b"/config"][5] == 3
    live.mirror.release(handle)
    live.step()
    assert live.indexed()[b"/config"][5] == 5
    live.settled()


def test_what_went_through_a_directory_that_is_gone_keeps_its_content(live: Any) -> None:
    live.write("guest", b"content")
    live.drain()
    live.mkdir("inn")
    live.rename("guest", "inn/guest")

    def leave() -> None:
        live.rename("inn/guest", "guest")
        live.rmdir("inn")

    live.at("hash", leave)
    live.step()
    live.mirror.setattr(live.id("guest"), mode=0o600)
    live.settled()
    assert live.indexed()[b"/guest"][5] == 7


def test_a_made_file_that_is_written_while_it_is_committed_is_not_born_empty(live: Any) -> None:
    live.mirror.mknod(ROOT, b"node", 0o100644, 0, UID, GID)
    live.at("hash", lambda: live.write("node", b"content"))
    live.step()
    assert live.indexed().get(b"/node", (0,) * 7)[5] in (0, 7)
    live.settled()


def test_a_file_that_is_cut_while_it_settles_settles_with_the_next_commit(live: Any) -> None:
    handle = live.create("hot", b"x" * 20 * BLOCK)
    live.owned.working.settle(handle.record)
    live.at("hash", lambda: (live.mirror.setattr(handle.inode, size=0), live.mirror.write(handle, 0, b"y")))
    live.step()
    live.step()
    assert live.indexed()[b"/hot"][5] == 1
    live.mirror.release(handle)
    live.settled()


def test_unlinked_while_it_settles(live: Any) -> None:
    live.write("warm", b"opens what is opened once")
    live.unlink("warm")
    live.settled()
    before = open_descriptors()
    live.write("file", b"x" * 1000)
    live.at("hash", lambda: live.mirror.forget(live.unlink("file")))
    live.step()
    live.settled()
    assert live.names() == []
    assert open_descriptors() == before


def test_no_descriptor_or_record_is_left_behind(live: Any) -> None:
    live.mkdir("dir")
    live.write("dir/warm", b"opens the directory")
    live.drain()
    live.mirror.forget(live.id("dir/warm"))
    descriptors, records = open_descriptors(), len(live.mirror._records)
    for round_ in range(5):
        name = f"dir/{round_}"
        handle = live.create(name, b"data")
        live.mirror.setattr(handle.inode, mode=0o4755)
        live.at("hash", lambda h=handle: live.mirror.write(h, 0, b"more"))
        live.step()
        live.unlink(name)
        live.mirror.write(handle, 0, b"unheard")
        live.mirror.setattr(handle.inode, size=1, mode=0o4755)
        live.mirror.setattr(handle.inode, size=0)
        live.mirror.release(handle)
        live.mirror.forget(handle.inode)
        live.mirror.setattr(live.write(name, b"closed"), size=2)
        live.drain()
        live.mirror.forget(live.unlink(name))
        live.drain()
    assert open_descriptors() == descriptors
    assert len(live.mirror._records) == records
    live.settled()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_ids_are_reserved_in_the_middle_of_a_commit(live: Any) -> None:
    identities = live.owned._identities
    live.write("a", b"a")

    def use_up() -> None:
        with live.owned._index.commit() as commit:
            commit.set_meta("in the middle", "1")
            # Reserving waits for the database, as another connection's business.
            assert identities._index is not live.owned._index
            assert identities._index is not live.owned._lookups

    live.at("commit", use_up)
    live.step()
    for _ in range(70_000):
        identities.take()
    taken = identities.take()
    live.write("b", b"b")
    assert live.id("b") == taken + 1
    live.settled()


# --- behind the mirror's back -------------------------------------------------------------------------


def test_a_file_cut_from_behind_while_open_is_committed_as_it_is(live: Any) -> None:
    handle = live.create("cut", b"x" * (BLOCK + 100))
    live.mirror.write(handle, 5, b"patch")
    live.drain()
    live.mirror.write(handle, 6, b"patch")
    os.truncate(live.layout.tree / "cut", 50)
    live.settled()
    assert live.indexed()[b"/cut"][5] == 50
    live.mirror.release(handle)


def test_a_file_grown_from_behind_while_open_is_committed_as_it_is(live: Any) -> None:
    handle = live.create("grown", b"x" * 10)
    with (live.layout.tree / "grown").open("ab") as file:
        file.write(b"y" * BLOCK)
    live.settled()
    live.mirror.release(handle)


@pytest.mark.allows_log("file_gone")
def test_a_changed_file_removed_from_behind_stops_nothing(live: Any, logged: Any) -> None:
    live.write("old", b"1")
    live.drain()
    live.write("new", b"2")
    live.mkdir("newdir")
    live.mirror.symlink(live.id("newdir"), b"first", b"t", UID, GID)
    live.rename("newdir/first", "newdir/link")
    live.rename("old", "moved")
    live.write("other", b"3")
    (live.layout.tree / "newdir" / "link").unlink()
    (live.layout.tree / "newdir").rmdir()
    (live.layout.tree / "moved").unlink()
    live.drain()
    assert len(logged.named("file_gone")) == 3
    assert b"/other" in live.indexed()
    assert b"/newdir" not in live.indexed()
    live.kill()
    live.open(rescan=True)
    live.settled()


@pytest.mark.allows_log("dirty_log_not_shortened")
def test_a_log_that_cannot_be_shortened_fails_no_commit(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    live.write("a", b"a")
    states: list[object] = []
    live.owned.capture.listeners.append(states.append)
    with monkeypatch.context() as patch:
        patch.setattr(DirtyLog, "reset", raises(OSError(errno.ENOSPC, "")))
        live.step()
    assert len(states) == 1
    live.write("b", b"b")
    live.settled()


def raises(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.allows_log("listener_failed")
def test_a_listener_that_fails_stops_neither_commits_nor_other_listeners(live: Any) -> None:
    states: list[Any] = []
    live.owned.capture.listeners += [raises(RuntimeError("bad listener")), states.append]
    live.write("a", b"a")
    live.drain()
    assert [state.head for state in states] == [live.owned._lookups.head()]


def test_a_full_log_refuses_operations_and_changes_nothing(
    live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.write("file", b"content")
    live.mkdir("dir")
    live.mirror.link(live.id("file"), ROOT, b"link")
    live.drain()
    before = on_tree(live.layout.tree)
    inode = live.id("file")
    handle = live.mirror.open_file(inode, os.O_RDWR)
    with monkeypatch.context() as patch:
        patch.setattr(DirtyLog, "_append", raises(OSError(errno.ENOSPC, "full")))
        mirror = live.mirror
        for operation in (
            lambda: live.create("another"),
            lambda: live.mkdir("another"),
            lambda: mirror.symlink(ROOT, b"another", b"t", UID, GID),
            lambda: mirror.mknod(ROOT, b"another", 0o100644, 0, UID, GID),
            lambda: mirror.link(inode, ROOT, b"another"),
            lambda: live.unlink("file"),
            lambda: live.rmdir("dir"),
            lambda: live.rename("file", "another"),
            lambda: mirror.write(handle, 0, b"x"),
            lambda: mirror.setattr(inode, mode=0o600),
            lambda: mirror.setattr(inode, size=0),
            lambda: mirror.open_file(inode, os.O_RDWR | os.O_TRUNC),
        ):
            with pytest.raises(OSError, match="full") as caught:
                operation()
            assert caught.value.errno == errno.ENOSPC
    assert on_tree(live.layout.tree) == before
    mirror.release(handle)
    live.settled()


def on_tree(tree: Path) -> dict[str, bytes | None]:
    return {path.name: path.read_bytes() if path.is_file() else None for path in sorted(tree.iterdir())}
