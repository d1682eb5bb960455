"""Standard output and standard error where they are closed, or cannot be written."""

from __future__ import annotations

__all__ = ["failed_to_print", "let_go_of_output", "stand_in_for_closed"]

import contextlib
import os
import sys
import traceback
from typing import TextIO

_PRINTERS = ("click", "rich")
"""The packages through which all output goes."""


def stand_in_for_closed() -> None:
    """Opens what is closed of the two: else the next file to be opened would be in its place.

    Raises:
        OSError: there is no /dev/null.
    """
    if sys.stdout is None:
        sys.stdout = _stand_in(1, os.O_RDONLY)  # to write to it fails
    if sys.stderr is None:
        sys.stderr = _stand_in(2, os.O_WRONLY)  # nobody could be told of a failure


def _stand_in(fd: int, flags: int) -> TextIO:
    null = os.open(os.devnull, flags)
    if null != fd:
        os.dup2(null, fd)
    if null > fd:
        os.close(null)
    return open(fd, "w", encoding="utf-8", closefd=False)


def failed_to_print(error: OSError) -> bool:
    """Whether an error, as it was caught, is that of standard output.

    Where it came from tells, and nothing else: it names no file, and whether anything is left to be flushed depends.
    """
    if error.filename is not None:
        return False
    module = ""
    for frame, _line in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
    return module.partition(".")[0] in _PRINTERS


def let_go_of_output() -> None:
    """What is left to be written goes nowhere, so that the end of the process is not another failure."""
    null = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError):  # a stream without a descriptor
        os.dup2(null, sys.stdout.fileno())
    os.close(null)
