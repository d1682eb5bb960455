"""The root of the command line, and how its commands are found without importing them."""

from __future__ import annotations

__all__ = ["COMMANDS", "LazyCommand", "root"]

import importlib
from dataclasses import dataclass
from typing import Any

import click

from ghostfs import __version__


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command is, and its line in the list of commands (equal to the command's own short help)."""

    module: str
    attribute: str
    short_help: str


COMMANDS = {
    "session": LazyCommand("ghostfs.cli.session", "session", "Make, list, show and remove sessions."),
    "mount": LazyCommand("ghostfs.cli.mount", "mount", "Mount a session on a directory."),
    "umount": LazyCommand("ghostfs.cli.mount", "umount", "Unmount a session, after all of it is safe."),
    "hub": LazyCommand("ghostfs.cli.daemons", "hub", "Stream this machine's sessions to nodes."),
    "node": LazyCommand("ghostfs.cli.daemons", "node", "Keep live copies of a hub's sessions here."),
    "nodes": LazyCommand("ghostfs.cli.nodes", "nodes", "List the nodes that this hub knows."),
    "forget": LazyCommand("ghostfs.cli.nodes", "forget", "Forget nodes that are gone."),
    "status": LazyCommand("ghostfs.cli.status", "status", "Show sessions, mounts, nodes and lag."),
    "verify": LazyCommand(
        "ghostfs.cli.verify", "verify", "Compare a session's index with its files and nodes."
    ),
    "settings": LazyCommand(
        "ghostfs.cli.settings", "settings", "Show every setting and where it comes from."
    ),
}


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        command: click.Command = getattr(importlib.import_module(lazy.module), lazy.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.short_help) for name, lazy in COMMANDS.items()])


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`ghostfs COMMAND --help` has examples. Exit codes and operation: docs/operating.md; settings: "
    "docs/settings.md.",
)
@click.version_option(__version__, prog_name="ghostfs")
@click.option("--data-dir", type=click.Path(), metavar="DIR", help="Where GhostFS keeps everything.")
@click.option("--config", type=click.Path(), metavar="FILE", help="The config file to read.")
@click.pass_context
def root(ctx: click.Context, /, **given: Any) -> None:
    """Workspaces for agent sessions: real directories, hashed as they are written, mirrored live.

    \b
    Mount a session, and work in it:
      ghostfs mount --create demo ~/demo
    Mirror it to another directory:
      ghostfs hub &
      ghostfs --data-dir ~/node node --name n1 --root ~/copies demo
    """
    ctx.obj = given
