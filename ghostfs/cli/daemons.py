"""`ghostfs hub` and `ghostfs node`: both stay in the foreground until SIGTERM or SIGINT, then drain."""

from __future__ import annotations

__all__ = ["hub", "node"]

import os
from pathlib import Path
from typing import Any

import click

from ghostfs.cli import options

_READY = click.option(
    "--ready-fd", type=int, metavar="FD", help="Write a line to this descriptor when ready, and close it."
)


@click.command()
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where to listen for nodes; loopback only, 127.0.0.1:7447 if not given.",
)
@click.option(
    "--compression", type=click.Choice(["auto", "on", "off"]), help="Whether blocks are compressed."
)
@click.option("--metrics-listen", metavar="HOST:PORT", help="Serve Prometheus metrics here; loopback only.")
@_READY
@options.common
def hub(*, ready_fd: int | None, **common: Any) -> None:
    """Stream this machine's sessions to nodes.

    Serves every session of the data directory, mounted or not, also those made later. Stops on SIGTERM or
    Ctrl-C; nodes then wait and come back by themselves.

    Until there is TLS, any user of this machine can reach the port, and read every session through it.

    \b
    Examples:
      ghostfs hub
      ghostfs hub --listen 127.0.0.1:7448 --metrics-listen 127.0.0.1:9447
    """
    from ghostfs.daemon import hub as daemon

    settings = options.load(daemon=True, **common)
    daemon.run(settings, ready_fd=ready_fd)


@click.command()
@click.argument("sessions", metavar="SESSION...", nargs=-1, required=True)
@click.option("--name", "node_name", required=True, metavar="NAME", help="What this node is called.")
@click.option("--hub", "hub", metavar="HOST:PORT", help="The hub to follow; 127.0.0.1:7447 if not given.")
@click.option(
    "--root", required=True, metavar="DIR", type=click.Path(path_type=Path), help="A copy is DIR/SESSION."
)
@click.option(
    "--ownership", type=click.Choice(["auto", "preserve", "mapped", "ignore"]), help="Who owns the files."
)
@click.option("--metrics-listen", metavar="HOST:PORT", help="Serve Prometheus metrics here; loopback only.")
@click.option(
    "--adopt-root",
    is_flag=True,
    help="Make copies whole that were emptied, exchanged or changed; what differs is kept beside.",
)
@_READY
@options.common
def node(
    sessions: tuple[str, ...],
    *,
    node_name: str,
    root: Path,
    adopt_root: bool,
    ready_fd: int | None,
    **common: Any,
) -> None:
    """Keep live copies of a hub's sessions here.

    Each copy is a real directory, DIR/SESSION, that any program can read. It follows the hub until SIGTERM
    or Ctrl-C, and goes on where it was when started again. Two nodes, or a hub and a node, on one machine
    need a data directory each.

    \b
    Examples:
      ghostfs --data-dir ~/node1 node --name n1 --root ~/copies demo
      ghostfs --data-dir ~/node1 node --name n1 --hub 127.0.0.1:7448 --root ~/copies demo build-1
    """
    from ghostfs.daemon import node as daemon

    settings = options.load(daemon=True, **common)
    daemon.run(
        settings,
        node_name,
        settings.hub,
        Path(os.path.abspath(root)),
        sessions,
        adopt_root=adopt_root,
        ready_fd=ready_fd,
    )
