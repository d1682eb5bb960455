"""One operation at a time: what it answers, what it refuses with, what the index then has."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Any

import pytest

from ghostfs.content import BLOCK_SIZE
from ghostfs.mirror.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE
from ghostfs.model import ROOT, InodeId, Kind

UID, GID = os.geteuid(), os.getegid()
NOBODY = 65534
BLOCK = 262144


def fails(code: int, operation: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 (the number is what counts)
        operation()
    assert caught.value.errno == code, errno.errorcode[caught.value.errno or 0]


def test_making_and_looking(live: Any) -> None:
    mirror = live.mirror
    directory, st = mirror.mkdir(ROOT, b"dir", 0o1750, UID, GID)
    assert stat.S_IMODE(st.st_mode) == 0o1750
    file, st, handle = mirror.create(directory, b"file", 0o640, os.O_WRONLY, UID, GID)
    assert stat.S_IMODE(st.st_mode) == 0o640
    link, _ = mirror.symlink(directory, b"link", b"\xfftarget", UID, GID)
    fifo, st = mirror.mknod(directory, b"fifo", stat.S_IFIFO | 0o600, 0, UID, GID)
    assert stat.S_ISFIFO(st.st_mode)
    assert mirror.lookup(directory, b"file")[0] == file
    assert mirror.lookup(directory, b"nothing") is None
    assert mirror.readlink(link) == b"\xfftarget"
    assert mirror.readdir(directory) == [(b"fifo", fifo), (b"file", file), (b"link", link)]
    assert mirror.getattr(ROOT).st_mode & 0o777 == 0o755
    assert mirror.statfs().f_namemax == 255
    assert mirror.open_files == 1
    mirror.release(handle)
    assert mirror.open_files == 0
    live.settled()
    assert live.owned._lookups.inode(link).target == b"\xfftarget"


def test_what_is_refused(live: Any) -> None:
    mirror = live.mirror
    directory, file = live.mkdir("dir"), live.write("file", b"x")
    live.write("dir/child", b"x")
    other = live.mkdir("other")
    gone = live.mkdir("gone")
    live.rmdir("gone")
    cases: list[tuple[int, Callable[[], object]]] = [
        (errno.EEXIST, lambda: mirror.mkdir(ROOT, b"file", 0o755, UID, GID)),
        (errno.EEXIST, lambda: mirror.symlink(ROOT, b"file", b"x", UID, GID)),
        (errno.EEXIST, lambda: mirror.mknod(ROOT, b"dir", 0o100644, 0, UID, GID)),
        (errno.EEXIST, lambda: mirror.create(ROOT, b"file", 0o644, os.O_EXCL, UID, GID)),
        (errno.EEXIST, lambda: mirror.link(file, ROOT, b"dir")),
        (errno.EPERM, lambda: mirror.link(directory, ROOT, b"dir2")),
        (errno.ENAMETOOLONG, lambda: mirror.mkdir(ROOT, b"n" * 256, 0o755, UID, GID)),
        (errno.ENOENT, lambda: mirror.mkdir(gone, b"below", 0o755, UID, GID)),
        (errno.ESTALE, lambda: mirror.getattr(InodeId(1 << 60))),
        (errno.ENOTDIR, lambda: mirror.mkdir(file, b"below", 0o755, UID, GID)),
        (errno.ENOENT, lambda: mirror.unlink(ROOT, b"nothing")),
        (errno.ENOENT, lambda: mirror.rmdir(ROOT, b"nothing")),
        (errno.EISDIR, lambda: mirror.unlink(ROOT, b"dir")),
        (errno.ENOTDIR, lambda: mirror.rmdir(ROOT, b"file")),
        (errno.ENOTEMPTY, lambda: mirror.rmdir(ROOT, b"dir")),
        (errno.ENOENT, lambda: mirror.rename(ROOT, b"nothing", ROOT, b"x", 0)),
        (errno.EINVAL, lambda: mirror.rename(ROOT, b"dir", directory, b"x", 0)),
        (errno.EINVAL, lambda: mirror.rename(ROOT, b"file", ROOT, b"x", 4)),
        (errno.EEXIST, lambda: mirror.rename(ROOT, b"file", ROOT, b"dir", RENAME_NOREPLACE)),
        (errno.EISDIR, lambda: mirror.rename(ROOT, b"file", ROOT, b"dir", 0)),
        (errno.ENOTDIR, lambda: mirror.rename(ROOT, b"dir", ROOT, b"file", 0)),
        (errno.ENOTEMPTY, lambda: mirror.rename(ROOT, b"other", ROOT, b"dir", 0)),
        (errno.ENOENT, lambda: mirror.rename(ROOT, b"file", ROOT, b"x", RENAME_EXCHANGE)),
        (errno.EISDIR, lambda: mirror.open_file(gone, os.O_WRONLY)),
        (errno.EINVAL, lambda: mirror.readlink(file)),
        (errno.ENODATA, lambda: mirror.getxattr(file, b"user.none")),
        (errno.EFBIG, lambda: mirror.setattr(file, size=1 << 62)),
    ]
    for code, operation in cases:
        fails(code, operation)
    assert mirror.readdir(gone) == []
    assert mirror.getattr(gone).st_nlink == 0
    assert mirror.readdir(other) == []
    live.settled()
    for code, operation in cases:
        fails(code, operation)
    live.settled()


def test_reading_and_writing(live: Any) -> None:
    mirror = live.mirror
    handle = live.create("file", b"hello")
    assert mirror.read(handle, 1, 3) == b"ell"
    assert mirror.read(handle, 9, 3) == b""
    mirror.write(handle, BLOCK, b"far")
    assert mirror.getattr(handle.inode).st_size == BLOCK + 3
    reader = mirror.open_file(handle.inode, os.O_RDONLY)
    assert mirror.read(reader, BLOCK - 1, 10) == b"\0far"
    fails(errno.EBADF, lambda: mirror.write(reader, 0, b"x"))
    truncated = mirror.open_file(handle.inode, os.O_RDWR | os.O_TRUNC)
    assert mirror.getattr(handle.inode).st_size == 0
    mirror.write(truncated, 0, b"anew")
    mirror.fsync(truncated, datasync=False)
    mirror.fsync(truncated, datasync=True)
    mirror.fsync_directory(ROOT)
    for each in (handle, reader, truncated):
        mirror.release(each)
    live.settled()
    assert live.indexed()[b"/file"][5] == 4


def test_truncating_without_a_handle(live: Any) -> None:
    inode = live.write("file", b"x" * (BLOCK + 10))
    live.drain()
    for size in (BLOCK + 5, BLOCK, 3, 3, 0, BLOCK * 3 + 1):
        assert live.mirror.setattr(inode, size=size).st_size == size
        live.settled()
        assert live.indexed()[b"/file"][5] == size


def test_an_unlinked_file_lives_on_in_its_handle(live: Any) -> None:
    mirror = live.mirror
    handle = live.create("file", b"content")
    live.drain()
    assert live.unlink("file") == handle.inode
    assert mirror.getattr(handle.inode).st_nlink == 0
    mirror.write(handle, 7, b" more")
    assert mirror.setattr(handle.inode, size=9, mode=0o600).st_size == 9
    again = mirror.open_file(handle.inode, os.O_RDWR)
    assert mirror.read(again, 0, 100) == b"content m"
    fails(errno.ENOENT, lambda: mirror.link(handle.inode, ROOT, b"back"))
    other = live.write("file", b"another at the same name")
    assert other != handle.inode
    assert mirror.getattr(handle.inode).st_size == 9
    mirror.release(handle)
    mirror.release(again)
    assert mirror.getattr(handle.inode).st_size == 9
    mirror.forget(handle.inode)
    live.drain()
    fails(errno.ESTALE, lambda: mirror.getattr(handle.inode))
    fails(errno.ESTALE, lambda: mirror.open_file(handle.inode, os.O_RDONLY))
    live.settled()


def test_attributes_of_an_unlinked_file_are_its_own(live: Any) -> None:
    mirror = live.mirror
    handle = live.create("file", b"1")
    mirror.setxattr(handle.inode, b"user.which", b"first")
    link = mirror.symlink(ROOT, b"link", b"first", UID, GID)[0]
    live.unlink("file")
    live.unlink("link")
    other = live.write("file", b"2")
    mirror.symlink(ROOT, b"link", b"second", UID, GID)
    mirror.setxattr(handle.inode, b"user.which", b"still the first")
    assert mirror.getxattr(handle.inode, b"user.which") == b"still the first"
    assert mirror.listxattr(handle.inode) == [b"user.which"]
    mirror.removexattr(handle.inode, b"user.which")
    assert mirror.listxattr(other) == []
    assert mirror.readlink(link) == b"first"
    mirror.release(handle)
    mirror.forget(handle.inode)
    live.drain()
    fails(errno.ESTALE, lambda: mirror.getxattr(handle.inode, b"user.which"))
    live.settled()


def test_extended_attributes_reach_the_index(new_live: Callable[..., Any]) -> None:
    live = new_live()
    inode = live.write("file", b"x")
    live.mirror.setxattr(inode, b"user.colour", b"blue")
    live.mirror.setxattr(ROOT, b"user.root", b"yes")
    live.settled()
    assert b"blue" in live.owned._lookups.inode(inode).xattrs
    assert b"yes" in live.owned._lookups.inode(ROOT).xattrs
    live.mirror.removexattr(inode, b"user.colour")
    live.settled()
    assert live.owned._lookups.inode(inode).xattrs == b""


def test_owners_and_set_id_bits(live: Any) -> None:
    mirror = live.mirror
    shared, _ = mirror.mkdir(ROOT, b"shared", 0o777, UID, GID)
    mirror.setattr(shared, gid=NOBODY, mode=0o2777)
    _, st, handle = mirror.create(shared, b"file", 0o4755, os.O_RDWR, NOBODY, GID)
    assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (NOBODY, NOBODY, 0o4755)
    mirror.write(handle, 0, b"x")
    assert stat.S_IMODE(mirror.getattr(handle.inode).st_mode) == 0o4755
    mirror.setattr(handle.inode)
    assert stat.S_IMODE(mirror.getattr(handle.inode).st_mode) == 0o755
    mirror.setattr(handle.inode, mode=0o6745)
    mirror.setattr(handle.inode, size=6, handle=handle, keep_setid=True)
    assert stat.S_IMODE(mirror.getattr(handle.inode).st_mode) == 0o6745
    mirror.setattr(handle.inode, size=5, handle=handle)
    assert stat.S_IMODE(mirror.getattr(handle.inode).st_mode) == 0o2745
    mirror.release(handle)
    assert mirror.mknod(ROOT, b"of-nobody", 0o100600, 0, NOBODY, NOBODY)[1].st_uid == NOBODY
    assert mirror.symlink(ROOT, b"link", b"x", NOBODY, NOBODY)[1].st_uid == NOBODY
    live.settled()


def test_times_and_modes(live: Any) -> None:
    mirror = live.mirror
    file, link = live.write("file", b"x"), live.mirror.symlink(ROOT, b"link", b"file", UID, GID)[0]
    directory = live.mkdir("dir")
    for inode in (file, link, directory, ROOT):
        before = mirror.getattr(inode)
        st = mirror.setattr(inode, mtime_ns=123_456_789)
        assert (st.st_mtime_ns, st.st_atime_ns) == (123_456_789, before.st_atime_ns)
        assert mirror.setattr(inode, atime_ns=5).st_atime_ns == 5
    # A symlink's own mode cannot be changed, and above all not that of what it leads to.
    fails(errno.EOPNOTSUPP, lambda: mirror.setattr(link, mode=0o777))
    assert stat.S_IMODE(mirror.setattr(file, mode=0o4711).st_mode) == 0o4711
    live.settled()


def test_the_first_of_two_changes_is_captured_though_the_second_fails(
    live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode = live.write("file", b"x")
    live.drain()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "chmod", refuse)
        fails(errno.EPERM, lambda: live.mirror.setattr(inode, uid=NOBODY, mode=0o600))
    live.settled()
    assert live.indexed()[b"/file"][2] == NOBODY


@pytest.mark.parametrize("committed", [True, False])
def test_hard_links(live: Any, committed: bool) -> None:
    inode = live.write("one", b"content")
    live.mkdir("dir")
    if committed:
        live.drain()
    live.mirror.link(inode, live.id("dir"), b"two")
    live.mirror.link(inode, ROOT, b"three")
    assert live.mirror.rename(ROOT, b"one", ROOT, b"three", 0) is None
    assert live.names() == [b"dir", b"one", b"three"]
    assert live.unlink("one") == inode
    assert live.mirror.getattr(inode).st_nlink == 2
    live.write("dir/two", b"changed")
    if committed:
        live.settled()
        live.mirror.forget(inode)
    live.rename("dir/two", "four")
    live.unlink("three")
    live.settled()
    assert live.mirror.getattr(inode).st_nlink == 1
    live.write("other", b"x")
    assert live.rename("other", "four") == inode
    live.settled()


def test_renames_answer_what_they_displaced(live: Any) -> None:
    a, b = live.write("a", b"a"), live.write("b", b"b")
    live.mirror.link(b, ROOT, b"b2")
    assert live.rename("a", "b") is None
    assert live.rename("b", "b2") == b
    assert live.rename("b2", "b2") is None
    c = live.write("c", b"c")
    assert live.rename("b2", "c", RENAME_EXCHANGE) is None
    assert (live.id("b2"), live.id("c")) == (c, a)
    d, e = live.mkdir("d"), live.mkdir("e")
    assert live.rename("d", "e") == e
    assert live.id("e") == d
    live.settled()


def test_directories_do_not_count_their_children(live: Any) -> None:
    """What moved in is not in the count that the directory had when it was first seen, or nowhere is counted."""
    live.mkdir("holder")
    for name in ("x", "y", "z"):
        live.mkdir(name)
    live.drain()
    for name in ("x", "y", "z"):
        live.rename(name, f"holder/{name}")
    for name in ("x", "y", "z"):
        live.rmdir(f"holder/{name}")
    live.write("holder/file", b"still there")
    assert live.names("holder") == [b"file"]
    live.settled()


def test_a_listed_name_that_is_another_file_by_now_is_not_mixed_up(live: Any) -> None:
    old = live.write("name", b"old")
    listed = live.mirror.readdir(ROOT)
    live.mirror.forget(old)
    live.write("tmp", b"newer")
    live.rename("tmp", "name")
    live.drain()
    assert listed == [(b"name", old)]
    found, st = live.mirror.lookup(ROOT, b"name")
    assert found == live.id("name") != old
    assert st.st_size == 5
    live.settled()


def test_what_is_forgotten_is_found_again(live: Any) -> None:
    live.mkdir("dir")
    inode = live.write("dir/file", b"x")
    live.mirror.forget(inode)
    live.mirror.forget(live.id("dir"))
    live.write("dir/file", b"y", offset=1)
    live.drain()
    for _ in range(2):
        for path in ("dir/file", "dir"):
            live.mirror.forget(live.id(path))
        assert live.mirror.getattr(inode).st_size == 2
        live.mirror.setattr(inode, mtime_ns=1)
        live.settled()
    live.mirror.forget(InodeId(77))
    live.mirror.forget(ROOT)
    assert live.mirror.getattr(ROOT)


def test_opening_with_create_what_is_there(live: Any) -> None:
    inode = live.write("file", b"content")
    again, st, handle = live.mirror.create(ROOT, b"file", 0o600, os.O_RDWR, UID, GID)
    assert (again, st.st_size, stat.S_IMODE(st.st_mode)) == (inode, 7, 0o644)
    live.mirror.release(handle)
    live.mirror.symlink(ROOT, b"link", b"file", UID, GID)
    fails(errno.ELOOP, lambda: live.mirror.create(ROOT, b"link", 0o600, os.O_RDWR, UID, GID))
    live.settled()


def test_a_failed_making_leaves_nothing(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    live.mkdir("dir")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "chown", refuse)
        fails(errno.EPERM, lambda: live.mirror.mkdir(ROOT, b"new", 0o755, NOBODY, GID))
        fails(errno.EPERM, lambda: live.mirror.create(ROOT, b"new", 0o755, 0, NOBODY, GID))
        fails(errno.EPERM, lambda: live.mirror.symlink(ROOT, b"new", b"x", NOBODY, GID))
    assert len(os.listdir("/proc/self/fd")) == before
    assert live.names() == [b"dir"]
    live.settled()


@pytest.mark.parametrize("removable", [True, False])
def test_the_times_that_a_failed_making_moved_are_captured(
    live: Any, monkeypatch: pytest.MonkeyPatch, removable: bool
) -> None:
    directory = live.mkdir("dir")
    live.mirror.setattr(directory, mtime_ns=5)
    live.drain()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EINVAL, "no such owner")

    with monkeypatch.context() as patch:
        patch.setattr(os, "chown", refuse)
        if not removable:
            patch.setattr(os, "unlink", refuse)
        fails(errno.EINVAL, lambda: live.mirror.mknod(directory, b"new", 0o10644, 0, NOBODY, GID))
    live.drain()
    assert live.indexed()[b"/dir"][4] == (live.layout.tree / "dir").stat().st_mtime_ns != 5
    if removable:
        live.settled()


def test_every_kind_is_in_the_index(live: Any) -> None:
    for name, mode in ((b"fifo", stat.S_IFIFO), (b"socket", stat.S_IFSOCK), (b"file", stat.S_IFREG)):
        live.mirror.mknod(ROOT, name, mode | 0o600, 0, UID, GID)
    live.mirror.mknod(ROOT, b"null", stat.S_IFCHR | 0o600, os.makedev(1, 3), UID, GID)
    live.settled()
    assert {path: row[0] for path, row in live.indexed().items() if path} == {
        b"/fifo": Kind.FIFO,
        b"/socket": Kind.SOCKET,
        b"/file": Kind.FILE,
        b"/null": Kind.CHAR,
    }
    assert live.owned._lookups.inode(live.id("null")).rdev == os.makedev(1, 3)


# --- what somebody removed behind the mount -------------------------------------------------------------


def removed_behind(live: Any, path: str) -> InodeId:
    """A file that the index knows and the tree has not, as the next mount finds it."""
    inode: InodeId = live.write(path, b"content")
    live.drain()
    live.close()
    (live.layout.tree / path).unlink()
    live.open()
    assert live.mirror.lookup(ROOT, path.encode()) is None
    return inode


@pytest.mark.parametrize("flags", [os.O_EXCL, os.O_TRUNC, 0])
def test_its_name_can_be_given_to_a_new_file(live: Any, flags: int) -> None:
    old = removed_behind(live, "file")
    new, _, handle = live.mirror.create(ROOT, b"file", 0o644, flags | os.O_RDWR, os.getuid(), os.getgid())
    assert new != old
    live.mirror.write(handle, 0, b"new")
    live.mirror.release(handle)
    live.settled()


def test_its_name_can_be_given_to_what_is_renamed(live: Any) -> None:
    live.write("other", b"other")
    removed_behind(live, "file")
    assert live.rename("other", "file") is None
    live.settled()
    assert live.names() == [b"file"]


def test_of_a_write_that_the_disk_takes_a_part_of_that_part_is_hashed(
    live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    handle = live.create("file", b"o" * (2 * BLOCK_SIZE))
    live.drain()
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[: len(data) // 2], offset))
    assert live.mirror.write(handle, 0, b"x" * (2 * BLOCK_SIZE)) == BLOCK_SIZE
    live.mirror.release(handle)
    live.settled()
    handle = live.mirror.open_file(live.id("file"), os.O_WRONLY)
    assert live.mirror.write(handle, 2 * BLOCK_SIZE, b"y" * 2000) == 1000
    live.mirror.release(handle)
    live.settled()
