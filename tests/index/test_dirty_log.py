"""The dirty log: what is appended is read back, whatever a kill left at its end."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disks import small_disk
from hypothesis import given
from hypothesis import strategies as st

from ghostfs.errors import GhostError
from ghostfs.index import DirtyDirent, DirtyEntries, DirtyLog
from ghostfs.model import ROOT, InodeId

NAME = b"caf\xe9" + b"\xff" * 251


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dirty.log"


def write_some(log: DirtyLog) -> None:
    log.append_inode(InodeId(2**63 - 1))
    log.append_dirent(ROOT, b"a", InodeId(5))
    log.append_dirent(ROOT, NAME, None)
    log.append_inode(InodeId(7))
    log.append_inode(InodeId(7))
    log.append_dirent(ROOT, b"a", InodeId(6))


SOME = DirtyEntries(
    frozenset({InodeId(2**63 - 1), InodeId(7)}),
    (
        DirtyDirent(ROOT, b"a", InodeId(5)),
        DirtyDirent(ROOT, NAME, None),
        DirtyDirent(ROOT, b"a", InodeId(6)),
    ),
    torn=False,
)


def test_nothing_is_dirty_without_a_log(path: Path) -> None:
    assert not DirtyLog.entries(path)
    with DirtyLog(path):
        assert not DirtyLog.entries(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_was_appended_is_read_back_and_kept(path: Path) -> None:
    with DirtyLog(path) as log:
        write_some(log)
        assert DirtyLog.entries(path) == SOME
    log.close()
    with DirtyLog(path) as log:
        assert DirtyLog.entries(path) == SOME
        log.append_inode(InodeId(8))
    assert DirtyLog.entries(path).inodes == SOME.inodes | {8}


def test_a_torn_end_is_ignored_and_cut_off(path: Path) -> None:
    with DirtyLog(path) as log:
        write_some(log)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        entries = DirtyLog.entries(path)
        assert entries.inodes <= SOME.inodes
        assert entries.dirents == SOME.dirents[: len(entries.dirents)]
        with DirtyLog(path) as log:
            log.append_inode(InodeId(99))
        after = DirtyLog.entries(path)
        assert after == DirtyEntries(entries.inodes | {InodeId(99)}, entries.dirents, torn=False)


def test_each_append_is_one_write(path: Path) -> None:
    with DirtyLog(path) as log:
        sizes = [path.stat().st_size]
        log.append_inode(InodeId(1))
        sizes.append(path.stat().st_size)
        log.append_dirent(ROOT, b"name", None)
        sizes.append(path.stat().st_size)
    assert sizes == [8, 8 + 15, 8 + 15 + 27]


def test_reset_keeps_what_is_still_dirty(path: Path) -> None:
    with DirtyLog(path) as log:
        write_some(log)
        log.reset([InodeId(7)], [DirtyDirent(ROOT, NAME, None)])
        assert DirtyLog.entries(path) == DirtyEntries(
            frozenset({InodeId(7)}), (DirtyDirent(ROOT, NAME, None),), torn=False
        )
        log.append_inode(InodeId(3))
        assert DirtyLog.entries(path).inodes == {3, 7}
        log.reset()
        assert not DirtyLog.entries(path)
        log.append_inode(InodeId(4))
    assert DirtyLog.entries(path).inodes == {4}
    assert sorted(os.listdir(path.parent)) == ["dirty.log", "dirty.log.slack"]


def test_a_damaged_record_ends_the_log(path: Path) -> None:
    with DirtyLog(path) as log:
        write_some(log)
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    assert DirtyLog.entries(path) == DirtyEntries(frozenset({InodeId(2**63 - 1)}), (), torn=True)


def test_another_file_is_refused_and_kept(path: Path) -> None:
    path.write_bytes(b"GFSDIRT2 of a later version")
    with pytest.raises(GhostError, match="not a dirty log that this GhostFS can read"):
        DirtyLog(path)
    with pytest.raises(GhostError):
        DirtyLog.entries(path)
    assert path.read_bytes() == b"GFSDIRT2 of a later version"


def test_threads_append_whole_records(path: Path) -> None:
    def append(log: DirtyLog, start: int) -> None:
        for number in range(start, start + 300):
            log.append_inode(InodeId(number))
            log.append_dirent(ROOT, b"%d" % number, None)

    with DirtyLog(path) as log:
        threads = [threading.Thread(target=append, args=(log, 1 + i * 300)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    entries = DirtyLog.entries(path)
    assert entries.inodes == set(range(1, 1201))
    assert len(entries.dirents) == 1200
    assert not entries.torn


WRITER = """
import sys
from pathlib import Path
from ghostfs.index import DirtyLog
from ghostfs.model import InodeId
log = DirtyLog(Path(sys.argv[1]))
for number in range(1, 100000):
    log.append_inode(InodeId(number))
    if number % 100 == 0:
        log.reset(InodeId(n) for n in range(number - 9, number + 1))
    print(number, flush=True)
