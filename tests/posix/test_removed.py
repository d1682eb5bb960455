"""What was removed goes on for whoever still holds it, however it is held."""

from __future__ import annotations

import os
import stat

import pytest
from sites import ALICE, Site

CREAT, RO, WO, RW, PATH = os.O_CREAT, os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_PATH
OLD = 1_000_000_000_123_456_789


@pytest.mark.parametrize("held", [RW, RO, PATH], ids=["open", "open for reading", "by O_PATH"])
@pytest.mark.parametrize("how", ["unlinked", "replaced"])
def test_a_file(site: Site, held: int, how: str) -> None:
    root, other = site.actors["root"], site.actors["other"]
    root.do("open", slot=0, path="f", flags=CREAT | RW)
    root.do("write", slot=0, data=b"content")
    root.do("setxattr", path="f", name="user.a", value=b"1")
    root.do("close", slot=0)
    other.do("open", slot=0, path="f", flags=held)
    root.do("mknod", path="g", mode=stat.S_IFREG | 0o644)
    if how == "unlinked":
        root.do("unlink", path="f")
    else:
        root.do("rename", old="g", new="f")
    st = other.do("fstat", slot=0)
    assert (st.st_nlink, st.st_size, stat.S_ISREG(st.st_mode)) == (0, 7, True)
    path = f"/proc/{other.pid}/fd/{other.do('number', slot=0)}"
    other.do("chmod", path=path, mode=0o640)
    other.do("chown", path=path, uid=ALICE, gid=ALICE)
    other.do("utimens", path=path, atime=OLD, mtime=OLD)
    st = other.do("fstat", slot=0)
    assert (st.st_mode, st.st_uid, st.st_mtime_ns) == (stat.S_IFREG | 0o640, ALICE, OLD)
    assert other.do("getxattr", path=path, name="user.a") == b"1"
    other.do("truncate", path=path, size=4)
    other.do("reopen", slot=1, other=0, flags=RW)
    other.do("close", slot=0)
    other.do("pwrite", slot=1, data=b"CO", offset=0)
    assert other.do("pread", slot=1, size=10, offset=0) == b"COnt"
    assert other.attempt("link_open", slot=1, new="again").error == "ENOENT"
    assert root.do("listdir") == ([b"g"] if how == "unlinked" else [b"f"])


def test_a_file_that_is_only_mapped(site: Site) -> None:
    root = site.actors["root"]
    root.do("open", slot=0, path="f", flags=CREAT | RW)
    root.do("write", slot=0, data=b"x" * 5000)
    root.do("map", slot=0, other=0, length=5000, shared=True)
    root.do("close", slot=0)
    root.do("unlink", path="f")
    root.do("map_write", slot=0, at=4990, data=b"tail")
    assert root.do("map_read", slot=0, at=4988, size=8) == b"xxtailxx"
    root.do("unmap", slot=0)


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_directory(site: Site, how: str) -> None:
    root, other = site.actors["root"], site.actors["other"]
    root.do("mkdir", path="d")
    root.do("mkdir", path="e")
    other.do("opendir", slot=0, path="d")
    other.do("open", slot=0, path="d", flags=RO)
    other.do("chdir", path="d")
    if how == "removed":
        root.do("rmdir", path="d")
    else:
        root.do("rename", old="e", new="d")
    assert other.do("fstatdir", slot=0).st_nlink == 0
    assert stat.S_ISDIR(other.do("stat", path=".").st_mode)
    other.do("fchmod", slot=0, mode=0o700)
    other.do("fchown", slot=0, uid=ALICE, gid=-1)
    other.do("futimens", slot=0, atime=OLD, mtime=OLD)
    st = other.do("fstat", slot=0)
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_mtime_ns) == (0o700, ALICE, OLD)
    other.do("fsyncdir", slot=0)
    other.do("fsync", slot=0)
    assert other.do("listdir", path=".") == []
    assert other.attempt("mkdir", path="x").error == "ENOENT"
    assert other.attempt("open", slot=1, path="x", flags=CREAT | WO).error == "ENOENT"
    assert other.attempt("rename", old="../e", new="x").error == "ENOENT"
    assert other.attempt("stat", path="x").error == "ENOENT"
    other.do("closedir", slot=0)


def test_a_fifo(site: Site) -> None:
    root = site.actors["root"]
    root.do("mknod", path="p", mode=stat.S_IFIFO | 0o644)
    root.do("open", slot=0, path="p", flags=RO | os.O_NONBLOCK)
    root.do("open", slot=1, path="p", flags=WO)
    root.do("unlink", path="p")
    root.do("fchmod", slot=0, mode=0o600)
    root.do("write", slot=1, data=b"through")
    assert root.do("read", slot=0, size=100) == b"through"
    st = root.do("fstat", slot=0)
    assert (st.st_mode, st.st_nlink) == (stat.S_IFIFO | 0o600, 0)


def test_a_symlink(site: Site) -> None:
    root = site.actors["root"]
    root.do("symlink", target="there", path="s")
    root.do("open", slot=0, path="s", flags=PATH | os.O_NOFOLLOW)
    root.do("unlink", path="s")
    assert root.do("fstat", slot=0).st_nlink == 0
    assert root.do("readlink_open", slot=0) == b"there"


def test_one_of_two_names(site: Site) -> None:
    root = site.actors["root"]
    root.do("open", slot=0, path="f", flags=CREAT | RW)
    root.do("link", old="f", new="g")
    root.do("open", slot=1, path="f", flags=PATH)
    root.do("unlink", path="f")
    assert root.do("fstat", slot=1).st_nlink == 1
    root.do("close", slot=0)
    root.do("unlink", path="g")
    assert root.do("fstat", slot=1).st_nlink == 0


def test_many_that_nobody_holds_take_no_descriptors(site: Site) -> None:
    root = site.actors["root"]
    for number in range(1000):
        root.do("mknod", path=f"f{number % 7}", mode=stat.S_IFREG | 0o644)
        root.do("unlink", path=f"f{number % 7}")
    assert root.do("listdir") == []
    if site.mounted:
        site.settle()
        gone = [path for path in site.open_files() if path.endswith("(deleted)") and "/tree/" in path]
        assert not gone
