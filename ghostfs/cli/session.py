"""`ghostfs session`: make, list, show and remove sessions."""

from __future__ import annotations

__all__ = ["session"]

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ghostfs import private
from ghostfs.cli import options, output
from ghostfs.cli.output import Column
from ghostfs.errors import GhostError, SessionBusy, SessionNotFound, in_words

if TYPE_CHECKING:
    from ghostfs.cli.overview import MirrorView
    from ghostfs.mirror.layout import DataDir, SessionLayout


@click.group()
def session() -> None:
    """Make, list, show and remove sessions."""


@session.command()
@click.argument("names", metavar="SESSION...", nargs=-1, required=True)
@options.common
def create(names: tuple[str, ...], **common: Any) -> None:
    """Make empty sessions.

    \b
    Examples:
      ghostfs session create demo
      ghostfs --data-dir /srv/ghostfs session create build-1 build-2
    """
    from ghostfs.mirror.live.session import create_session

    data = options.data_dir(options.load(**common))
    for layout in [data.session(name) for name in names]:  # all names are checked before anything is made
        create_session(layout)
        click.echo(f"created {layout.name}")


@session.command(name="list")
@options.JSON
@options.common
def list_(*, as_json: bool, **common: Any) -> None:
    """List the sessions of this machine.

    \b
    Examples:
      ghostfs session list
      ghostfs session list --json | jq -r '.[].name'
    """
    from ghostfs.cli.overview import look_at

    data = options.data_dir(options.load(**common))
    views = [look_at(data.session(name), None) for name in data.session_names()]
    if as_json:
        output.print_json([view.as_json() for view in views])
    elif views:
        columns = [Column("SESSION"), Column("ENTRIES", right=True), Column("SIZE", right=True)]
        columns += [Column("CHANGES", right=True), Column("LAST CHANGE"), Column("MOUNTED ON")]
        output.print_table(columns, [_row(view) for view in views])
    else:
        click.echo(f"no sessions in {data.path}; make one with: ghostfs session create NAME", err=True)


@session.command()
@options.session_argument
@options.JSON
@options.common
def show(name: str, *, as_json: bool, **common: Any) -> None:
    """Show all that is known of a session.

    Where its index cannot be read, it says why, and ends with the exit code of that.

    \b
    Examples:
      ghostfs session show demo
      ghostfs session show demo --json | jq .head
    """
    from ghostfs.cli.overview import hub_of, look_at

    data = options.data_dir(options.load(**common))
    layout = existing(data, name)
    view = look_at(layout, hub_of(data)[0])
    if as_json:
        output.print_json(view.as_json())
    else:
        _print(view)
    raise click.exceptions.Exit(view.problem_code)


@session.command()
@click.argument("names", metavar="SESSION...", nargs=-1, required=True)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@options.common
def rm(names: tuple[str, ...], *, yes: bool, **common: Any) -> None:
    """Remove sessions: all their files, and everything known of them.

    A session that is mounted, or in use by any other process, is not removed. Copies on nodes stay.

    \b
    Examples:
      ghostfs session rm demo
      ghostfs session rm --yes build-1 build-2
    """
    data = options.data_dir(options.load(**common))
    layouts = [existing(data, name) for name in names]
    if not yes:
        what = f"session {names[0]}" if len(names) == 1 else f"{len(names)} sessions"
        _confirm(f"Remove {what} and all files in it from {data.path}?")
    for layout in layouts:
        _remove(data, layout)
        click.echo(f"removed {layout.name}")


def existing(data: DataDir, name: str) -> SessionLayout:
    """The layout of a session that is there.

    Raises:
        SessionNotFound: with what to do.
    """
    layout = data.session(name)
    if not layout.tree.is_dir():
        raise SessionNotFound(
            f"there is no session {name} in {data.path}; `ghostfs session list` shows what is there"
        )
    return layout


def _confirm(question: str) -> None:
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:  # nobody there to ask
        agreed = False
    if not agreed:
        raise GhostError("nothing was removed; with --yes it is not asked")


def _print(view: MirrorView) -> None:
    mount = view.owner
    facts = {
        "holds": f"{output.count(view.names)} entries, {output.size(view.bytes)}",
        "changes": f"{output.count(view.head)}, the last one {output.age(view.committed_unix_ns)}",
        "epoch": f"{view.epoch:016x}",
        "fingerprint": output.hexadecimal(view.fingerprint),
    }
    lines = {
        "session": view.name,
        "problem": view.problem,
        "mounted on": f"{mount.mountpoint} (process {mount.pid})" if mount else "nothing",
        **({} if view.problem else facts),
        "tree": view.tree_path,
        "state": view.state_path,
        "nodes": ", ".join(member.node_name for member in view.members),
    }
    for title, text in lines.items():
        if text:
            click.echo(f"{title + ':':13}{text}")


def _row(view: MirrorView) -> list[str]:
    if view.problem:
        return [view.name, "", "", "", view.problem, ""]
    numbers = [output.count(view.names), output.size(view.bytes), output.count(view.head)]
    return [
        view.name,
        *numbers,
        output.age(view.committed_unix_ns),
        view.owner.mountpoint if view.owner else "",
    ]


def _remove(data: DataDir, layout: SessionLayout) -> None:
    """Under the owner lock. The rename is what removes: after it the session is gone, whole, even if
    deleting the files is interrupted; a later removal then goes on with them."""
    from ghostfs.cli.overview import owner_of
    from ghostfs.cli.removal import remove_tree
    from ghostfs.mirror.owner import OwnerLock

    if owner := owner_of(layout):
        raise SessionBusy(
            f"session {layout.name} is mounted on {owner.mountpoint}: first `ghostfs umount {owner.mountpoint}`"
        )
    with OwnerLock(layout.owner_lock, what=f"session {layout.name}"):
        removed = data.path / "removed"
        private.make_directory(removed)
        # A name that is free: what an interrupted removal left may be in the way.
        target = removed / f"{layout.name}.{secrets.token_hex(8)}"
        layout.state.rename(target)
    _end_memberships(data, layout.name)
    with output.counting(f"removing {layout.name}") as progress:
        remove_tree(target, progress)
        _remove_leftovers(removed, progress)


def _end_memberships(data: DataDir, name: str) -> None:
    """No node follows the session any more; a hub that runs notices that it is gone by itself. Trouble with
    hub.db is no trouble of the session that was to go."""
    if not data.hub_db.exists():
        return
    from ghostfs.index import Members

    try:
        with Members.open(data.hub_db) as members:
            members.remove_session(name)
    except (GhostError, OSError) as error:
        click.echo(f"ghostfs: the hub still counts the nodes of {name}: {in_words(error)}", err=True)


def _remove_leftovers(removed: Path, progress: Callable[[int], None]) -> None:
    """What interrupted removals left. Trouble with it is no trouble of the session that was to go."""
    from ghostfs.cli.removal import remove_tree

    try:
        for left in list(removed.iterdir()):
            remove_tree(left, progress)
        removed.rmdir()
    except OSError as error:
        click.echo(f"ghostfs: {removed} holds leftovers of an earlier removal: {in_words(error)}", err=True)
