"""The owner of a mirror, who is not root, closes its root, or the directory of an open file: both go on."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from ghostfs.mirror.live import rights
from ghostfs.mirror.xattrs import decode_xattrs
from ghostfs.model import ROOT

if TYPE_CHECKING:
    from conftest import AsNobody

NOBODY = 65534


@pytest.mark.parametrize("end", ["close", "kill"])
@pytest.mark.parametrize("mode", [0, 0o300, 0o600])
def test_the_root_is_closed_and_opened_again_by_its_owner(as_nobody: AsNobody, mode: int, end: str) -> None:
    def history(live: Any) -> None:
        live.mirror.setattr(ROOT, mode=mode)
        live.drain()
        assert live.indexed()[b""][1] == mode, "what was lent for a moment is not what is committed"
        live.mirror.setattr(ROOT, uid=NOBODY, gid=NOBODY, mtime_ns=5)
        if mode & 0o200:
            live.mirror.setxattr(ROOT, b"user.x", b"y")
        assert live.mirror.getattr(ROOT).st_mode & 0o777 == mode
        getattr(live, end)()
        live.open(rescan=end == "close")
        assert live.indexed()[b""][1:5] == (mode, NOBODY, NOBODY, 5)
        assert not live.layout.lent_modes.exists()
        live.mirror.setattr(ROOT, mode=0o755)
        live.write("file", b"content")
        live.settled()

    as_nobody(history)


def test_a_root_that_nobody_may_look_into_is_in_an_index_made_anew(as_nobody: AsNobody) -> None:
    def history(live: Any) -> None:
        live.write("file", b"content")
        live.mirror.setattr(ROOT, mode=0)
        live.kill()
        live.layout.index_db.unlink()
        live.open()
        found = live.indexed()
        assert (found[b""][1], found[b"/file"][5]) == (0, 7)

    as_nobody(history)


def test_what_is_in_a_closed_root_is_committed_with_it(as_nobody: AsNobody) -> None:
    def history(live: Any) -> None:
        live.drain()
        live.mkdir("dir")
        live.write("dir/file", b"content")
        live.mirror.setattr(live.id("dir"), mode=0)
        live.mirror.setattr(ROOT, mode=0)
        live.drain()
        found = live.indexed()
        assert [found[path][1] for path in (b"", b"/dir", b"/dir/file")] == [0, 0, 0o644]

    as_nobody(history)


def test_a_root_on_a_filesystem_of_its_own_is_synced_though_it_may_not_be_read(as_nobody: AsNobody) -> None:
    def history(live: Any) -> None:
        live.write("file", b"content")
        live.mirror.setattr(ROOT, mode=0o300)
        live.close()
        assert live.layout.tree.stat().st_mode & 0o777 == 0o300
        assert not live.layout.lent_modes.exists()

    as_nobody(lambda live: live.layout)
    mount = [
        "mount",
        "-t",
        "tmpfs",
        "-o",
        f"uid={NOBODY},gid={NOBODY},mode=755",
        "tree",
        str(as_nobody.tree),
    ]
    subprocess.run(mount, check=True)
    try:
        as_nobody(history)
    finally:
        subprocess.run(["umount", as_nobody.tree], check=True)


# --- what is open -------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY])
def test_what_is_open_is_changed_though_its_directory_was_closed(as_nobody: AsNobody, flags: int) -> None:
    def history(live: Any) -> None:
        live.mkdir("shut")
        inode = live.write("shut/file", b"content")
        live.drain()
        handle = live.mirror.open_file(inode, flags)
        live.mirror.setattr(live.id("shut"), mode=0)
        assert live.mirror.setattr(inode, mode=0o600).st_mode & 0o777 == 0o600
        assert live.mirror.setattr(inode, mtime_ns=5).st_mtime_ns == 5
        assert live.mirror.setattr(inode, uid=NOBODY, gid=NOBODY).st_uid == NOBODY
        live.mirror.setxattr(inode, b"user.x", b"y")
        assert live.mirror.getxattr(inode, b"user.x") == b"y"
        live.mirror.release(handle)
        live.drain()
        assert live.indexed()[b"/shut/file"][1:5] == (0o600, NOBODY, NOBODY, 5)
        with pytest.raises(PermissionError):
            live.mirror.setattr(inode, mode=0o644)

    as_nobody(history)


def test_attributes_that_could_not_be_read_are_read_when_they_may_be(
    as_nobody: AsNobody, monkeypatch: pytest.MonkeyPatch
) -> None:
    def history(live: Any) -> None:
        inode = live.write("file", b"content")
        live.mirror.setxattr(inode, b"user.colour", b"blue")
        live.mirror.setattr(inode, mode=0o200)
        live.drain()
        live.mirror.forget(inode)
        assert live.id("file") == inode
        monkeypatch.setattr(rights, "_may_change", lambda _: False)
        live.rename("file", "moved")
        live.drain()
        assert decode_xattrs(live.owned._lookups.inode(inode).xattrs) == {b"user.colour": b"blue"}
        there = live.layout.tree / "moved"
        there.chmod(0o600)
        os.setxattr(there, b"user.colour", b"red")
        live.mirror.setattr(inode, mtime_ns=5)
        live.drain()
        assert decode_xattrs(live.owned._lookups.inode(inode).xattrs) == {b"user.colour": b"red"}

    as_nobody(history)


def test_a_mode_that_cannot_be_put_back_yet_stays_noted(as_nobody: AsNobody) -> None:
    def before(live: Any) -> None:
        live.mkdir("dir")
        live.write("dir/file", b"content")
        live.write("other", b"content")
        live.drain()
        live.kill()
        file = live.layout.tree / "dir/file"
        file.chmod(0o600)
        line = b"%d 200 600 %s\n" % (file.stat().st_ino, b"dir/file".hex().encode())
        live.layout.lent_modes.write_bytes(b"garbage\n" + line)

    def refused(live: Any) -> None:
        with capture_logs() as said:
            live.open()
        assert [each["event"] for each in said].count("mode_not_put_back") == 2
        left = live.layout.lent_modes.read_bytes()
        assert left.count(b"\n") == 1
        live.mirror.setattr(live.id("other"), mode=0)
        with live.mirror._rights.readable(b"other", live.mirror._root_fd):
            assert (live.layout.tree / "other").stat().st_mode & 0o777 == 0o400
            assert live.layout.lent_modes.read_bytes().startswith(left)
        assert live.layout.lent_modes.read_bytes() == left
        live.kill()

    def after(live: Any) -> None:
        live.open()
        assert (live.layout.tree / "dir/file").stat().st_mode & 0o777 == 0o200
        assert not live.layout.lent_modes.exists()

    as_nobody(before)
    os.chown(as_nobody.tree / "dir", 0, 0)
    (as_nobody.tree / "dir").chmod(0o700)
    as_nobody(refused)
    os.chown(as_nobody.tree / "dir", NOBODY, NOBODY)
    as_nobody(after)


@pytest.mark.parametrize("file_mode", [0o200, 0o600])
def test_what_is_noted_in_a_directory_that_is_closed_again_is_reached(
    as_nobody: AsNobody, file_mode: int
) -> None:
    def history(live: Any) -> None:
        live.mkdir("shut")
        live.write("shut/file", b"content")
        live.drain()
        live.kill()
        shut = live.layout.tree / "shut"
        file = shut / "file"
        noted = [
            (live.layout.tree, b"", 0, 0o500),
            (shut, b"shut", 0, 0o500),
            (file, b"shut/file", 0o200, 0o600),
        ]
        lines = [
            b"%d %o %o %s\n" % (path.stat().st_ino, before, lent, below.hex().encode())
            for path, below, before, lent in noted
        ]
        live.layout.lent_modes.write_bytes(b"".join(lines) + b"cut o")
        file.chmod(file_mode)
        shut.chmod(0)
        live.layout.tree.chmod(0)
        with capture_logs() as said:
            live.open()
        assert "mode_not_put_back" not in [each["event"] for each in said]
        assert not live.layout.lent_modes.exists()
        assert live.mirror.getattr(ROOT).st_mode & 0o777 == 0
        live.mirror.setattr(ROOT, mode=0o700)
        live.mirror.setattr(live.id("shut"), mode=0o700)
        assert file.stat().st_mode & 0o777 == 0o200

    as_nobody(history)
