"""A disk that fails, or that can only be read any more: the caller is told what the disk says, nothing that was
acknowledged is lost, and all goes on when the disk does.

The failing disk is a filesystem of the tests' own (`tests/support/failing.py`), because device-mapper, which can do
that to real ones, is not on every machine.
"""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from failing import CHANGES, FailingDisk
from stack import GHOSTFS, Stack, differences, eventually
from terminal import Terminal

from ghostfs.errors import ExitCode
from ghostfs.index import Index
from ghostfs.mirror.live.verify import verify

KEPT = b"kept" * 100_000
MODES = pytest.mark.parametrize("options", [(), ("--writeback",)], ids=["write-through", "writeback"])


@dataclass
class Place:
    """A stack, and the disk on which one part of it lies."""

    stack: Stack
    disk: FailingDisk

    def mount(self, *options: str) -> Path:
        return self.stack.mount("work", *options)

    def log(self) -> str:
        return self.stack.session("work").log_file.read_text()

    def ends_well(self, mount: Path) -> None:
        """The mount can be ended in order, and index and files agree."""
        assert "index and files agree" in self.stack.run("verify", "work")
        self.stack.umount(mount)
        report = verify(self.stack.session("work"))
        assert report.ok, report.problems[:5]
        assert "handler_failed" not in self.log()
        assert "capture_failed" not in self.log()


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Place]:
    """The data directory is on the disk that fails; mountpoints and copies are elsewhere."""
    below, shown = tmp_path / "below", tmp_path / "stack" / "hub"
    below.mkdir()
    shown.mkdir(parents=True)
    with FailingDisk(below, shown) as disk, Stack(tmp_path / "stack") as stack:
        try:
            yield Place(stack, disk)
        finally:
            disk.mend()


@pytest.fixture
def tree(stack: Stack, tmp_path: Path) -> Iterator[Place]:
    """The tree of the session alone is on it, and the index elsewhere."""
    stack.run("session", "create", "work")
    (tmp_path / "below").mkdir()
    with FailingDisk(tmp_path / "below", stack.session("work").tree) as disk:
        try:
            yield Place(stack, disk)
        finally:
            disk.mend()
            for mount in list(stack.mounts):
                stack.umount(mount)


