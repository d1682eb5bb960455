"""Extended attributes of the tree: captured whatever the mount serves, at the price of one look, and verified."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from ghostfs.index import Index
from ghostfs.mirror import xattrs
from ghostfs.mirror.live.cells import backing_of
from ghostfs.mirror.live.verify import verify
from ghostfs.mirror.xattrs import decode_xattrs
from ghostfs.model import ROOT, InodeId


def attributes(live: Any, inode: InodeId) -> dict[bytes, bytes]:
    return decode_xattrs(live.owned._lookups.inode(inode).xattrs)


@pytest.mark.parametrize(
    "change",
    [
        lambda live, inode: live.write("file", b"other content"),
        lambda live, inode: live.mirror.setattr(inode, mode=0o600),
        lambda live, inode: live.mirror.setattr(inode, size=2),
        lambda live, inode: live.rename("file", "moved"),
    ],
    ids=["content", "mode", "size", "name"],
)
def test_what_the_tree_has_stays_whatever_changes(
    live: Any, change: Callable[[Any, InodeId], object]
) -> None:
    inode = live.write("file", b"content")
    live.drain()
    live.close()
    os.setxattr(live.layout.tree / "file", "user.colour", b"blue")
    os.setxattr(live.layout.tree / "file", "trusted.own", b"not for others")
    change(live, inode)
    live.drain()
    assert attributes(live, inode) == {b"user.colour": b"blue"}
    change(live, inode) if live.names() == [b"file"] else live.rename("moved", "file")
    live.settled()
    assert attributes(live, inode) == {b"user.colour": b"blue"}


def test_of_a_file_that_is_open_and_of_a_directory(live: Any) -> None:
    directory = live.mkdir("d")
    live.write("d/file", b"content")
    live.drain()
    live.close()
    os.setxattr(live.layout.tree / "d", "user.which", b"directory")
    os.setxattr(live.layout.tree / "d/file", "user.which", b"file")
    os.setxattr(live.layout.tree, "user.which", b"root")
    handle = live.mirror.open_file(live.id("d/file"), os.O_RDWR)
    live.mirror.write(handle, 0, b"CONTENT")
    for changed in (ROOT, directory):
        live.mirror.setattr(changed, mode=0o750)
    live.drain()
    assert attributes(live, handle.inode) == {b"user.which": b"file"}
    assert attributes(live, directory) == {b"user.which": b"directory"}
    assert attributes(live, ROOT) == {b"user.which": b"root"}
    live.mirror.release(handle)
    live.settled()


def test_a_new_index_has_them(live: Any) -> None:
    (live.layout.tree / "file").write_bytes(b"content")
    os.setxattr(live.layout.tree / "file", "user.colour", b"blue")
    assert attributes(live, live.id("file")) == {b"user.colour": b"blue"}
    live.settled()


class Calls:
    """Which calls of the system were made for attributes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        self.refuse: int | None = None
        for name in ("listxattr", "getxattr"):
            monkeypatch.setattr(xattrs.os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **how: Any) -> Any:
            self.made.append(name)
            if self.refuse is not None:
                raise OSError(self.refuse, os.strerror(self.refuse))
            return real(*arguments, **how)

        return call

    def since(self) -> list[str]:
        made, self.made = self.made, []
        return made


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def test_what_is_made_here_costs_no_look_and_what_was_there_costs_one(live: Any, calls: Calls) -> None:
    live.write("old", b"content")
    live.close()
    live.open()
    calls.since()
    inode = live.write("file", b"content")
    live.mkdir("d")
    live.mirror.symlink(ROOT, b"link", b"file", 0, 0)
    live.drain()
    assert calls.since() == ["listxattr"]  # the root
    live.write("old", b"other")
    live.write("file", b"other")
    live.drain()
    assert calls.since() == ["listxattr"]  # the old file
    for changed in (inode, live.id("old"), ROOT):
        live.mirror.setattr(changed, mode=0o700)
    live.drain()
    assert calls.since() == []
    live.mirror.setxattr(inode, b"user.colour", b"blue")
    live.drain()
    assert calls.since() == ["listxattr", "getxattr"]
    assert attributes(live, inode) == {b"user.colour": b"blue"}
    live.settled()


