"""Verifying: what it finds, and that work under way is no finding."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ghostfs.errors import SessionNotFound
from ghostfs.index import Index
from ghostfs.mirror.layout import DataDir
from ghostfs.mirror.live.hashing import hash_file
from ghostfs.mirror.live.verify import verify


def standing(live: Any) -> None:
    live.mkdir("dir")
    live.write("dir/file", b"x" * 300_000)
    live.write("old", b"old")
    live.drain()


def test_nothing_to_find(live: Any) -> None:
    standing(live)
    calls: list[tuple[int, int]] = []
    report = verify(live.layout, progress=lambda done, total: calls.append((done, total)))
    assert report.ok
    assert report.bytes_read == 300_003
    assert calls[-1] == (300_003, 300_003)
    assert report.fingerprint == report.recomputed == live.owned._lookups.fingerprint()


def overwrite(tree: Path) -> None:
    before = (tree / "dir/file").stat()
    with (tree / "dir/file").open("r+b") as file:
        file.write(b"y")
    os.utime(tree / "dir/file", ns=(before.st_mtime_ns, before.st_mtime_ns))


def rewrite(tree: Path) -> None:
    (tree / "old").write_bytes(b"longer")


def remove(tree: Path) -> None:
    (tree / "old").unlink()


def add(tree: Path) -> None:
    (tree / "dir" / "b\xff\n").write_bytes(b"")


def chmod(tree: Path) -> None:
    (tree / "old").chmod(0o600)


def replace_directory(tree: Path) -> None:
    (tree / "dir/file").unlink()
    (tree / "dir").rmdir()
    (tree / "dir").symlink_to("old")


@pytest.mark.parametrize(
    ("change", "path", "what"),
    [
        (overwrite, "dir/file", "differs from the index in digest, blocks"),
        (rewrite, "old", "differs from the index in mtime, size, digest, blocks"),
        (remove, "old", "is in the index and not in the tree"),
        (add, "dir/b\xff\\n", "is in the tree and not in the index"),
        (chmod, "old", "differs from the index in mode"),
        (replace_directory, "dir", "is another file than the index says"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_was_done_behind_the_mount_is_found(
    live: Any, change: Callable[[Path], None], path: str, what: str
) -> None:
    standing(live)
    live.close()
    change(live.layout.tree)
    report = verify(live.layout)
    assert not report.ok
    assert any(found.path == path and found.what.startswith(what) for found in report.problems), report


def test_a_fingerprint_that_does_not_add_up_is_found(live: Any) -> None:
    standing(live)
    live.close()
    with Index.open(live.layout.index_db) as index:
        index._execute("UPDATE state SET fingerprint = ?", (bytes(16),))
    assert not verify(live.layout).ok


def test_what_the_owner_has_not_committed_yet_is_no_finding(live: Any) -> None:
    standing(live)
    live.mkdir("new")
    live.write("new/file", b"new")
    live.mkdir("new/below")
    live.write("old", b"changed")
    live.rename("dir", "moved")
    held = live.create("held", b"being written")
    report = verify(live.layout)
    assert report.ok, report
    assert report.changed_meanwhile > 0
    live.step()
    report = verify(live.layout)
    assert report.ok, report
    live.mirror.release(held)
    live.settled()


def test_what_a_killed_owner_left_is_a_finding(live: Any) -> None:
    standing(live)
    live.write("new", b"never committed")
    live.kill()
    report = verify(live.layout)
    assert not report.ok
    assert {problem.path for problem in report.problems} == {".", "new"}
    assert "mount it" in report.problems[0].what
    live.open()
    live.drain()
    assert verify(live.layout).ok


def test_a_tree_in_use_can_be_verified(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the owner does between one look of verify's and the next."""
    standing(live)
    for number in range(6):
        live.write(f"dir/{number}", b"x")
        live.mkdir(f"d{number}")
        live.write(f"d{number}/file", b"y")
    live.drain()
    real = os.listdir
    changes = iter(range(6))

    def listed(where: Any) -> list[str]:
        names = real(where)
        number = next(changes, None)
        if number is not None:
            live.unlink(f"dir/{number}")
            live.unlink(f"d{number}/file")
            live.rmdir(f"d{number}")
            live.mkdir(f"new{number}")
            live.write(f"new{number}/file", b"new")
            live.write("old", b"%d" % number)
            if number % 2:
                live.drain()
        return names

    monkeypatch.setattr(os, "listdir", listed)
    report = verify(live.layout)
    assert report.ok, report
    monkeypatch.undo()
    live.settled()


def test_no_session(tmp_path: Path) -> None:
    with pytest.raises(SessionNotFound):
        verify(DataDir(tmp_path).session("none"))


def test_hashing_reads_no_holes(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"x" * 10)
    counted: list[int] = []
    with path.open("rb") as file:
        blocks = hash_file(file.fileno(), 1 << 40, counted.append)
    assert len(list(blocks.data_blocks())) == 1
    assert sum(counted) <= 1 << 20
