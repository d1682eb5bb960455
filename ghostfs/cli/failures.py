"""What to tell of an error that is the machine's: what could not be used, and what to do."""

from __future__ import annotations

__all__ = ["plight"]

import errno
import os
from pathlib import Path

from ghostfs.cli.streams import failed_to_print
from ghostfs.errors import in_words


def plight(error: OSError) -> str:
    """An error in words, with what it leaves unsaid."""
    if isinstance(error, PermissionError) and isinstance(error.filename, str):
        return in_words(error) + _whose(Path(error.filename))
    if failed_to_print(error):
        why = "it is closed" if error.errno == errno.EBADF else error.strerror
        return f"standard output could not be written: {why}"
    if error.filename is None and isinstance(error, FileNotFoundError) and _is_nowhere():
        return "the current directory has been removed: change to one that is there"
    return in_words(error)


def _whose(path: Path) -> str:
    """Whose the first thing is at or above a path that may be looked at, if it is another user's."""
    for place in (path, *path.parents):
        try:
            uid = place.lstat().st_uid
        except OSError:
            continue
        if uid == os.geteuid():
            break
        return f" ({place} belongs to {_user(uid)}: be that user, or use a data directory of your own, with --data-dir)"
    return ""


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the user with uid {uid}"


def _is_nowhere() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False
