"""Folders and files that only their owner may look into: an index tells the names of all files.

Modes are given when a thing is made and do not rely on the umask: a mount process runs without one. What is
there already keeps the mode that somebody gave it.
"""

from __future__ import annotations

__all__ = ["make_directory", "opener"]

import os
from pathlib import Path


def make_directory(path: Path) -> None:
    """Make the directory, and those above it that are missing, with mode 0700.

    Raises:
        OSError: it cannot be made, or something else is there.
    """
    try:
        path.mkdir(mode=0o700)
    except FileNotFoundError:
        make_directory(path.parent)
        make_directory(path)
    except FileExistsError:
        if not path.is_dir():
            raise


def opener(path: str | os.PathLike[str], flags: int) -> int:
    """For `open`: what is made gets mode 0600."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
