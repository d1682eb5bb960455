"""Fixtures of the end-to-end tests: real processes, real mounts, loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import small_disk
from stack import Stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A data directory with nothing in it; whatever the test starts of it is ended."""
    with Stack(tmp_path / "stack") as made:
        yield made


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Stack]:
    """The same on a filesystem of 16 MiB."""
    with small_disk(tmp_path, "16m") as disk, Stack(disk / "stack") as made:
        yield made


@pytest.fixture(scope="session")
def long() -> int:
    """How many times the long form of a test repeats what CI does a few times; 0 in CI."""
    return int(os.environ.get("LONG_RUNS", "0"))
