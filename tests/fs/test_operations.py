"""Handlers called directly: what the kernel does not show, or does only by chance."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio

from ghostfs.fs.operations import Operations
from ghostfs.fs.overlay import Overlay, is_virtual
from ghostfs.mirror.layout import DataDir
from ghostfs.mirror.live.session import OwnedMirror, create_session
from ghostfs.mirror.live.settings import MirrorSettings
from ghostfs.model import ROOT

CALLER = pyfuse3.RequestContext()
FIELDS = dict.fromkeys(
    ["update_mode", "update_uid", "update_gid", "update_size", "update_atime", "update_mtime"], False
)


@dataclass
class Kernel:
    """Calls handlers as the kernel would."""

    operations: Operations
    owned: OwnedMirror

    def __call__(self, handler: str, *arguments: Any) -> Any:
        async def call() -> Any:
            return await getattr(self.operations, handler)(*arguments)

        return trio.run(call)

    def refusal(self, handler: str, *arguments: Any) -> int:
        with pytest.raises(pyfuse3.FUSEError) as refused:
            self(handler, *arguments)
        return refused.value.errno

    def make(self, name: bytes, content: bytes = b"", parent: int = ROOT) -> int:
        info, entry = self("create", parent, name, 0o100644, os.O_RDWR, CALLER)
        assert self("write", info.fh, 0, content) == len(content)
        self("release", info.fh)
        return int(entry.st_ino)

    def setattr(self, inode: int, fh: int | None = None, **values: int) -> pyfuse3.EntryAttributes:
        wanted = pyfuse3.EntryAttributes()
        for name, value in values.items():
            setattr(wanted, name, value)
        names = {"st_mode": "mode", "st_size": "size", "st_uid": "uid", "st_mtime_ns": "mtime"}
        fields = FIELDS | {f"update_{names[name]}": True for name in values}
        entry = self("setattr", inode, wanted, SimpleNamespace(**fields), fh, CALLER)
        assert isinstance(entry, pyfuse3.EntryAttributes)
        return entry

    @property
    def known(self) -> set[int]:
        """Inodes that the mirror remembers because the kernel knows them."""
        return {inode for inode, record in self.owned.mirror._records.items() if record.known}


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    data = DataDir(tmp_path)
    layout = data.session("main")
    create_session(layout)
    (data.skills / "pdf").mkdir(parents=True)
    (data.skills / "pdf" / "SKILL.md").write_text("how\n")
    owned = OwnedMirror.open(layout, MirrorSettings())
    yield Kernel(Operations(owned.mirror, Overlay(data.skills), xattrs=True), owned)
    assert owned.close()


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[bytes, int, int]]]:
    """Reads a directory with room for so many entries in each reply: (name, inode, next position)."""

    def read(kernel: Kernel, fh: int, start: int, room: int) -> list[tuple[bytes, int, int]]:
        accepted: list[tuple[bytes, int, int]] = []

        def reply(_token: object, name: bytes, entry: pyfuse3.EntryAttributes, after: int) -> bool:
            if len(accepted) == room:
                return False
            accepted.append((name, entry.st_ino, after))
            return True

        monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
        kernel("readdir", fh, start, object())
        return accepted

    return read


def test_a_missing_name_is_an_answer_that_the_kernel_keeps(kernel: Kernel) -> None:
    entry = kernel("lookup", ROOT, b"nothing", CALLER)
    assert entry.st_ino == 0
    assert entry.entry_timeout == 300


def test_attributes_are_those_of_the_file_below_under_our_inode(kernel: Kernel) -> None:
    inode = kernel.make(b"f", b"12345")
    below = (kernel.owned.layout.tree / "f").stat()
    entry = kernel("lookup", ROOT, b"f", CALLER)
    assert entry.st_ino == inode != below.st_ino
    for name in ("st_mode", "st_nlink", "st_uid", "st_size", "st_blocks", "st_mtime_ns", "st_ctime_ns"):
        assert getattr(entry, name) == getattr(below, name), name
    assert entry.attr_timeout == entry.entry_timeout == 300


def test_an_inode_is_remembered_until_every_lookup_is_forgotten(kernel: Kernel) -> None:
    inode = kernel.make(b"f")
    for _ in range(3):
        kernel("lookup", ROOT, b"f", CALLER)
    kernel("link", inode, ROOT, b"g", CALLER)
    kernel("forget", [(inode, 2)])
    assert inode in kernel.known
    kernel("forget", [(inode, 2)])
    assert inode in kernel.known
    kernel("forget", [(inode, 1)])
    assert inode not in kernel.known
    assert kernel("lookup", ROOT, b"f", CALLER).st_ino == inode


def test_listing_counts_a_lookup_only_for_what_the_kernel_took(kernel: Kernel, listed: Any) -> None:
    made = {name: kernel.make(name) for name in (b"a", b"b", b"c", b"d")}
    kernel("forget", [(inode, 1) for inode in made.values()])
    fh = kernel("opendir", ROOT, CALLER)
    first = listed(kernel, fh, 0, 4)
    assert [name for name, _, _ in first] == [b".", b"..", b"a", b"b"]
    assert kernel.operations._lookups == {made[b"a"]: 1, made[b"b"]: 1}
    assert kernel.known - {ROOT} == {made[b"a"], made[b"b"]}
    rest = listed(kernel, fh, first[-1][2], 100)
    assert [name for name, _, _ in rest] == [b"c", b"d", b".skills"]
    assert kernel.operations._lookups == dict.fromkeys(made.values(), 1)
    kernel("releasedir", fh)


def test_a_position_means_the_same_name_whatever_happens_meanwhile(kernel: Kernel, listed: Any) -> None:
    for number in range(10):
        kernel.make(b"%d" % number)
    fh = kernel("opendir", ROOT, CALLER)
    positions = {name: after - 1 for name, _, after in listed(kernel, fh, 0, 100)}
    kernel("unlink", ROOT, b"5", CALLER)
    kernel.make(b"0a")
    assert [name for name, _, _ in listed(kernel, fh, positions[b"4"], 3)] == [b"4", b"6", b"7"]
    again = [name for name, _, _ in listed(kernel, fh, 0, 100)]
    assert b"0a" in again
    assert b"5" not in again


def test_files_and_directories_share_no_number(kernel: Kernel) -> None:
    inode = kernel.make(b"f")
    numbers = [kernel("open", inode, os.O_RDONLY, CALLER).fh, kernel("opendir", ROOT, CALLER)]
    skills = kernel("lookup", ROOT, b".skills", CALLER).st_ino
    ignore = kernel("lookup", skills, b".gitignore", CALLER).st_ino
    numbers.append(kernel("open", ignore, os.O_RDONLY, CALLER).fh)
    assert len(set(numbers)) == 3
    assert kernel.refusal("readdir", numbers[0], 0, object()) == errno.EBADF
    assert kernel.refusal("read", numbers[1], 0, 10) == errno.EBADF
    kernel("release", numbers[0])
    kernel("release", numbers[2])
    kernel("releasedir", numbers[1])
    assert kernel.refusal("read", numbers[0], 0, 10) == errno.EBADF


def test_an_unlinked_file_answers_through_its_handle(kernel: Kernel) -> None:
    info, entry = kernel("create", ROOT, b"f", 0o100600, os.O_RDWR, CALLER)
    kernel("write", info.fh, 0, b"content")
    kernel("unlink", ROOT, b"f", CALLER)
    assert kernel("getattr", entry.st_ino, CALLER).st_nlink == 0
    assert kernel.setattr(entry.st_ino, st_size=3).st_size == 3
    assert kernel.setattr(entry.st_ino, info.fh, st_mode=0o640).st_mode == 0o100640
    assert kernel("read", info.fh, 0, 100) == b"con"
    kernel("fsync", info.fh, False)
    kernel("release", info.fh)


def test_a_removed_directory_that_is_in_use_answers_as_it_was(kernel: Kernel, listed: Any) -> None:
    inode = kernel("mkdir", ROOT, b"d", 0o40755, CALLER).st_ino
    kernel("rmdir", ROOT, b"d", CALLER)
    entry = kernel("getattr", inode, CALLER)
    assert stat.S_ISDIR(entry.st_mode)
    assert entry.st_nlink == 0
    fh = kernel("opendir", inode, CALLER)
    assert [name for name, _, _ in listed(kernel, fh, 0, 10)] == [b".", b".."]
    kernel("releasedir", fh)
    kernel("forget", [(inode, 1)])
    assert kernel.refusal("getattr", inode, CALLER) in (errno.ENOENT, errno.ESTALE)


def test_open_flags_that_are_the_kernels_affair_do_not_reach_the_file_below(kernel: Kernel) -> None:
    inode = kernel.make(b"f", b"0123456789")
    info = kernel("open", inode, os.O_WRONLY | os.O_APPEND | os.O_DIRECT | os.O_SYNC, CALLER)
    assert kernel("write", info.fh, 2, b"xy") == 2  # an O_APPEND descriptor would ignore the offset
    kernel("release", info.fh)
    assert (kernel.owned.layout.tree / "f").read_bytes() == b"01xy456789"


def test_an_error_of_the_system_is_passed_on_and_a_bug_is_not_fatal(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(kernel.owned.mirror, "mkdir", full)
    assert kernel.refusal("mkdir", ROOT, b"d", 0o40755, CALLER) == errno.ENOSPC
    assert kernel.operations.bugs == 0


@pytest.mark.allows_log("handler_failed")
@pytest.mark.parametrize("handler", ["lookup", "fsync", "forget"])
def test_a_bug_is_logged_with_its_traceback_counted_and_answered(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, logged: Any, handler: str
) -> None:
    def buggy(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    info, entry = kernel("create", ROOT, b"f", 0o100600, os.O_RDWR, CALLER)
    with monkeypatch.context() as patch:
        patch.setattr(kernel.owned.mirror, handler, buggy)
        if handler == "lookup":
            assert kernel.refusal("lookup", ROOT, b"x", CALLER) == errno.EIO
        elif handler == "fsync":
            assert kernel.refusal("fsync", info.fh, False) == errno.EIO
        else:
            kernel("forget", [(entry.st_ino, 1)])
    assert kernel.operations.bugs == 1
    (event,) = logged.named("handler_failed")
    assert event["operation"] == handler
    assert isinstance(event["exc_info"], ValueError)
    assert kernel("lookup", ROOT, b"f", CALLER).st_ino == entry.st_ino
    kernel("release", info.fh)


def test_what_the_kernel_need_not_ask_again(kernel: Kernel) -> None:
    assert kernel.refusal("flush", 1) == errno.ENOSYS
    assert kernel.refusal("access", ROOT, os.R_OK, CALLER) == errno.ENOSYS
    plain = Kernel(Operations(kernel.owned.mirror, Overlay(Path("/none"))), kernel.owned)
    assert plain.refusal("getxattr", ROOT, b"security.capability", CALLER) == errno.ENOSYS
    assert plain.refusal("listxattr", ROOT, CALLER) == errno.ENOSYS
    assert plain.refusal("setxattr", ROOT, b"user.x", b"", CALLER) == errno.ENOSYS
    assert plain.refusal("removexattr", ROOT, b"user.x", CALLER) == errno.ENOSYS


@pytest.mark.parametrize(("mode", "runs"), [(0o644, False), (0o744, True), (0o601, True), (0o000, False)])
def test_root_alone_may_all_but_run_what_nobody_may(kernel: Kernel, mode: int, runs: bool) -> None:
    alone = Kernel(
        Operations(kernel.owned.mirror, Overlay(Path("/none")), for_root_alone=True), kernel.owned
    )
    info, entry = alone("create", ROOT, b"f", stat.S_IFREG | mode, os.O_RDWR, CALLER)
    directory = alone("mkdir", ROOT, b"d", stat.S_IFDIR, CALLER).st_ino
    skills = alone("lookup", ROOT, b".skills", CALLER).st_ino
    for asked in (os.F_OK, os.R_OK, os.W_OK, os.R_OK | os.W_OK):
        assert alone("access", entry.st_ino, asked, CALLER) is True
    assert alone("access", entry.st_ino, os.X_OK, CALLER) is runs
    assert alone("access", entry.st_ino, os.R_OK | os.X_OK, CALLER) is runs
    for each in (ROOT, directory, skills):
        assert alone("access", each, os.R_OK | os.W_OK | os.X_OK, CALLER) is True
    alone("release", info.fh)


def test_the_overlay_forgets_what_the_kernel_forgets(kernel: Kernel) -> None:
    skills = kernel("lookup", ROOT, b".skills", CALLER).st_ino
    pdf = kernel("lookup", skills, b"pdf", CALLER).st_ino
    assert is_virtual(skills)
    assert is_virtual(pdf)
    assert kernel("lookup", skills, b"pdf", CALLER).st_ino == pdf
    kernel("forget", [(pdf, 1)])
    assert kernel("getattr", pdf, CALLER).st_ino == pdf
    kernel("forget", [(pdf, 1)])
    assert kernel.refusal("getattr", pdf, CALLER) == errno.ESTALE
    assert kernel("lookup", skills, b"pdf", CALLER).st_ino != pdf


def test_a_registry_that_is_not_there_is_an_empty_one(kernel: Kernel, listed: Any) -> None:
    bare = Kernel(Operations(kernel.owned.mirror, Overlay(Path("/none"))), kernel.owned)
    skills = bare("lookup", ROOT, b".skills", CALLER).st_ino
    fh = bare("opendir", skills, CALLER)
    assert [name for name, _, _ in listed(bare, fh, 0, 10)] == [b".", b"..", b".gitignore"]
    missing = bare("lookup", skills, b"pdf", CALLER)
    assert (missing.st_ino, missing.entry_timeout) == (0, 1.0)
    bare("releasedir", fh)


def test_a_directory_of_the_overlay_that_was_forgotten_is_stale(kernel: Kernel) -> None:
    skills = kernel("lookup", ROOT, b".skills", CALLER).st_ino
    pdf = kernel("lookup", skills, b"pdf", CALLER).st_ino
    fh = kernel("opendir", pdf, CALLER)
    kernel("forget", [(pdf, 1)])
    assert kernel.refusal("lookup", pdf, b"SKILL.md", CALLER) == errno.ESTALE
    assert kernel.refusal("getattr", pdf, CALLER) == errno.ESTALE
    kernel("releasedir", fh)
    assert kernel.operations.bugs == 0


def test_a_fold_of_the_overlays_name_is_not_there(kernel: Kernel) -> None:
    (kernel.owned.layout.tree / ".SKILLS").mkdir()
    assert kernel("lookup", ROOT, b".SKILLS", CALLER).st_ino == 0


def test_others_are_served_while_the_disk_is_waited_for(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, release = threading.Event(), threading.Event()

    def slow(*_: object, **__: object) -> None:
        started.set()
        assert release.wait(30)

    info, entry = kernel("create", ROOT, b"f", 0o100600, os.O_RDWR, CALLER)
    monkeypatch.setattr(kernel.owned.mirror, "fsync", slow)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.operations.fsync, info.fh, False)
            await trio.to_thread.run_sync(started.wait)
            found = await kernel.operations.lookup(ROOT, b"f", CALLER)
            assert found.st_ino == entry.st_ino
            release.set()

    trio.run(main)
    kernel("release", info.fh)
