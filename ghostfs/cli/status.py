"""`ghostfs status`: sessions, mounts, nodes, lag and throughput."""

from __future__ import annotations

__all__ = ["status"]

import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from ghostfs.cli import options, output
from ghostfs.cli.output import Column

if TYPE_CHECKING:
    from rich.console import Console, Group

    from ghostfs.cli.overview import MirrorView, Overview
    from ghostfs.mesh.status import MemberStatus
    from ghostfs.mirror.layout import DataDir

_SESSIONS = [
    Column("SESSION"),
    Column("ENTRIES", right=True, spare=4),
    Column("SIZE", right=True, spare=3),
    Column("HEAD", right=True, spare=5),
    Column("LAST CHANGE", spare=2, fold=False),
    Column("UNSETTLED", right=True, spare=1),
    Column("MOUNTED ON"),
]
_NODES = [
    Column("SESSION"),
    Column("NODE"),
    Column("STATE", fold=False),
    Column("BEHIND", right=True),
    Column("FOR", right=True, spare=1),
    Column("RATE", right=True, spare=3),
    Column("SENT", right=True, spare=4),
    Column("LAST ACK", spare=2, fold=False),
]


@click.command()
@options.JSON
@click.option("--watch", "-w", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    metavar="SECONDS",
    help="Between two looks.",
)
@options.common
def status(*, as_json: bool, watch: bool, interval: float, **common: Any) -> None:
    """Show sessions, mounts, nodes and lag.

    Works without a hub: sessions and mounts are asked directly. BEHIND counts the changes that a node has
    not yet acknowledged, FOR says how long the oldest of them has waited.

    \b
    Examples:
      ghostfs status
      ghostfs status --watch
      ghostfs status --json | jq '.sessions[].nodes[] | {name, lag_changes, lag_seconds}'
      ghostfs status --json --watch        # one line of JSON a second
    """
    from ghostfs.cli.overview import look

    data = options.data_dir(options.load(**common))
    if not watch:
        overview = look(data)
        if as_json:
            output.print_json(overview.as_json())
        else:
            _print(overview)
        return
    try:
        if as_json or not sys.stdout.isatty():
            _stream(data, interval, as_json=as_json)
        else:
            _live(data, interval)
    except KeyboardInterrupt:
        return  # the way to end it


def _stream(data: DataDir, interval: float, *, as_json: bool) -> None:
    from ghostfs.cli.overview import look

    while True:
        overview = look(data)
        if as_json:
            output.print_json(overview.as_json(), line=True)
        else:
            _print(overview)
            click.echo()
        sys.stdout.flush()
        time.sleep(interval)


def _live(data: DataDir, interval: float) -> None:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from ghostfs.cli.overview import look

    console = Console()
    # However it is ended, the terminal is given back as it was.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            overview = look(data)
            parts: list[Any] = [Text(_headline(overview)), *map(Text, _problems(overview))]
            for columns, rows in _tables(overview):
                parts += [Text(), output.render_table(columns, rows, console.width)]
            live.update(_that_fits(console, Group(*parts)), refresh=True)
            time.sleep(interval)


def _that_fits(console: Console, shown: Group) -> Group:
    """As much as the terminal has lines for, and how much it has not."""
    from rich.console import Group
    from rich.segment import Segment, Segments
    from rich.text import Text

    lines = console.render_lines(shown, pad=False)
    if len(lines) <= console.height:
        return shown
    kept = lines[: console.height - 1]
    cut = Text(f"… {output.count(len(lines) - len(kept))} more lines")
    return Group(*(Segments([*line, Segment.line()]) for line in kept), cut)


def _print(overview: Overview) -> None:
    click.echo(_headline(overview))
    for problem in _problems(overview):
        click.echo(problem)
    for columns, rows in _tables(overview):
        click.echo()
        output.print_table(columns, rows)


def _headline(overview: Overview) -> str:
    if overview.hub:
        hub = f"hub started {output.age(overview.hub.started_unix_ns, overview.taken_unix_ns)}"
    else:
        hub = f"hub: {overview.hub_problem}" if overview.hub_problem else "no hub is running"
    nothing = "" if overview.sessions or overview.copies else "; no sessions"
    return f"{overview.data_dir}: {hub}{nothing}"


def _problems(overview: Overview) -> list[str]:
    views = [*overview.sessions, *overview.copies]
    return [
        *(f"{view.name}: {view.problem}" for view in views if view.problem),
        *(f"{v.name}: {output.unsettled(v.owner)}" for v in views if v.owner and v.owner.trouble),
    ]


def _tables(overview: Overview) -> list[tuple[list[Column], list[list[str]]]]:
    now = overview.taken_unix_ns
    tables = []
    if overview.sessions:
        tables.append((_SESSIONS, [_mirror_row(view, now) for view in overview.sessions]))
    if overview.copies:
        columns = [Column("COPY OF"), *_SESSIONS[1:5], Column("STATE")]
        tables.append(
            (columns, [[*_mirror_row(view, now)[:5], view.state_path] for view in overview.copies])
        )
    nodes = [_node_row(view.name, member, now) for view in overview.sessions for member in view.members]
    if nodes:
        tables.append((_NODES, nodes))
    return tables


def _mirror_row(view: MirrorView, now: int) -> list[str]:
    known = ["", "", "", ""]
    if not view.problem:
        known = [
            output.count(view.names),
            output.size(view.bytes),
            output.count(view.head),
            output.age(view.committed_unix_ns, now),
        ]
    return [
        view.name,
        *known,
        output.count(view.owner.dirty_inodes) if view.owner else "",
        view.owner.mountpoint if view.owner else "",
    ]


def _node_row(session: str, member: MemberStatus, now: int) -> list[str]:
    waiting = output.duration(member.lag_ns) if member.lag_changes else ""
    return [
        session,
        member.node_name,
        "following" if member.connected else "away",
        output.count(member.lag_changes),
        waiting,
        f"{output.size(member.bytes_per_second)}/s",
        output.size(member.bytes_sent),
        output.age(member.last_ack_unix_ns, now),
    ]
