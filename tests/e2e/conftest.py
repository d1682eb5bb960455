"""Fixtures of the end-to-end tests: real processes, real mounts, loopback."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import Stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A data directory with nothing in it; whatever the test starts of it is ended."""
    with Stack(tmp_path / "stack") as made:
        yield made


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Stack]:
    """The same on a filesystem of 16 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "small", disk], check=True)
    try:
        with Stack(disk / "stack") as made:
            yield made
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.fixture(scope="session")
def long() -> int:
    """How many times the long form of a test repeats what CI does a few times; 0 in CI."""
    return int(os.environ.get("LONG_RUNS", "0"))
