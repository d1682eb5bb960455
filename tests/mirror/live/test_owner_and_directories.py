"""The owner lock, descriptors of directories, ids, and the few system calls of our own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ghostfs.errors import SessionBusy
from ghostfs.index import Index
from ghostfs.mirror.live.directories import Directories
from ghostfs.mirror.live.identities import Identities
from ghostfs.mirror.owner import OwnerLock
from ghostfs.mirror.privileges import may_chown
from ghostfs.mirror.syscalls import (
    RENAME_NOREPLACE,
    boot_id,
    data_ranges,
    pread_exactly,
    renameat2,
    syncfs,
)
from ghostfs.model import ROOT, InodeId


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "owner.lock"
    with OwnerLock(path, what="the thing") as first:
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(SessionBusy, match=f"the thing is in use by process {os.getpid()}"):
            OwnerLock(path, what="the thing").acquire()
        first.release()
        first.release()
        OwnerLock(path, what="the thing").acquire().release()


def test_the_lock_ends_with_its_owner(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ghostfs.mirror.owner import OwnerLock\n"
        "lock = OwnerLock(Path(sys.argv[1]), what='x').acquire(); print('mine', flush=True); sys.stdin.read()"
    )
    path = tmp_path / "owner.lock"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(SessionBusy, match=str(process.pid)):
            OwnerLock(path, what="x").acquire()
        process.kill()
        process.wait()
        OwnerLock(path, what="x").acquire().release()


class Tree:
    """Directories by made-up ids, and where they are."""

    def __init__(self, root: Path) -> None:
        self.root = os.open(root, os.O_PATH | os.O_DIRECTORY)
        self.places: dict[int, tuple[int, bytes]] = {}

    def locate(self, directory: InodeId) -> tuple[InodeId, bytes]:
        parent, name = self.places[directory]
        return InodeId(parent), name


def test_descriptors_survive_the_next_request_however_deep(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    fd = os.dup(tree.root)
    for depth in range(2, 102):
        os.mkdir("deeper", dir_fd=fd)
        below = os.open("deeper", os.O_PATH, dir_fd=fd)
        os.close(fd)
        fd = below
        tree.places[depth] = (depth - 1, b"deeper")
    os.close(fd)
    for number in range(200, 260):
        (tmp_path / str(number)).mkdir()
        tree.places[number] = (ROOT, str(number).encode())
    before = len(os.listdir("/proc/self/fd"))
    directories = Directories(tree.root, tree.locate, limit=16)
    for number in range(200, 260):
        shallow = directories.fd(InodeId(number))
        deep = directories.fd(InodeId(101))
        directories.forget(InodeId(101))
        assert os.path.samestat(os.fstat(shallow), (tmp_path / str(number)).stat())
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(deep)
        assert len(os.listdir("/proc/self/fd")) <= before + 16
    directories.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert directories.fd(ROOT) == tree.root
    os.close(tree.root)
    with pytest.raises(ValueError, match="16"):
        Directories(0, tree.locate, limit=15)


def test_a_directory_that_is_not_there_leaves_no_descriptor(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    (tmp_path / "a").mkdir()
    tree.places = {2: (1, b"a")} | {depth: (depth - 1, b"missing") for depth in range(3, 40)}
    before = len(os.listdir("/proc/self/fd"))
    directories = Directories(tree.root, tree.locate, limit=16)
    with pytest.raises(FileNotFoundError):
        directories.fd(InodeId(39))
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(tree.root)


def test_a_symlink_is_no_directory(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    (tmp_path / "link").symlink_to("/")
    tree.places = {2: (1, b"link")}
    with pytest.raises(NotADirectoryError):
        Directories(tree.root, tree.locate).fd(InodeId(2))
    os.close(tree.root)


def test_ids_never_come_twice(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    Index.create(path).close()
    seen: set[int] = set()
    for _ in range(2):
        identities = Identities(Index.open(path))
        for round_ in range(70_000):
            seen.add(identities.take())
            if round_ % 1000 == 0:
                identities.top_up()
        identities.close()
    assert len(seen) == 140_000


def test_system_calls(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    (tmp_path / "b").touch()
    root = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(FileExistsError) as caught:
        renameat2(root, b"a", root, b"b", RENAME_NOREPLACE)
    assert caught.value.errno == errno.EEXIST
    syncfs(root)
    os.close(root)
    with pytest.raises(OSError, match="Bad file"):
        syncfs(root)
    fd = os.open(tmp_path / "a", os.O_RDONLY)
    assert pread_exactly(fd, 4, 8) == b"89"
    assert pread_exactly(fd, 4, 20) == b""
    assert list(data_ranges(fd, 10)) == [(0, 10)]
    assert list(data_ranges(fd, 0)) == []
    os.close(fd)
    assert len(boot_id()) == 36
    assert may_chown() == (os.geteuid() == 0)


def test_ranges_of_a_pipe_cannot_be_told() -> None:
    read, write = os.pipe()
    with pytest.raises(OSError, match="seek"):
        list(data_ranges(read, 10))
    os.close(read)
    os.close(write)
