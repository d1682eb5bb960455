"""Who follows which session: the live side of the memberships in `hub.db`."""

from __future__ import annotations

__all__ = ["Attendance", "Roster", "Throughput"]

import asyncio
import time
from dataclasses import dataclass, field

from ghostfs.mesh.compression import Compressor

_WINDOW_SECONDS = 10


class Throughput:
    """Bytes in all, and bytes a second over the last 10 s, in buckets of one second."""

    def __init__(self) -> None:
        self.total = 0
        self._buckets: dict[int, int] = {}

    def add(self, count: int) -> None:
        """Count bytes that were sent now."""
        self.total += count
        now = int(time.monotonic())
        self._buckets[now] = self._buckets.get(now, 0) + count
        if len(self._buckets) > _WINDOW_SECONDS + 1:
            for second in [s for s in self._buckets if s < now - _WINDOW_SECONDS]:
                del self._buckets[second]

    def per_second(self) -> float:
        """The mean over the last 10 s."""
        oldest = int(time.monotonic()) - _WINDOW_SECONDS
        return sum(count for second, count in self._buckets.items() if second > oldest) / _WINDOW_SECONDS


@dataclass(slots=True)
class Attendance:
    """One node in one session since the hub started."""

    sent: Throughput = field(default_factory=Throughput)
    last_ack_ns: int = 0
    fingerprint: bytes = b""
    stranger: bool = False
    """It was said that this node's cursor is of another history; until it has acknowledged something."""
    compressor: Compressor | None = None
    """What it has learnt of the session's content is worth keeping between calls."""
    stream: asyncio.Event | None = None
    """Set to tell the stream that follows now that a newer one of the same node has taken its place."""

    @property
    def connected(self) -> bool:
        """Whether a stream follows now."""
        return self.stream is not None


class Roster:
    """Attendances by (session, node id): of members only, for a node id may be any that a call states. Belongs to
    the event loop."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, bytes], Attendance] = {}

    def of(self, session: str, node_id: bytes) -> Attendance:
        """The attendance of a member, made at the first question."""
        return self._entries.setdefault((session, node_id), Attendance())

    def known(self, session: str, node_id: bytes) -> Attendance | None:
        """The attendance, of a node that has followed the session; None for any other."""
        return self._entries.get((session, node_id))

    def forget(self, session: str) -> None:
        """The session was removed. A stream that is about to notice keeps what it has."""
        for key in [key for key in self._entries if key[0] == session]:
            del self._entries[key]

    def arrive(self, attendance: Attendance) -> asyncio.Event:
        """Take the place of whatever stream of this node there was; the event says when to leave.

        A node opens a second stream only when its first is dead, which it may notice before the hub does.
        """
        if attendance.stream is not None:
            attendance.stream.set()
        attendance.stream = asyncio.Event()
        return attendance.stream

    def leave(self, attendance: Attendance, token: asyncio.Event) -> None:
        """Free the place, unless a newer stream has it."""
        if attendance.stream is token:
            attendance.stream = None

    def present(self, session: str) -> int:
        """How many nodes follow a session now."""
        return sum(1 for (name, _), entry in self._entries.items() if name == session and entry.connected)
