"""The snapshot that one node is fed from: found or made, leased, and given back.

What is deleted in the session while a snapshot is sent follows it as tombstones, so these must be kept that
long. The lease, in hub.db, tells the session's owner so.
"""

from __future__ import annotations

__all__ = ["RENEW_SECONDS", "SHARED_SECONDS", "FirstSync", "Lease"]

import time
from collections.abc import Awaitable, Callable

import structlog

from ghostfs.index import CursorTooOld, Frozen, Index, State
from ghostfs.mesh.indexpool import IndexPool
from ghostfs.mesh.snapshots import Snapshot, SnapshotStore
from ghostfs.mesh.workers import Workers
from ghostfs.model import Cursor
from ghostfs.v1 import mesh_pb2 as pb

log = structlog.get_logger(__name__)

RENEW_SECONDS = 60.0
"""How old a lease gets while chunks go. It counts for as long as a member that says nothing does, days, so this
is often enough."""

SHARED_SECONDS = 5.0
"""A snapshot that is younger is for everybody, also for a node that may have shown what came after it: that is
undone for a moment, and comes back with the delta. Without this, many nodes that need one at the same time, in
a session that is being written to, would each get their own."""

Lease = Callable[[Cursor], Awaitable[None]]
"""Notes durably that the node will need what follows that cursor; again, to renew it."""


class FirstSync:
    """One snapshot for one node. `release` it in the end, begun or not. Belongs to the event loop."""

    def __init__(
        self,
        session: str,
        indexes: IndexPool,
        snapshots: SnapshotStore,
        workers: Workers,
        *,
        lease: Lease,
        most_behind: int,
        cursor: Cursor | None,
        has_content: bool,
    ) -> None:
        """`most_behind` is how many cells may have changed since an older snapshot that is used; `cursor` is
        where the node was, as far as it said, and `has_content` whether it shows anything."""
        self._session = session
        self._indexes = indexes
        self._snapshots = snapshots
        self._workers = workers
        self._lease = lease
        self._most_behind = most_behind
        self._cursor = cursor
        self._has_content = has_content
        self._held: Snapshot | None = None
        self._leased_at = 0.0

    @property
    def snapshot(self) -> Snapshot:
        """What `begin` found."""
        assert self._held is not None, "begin was not called"
        return self._held

    async def begin(self, resume: pb.SnapshotPosition | None) -> int:
        """Find, make or wait for the snapshot; the position to begin at, 0 if it is not the one to `resume`."""
        # What is deleted while the snapshot is being made is kept too.
        state = await self._workers.run_to_end(self._state)
        await self._lease(Cursor(state.epoch, state.head))
        while True:
            held, position = await self._find(resume)
            state = held.frozen.state
            await self._lease(Cursor(state.epoch, state.head))
            self._leased_at = time.monotonic()
            # Only now is it certain: what followed an older snapshot may have been forgotten just before.
            if await self._workers.run_to_end(self._is_continued, held.frozen):
                return position
            log.info("snapshot_outdated", session=self._session, head=state.head)
            resume = None
            await self.release()

    async def renew(self) -> None:
        """Renew the lease, if it is time."""
        if time.monotonic() - self._leased_at >= RENEW_SECONDS:
            state = self.snapshot.frozen.state
            await self._lease(Cursor(state.epoch, state.head))
            self._leased_at = time.monotonic()

    async def release(self) -> None:
        """Give the snapshot back, if there is one. The lease ends with the node's next acknowledgement."""
        held, self._held = self._held, None
        if held is not None:
            await self._snapshots.release(held)

    async def _find(self, resume: pb.SnapshotPosition | None) -> tuple[Snapshot, int]:
        if resume is not None:
            self._held = await self._snapshots.resume(self._session, self._indexes, resume.snapshot_id)
            if self._held is not None:
                return self._held, resume.position
        self._held = await self._snapshots.current(self._session, self._indexes, self._is_near)
        return self._held, 0

    def _state(self) -> State:
        with self._indexes.use() as index:
            return index.state()

    def _is_continued(self, frozen: Frozen) -> bool:
        """Whether the session knows all that happened since a snapshot."""
        with self._indexes.use() as index:
            return _continues(index, frozen.state)

    def _is_near(self, frozen: Frozen, age: float) -> bool:
        """Whether a snapshot that is there will do: what happened since is little enough to follow as a delta.

        An older state could undo, for a moment, what a node already shows. One that says where it is gets none
        from before that; one that does not gets the head itself, or what is so new that everybody may share it.
        """
        state, cursor = frozen.state, self._cursor
        with self._indexes.use() as index:
            if index.delta_size(state.head) > self._most_behind or not _continues(index, state):
                return False
            if not self._has_content or age < SHARED_SECONDS or index.head() == state.head:
                return True
            return cursor is not None and (cursor.epoch != state.epoch or cursor.seq <= state.head)


def _continues(index: Index, state: State) -> bool:
    now = index.state()
    if now.epoch != state.epoch or (now.head == state.head and now.fingerprint != state.fingerprint):
        return False
    try:
        with index.stream_since(state.head) as stream:
            return stream.epoch == state.epoch
    except CursorTooOld:
        return False
