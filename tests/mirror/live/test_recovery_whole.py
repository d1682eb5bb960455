"""After a power cut, without an index, and when asked to: the whole tree is compared, and little of it read."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disks import small_disk

from ghostfs.errors import IndexDamaged, SessionBusy, SessionExists, SessionNotFound
from ghostfs.index import Index
from ghostfs.mirror.layout import DataDir
from ghostfs.mirror.live.session import Ending, OwnedMirror, create_session
from ghostfs.model import ROOT

UID, GID = os.geteuid(), os.getegid()
LONG_AGO = 10**9


def standing(live: Any) -> None:
    for name in ("a", "b"):
        live.mkdir(name)
        live.write(f"{name}/file", name.encode() * 1000)
        live.mkdir(f"{name}/sub")
        live.write(f"{name}/sub/deep", b"deep in " + name.encode())
    live.mirror.link(live.id("a/file"), live.id("b"), b"link")
    live.mirror.symlink(ROOT, b"symlink", b"one", UID, GID)
    live.drain()


def power_cut(live: Any) -> None:
    """Ends as a power cut does that happened long after the last commit."""
    live.kill()
    with Index.open(live.layout.index_db) as index, index.commit() as commit:
        commit.set_meta("boot", "another time")
        commit._execute("UPDATE state SET committed_ns = committed_ns + 120000000000")


def test_a_power_cut_reads_only_what_differs_and_begins_an_epoch(live: Any) -> None:
    standing(live)
    epoch = live.owned._lookups.epoch
    power_cut(live)
    tree: Path = live.layout.tree
    (tree / "b" / "sub" / "deep").write_bytes(b"changed")
    (tree / "new").write_bytes(b"new")
    recovery = live.open().recovery
    assert recovery.ending is Ending.POWER_CUT
    assert recovery.files_read == 2
    assert live.owned._lookups.epoch != epoch
    live.check()


def test_a_power_cut_distrusts_what_was_written_shortly_before(live: Any) -> None:
    standing(live)
    live.kill()
    with Index.open(live.layout.index_db) as index, index.commit() as commit:
        commit.set_meta("boot", "another time")
    # Three files, one of them under two names.
    assert live.open().recovery.files_read == 4
    live.check()


def moved(tree: Path) -> None:
    (tree / "a").rename(tree / "b" / "a")
    (tree / "b").rename(tree / "c")
    (tree / "c" / "a" / "sub").rename(tree / "sub")


def exchanged(tree: Path) -> None:
    (tree / "a").rename(tree / "t")
    (tree / "b").rename(tree / "a")
    (tree / "t").rename(tree / "b")


def kinds_changed(tree: Path) -> None:
    shutil.rmtree(tree / "a")
    (tree / "a").write_bytes(b"a file now")
    (tree / "b" / "file").unlink()
    (tree / "b" / "file").mkdir()
    (tree / "symlink").unlink()
    (tree / "symlink").symlink_to("two")


def replaced(tree: Path) -> None:
    (tree / "tmp").write_bytes(b"replacement")
    (tree / "tmp").rename(tree / "a" / "file")
    (tree / "symlink2").symlink_to("two")
    (tree / "symlink2").rename(tree / "symlink")
    os.chmod(tree / "b", 0o700)
    os.utime(tree / "b" / "sub" / "deep", ns=(1, 1))


def shadowed(tree: Path) -> None:
    (tree / ".skills").mkdir()
    (tree / ".skills" / "file").write_bytes(b"not the session's")


def removed(tree: Path) -> None:
    shutil.rmtree(tree / "a")
    shutil.rmtree(tree / "b" / "sub")


CHANGES = [moved, exchanged, kinds_changed, replaced, shadowed, removed]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("ending", ["power cut", "rescan", "stopped"])
def test_whatever_happened_behind_it_is_found(
    live: Any, change: Callable[[Path], None], ending: str
) -> None:
    standing(live)
    if ending == "power cut":
        power_cut(live)
    elif ending == "rescan":
        live.kill()
    else:
        live.close()
    change(live.layout.tree)
    live.open(rescan=ending != "power cut")
    if change is shadowed:
        shutil.rmtree(live.layout.tree / ".skills")
        os.utime(live.layout.tree, ns=(1, 1))
        live.mirror.setattr(ROOT, mtime_ns=2)
        live.drain()
    live.check()


@pytest.mark.parametrize("change", [moved, exchanged])
def test_what_moved_keeps_its_identity_and_is_not_read(live: Any, change: Callable[[Path], None]) -> None:
    standing(live)
    before = {inode.id for inode in live.owned._lookups.all_inodes()}
    live.close()
    change(live.layout.tree)
    assert live.open(rescan=True).recovery.files_read == 0
    assert {inode.id for inode in live.owned._lookups.all_inodes()} == before


@pytest.mark.allows_log("index_damaged", "index_set_aside", "index_missing")
@pytest.mark.parametrize("damage", ["header", "pages", "missing", "empty"])
@pytest.mark.parametrize("killed", [True, False])
def test_an_index_that_cannot_be_read_is_made_again(live: Any, damage: str, killed: bool) -> None:
    standing(live)
    (live.kill if killed else live.close)()
    database: Path = live.layout.index_db
    if damage == "missing":
        database.unlink()
    elif damage == "empty":
        database.write_bytes(b"")
    else:
        data = bytearray(database.read_bytes())
        begin = 0 if damage == "header" else 4096
        data[begin : begin + 4096 * 30] = b"\xa5" * (len(data[begin : begin + 4096 * 30]))
        database.write_bytes(data)
        for suffix in ("-wal", "-shm"):
            database.with_name(database.name + suffix).unlink(missing_ok=True)
    assert live.open().recovery.ending is Ending.NO_INDEX
    live.check()
    assert bool(list(live.layout.state.glob("index.db.damaged-*"))) == (damage != "missing")


@pytest.mark.allows_log("index_missing")
def test_the_log_of_a_lost_index_gets_not_into_the_new_one(live: Any) -> None:
    standing(live)
    live.close()
    live.open()
    live.write("in the log only", b"x")
    live.drain()
    wal = live.layout.index_db.with_name("index.db-wal")
    kept = wal.read_bytes()
    live.kill()
    live.layout.index_db.unlink()
    wal.write_bytes(kept)
    live.open()
    live.check()


def test_more_directories_than_descriptors(live: Any) -> None:
    live.open()
    for number in range(300):
        path = live.layout.tree / f"d{number}"
        path.mkdir()
        (path / "file").write_bytes(b"x")
    deep = os.open(live.layout.tree, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("deep", dir_fd=deep)
        below = os.open("deep", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    live.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (150, hard))
    try:
        live.open(rescan=True)
        live.check()
        target, source = live.id("deep/" * 299 + "deep"), live.id("d7")
        live.mirror.rename(source, b"file", target, b"far away", 0)
        live.mirror.rename(live.id("deep/" * 150), b"deep", source, b"half", 0)
        live.settled()
        live.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_sparse_files_cost_what_is_in_them(live: Any) -> None:
    handle = live.create("sparse", b"x")
    live.mirror.setattr(handle.inode, size=1 << 40, handle=handle)
    live.mirror.write(handle, 1 << 39, b"y" * 10)
    live.mirror.release(handle)
    live.drain()
    row = live.owned._lookups.inode(handle.inode)
    assert row.size == 1 << 40
    live.mirror.setattr(handle.inode, mtime_ns=1)
    live.kill()
    assert live.open().recovery.files_read == 1
    assert live.owned._lookups.inode(handle.inode).digest == row.digest


# --- being there, being owned -----------------------------------------------------------------------------


def test_a_session_is_made_once(live: Any) -> None:
    with pytest.raises(SessionExists):
        create_session(live.layout)


@pytest.mark.parametrize("left", ["state", "staging", "index"])
def test_a_session_that_was_half_made_can_be_made(tmp_path: Path, left: str) -> None:
    layout = DataDir(tmp_path).session("half")
    layout.state.mkdir(parents=True)
    if left != "state":
        layout.staging.mkdir()
    if left == "index":
        Index.create(layout.index_db).close()
    create_session(layout)
    assert DataDir(tmp_path).session_names() == ["half"]


def test_no_session_and_one_in_use(live: Any) -> None:
    with pytest.raises(SessionNotFound):
        OwnedMirror.open(DataDir(live.home).session("none"), live.settings)
    live.open()
    with pytest.raises(SessionBusy, match=str(os.getpid())):
        OwnedMirror.open(live.layout, live.settings)
    live.close()
    live.open()


def test_a_failed_start_leaves_nothing_open(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    standing(live)
    live.close()
    before = sorted(os.listdir("/proc/self/fd"))

    def fail(*_: object, **__: object) -> None:
        raise IndexDamaged("no")

    for target in ("_open_recovered", "_mark"):
        with monkeypatch.context() as patch:
            patch.setattr(f"ghostfs.mirror.live.session.{target}", fail)
            patch.setattr("ghostfs.mirror.live.session._set_aside", lambda *_: None)
            with pytest.raises(IndexDamaged):
                OwnedMirror.open(live.layout, live.settings)
    assert sorted(os.listdir("/proc/self/fd")) == before
    live.open()


def _written(live: Any, handle: Any, offset: int) -> int:
    try:
        return int(live.mirror.write(handle, offset, b"x" * 65536))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return 0


def test_a_disk_that_is_full_for_a_while(tmp_path: Path, live_class: Callable[..., Any]) -> None:
    with small_disk(tmp_path, "4m") as disk:
        live = live_class(disk)
        live.write("kept", b"x" * 1000)
        live.drain()
        filler = live.create("filler")
        filled = 0
        while (written := _written(live, filler, filled)) > 0:
            filled += written
        failed = 0
        for round_ in range(200):
            try:
                live.write(f"file{round_}", b"y" * 100)
            except OSError:
                failed += 1
        assert failed
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(live.owned.capture, "_failed", lambda _error: None)
            live.step()
        live.mirror.setattr(filler.inode, size=0, handle=filler)
        live.settled()
        live.mirror.release(filler)
        live.close()
