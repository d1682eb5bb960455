"""What the benchmarks print: tables, with the machine and the command above them."""

from __future__ import annotations

__all__ = ["Row", "geometric_mean", "heading", "machine", "note", "progress", "show"]

import math
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

Row = Sequence[str]

_console = Console(width=None if sys.stdout.isatty() else 180)


def heading(title: str) -> None:
    """The title, and where and how the figures below it were made."""
    _console.print(f"\n[bold]{title}[/bold]")
    _console.print(f"{machine()}; python tests/bench {' '.join(sys.argv[1:])}", markup=False)


def machine() -> str:
    """What this runs on."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return (
        f"{platform.system()} {platform.release()}, {cores} cores, {memory:.0f} GiB, "
        f"Python {platform.python_version()}"
    )


def note(text: str) -> None:
    """A line that belongs to the figures."""
    _console.print(text, markup=False, highlight=False, soft_wrap=True)


def progress(text: str) -> None:
    """What is going on now, where somebody is looking; empty when nothing is."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def show(columns: Sequence[str], rows: Iterable[Row]) -> None:
    """A table; all columns but the first are numbers."""
    table = Table(*columns)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    _console.print(table)


def geometric_mean(ratios: Iterable[float]) -> float:
    """The mean for ratios."""
    return math.exp(statistics.fmean(map(math.log, ratios)))
