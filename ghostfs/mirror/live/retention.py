"""How long a deleted name is remembered: until every member has heard of it, or for a retention time.

A tombstone tells members that follow by deltas that a name has gone. A member whose cursor is of another
epoch, or which has not been heard of for the retention time, gets a snapshot when it comes back, and needs
none. One that is being served a snapshot needs what is deleted meanwhile. Without any member, nobody does.
"""

from __future__ import annotations

__all__ = ["Retention"]

import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from ghostfs.errors import GhostError
from ghostfs.index import Index, Members, State
from ghostfs.model import Cursor, Seq

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Retention:
    """The rule of one session. `members_db` is the hub's, which may not exist; `seconds` is how long a
    member that says nothing still counts."""

    members_db: Path
    session: str
    seconds: float

    def collect(self, index: Index) -> int:
        """Removes the tombstones that nobody needs; returns how many. To be called by the owner's writer."""
        try:
            upto = self._passed_by_all(index.state())
            removed = index.collect_tombstones(upto)
        except (GhostError, OSError) as error:
            log.warning("tombstones_kept", session=self.session, error=str(error))
            return 0
        if removed:
            log.info("tombstones_collected", session=self.session, removed=removed, upto=upto)
        return removed

    def _passed_by_all(self, state: State) -> Seq:
        try:
            members = Members.open(self.members_db, readonly=True)
        except FileNotFoundError:
            return state.head
        with members:
            needed = [(m.cursor, m.acked_ns) for m in members.members(self.session)]
            needed += [(lease.cursor, lease.taken_ns) for lease in members.leases(self.session)]
        counted = (cursor.seq for cursor, at_ns in needed if cursor and self._counts(cursor, at_ns, state))
        return min(counted, default=state.head)

    def _counts(self, cursor: Cursor, heard_ns: int, state: State) -> bool:
        return cursor.epoch == state.epoch and time.time_ns() - heard_ns < self.seconds * 1_000_000_000