"""


def test_a_killed_process_loses_nothing_it_appended(path: Path) -> None:
    for _ in range(5):
        path.unlink(missing_ok=True)
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        with writer.stdout as lines:
            for _ in range(250):
                lines.readline()
            writer.kill()
            *_, last = [250, *(int(line) for line in lines if line.endswith(b"\n"))]
            writer.wait()
        entries = DirtyLog.entries(path)
        # The reset after the last number that was printed may have been done.
        reset = (last + 1) // 100 * 100
        assert {InodeId(n) for n in range(max(1, reset - 9), last + 1)} <= entries.inodes


@given(
    st.lists(
        st.one_of(
            st.integers(1, 2**63 - 1),
            st.tuples(
                st.integers(0, 2**63 - 1),
                st.binary(min_size=1, max_size=255),
                st.integers(1, 2**63 - 1) | st.none(),
            ),
        ),
        max_size=20,
    )
)
def test_any_record_survives(tmp_path_factory: pytest.TempPathFactory, records: list) -> None:
    path = tmp_path_factory.mktemp("log") / "dirty.log"
    with DirtyLog(path) as log:
        for record in records:
            if isinstance(record, int):
                log.append_inode(InodeId(record))
            else:
                log.append_dirent(*record)
    entries = DirtyLog.entries(path)
    assert entries.inodes == {r for r in records if isinstance(r, int)}
    assert set(entries.dirents) == {DirtyDirent(*r) for r in records if not isinstance(r, int)}
    assert not entries.torn


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of half a MiB."""
    with small_disk(tmp_path, "512k") as made:
        yield made


def fill(disk: Path) -> None:
    with (disk / "ballast").open("ab", buffering=0) as file:
        until_full(lambda: file.write(b"x" * 4096))


def until_full(write: Callable[[], object]) -> None:
    while True:
        try:
            write()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return


def test_a_full_disk_leaves_room_for_what_makes_room(disk: Path) -> None:
    path = disk / "dirty.log"
    with DirtyLog(path) as log:
        fill(disk)
        for number in range(1000):
            log.append_inode(InodeId(number + 1))
        assert len(DirtyLog.entries(path).inodes) == 1000
        (disk / "ballast").unlink()
        log.reset()
        fill(disk)
        log.append_dirent(ROOT, NAME, None)


def test_a_disk_that_is_full_to_the_brim_is_said(disk: Path) -> None:
    with DirtyLog(disk / "dirty.log") as log:
        fill(disk)
        until_full(lambda: log.append_inode(InodeId(1)))
        assert DirtyLog.entries(log.path).torn is False


def failing(real: Callable[..., int | None], *, calls: int) -> Callable[..., int | None]:
    """The system call, which fails as often, and works from then on."""
    left = [calls]

    def call(*arguments: int) -> int | None:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments)

    return call


def test_records_after_one_that_a_failing_disk_cut_short_are_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a part of a record, and then does not let it be cut off."""
    with DirtyLog(path) as log:
        log.append_inode(InodeId(1))
        real = os.write
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda fd, data: real(fd, data[:5]))
            patch.setattr(os, "ftruncate", failing(os.ftruncate, calls=1))
            with pytest.raises(OSError, match="Input/output error"):
                log.append_inode(InodeId(2))
        assert DirtyLog.entries(path).torn
        with monkeypatch.context() as patch:
            patch.setattr(os, "ftruncate", failing(os.ftruncate, calls=1))
            with pytest.raises(OSError, match="Input/output error"):
                log.append_inode(InodeId(3))
        log.append_inode(InodeId(4))
        assert DirtyLog.entries(path) == DirtyEntries(frozenset({InodeId(1), InodeId(4)}), (), torn=False)


def test_room_that_cannot_be_set_aside_fails_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever empties the log must know that it is empty."""
    monkeypatch.setattr(os, "posix_fallocate", failing(lambda *_: None, calls=100))
    with DirtyLog(path) as log:
        log.append_inode(InodeId(1))
        real = os.ftruncate

        def of_the_log_alone(fd: int, size: int) -> None:
            if os.readlink(f"/proc/self/fd/{fd}") != str(path):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(fd, size)

        monkeypatch.setattr(os, "ftruncate", of_the_log_alone)
        log.reset()
        assert not DirtyLog.entries(path)
