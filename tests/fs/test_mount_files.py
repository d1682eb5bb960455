"""Files through a real mount: every operation on content and attributes, with and without the writeback cache."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534
AT_FDCWD = -100


def refusal(act: Callable[[], object]) -> int | None:
    """The errno that an action fails with."""
    try:
        act()
    except OSError as error:
        return error.errno
    return None


def renameat2(old: Path, new: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def test_content_is_read_back_as_it_was_written(here: Path) -> None:
    data = os.urandom(3 * 262144 + 17)
    (here / "f").write_bytes(data)
    assert (here / "f").read_bytes() == data
    assert (here / "f").stat().st_size == len(data)


def test_writes_at_offsets_and_reads_across_them(here: Path) -> None:
    fd = os.open(here / "f", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"end", 100_000)
    os.pwrite(fd, b"start", 0)
    assert os.pread(fd, 10, 0) == b"start" + bytes(5)
    assert os.pread(fd, 10, 99_998) == bytes(2) + b"end"
    assert os.pread(fd, 10, 200_000) == b""
    os.close(fd)


def test_a_hole_takes_no_space(here: Path) -> None:
    fd = os.open(here / "f", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 1 << 40)
    os.pwrite(fd, b"x", 1 << 39)
    os.close(fd)
    st = (here / "f").stat()
    assert st.st_size == 1 << 40
    assert st.st_blocks * 512 < 1 << 20


def test_truncation_by_path_by_descriptor_and_at_open(here: Path) -> None:
    path = here / "f"
    path.write_bytes(b"0123456789")
    os.truncate(path, 4)
    assert path.read_bytes() == b"0123"
    with path.open("r+b") as file:
        file.truncate(6)
    assert path.read_bytes() == b"0123\0\0"
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert path.stat().st_size == 0


def test_appends_of_two_processes_all_arrive(here: Path) -> None:
    path = here / "log"
    code = "import os,sys\nfd=os.open(sys.argv[1],os.O_WRONLY|os.O_APPEND|os.O_CREAT,0o644)\nfor i in range(300): os.write(fd,sys.argv[2].encode()*9+b'\\n')"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), word]) for word in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    lines = path.read_bytes().splitlines()
    assert sorted(lines) == [b"a" * 9] * 300 + [b"b" * 9] * 300


def test_exclusive_creation(here: Path) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    os.close(os.open(here / "f", flags))
    assert refusal(lambda: os.open(here / "f", flags)) == errno.EEXIST


def test_creation_obeys_the_umask_and_gives_a_readonly_file_a_writable_descriptor(here: Path) -> None:
    before = os.umask(0o027)
    try:
        fd = os.open(here / "f", os.O_CREAT | os.O_RDWR, 0o466)
        os.mkdir(here / "d", 0o777)
    finally:
        os.umask(before)
    os.write(fd, b"x")
    os.close(fd)
    assert stat.S_IMODE((here / "f").stat().st_mode) == 0o440
    assert stat.S_IMODE((here / "d").stat().st_mode) == 0o750


def test_an_unlinked_file_lives_while_it_is_open(here: Path) -> None:
    fd = os.open(here / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"before")
    os.unlink(here / "f")
    os.write(fd, b" after")
    assert os.pread(fd, 100, 0) == b"before after"
    os.ftruncate(fd, 3)
    os.fchmod(fd, 0o600)
    os.utime(fd, ns=(1, 2))
    os.fsync(fd)
    st = os.fstat(fd)
    assert (st.st_size, stat.S_IMODE(st.st_mode), st.st_mtime_ns, st.st_nlink) == (3, 0o600, 2, 0)
    os.close(fd)
    assert not (here / "f").exists()


def test_a_file_replaced_by_rename_lives_while_it_is_open(here: Path) -> None:
    (here / "old").write_bytes(b"old")
    (here / "new").write_bytes(b"new")
    with (here / "old").open("r+b") as file:
        os.rename(here / "new", here / "old")
        assert file.read() == b"old"
        file.write(b"er")
        file.flush()
        assert os.fstat(file.fileno()).st_size == 5
    assert (here / "old").read_bytes() == b"new"


def test_hard_links_share_everything(here: Path) -> None:
    (here / "a").write_bytes(b"one")
    os.link(here / "a", here / "b")
    assert (here / "a").stat().st_ino == (here / "b").stat().st_ino
    assert (here / "a").stat().st_nlink == 2
    (here / "b").write_bytes(b"two")
    assert (here / "a").read_bytes() == b"two"
    os.unlink(here / "a")
    assert (here / "b").stat().st_nlink == 1
    assert (here / "b").read_bytes() == b"two"


def test_symlinks_keep_their_targets_to_the_byte(here: Path) -> None:
    target = b"nowhere/\xff\xfe/" + b"x" * 3000
    os.symlink(target, os.fsencode(here / "s"))
    assert os.readlink(os.fsencode(here / "s")) == target
    assert (here / "s").lstat().st_size == len(target)
    os.lchown(here / "s", NOBODY, NOBODY)
    os.utime(here / "s", ns=(5, 7), follow_symlinks=False)
    st = (here / "s").lstat()
    assert (st.st_uid, st.st_gid, st.st_mtime_ns) == (NOBODY, NOBODY, 7)


def test_fifos_sockets_devices_and_plain_files_by_mknod(here: Path) -> None:
    os.mkfifo(here / "fifo", 0o640)
    os.mknod(here / "plain", stat.S_IFREG | 0o600)
    os.mknod(here / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener:
        directory = os.open(here, os.O_PATH)
        short = f"/proc/self/fd/{directory}/socket"  # a socket's path has 108 bytes at most
        listener.bind(short)
        listener.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(short)
        os.close(directory)
    assert stat.S_ISFIFO((here / "fifo").stat().st_mode)
    assert stat.S_ISREG((here / "plain").stat().st_mode)
    assert (here / "null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_ISSOCK((here / "socket").stat().st_mode)
    reader = os.open(here / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(here / "fifo", os.O_WRONLY)
    os.write(writer, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    os.close(writer)


def test_modes_owners_and_times(here: Path) -> None:
    path = here / "f"
    path.write_bytes(b"x")
    path.chmod(0o751)
    os.chown(path, 1234, 5678)
    os.utime(path, ns=(1_111_111_111_222_333_444, 987_654_321_987_654_321))
    st = path.stat()
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o751, 1234, 5678)
    assert (st.st_atime_ns, st.st_mtime_ns) == (1_111_111_111_222_333_444, 987_654_321_987_654_321)
    os.utime(path)
    assert path.stat().st_mtime_ns > st.st_mtime_ns


@pytest.mark.parametrize(
    "change",
    [
        "fd=os.open('f',os.O_WRONLY); os.write(fd,b'y')",
        "os.truncate('f',0)",
        "os.open('f',os.O_WRONLY|os.O_TRUNC)",
        "os.chown('f',-1,-1)",
    ],
    ids=["write", "truncate", "open", "chown"],
)
def test_what_a_user_changes_loses_setuid_and_setgid(here: Path, change: str) -> None:
    path = here / "f"
    path.write_bytes(b"x")
    os.chown(path, NOBODY, NOBODY)
    os.chmod(path, 0o6777)
    who = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    subprocess.run([*who, sys.executable, "-c", f"import os\n{change}"], check=True, cwd=here)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777


def test_what_root_writes_keeps_setuid(here: Path) -> None:
    path = here / "f"
    path.write_bytes(b"x")
    os.chmod(path, 0o6755)
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(fd, b"y")
    os.ftruncate(fd, 10)
    os.close(fd)
    os.truncate(path, 3)
    assert stat.S_IMODE(path.stat().st_mode) == 0o6755
    os.chown(path, NOBODY, NOBODY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_a_setgid_directory_hands_down_its_group(here: Path) -> None:
    os.chown(here, 0, 4321)
    os.chmod(here, 0o2775)
    (here / "f").write_bytes(b"")
    (here / "d").mkdir()
    os.symlink("f", here / "s")
    assert [os.lstat(here / name).st_gid for name in "fds"] == [4321] * 3
    assert (here / "d").stat().st_mode & stat.S_ISGID
    assert not (here / "f").stat().st_mode & stat.S_ISGID


def test_what_another_user_makes_is_that_users(here: Path) -> None:
    os.chmod(here, 0o777)
    code = "import os\nos.umask(0)\nos.close(os.open('f',os.O_CREAT|os.O_WRONLY,0o4755))\nos.mkdir('d')\nos.symlink('x','s')\nos.mkfifo('p')\nos.link('f','l')"
    who = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    subprocess.run([*who, sys.executable, "-c", code], check=True, cwd=here)
    for name in "fdsp":
        st = os.lstat(here / name)
        assert (st.st_uid, st.st_gid) == (NOBODY, NOBODY), name
    assert stat.S_IMODE((here / "f").stat().st_mode) == 0o4755
    (here / "mine").write_bytes(b"secret")
    os.chmod(here / "mine", 0o600)
    denied = subprocess.run([*who, "cat", "mine"], capture_output=True, check=False, cwd=here)
    assert denied.returncode != 0


def test_rename_replaces_and_its_flags_do_not(here: Path) -> None:
    for name in "abc":
        (here / name).write_bytes(name.encode())
    os.rename(here / "a", here / "b")
    assert (here / "b").read_bytes() == b"a"
    assert not (here / "a").exists()
    assert refusal(lambda: renameat2(here / "b", here / "c", 1)) == errno.EEXIST
    renameat2(here / "b", here / "c", 2)
    assert ((here / "b").read_bytes(), (here / "c").read_bytes()) == (b"c", b"a")
    renameat2(here / "b", here / "free", 1)
    assert (here / "free").read_bytes() == b"c"
    assert refusal(lambda: renameat2(here / "free", here / "missing", 2)) == errno.ENOENT


def test_a_shared_map_that_is_written_arrives_in_the_file(here: Path) -> None:
    path = here / "f"
    path.write_bytes(bytes(10_000))
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 10_000) as view:
        view[5000:5005] = b"hello"
        view.flush()
    os.close(fd)
    assert path.read_bytes()[4999:5006] == b"\0hello\0"


def test_locks_work_between_processes(here: Path) -> None:
    path = here / "f"
    path.write_bytes(b"")
    code = "import fcntl,sys\nf=open(sys.argv[1],'r+')\ntry: fcntl.{0}(f,fcntl.LOCK_EX|fcntl.LOCK_NB)\nexcept OSError: sys.exit(3)"
    for kind, lock in (("flock", fcntl.flock), ("lockf", fcntl.lockf)):
        with path.open("r+") as file:
            lock(file, fcntl.LOCK_EX)
            assert (
                subprocess.run([sys.executable, "-c", code.format(kind), str(path)], check=False).returncode
                == 3
            )
        assert (
            subprocess.run([sys.executable, "-c", code.format(kind), str(path)], check=False).returncode
            == 0
        )


def test_fsync_of_files_and_directories(here: Path) -> None:
    fd = os.open(here / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x")
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)
    directory = os.open(here, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)
    fd = os.open(here / "s", os.O_RDWR | os.O_CREAT | os.O_SYNC)
    assert os.write(fd, b"synchronous") == 11
    os.close(fd)


def test_direct_reads_and_writes(here: Path) -> None:
    fd = os.open(here / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    with mmap.mmap(-1, 8192) as page:
        page.write(b"d" * 8192)
        assert os.writev(fd, [page]) == 8192
        page.seek(0)
        assert os.preadv(fd, [page], 4096) == 4096
    os.close(fd)
    assert (here / "f").read_bytes() == b"d" * 8192


def test_extended_attributes(here: Path) -> None:
    path = here / "f"
    path.write_bytes(b"")
    os.setxattr(path, "user.a", b"1")
    os.setxattr(path, "user.b", b"\0\xff" * 100)
    assert sorted(os.listxattr(path)) == ["user.a", "user.b"]
    assert os.getxattr(path, "user.b") == b"\0\xff" * 100
    assert refusal(lambda: os.setxattr(path, "user.a", b"2", os.XATTR_CREATE)) == errno.EEXIST
    assert refusal(lambda: os.setxattr(path, "user.c", b"2", os.XATTR_REPLACE)) == errno.ENODATA
    os.removexattr(path, "user.a")
    assert refusal(lambda: os.getxattr(path, "user.a")) == errno.ENODATA


def test_programs_run_from_the_mount(here: Path) -> None:
    script = here / "hello"
    script.write_text("#!/bin/sh\necho hello\n")
    script.chmod(0o755)
    assert subprocess.run([script], capture_output=True, check=True).stdout == b"hello\n"


def test_a_second_reader_sees_each_change_at_once(here: Path) -> None:
    path = here / "f"
    path.write_bytes(b"a")
    with path.open("rb", buffering=0) as reader:
        for size in range(2, 50):
            with path.open("ab") as writer:
                writer.write(b"b")
            assert os.stat(path).st_size == size
            assert len(os.pread(reader.fileno(), 100, 0)) == size


def test_many_writers_that_sync_have_all_they_wrote(here: Path) -> None:
    def work(number: int) -> int:
        for turn in range(15):
            fd = os.open(here / f"f{number}", os.O_CREAT | os.O_RDWR)
            os.pwrite(fd, b"%d" % turn * 1000, turn * 1000)
            os.fsync(fd)
            os.close(fd)
            (here / f"f{(number + 1) % 8}").exists()
        return (here / f"f{number}").stat().st_size

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [14000 + 2000] * 8


OLD = 1_000_000_000_000_000_000
"""Older than the content, so that Linux moves it with the next read of the file below (`relatime`)."""


def below(workspace: Any, name: str) -> Path:
    path: Path = workspace.layout.tree / name
    return path


@pytest.mark.parametrize("made", ["opened", "created", "taken", "set later"])
@pytest.mark.parametrize("quiet", [False, True], ids=["plain", "O_NOATIME"])
def test_access_times_stay_for_whoever_asks_for_that(workspace: Any, made: str, quiet: bool) -> None:
    path = workspace.path / "file"
    flags = os.O_RDWR | (os.O_NOATIME if quiet else 0)
    if made != "created":
        path.write_bytes(b"content")
        # What the kernel has cached it does not ask for.
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    if made == "set later":
        fd = os.open(path, os.O_RDWR)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
        quiet = False  # the kernel does not tell us
    else:
        fd = os.open(path, flags | (os.O_CREAT if made != "opened" else 0), 0o644)
    if made == "created":
        os.write(fd, b"content")
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.utime(path, ns=(OLD, path.stat().st_mtime_ns))
    assert os.pread(fd, 100, 0) == b"content"
    os.close(fd)
    assert (below(workspace, "file").stat().st_atime_ns == OLD) is quiet
    assert (path.stat().st_atime_ns == OLD) is quiet
