"""The `ghostfs` command: reads argv, calls one function below, prints.

Commands are loaded when they are called: `ghostfs --help` imports click and nothing else, and a mount
loads no gRPC. Whatever goes wrong ends in `main`, which owns the exit codes.
"""

from __future__ import annotations

__all__ = ["main"]

import contextlib
import errno
import os
import sys
import traceback
from pathlib import Path
from typing import TextIO

import click

from ghostfs.cli.group import root
from ghostfs.errors import ExitCode, GhostError, in_words

_INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""

_PRINTERS = ("click", "rich")
"""The packages through which all output goes."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code. Anything a person can mend is one line on standard error."""
    if sys.stdout is None:
        sys.stdout = _stand_in(1, os.O_RDONLY)  # to write to it fails
    if sys.stderr is None:
        sys.stderr = _stand_in(2, os.O_WRONLY)  # nobody could be told of a failure
    try:
        result = root.main(args=arguments, prog_name="ghostfs", standalone_mode=False)
    except GhostError as error:
        return _fail(str(error), error.exit_code)
    except click.UsageError as error:
        error.show()
        return ExitCode.USAGE
    except click.ClickException as error:
        return _fail(error.format_message(), ExitCode.FAILURE)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", _INTERRUPTED)
    except OSError as error:
        return _fail(_plight(error), ExitCode.FAILURE)
    return result if isinstance(result, int) else ExitCode.OK


def _fail(message: str, code: int) -> int:
    click.echo(f"ghostfs: {' '.join(message.split())}", err=True)
    return code


def _stand_in(fd: int, flags: int) -> TextIO:
    """For a standard stream that is closed: else the next file to be opened would be in its place."""
    null = os.open(os.devnull, flags)
    if null != fd:
        os.dup2(null, fd)
    if null > fd:
        os.close(null)
    return open(fd, "w", encoding="utf-8", closefd=False)


def _plight(error: OSError) -> str:
    """An error in words, with what it leaves unsaid: what could not be used, and what to do."""
    if isinstance(error, PermissionError) and isinstance(error.filename, str):
        return in_words(error) + _whose(Path(error.filename))
    if error.filename is None and _came_from_printing(error):
        _let_go_of_output()
        why = "it is closed" if error.errno == errno.EBADF else error.strerror
        return f"standard output could not be written: {why}"
    if error.filename is None and isinstance(error, FileNotFoundError) and _is_nowhere():
        return "the current directory has been removed: change to one that is there"
    return in_words(error)


def _came_from_printing(error: OSError) -> bool:
    """Nothing else tells: such an error names no file, and whether anything is left to be flushed depends."""
    module = ""
    for frame, _line in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
    return module.partition(".")[0] in _PRINTERS


def _let_go_of_output() -> None:
    """What is left to be written goes nowhere, so that the end of the process is not another failure."""
    null = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError):  # a stream without a descriptor
        os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _is_nowhere() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


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
