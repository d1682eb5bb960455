"""What there is to know of a data directory right now, read from its indexes, owners and hub.

No hub is needed: indexes are read directly, and each mount is asked over its control socket. gRPC is
loaded only if a hub is to be asked.
"""

from __future__ import annotations

__all__ = ["MirrorView", "Overview", "hub_of", "look", "look_at", "owner_of", "settle"]

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ghostfs.cli.output import hexadecimal
from ghostfs.errors import ExitCode, GhostError, PeerError, in_words
from ghostfs.names import display

if TYPE_CHECKING:
    from collections.abc import Callable

    from ghostfs.mesh.status import HubStatus, MemberStatus
    from ghostfs.mirror.layout import DataDir, SessionLayout
    from ghostfs.v1.control_pb2 import ControlReply, ControlRequest, OwnerStatus


@dataclass(frozen=True, slots=True)
class MirrorView:
    """One mirror. `problem` says why its index could not be read; all numbers are then 0. `owner` is the mount.

    `problem_code` is what a command that needs the index ends with: 0 also where there is just none yet.
    `tree_path` is empty for a node's copy.
    """

    name: str
    state_path: str
    tree_path: str
    problem: str = ""
    problem_code: ExitCode = ExitCode.OK
    epoch: int = 0
    head: int = 0
    fingerprint: int = 0
    committed_unix_ns: int = 0
    inodes: int = 0
    names: int = 0
    tombstones: int = 0
    bytes: int = 0
    owner: OwnerStatus | None = None
    members: tuple[MemberStatus, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Numbers as numbers; epoch and fingerprint, which are too long for some readers of JSON, as hex."""
        owner = self.owner
        return {
            "name": self.name,
            "problem": self.problem or None,
            "epoch": f"{self.epoch:016x}",
            "head": self.head,
            "fingerprint": hexadecimal(self.fingerprint),
            "committed_unix_ns": self.committed_unix_ns,
            "inodes": self.inodes,
            "names": self.names,
            "tombstones": self.tombstones,
            "bytes": self.bytes,
            "state": self.state_path,
            "tree": self.tree_path or None,
            "mount": owner
            and {
                "pid": owner.pid,
                "mountpoint": owner.mountpoint,
                "started_unix_ns": owner.started_unix_ns,
                "dirty_inodes": owner.dirty_inodes,
                "open_files": owner.open_files,
                "requests": owner.requests,
                "bytes_hashed": owner.bytes_hashed,
                "bytes_reread": owner.bytes_reread,
                "trouble": owner.trouble or None,
            },
            "nodes": [_member_json(member) for member in self.members],
        }


@dataclass(frozen=True, slots=True)
class Overview:
    """A data directory at one moment; `copies` are the mirrors that a node keeps."""

    data_dir: str
    taken_unix_ns: int
    hub: HubStatus | None
    hub_problem: str
    sessions: tuple[MirrorView, ...]
    copies: tuple[MirrorView, ...]

    def as_json(self) -> dict[str, Any]:
        """What `ghostfs status --json` prints."""
        hub = self.hub
        return {
            "data_dir": self.data_dir,
            "taken_unix_ns": self.taken_unix_ns,
            "hub": hub
            and {"id": hub.hub_id.hex(), "version": hub.version, "started_unix_ns": hub.started_unix_ns},
            "hub_problem": self.hub_problem or None,
            "sessions": [view.as_json() for view in self.sessions],
            "copies": [view.as_json() for view in self.copies],
        }


def look(data: DataDir) -> Overview:
    """Everything about a data directory."""
    hub, problem = hub_of(data)
    return Overview(
        data_dir=display(bytes(data.path)),
        taken_unix_ns=time.time_ns(),
        hub=hub,
        hub_problem=problem,
        sessions=tuple(look_at(data.session(name), hub) for name in data.session_names()),
        copies=tuple(replace(look_at(layout, None), tree_path="") for layout in _copies(data)),
    )


def look_at(layout: SessionLayout, hub: HubStatus | None) -> MirrorView:
    """One mirror; what the hub knows of its nodes is added if a hub is given."""
    from ghostfs.index import Index

    problem, code = "", ExitCode.OK
    facts: dict[str, int] = {}
    try:
        index = Index.open(layout.index_db, readonly=True)
        try:
            state, counts = index.state(), index.counts()
        finally:
            index.close()
        facts = {
            "epoch": state.epoch,
            "head": state.head,
            "fingerprint": state.fingerprint,
            "committed_unix_ns": state.committed_ns,
            "inodes": counts.inodes,
            "names": counts.dirents,
            "tombstones": counts.tombstones,
            "bytes": counts.bytes,
        }
    except FileNotFoundError:
        problem = "it has no index yet: the next mount makes it"
    except (GhostError, OSError) as error:
        problem = in_words(error)
        code = error.exit_code if isinstance(error, GhostError) else ExitCode.FAILURE
    return MirrorView(
        name=layout.name,
        state_path=display(bytes(layout.state)),
        tree_path=display(bytes(layout.tree)),
        problem=problem,
        problem_code=code,
        owner=owner_of(layout),
        members=_members(layout.name, hub),
        **facts,
    )


def hub_of(data: DataDir) -> tuple[HubStatus | None, str]:
    """What the hub of this data directory says, or None and why; no reason if none is meant to run."""
    if not data.hub_socket.is_socket():
        return None, ""
    from ghostfs.mesh.client import hub_status

    try:
        return hub_status(data.hub_socket, timeout=2.0), ""
    except PeerError as error:
        return None, str(error)


def _copies(data: DataDir) -> list[SessionLayout]:
    """The copies that a node keeps with this data directory; where their trees are, only the node is told."""
    from ghostfs.mirror.layout import SessionLayout

    if not data.replicas.is_dir():
        return []
    states = sorted(state for state in data.replicas.iterdir() if (state / "index.db").exists())
    return [SessionLayout(state.name, state, state, state) for state in states]


def owner_of(layout: SessionLayout) -> OwnerStatus | None:
    """What the mount of a session says of itself; None if it is not mounted."""
    from ghostfs.v1.control_pb2 import ControlRequest, OwnerStatusRequest

    reply = _ask(layout, ControlRequest(status=OwnerStatusRequest()), timeout=2.0)
    return reply.status if reply and reply.HasField("status") else None


def settle(layout: SessionLayout, waiting: Callable[[OwnerStatus], None]) -> None:
    """Have the mount of a session, if there is one, commit what was written up to now.

    `waiting` is called each second until it has.

    Raises:
        PeerError: it could not, and why.
    """
    from ghostfs.v1.control_pb2 import ControlRequest, Settle

    def look() -> None:
        if status := owner_of(layout):
            waiting(status)

    reply = _ask(layout, ControlRequest(settle=Settle()), timeout=None, waiting=look)
    if reply and reply.error:
        raise PeerError(reply.error)


def _ask(
    layout: SessionLayout,
    request: ControlRequest,
    timeout: float | None,
    waiting: Callable[[], None] | None = None,
) -> ControlReply | None:
    if not layout.control_socket.exists():
        return None
    from ghostfs.mirror.control import ControlClient

    try:
        with ControlClient(layout.control_socket, timeout=timeout) as client:
            return client.request(request, waiting=waiting)
    except (PeerError, OSError):
        return None  # nobody there: a socket that a killed mount has left


def _members(name: str, hub: HubStatus | None) -> tuple[MemberStatus, ...]:
    return next((session.members for session in hub.sessions if session.name == name), ()) if hub else ()


def _member_json(member: MemberStatus) -> dict[str, Any]:
    return {
        "name": member.node_name,
        "id": member.node_id.hex(),
        "connected": member.connected,
        "seq": member.seq,
        "lag_changes": member.lag_changes,
        "lag_seconds": member.lag_ns / 1e9,
        "bytes_sent": member.bytes_sent,
        "bytes_per_second": member.bytes_per_second,
        "last_ack_unix_ns": member.last_ack_unix_ns,
        "fingerprint": member.fingerprint.hex() or None,
    }
