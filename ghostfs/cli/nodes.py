"""`ghostfs nodes` and `ghostfs forget`: what a hub knows of its nodes, read from hub.db, with or without the hub."""

from __future__ import annotations

__all__ = ["forget", "nodes"]

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ghostfs.cli import options, output
from ghostfs.cli.output import Column
from ghostfs.errors import InvalidName, NodeNotFound, SessionBusy

if TYPE_CHECKING:
    from ghostfs.index import Members, Node
    from ghostfs.mesh.status import HubStatus
    from ghostfs.mirror.layout import DataDir

_COLUMNS = [Column("NODE"), Column("ID"), Column("FOLLOWS"), Column("STATE"), Column("LAST SEEN")]


@dataclass(frozen=True, slots=True)
class _Known:
    """A node and its sessions. `following` are those that it follows now, None if no hub is there to say."""

    node: Node
    sessions: list[str]
    last_seen_ns: int
    following: list[str] | None

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.node.name,
            "id": self.node.node_id.hex(),
            "replica": self.node.replica,
            "first_seen_unix_ns": self.node.first_seen_ns,
            "last_seen_unix_ns": self.last_seen_ns,
            "sessions": self.sessions,
            "connected": None if self.following is None else bool(self.following),
        }

    def row(self) -> list[str]:
        state = "" if self.following is None else "following" if self.following else "away"
        follows = ", ".join(self.sessions) or "nothing"
        return [self.node.name, self.node.node_id.hex(), follows, state, output.age(self.last_seen_ns)]


@click.command()
@options.JSON
@options.common
def nodes(*, as_json: bool, **common: Any) -> None:
    """List the nodes that this hub knows.

    That is every node that has ever followed a session of this data directory, until it is forgotten.

    \b
    Examples:
      ghostfs nodes
      ghostfs nodes --json | jq -r '.[] | select(.connected == false) | .name'
    """
    from ghostfs.cli.overview import hub_of
    from ghostfs.index import Members

    data = options.data_dir(options.load(**common))
    known = []
    if data.hub_db.exists():
        hub = hub_of(data)[0]
        with Members.open(data.hub_db, readonly=True) as members:
            known = [_known(members, node, hub) for node in members.nodes()]
    if as_json:
        output.print_json([each.as_json() for each in known])
    elif known:
        output.print_table(_COLUMNS, [each.row() for each in known])
    else:
        click.echo(f"no node is known in {data.path}", err=True)


@click.command()
@click.argument("names", metavar="NODE...", nargs=-1, required=True)
@click.option("--session", metavar="SESSION", help="Only that they follow this session.")
@options.common
def forget(names: tuple[str, ...], *, session: str | None, **common: Any) -> None:
    """Forget nodes that are gone.

    Their names are free again, and deleted files are no longer remembered for them. Nothing on the node is
    touched: one that comes back is known again, and goes on where it was. A node is named by its name or id.

    \b
    Examples:
      ghostfs forget n1
      ghostfs forget --session demo n1 n2
    """
    from ghostfs.cli.overview import hub_of
    from ghostfs.index import Members

    data = options.data_dir(options.load(**common))
    if not data.hub_db.exists():
        raise NodeNotFound(f"no node is known in {data.path}")
    hub = hub_of(data)[0]
    with Members.open(data.hub_db) as members:
        chosen = [_known(members, _find(members, data, name), hub) for name in names]
        for each in chosen:  # all are checked before anything is forgotten
            _check(each, session)
        for each in chosen:
            if session is None:
                members.remove_node(each.node.node_id)
            else:
                members.leave(session, each.node.node_id)
            click.echo(f"forgot {each.node.name}{f' in {session}' if session else ''}")


def _find(members: Members, data: DataDir, name: str) -> Node:
    found = members.named(name) or [node for node in members.nodes() if node.node_id.hex() == name.lower()]
    if not found:
        raise NodeNotFound(f"no node {name} is known in {data.path}; `ghostfs nodes` shows those that are")
    if len(found) > 1:
        ids = ", ".join(node.node_id.hex() for node in found)
        raise InvalidName(f"{len(found)} nodes are called {name}: name one by its id, {ids}")
    return found[0]


def _check(known: _Known, session: str | None) -> None:
    name = known.node.name
    if session is not None and session not in known.sessions:
        raise NodeNotFound(f"node {name} does not follow {session}; `ghostfs nodes` shows what is known")
    following = [each for each in known.following or () if session in (None, each)]
    if following:
        raise SessionBusy(f"node {name} follows {', '.join(following)} now: stop it first")


def _known(members: Members, node: Node, hub: HubStatus | None) -> _Known:
    following = None
    if hub is not None:
        following = [
            session.name
            for session in hub.sessions
            if any(member.node_id == node.node_id and member.connected for member in session.members)
        ]
    memberships = [
        member
        for session in members.sessions()
        if (member := members.membership(session, node.node_id)) is not None
    ]
    seen = max([node.last_seen_ns, *(member.acked_ns for member in memberships)])
    return _Known(node, [member.session for member in memberships], seen, following)