def refused(call: Callable[[], object]) -> int:
    """The errno that a call fails with; 0 if it does not."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


def changes(mount: Path, fd: int) -> dict[str, Callable[[], object]]:
    """Each way of changing something, on what `furnish` makes."""
    return {
        "create": lambda: os.close(os.open(mount / "new", os.O_CREAT | os.O_WRONLY | os.O_EXCL)),
        "mkdir": lambda: os.mkdir(mount / "new"),
        "symlink": lambda: os.symlink("target", mount / "new"),
        "mkfifo": lambda: os.mkfifo(mount / "new"),
        "link": lambda: os.link(mount / "kept", mount / "new"),
        "rename": lambda: os.rename(mount / "kept", mount / "new"),
        "replace": lambda: os.rename(mount / "other", mount / "kept"),
        "unlink": lambda: os.unlink(mount / "kept"),
        "rmdir": lambda: os.rmdir(mount / "empty"),
        "chmod": lambda: os.chmod(mount / "kept", 0o600),
        "chown": lambda: os.chown(mount / "kept", 1, 1),
        "utime": lambda: os.utime(mount / "kept", ns=(1, 1)),
        "truncate": lambda: os.truncate(mount / "kept", 3),
        "ftruncate": lambda: os.ftruncate(fd, 100),
        "open": lambda: os.open(mount / "other", os.O_WRONLY | os.O_TRUNC),
        "open_to_write": lambda: os.open(mount / "other", os.O_WRONLY),
    }


def furnish(mount: Path) -> int:
    """Some files; a descriptor of one of them."""
    (mount / "kept").write_bytes(KEPT)
    (mount / "other").write_bytes(b"other")
    (mount / "empty").mkdir()
    fd = os.open(mount / "open", os.O_CREAT | os.O_RDWR, 0o644)
    os.write(fd, b"acknowledged")
    os.fsync(fd)
    return fd


@MODES
@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS], ids=["EIO", "EROFS"])
def test_callers_are_told_and_it_goes_on(whole: Place, code: int, options: tuple[str, ...]) -> None:
    mount = whole.mount(*options)
    fd = furnish(mount)
    whole.stack.settle("work")
    before = sorted(os.listdir(mount))
    whole.disk.fail(code, *CHANGES)
    told = {name: refused(change) for name, change in changes(mount, fd).items()}
    assert told == dict.fromkeys(told, code)
    if options:
        os.pwrite(fd, b"in the kernel", 0)
    else:
        assert refused(lambda: os.pwrite(fd, b"not written!!", 0)) == code
    assert refused(lambda: os.fsync(fd)) == code
    assert sorted(os.listdir(mount)) == before
    assert (mount / "kept").read_bytes() == KEPT
    assert (mount / "other").read_bytes() == b"other"
    whole.disk.mend()
    assert [refused(change) for name, change in changes(mount, fd).items() if name == "mkdir"] == [0]
    os.pwrite(fd, b"written again", 0)
    os.fsync(fd)
    os.close(fd)
    assert (mount / "open").read_bytes() == b"written again"
    whole.ends_well(mount)
    tree = whole.stack.session("work").tree
    assert (tree / "kept").read_bytes() == KEPT
    assert (tree / "open").read_bytes() == b"written again"


@MODES
@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS], ids=["EIO", "EROFS"])
def test_a_map_is_told_by_msync(tree: Place, code: int, options: tuple[str, ...]) -> None:
    mount = tree.mount(*options)
    fd = furnish(mount)
    os.ftruncate(fd, 4096)
    os.fsync(fd)
    with mmap.mmap(fd, 4096) as mapped:
        mapped[:] = b"m" * 4096
        tree.disk.fail(code, "write")
        assert refused(mapped.flush) == code
        tree.disk.mend()
        mapped[:] = b"n" * 4096
        mapped.flush()
    os.close(fd)
    assert (mount / "open").read_bytes() == b"n" * 4096
    tree.ends_well(mount)
    assert (tree.stack.session("work").tree / "open").read_bytes() == b"n" * 4096


@MODES
@pytest.mark.parametrize("size", [4096, 8 << 20])
def test_what_a_map_was_refused_is_not_shown_as_if_it_were_there(
    tree: Place, size: int, options: tuple[str, ...]
) -> None:
    mount = tree.mount(*options)
    path, below = mount / "mapped", tree.stack.session("work").tree / "mapped"
    path.write_bytes(b"b" * size)
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    with mmap.mmap(fd, size) as mapped:
        tree.disk.fail(errno.EIO, "write")
        mapped[:] = b"m" * size
        assert refused(mapped.flush) == errno.EIO
        os.close(fd)
        tree.disk.mend()
        # Nobody rewrites it: what is shown is what there is, to those who open it anew and to who has it mapped.
        eventually(
            lambda: path.read_bytes() == below.read_bytes() == b"b" * size,
            timeout=10,
            what="it is not shown as it is",
        )
        assert mapped[:] == b"b" * size
    tree.ends_well(mount)
    assert below.read_bytes() == b"b" * size


def test_what_cannot_be_synced_is_said_and_goes_to_the_index_all_the_same(tree: Place) -> None:
    mount = tree.mount()
    fd = furnish(mount)
    tree.disk.fail(errno.EIO, "fsync", "fsyncdir")
    os.pwrite(fd, b"unsynced", 0)
    for call in (lambda: os.fsync(fd), lambda: os.fdatasync(fd)):
        assert refused(call) == errno.EIO
    directory = os.open(mount, os.O_RDONLY)
    assert refused(lambda: os.fsync(directory)) == errno.EIO
    tree.stack.settle("work")
    tree.disk.mend()
    for each in (fd, directory):
        os.fsync(each)
        os.close(each)
    tree.ends_well(mount)


@pytest.mark.parametrize("foreground", [False, True], ids=["background", "foreground"])
def test_an_end_that_cannot_be_made_durable_says_why(
    tree: Place, tmp_path: Path, *, foreground: bool
) -> None:
    """All is committed, and then the tree cannot be opened to be synced."""
    mount = tmp_path / "mnt"
    mount.mkdir()
    process = None
    if foreground:
        asked = [*GHOSTFS, "mount", "-f", "work", str(mount)]
        process = subprocess.Popen(asked, env=tree.stack.environment, stderr=subprocess.PIPE)
        eventually(lambda: os.path.ismount(mount), what="it is not mounted")
    else:
        tree.stack.run("mount", "work", mount)
    (mount / "file").write_bytes(b"content")
    tree.stack.settle("work")
    tree.disk.fail(errno.EIO, "opendir")
    done = subprocess.run(
        [*GHOSTFS, "umount", mount], env=tree.stack.environment, capture_output=True, text=True, check=False
    )
    tree.disk.mend()
    assert done.returncode == ExitCode.MOUNT
    assert "is not up to date (its process ended too early, or its log says why)" in done.stderr
    if process is None:
        assert '"event": "not_stopped_clean"' in tree.log()
    else:
        last = process.communicate()[1].decode().splitlines()[-1]
        assert process.returncode == ExitCode.MOUNT
        assert "but its index is not up to date (Input/output error" in last
    tree.ends_well(tree.mount())


def test_what_cannot_be_read_is_said(tree: Place) -> None:
    mount = tree.mount()
    os.close(furnish(mount))
    tree.stack.umount(mount)
    mount = tree.mount()  # the kernel has nothing of it in memory
    for path in (mount, tree.stack.session("work").tree):
        fd = os.open(path / "kept", os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    tree.disk.fail(errno.EIO, "read", "readdir", "readlink")
    assert refused((mount / "kept").read_bytes) == errno.EIO
    # Names and attributes are known without the disk's directories.
    assert sorted(os.listdir(mount)) == [".skills", "empty", "kept", "open", "other"]
    tree.disk.mend()
    assert (mount / "kept").read_bytes() == KEPT
    tree.ends_well(mount)


def test_one_file_that_cannot_be_read_back_holds_no_other_up(tree: Place) -> None:
    """It was written in pieces, so that its hash needs it to be read."""
    mount = tree.mount()
    os.close(furnish(mount))
    tree.stack.settle("work")
    fd = os.open(mount / "kept", os.O_RDWR)
    below = os.open(tree.stack.session("work").tree / "kept", os.O_RDONLY)
    tree.disk.fail(errno.EIO, "read")
    os.pwrite(fd, b"piece", 1000)
    os.fsync(fd)
    os.posix_fadvise(below, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    os.symlink("another", mount / "symlink")
    eventually(lambda: "commit_failed" in tree.log(), what="nothing failed")
    eventually(lambda: indexed(tree.stack, b"symlink"), what="the other change is not committed")
    assert "Input/output error" in tree.stack.run("status")
    os.close(below)
    tree.disk.mend()
    tree.ends_well(mount)


def indexed(stack: Stack, name: bytes) -> bool:
    with Index.open(stack.session("work").index_db, readonly=True) as index:
        return index.dirent(1, name) is not None


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS], ids=["EIO", "EROFS"])
@pytest.mark.parametrize("killed", [False, True], ids=["goes on", "killed"])
def test_what_is_not_committed_yet_is_not_lost(whole: Place, code: int, *, killed: bool) -> None:
    """Changes are in the tree and in dirty.log, and then nothing can be written any more."""
    never = ("-o", "settle_quiet_ms=3600000", "-o", "settle_max_age_ms=3600000")
    mount = whole.mount(*never)
    pid = whole.stack.mount_pid("work")
    fd = furnish(mount)
    (mount / "late").write_bytes(b"acknowledged")
    os.pwrite(fd, b"rewritten", 0)
    os.fsync(fd)
    whole.stack.settle("work")
    os.pwrite(fd, b"R", 0)  # the file is open and was not synced since: nothing is committed of it
    whole.disk.fail(code, *CHANGES)
    assert refused(lambda: os.unlink(mount / "late")) == code
    if killed:
        os.kill(pid, signal.SIGKILL)
        whole.stack.mounts.remove(mount)
        whole.disk.mend()
        os.close(fd)
        mount = whole.mount()
    else:
        with Terminal([*GHOSTFS, "verify", "work"], whole.stack.environment) as terminal:
            terminal.read_until("not committed yet: Input/output error")
            whole.disk.mend()
            terminal.read_until("index and files agree")
            assert terminal.end() == ExitCode.OK
        os.close(fd)
    assert (mount / "late").read_bytes() == b"acknowledged"
    assert (mount / "open").read_bytes() == b"Rewrittenged"
    whole.ends_well(mount)


def test_an_index_that_cannot_be_read_now_is_kept(whole: Place) -> None:
    mount = whole.mount()
    os.close(furnish(mount))
    whole.stack.umount(mount)
    session = whole.stack.session("work")
    with Index.open(session.index_db, readonly=True) as index:
        epoch = index.epoch
    fd = os.open(session.index_db, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    whole.disk.fail(errno.EIO, "read")
    done = subprocess.run(
        [*GHOSTFS, "mount", "work", mount],
        env=whole.stack.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Input/output error" in done.stderr
    assert done.stderr.startswith("ghostfs: ")
    assert done.stderr.count("\n") == 1
    whole.disk.mend()
    mount = whole.mount()
    assert "index_damaged" not in whole.log()
    assert not list(session.state.glob("*.damaged*"))
    whole.ends_well(mount)
    with Index.open(session.index_db, readonly=True) as index:
        assert index.epoch == epoch


def mount_answers(stack: Stack, mount: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [*GHOSTFS, "mount", *arguments, mount],
        env=stack.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_no_mount_of_a_data_directory_that_is_read_only(small: Stack, tmp_path: Path) -> None:
    mount = small.mount("work")
    (mount / "file").write_bytes(b"content")
    small.umount(mount)
    disk, place = small.base.parent, tmp_path / "mnt"
    place.mkdir()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        for arguments in (("work",), ("-f", "work"), ("--create", "other")):
            code, said = mount_answers(small, place, *arguments)
            assert code == ExitCode.MOUNT
            assert "is on a read-only filesystem" in said
            assert said.startswith("ghostfs: ")
            assert said.count("\n") == 1
        assert "index and files agree" in small.run("verify", "work")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    mount = small.mount("work")
    assert (mount / "file").read_bytes() == b"content"


def test_a_tree_that_is_read_only_can_be_read(stack: Stack) -> None:
    """A real filesystem this time: it is read-only when it is mounted, then not, then again."""
    stack.run("session", "create", "work")
    tree = stack.session("work").tree
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=755", "tree", tree], check=True)
    try:
        mount = stack.mount("work")
        fd = furnish(mount)
        os.close(fd)
        stack.umount(mount)
        subprocess.run(["mount", "-o", "remount,ro", tree], check=True)
        code, said = mount_answers(stack, mount, "work")
        stack.mounts.append(mount)
        assert code == ExitCode.OK
        assert '"event": "tree_read_only"' in said
        assert said.count("\n") == 1
        fd = os.open(mount / "kept", os.O_RDONLY)
        told = {name: refused(change) for name, change in changes(mount, fd).items() if name != "ftruncate"}
        assert told == dict.fromkeys(told, errno.EROFS)
        assert (mount / "kept").read_bytes() == KEPT
        os.close(fd)
        subprocess.run(["mount", "-o", "remount,rw", tree], check=True)
        (mount / "more").write_bytes(b"more")
        stack.settle("work")
        subprocess.run(["mount", "-o", "remount,ro", tree], check=True)
        assert refused(lambda: os.unlink(mount / "more")) == errno.EROFS
        assert "index and files agree" in stack.run("verify", "work")
        stack.umount(mount)
        assert verify(stack.session("work")).ok
    finally:
        subprocess.run(["umount", tree], check=True)


def test_a_node_goes_on_when_its_disk_does(stack: Stack, tmp_path: Path) -> None:
    mount = stack.mount("work")
    os.close(furnish(mount))
    stack.start_hub()
    (tmp_path / "below").mkdir()
    (stack.base / "n1").mkdir()
    with FailingDisk(tmp_path / "below", stack.base / "n1") as disk:
        node = stack.start_node("n1", "work")
        stack.converge("work")
        for code in (errno.EIO, errno.EROFS):
            disk.fail(code, *CHANGES)
            (mount / f"made{code}").write_bytes(KEPT)
            (mount / "other").write_bytes(b"%d" % code)
            os.rename(mount / "kept", mount / "moved")
            os.rename(mount / "moved", mount / "kept")
            disk.mend()
            stack.converge("work")
            assert differences(stack.session("work").tree, node.copy("work")) == ""
        assert node.stop() == 0
        del stack.nodes["n1"]
