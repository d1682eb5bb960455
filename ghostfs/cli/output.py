"""How results are shown: JSON for programs; tables, sizes, ages and progress for people."""

from __future__ import annotations

__all__ = [
    "Column",
    "age",
    "count",
    "counting",
    "duration",
    "hexadecimal",
    "print_json",
    "print_table",
    "progress",
    "render_table",
    "size",
    "unsettled",
    "waiting",
]

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from rich.status import Status

    from ghostfs.v1.control_pb2 import OwnerStatus


_GAP = 2
_FOLDED = 16
"""Characters of a text column that are left before another column is left out for it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; numbers are aligned to the right.

    On a terminal that is too narrow, columns with the highest `spare` are left out first, those with 0 never,
    and texts that may `fold` go on in the next line; numbers never do.
    """

    title: str
    right: bool = False
    spare: int = 0
    fold: bool = True


def print_json(value: Any, *, line: bool = False) -> None:
    """One JSON document on standard output: indented, or on one line for streams."""
    click.echo(json.dumps(value, indent=None if line else 2, ensure_ascii=False))


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output: in colour on a terminal; aligned text, never cut, elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        console.print(render_table(columns, rows, console.width))
        return
    widths = [max(len(column.title), *(len(row[i]) for row in rows), 0) for i, column in enumerate(columns)]
    for row in ([column.title for column in columns], *rows):
        cells = [
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(row, widths, columns, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def render_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> Any:
    """The same as a rich renderable for `width` columns; texts are shown as they are, never read as markup."""
    from rich.table import Table
    from rich.text import Text

    kept = _that_fit(columns, rows, width)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in (columns[i] for i in kept):
        folds = column.fold and not column.right
        justify: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, overflow="fold", no_wrap=not folds)
    for row in rows:
        table.add_row(*(Text(row[i]) for i in kept))
    return table


def _that_fit(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    needs = []
    for i, column in enumerate(columns):
        natural = max(len(column.title), *(len(row[i]) for row in rows), 0)
        needs.append(min(natural, _FOLDED) if column.fold and not column.right else natural)
    kept = list(range(len(columns)))
    while sum(needs[i] + _GAP for i in kept) - _GAP > width:
        spare = max(kept, key=lambda i: columns[i].spare)
        if not columns[spare].spare:
            break
        kept.remove(spare)
    return kept


def size(number: float) -> str:
    """Bytes for people: `812 B`, `1.4 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(number) < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def count(number: int) -> str:
    """A count with its thousands apart."""
    return f"{number:,}"


def age(unix_ns: int, now_ns: int | None = None) -> str:
    """How long ago something was: `3 s ago`, `2 h ago`; `never` for 0."""
    if not unix_ns:
        return "never"
    seconds = max(0, ((now_ns or time.time_ns()) - unix_ns) // 1_000_000_000)
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"


def duration(nanoseconds: int) -> str:
    """How long something takes or took: `0.12 s`, `35 s`, `12 min`, `3 h`."""
    seconds = nanoseconds / 1e9
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def hexadecimal(fingerprint: int | bytes) -> str:
    """A fingerprint as 32 hex digits; empty if there is none."""
    if isinstance(fingerprint, bytes):
        return fingerprint.hex()
    return f"{fingerprint:032x}"


@contextmanager
def progress(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A callable (done bytes, total bytes) that draws a bar on a terminal's standard error, else nothing."""
    if quiet or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """A callable (how many) that shows a count on a terminal's standard error, else nothing."""
    if not sys.stderr.isatty():
        yield lambda _done: None
        return
    from rich.console import Console

    with Console(stderr=True).status(what) as line:
        yield lambda done: line.update(f"{what}: {done:,} entries")


def unsettled(status: OwnerStatus) -> str:
    """What a mount has not committed yet, and why not: `3 changes are not committed yet: the disk is full`."""
    number = status.dirty_inodes  # 0 while a commit is tried
    what = "1 change is" if number == 1 else f"{count(number) if number else 'some'} changes are"
    return f"{what} not committed yet" + (f": {status.trouble}" if status.trouble else "")


@contextmanager
def waiting() -> Iterator[Callable[[str], None]]:
    """A callable (text) that shows on a terminal's standard error what is waited for, else nothing."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    line: Status | None = None
    with ExitStack() as shown:

        def show(text: str) -> None:
            nonlocal line
            if line is None:
                line = shown.enter_context(console.status(Text(text)))
            else:
                line.update(Text(text))

        yield show