def test_a_filesystem_that_has_none_is_asked_once(live: Any, calls: Calls) -> None:
    live.open()
    calls.since()
    calls.refuse = errno.ENOTSUP
    for turn in range(3):
        live.write(f"file{turn}", b"content")
        live.mkdir(f"d{turn}")
        live.drain()
    assert calls.since() == ["listxattr"]
    assert live.owned.capture.stats.failures == 0
    calls.refuse = None
    live.settled()


def test_one_that_goes_meanwhile_is_no_trouble(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody keeps others from the tree: between the list and the look it may be taken away."""
    inode = live.write("file", b"content")
    path = live.layout.tree / "file"
    live.close()
    for name in ("user.first", "user.second"):
        os.setxattr(path, name, b"x")
    real = os.listxattr

    def listed(*arguments: Any, **how: Any) -> list[str]:
        names = real(*arguments, **how)
        if "user.first" in names:
            os.removexattr(path, "user.first")
        return names

    monkeypatch.setattr(xattrs.os, "listxattr", listed)
    live.mirror.setattr(inode, mode=0o600)
    live.drain()
    assert live.owned.capture.stats.failures == 0
    assert attributes(live, inode) == {b"user.second": b"x"}
    live.check()


@pytest.mark.parametrize("same_time", [False, True], ids=["later", "within a tick"])
@pytest.mark.parametrize("path", ["file", "d", ""], ids=["file", "directory", "root"])
def test_after_a_kill_what_was_being_changed_is_found(live: Any, path: str, same_time: bool) -> None:
    live.mkdir("d")
    live.write("file", b"content")
    live.drain()
    inode = live.id(path)
    live.mirror.setxattr(inode, b"user.late", b"1")
    live.kill()
    if same_time:  # as where the clock of the filesystem has not moved since the last commit
        now = backing_of((live.layout.tree / path).stat())
        with Index.open(live.layout.index_db) as index, index.adopt() as adopt:
            adopt.set_backing(inode, now)
    recovery = live.open().recovery
    assert attributes(live, inode) == {b"user.late": b"1"}
    assert recovery.changed == 1
    live.settled()


def test_after_a_kill_a_directory_that_was_announced_and_not_changed_is_no_change(live: Any) -> None:
    inode = live.mkdir("d")
    live.drain()
    head = live.owned._lookups.head()
    live.owned.working.announce_inode(live.mirror._records[inode])
    live.kill()
    recovery = live.open().recovery
    assert (recovery.changed, live.owned._lookups.head()) == (0, head)


@pytest.mark.parametrize("path", ["file", "d", "."])
@pytest.mark.parametrize("how", ["changed", "added", "removed"])
def test_what_was_done_behind_the_mount_is_found(live: Any, path: str, how: str) -> None:
    live.mkdir("d")
    live.write("file", b"content")
    live.mirror.setxattr(live.id("" if path == "." else path), b"user.colour", b"blue")
    live.settled()
    place = live.layout.tree / path
    if how == "removed":
        os.removexattr(place, "user.colour")
    else:
        os.setxattr(place, "user.colour" if how == "changed" else "user.more", b"red")
    report = verify(live.layout)
    assert not report.ok
    assert [(found.path, found.what) for found in report.problems] == [
        (path, "differs from the index in extended attributes")
    ]


def test_what_others_may_not_see_is_no_difference(live: Any) -> None:
    live.write("file", b"content")
    live.drain()
    os.setxattr(live.layout.tree / "file", "trusted.own", b"x")
    assert verify(live.layout).ok


def test_an_attribute_whose_change_time_tells_nothing_is_found(live: Any) -> None:
    """Verifying trusts no times."""
    inode = live.mkdir("d")
    live.drain()
    live.close()
    os.setxattr(live.layout.tree / "d", "user.late", b"1")
    with Index.open(live.layout.index_db) as index, index.adopt() as adopt:
        adopt.set_backing(inode, backing_of((live.layout.tree / "d").stat()))
    assert [found.path for found in verify(live.layout).problems] == ["d"]
