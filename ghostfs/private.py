"""Folders and files that only their owner may look into: an index tells the names of all files.

Modes are given when a thing is made and do not rely on the umask: a mount process runs without one. What is
there already keeps the mode that somebody gave it.
"""

from __future__ import annotations

__all__ = ["make_directory", "opener"]

import errno
import os
from pathlib import Path


def make_directory(path: Path) -> None:
    """Make the directory, and those above it that are missing, with mode 0700.

    Raises:
        OSError: it cannot be made, or something else is there.
    """
    try:
        _make(path)
    except FileNotFoundError:
        make_directory(path.parent)
        # Tried once more and not for ever: /proc is there, and says so of whatever is to be made in it.
        _make(path)


def _make(path: Path) -> None:
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if path.is_dir():
            return
        if path.is_symlink() and not path.exists():
            why = f"Here is a link to {os.readlink(path)}, which is not there: make that directory, or remove the link"
            raise FileExistsError(errno.EEXIST, why, str(path)) from None
        raise


def opener(path: str | os.PathLike[str], flags: int) -> int:
    """For `open`: what is made gets mode 0600."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
