"""Disks that are soon full, for tests of what happens then."""

from __future__ import annotations

__all__ = ["small_disk"]

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(base: Path, size: str) -> Iterator[Path]:
    """A tmpfs at `base / "disk"`, of a `size` as mount(8) takes it (`512k`, `16m`); unmounted at the end.

    Whoever uses it has closed everything on it by then: a filesystem that is busy fails the test.
    """
    disk = base / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "small", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)
