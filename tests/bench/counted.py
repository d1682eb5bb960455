"""`ghostfs` with a mount that counts the kernel's requests and times their handlers.

Run as a program in the place of `ghostfs`. At SIGUSR1 the mount writes what it has counted since the last time to
the file that `COUNTS` names, as JSON: what `kernelrequests.Counts` has.
"""

from __future__ import annotations

__all__ = ["COUNTS", "main"]

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from ghostfs.cli import main as ghostfs
from ghostfs.fs import boundary

COUNTS = "BENCH_COUNTS"
"""The variable that names the file."""

_Handler = Callable[..., Coroutine[Any, Any, Any]]
_counted: Counter[str] = Counter()
_nanoseconds: Counter[str] = Counter()


def main() -> None:
    """Patches what makes handlers, before any is made; then does what the command line says."""
    file = Path(os.environ[COUNTS])
    for name in ("handler", "blocking_handler"):
        setattr(boundary, name, _timed(getattr(boundary, name)))
    since = time.thread_time_ns()

    def write(*_: object) -> None:
        nonlocal since
        now = time.thread_time_ns()
        said = {"requests": _counted, "handler_ns": _nanoseconds, "loop_ns": now - since}
        part = file.with_suffix(".part")
        part.write_text(json.dumps(said))
        part.rename(file)
        since = now
        _counted.clear()
        _nanoseconds.clear()

    signal.signal(signal.SIGUSR1, write)
    ghostfs()


def _timed(make: Callable[[Callable[..., Any]], _Handler]) -> Callable[[Callable[..., Any]], _Handler]:
    def made(function: Callable[..., Any]) -> _Handler:
        handle, name = make(function), function.__name__
        clock = time.perf_counter_ns

        async def timed(*arguments: Any) -> Any:
            _counted[name] += 1
            began = clock()
            try:
                return await handle(*arguments)
            finally:
                _nanoseconds[name] += clock() - began

        return timed

    return made


if __name__ == "__main__":
    main()
