"""What a hub says of its sessions and nodes, as values that need no gRPC to be shown."""

from __future__ import annotations

__all__ = ["HubStatus", "MemberStatus", "SessionStatus"]

from dataclasses import dataclass

from ghostfs.v1 import mesh_pb2 as pb


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One node's copy of one session, as the hub knows it.

    `lag_changes` counts cells above the node's cursor, `lag_ns` is how long the oldest of them has waited
    (0 when there is none). `bytes_sent` counts since the hub started, `bytes_per_second` covers its last
    10 s. `fingerprint` is the last one acknowledged, empty if unknown. Times are ns since 1970, 0 never.
    """

    node_name: str
    node_id: bytes
    connected: bool
    seq: int
    lag_changes: int
    lag_ns: int
    bytes_sent: int
    bytes_per_second: float
    last_ack_unix_ns: int
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """One session of a hub. `mountpoint` is empty when it is not mounted; `fingerprint` is 16 bytes."""

    name: str
    epoch: int
    head: int
    fingerprint: bytes
    mounted: bool
    mountpoint: str
    members: tuple[MemberStatus, ...]


@dataclass(frozen=True, slots=True)
class HubStatus:
    """A hub and all it serves."""

    version: str
    hub_id: bytes
    started_unix_ns: int
    sessions: tuple[SessionStatus, ...]

    @classmethod
    def from_reply(cls, reply: pb.StatusReply) -> HubStatus:
        """The value that a reply of the hub's Status states."""
        return cls(
            version=reply.version,
            hub_id=reply.hub_id,
            started_unix_ns=reply.started_unix_ns,
            sessions=tuple(_session(session) for session in reply.sessions),
        )


def _session(session: pb.SessionStatus) -> SessionStatus:
    return SessionStatus(
        name=session.name,
        epoch=session.epoch,
        head=session.head,
        fingerprint=session.fingerprint,
        mounted=session.mounted,
        mountpoint=session.mountpoint,
        members=tuple(_member(member) for member in session.members),
    )


def _member(member: pb.MemberStatus) -> MemberStatus:
    return MemberStatus(
        node_name=member.node_name,
        node_id=member.node_id,
        connected=member.connected,
        seq=member.seq,
        lag_changes=member.lag_changes,
        lag_ns=member.lag_ns,
        bytes_sent=member.bytes_sent,
        bytes_per_second=member.bytes_per_second,
        last_ack_unix_ns=member.last_ack_unix_ns,
        fingerprint=member.fingerprint,
    )
