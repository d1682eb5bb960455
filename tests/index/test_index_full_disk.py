"""Databases on a disk that is full: what is made there is made whole or not at all, and the disk is named."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from disks import small_disk

from ghostfs.cli import main
from ghostfs.errors import ExitCode
from ghostfs.index import Index, Members
from ghostfs.index.damage import translate

_MOST = 40
"""Pages of 4 KiB that are more than enough for an empty index."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 1 MiB."""
    with small_disk(tmp_path, "1m") as made:
        yield made


def fill(disk: Path, *, free: int) -> None:
    """Leave so many pages of 4 KiB."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    pages = os.statvfs(disk).f_bfree - free
    ballast.write_bytes(b"x" * pages * 4096)
    assert os.statvfs(disk).f_bfree == free


def failure(make: Callable[[Path], None], path: Path) -> OSError | None:
    try:
        make(path)
    except OSError as error:
        return error
    return None


@pytest.mark.parametrize(
    "make", [lambda at: Index.create(at).close(), lambda at: Members.open(at).close()], ids=["index", "hub"]
)
def test_what_cannot_be_made_leaves_nothing(disk: Path, make: Callable[[Path], None]) -> None:
    """At every place at which the disk can become full, SQLite ending the transaction by itself or not."""
    path = disk / "things.db"
    for free in range(_MOST):
        fill(disk, free=free)
        if (error := failure(make, path)) is None:
            break
        assert (error.errno, error.strerror) == (errno.ENOSPC, os.strerror(errno.ENOSPC)), free
        assert not list(disk.glob("*.new*")), free
        (disk / "ballast").unlink()
        if not path.exists():  # else it was made whole, and there was no room for opening it
            make(path)
        with closing(sqlite3.connect(path)) as made:
            assert made.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        for left in disk.glob("things.db*"):
            left.unlink()
    assert 5 < free < _MOST - 1


def test_a_session_that_cannot_be_made_is_one_line_and_not_listed(
    disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data-dir", str(disk / "data")]
    assert main([*data, "session", "create", "there"]) == 0
    failed = 0
    for free in range(_MOST):
        fill(disk, free=free)
        capsys.readouterr()
        code = main([*data, "session", "create", f"s{free}"])
        said = capsys.readouterr().err
        if code == 0:
            break
        failed += 1
        assert code == ExitCode.FAILURE
        assert said.startswith("ghostfs: No space left on device: ")
        assert said.count("\n") == 1
        assert not (disk / f"data/sessions/s{free}/tree").exists()
    assert 5 < failed < _MOST


def test_looking_at_an_index_on_a_full_disk_says_so(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data-dir", str(disk)]
    assert main([*data, "session", "create", "demo"]) == 0
    fill(disk, free=0)
    capsys.readouterr()
    assert main([*data, "session", "list"]) == 0
    shown = capsys.readouterr().out
    assert f"No space left on device: {disk}/sessions/demo/index.db" in shown
    assert "Input/output" not in shown


def io_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


def test_a_disk_that_fails_is_not_called_full(disk: Path, tmp_path: Path) -> None:
    fill(disk, free=0)
    for code, place, number in (
        (sqlite3.SQLITE_IOERR_WRITE, disk, errno.ENOSPC),
        (sqlite3.SQLITE_IOERR_WRITE, tmp_path, errno.EIO),
        (sqlite3.SQLITE_IOERR_READ, disk, errno.EIO),
        (sqlite3.SQLITE_IOERR_WRITE, disk / "gone", errno.EIO),
    ):
        raised = translate(io_error(code), place / "index.db")
        assert isinstance(raised, OSError)
        assert raised.errno == number
