"""What Status answers: each session's head and owner, each member's lag and throughput."""

from __future__ import annotations

__all__ = ["StatusReport"]

import time
from collections.abc import Sequence

from ghostfs.errors import GhostError
from ghostfs.index import Membership, State
from ghostfs.mesh.codec import encode_fingerprint
from ghostfs.mesh.follow import SessionSource
from ghostfs.mesh.owner import owner_status
from ghostfs.mesh.roster import Attendance, Roster
from ghostfs.mesh.workers import Workers
from ghostfs.v1 import mesh_pb2 as pb


class StatusReport:
    """Makes one report."""

    def __init__(self, roster: Roster, workers: Workers) -> None:
        self._roster = roster
        self._workers = workers

    async def session(self, source: SessionSource, members: Sequence[Membership]) -> pb.SessionStatus:
        """One session; its head is 0 when its index cannot be read now."""
        await source.watch.ready()
        owner = await owner_status(source.layout.control_socket)
        try:
            state, lags = await self._workers.run(_lags, source, members)
        except (GhostError, OSError):
            return pb.SessionStatus(name=source.name)
        return pb.SessionStatus(
            name=source.name,
            epoch=state.epoch,
            head=state.head,
            fingerprint=encode_fingerprint(state.fingerprint),
            mounted=owner is not None,
            mountpoint=owner.mountpoint if owner is not None else "",
            members=[self._member(source, member, lag) for member, lag in zip(members, lags, strict=True)],
        )

    def _member(self, source: SessionSource, member: Membership, lag: int) -> pb.MemberStatus:
        attendance = self._roster.known(source.name, member.node.node_id) or Attendance()
        seq = member.cursor.seq if member.cursor is not None else 0
        since = source.watch.waiting_since(seq) if lag else 0
        return pb.MemberStatus(
            node_name=member.node.name,
            node_id=member.node.node_id,
            connected=attendance.connected,
            seq=seq,
            lag_changes=lag,
            lag_ns=max(0, time.time_ns() - since) if since else 0,
            bytes_sent=attendance.sent.total,
            bytes_per_second=attendance.sent.per_second(),
            last_ack_unix_ns=member.acked_ns,
            fingerprint=member.fingerprint or b"",
        )


def _lags(source: SessionSource, members: Sequence[Membership]) -> tuple[State, list[int]]:
    """The state, and for each member how many cells are above its cursor."""
    with source.indexes.use() as index:
        state = index.state()
        return state, [
            index.delta_size(member.cursor.seq)
            if member.cursor is not None and member.cursor.epoch == state.epoch
            else state.head
            for member in members
        ]
