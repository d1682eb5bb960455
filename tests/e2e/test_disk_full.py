"""A disk that is full: the caller is told, room can be made by deleting, nothing is lost, and it goes on."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import Stack

from ghostfs.mirror.live.verify import verify


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Stack]:
    """A data directory on a filesystem of 16 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "small", disk], check=True)
    try:
        with Stack(disk / "stack") as stack:
            yield stack
    finally:
        subprocess.run(["umount", disk], check=True)


def test_it_goes_on_when_the_disk_does(small: Stack) -> None:
    mount = small.mount("work")
    (mount / "kept").write_bytes(b"from before")
    refusal = 0
    for number in range(1000):
        try:
            (mount / f"file{number}").write_bytes(b"x" * 100_000)
        except OSError as error:
            refusal = error.errno or 0
            break
    assert refusal == errno.ENOSPC
    assert (mount / "kept").read_bytes() == b"from before"
    for path in sorted(mount.glob("file*"))[:100]:
        path.unlink()
    (mount / "after").write_bytes(b"y" * 1_000_000)
    small.settle("work")
    small.umount(mount)
    report = verify(small.session("work"))
    assert report.ok, report.problems[:5]
    assert (small.session("work").tree / "after").stat().st_size == 1_000_000
