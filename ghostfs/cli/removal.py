"""Deleting a folder of any depth and size, by directory descriptors: no path is too long, nothing recurses."""

from __future__ import annotations

__all__ = ["remove_tree"]

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TOLD_EVERY = 1000


def remove_tree(folder: Path, progress: Callable[[int], None] = lambda _: None) -> None:
    """Delete the folder and all in it; no symlink is followed. `progress` gets how many entries are gone.

    Depth costs a list entry, not a descriptor: the way back up is `..`, checked to be where it came from.

    Raises:
        OSError: something cannot be deleted; what is gone stays gone.
    """
    done = 0

    def gone() -> None:
        nonlocal done
        done += 1
        if done % _TOLD_EVERY == 0:
            progress(done)

    names: list[
        tuple[str, tuple[int, int], list[str]]
    ] = []  # of the folders above: name, identity, left to do
    fd = os.open(folder, _DIRECTORY)
    try:
        identity, folders = _identity(fd), _delete_files(fd, gone)
        while True:
            if folders:
                name = folders.pop()
                below = _enter(fd, name)
                os.close(fd)
                fd = below
                names.append((name, identity, folders))
                identity, folders = _identity(fd), _delete_files(fd, gone)
            elif names:
                name, identity, folders = names.pop()
                above = os.open("..", _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = above
                if _identity(fd) != identity:
                    raise OSError(f"{folder}: somebody else moves folders in it; try again")
                os.rmdir(name, dir_fd=fd)
                gone()
            else:
                break
    finally:
        os.close(fd)
    folder.rmdir()


def _enter(parent: int, name: str) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        # One of the user's folders, which they made unreadable; it is theirs, so it can be opened.
        os.chmod(name, 0o700, dir_fd=parent)
        return os.open(name, _DIRECTORY, dir_fd=parent)


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _delete_files(fd: int, gone: Callable[[], None]) -> list[str]:
    """Deletes what is no folder; the folders."""
    with suppress(PermissionError):
        os.fchmod(fd, 0o700)
    folders = []
    with os.scandir(fd) as entries:
        listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in listed:
        if is_folder:
            folders.append(name)
        else:
            os.unlink(name, dir_fd=fd)
            gone()
    return folders
