"""A node's loop for one session: follow, stage, fetch, publish, acknowledge; and come back after any failure.

All state that matters is the replica's, and durable: a loop that is killed anywhere goes on from there.
"""

from __future__ import annotations

__all__ = ["Follower", "FollowerSettings", "FollowerState"]

import asyncio
import enum
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import grpc
import structlog

from ghostfs import metrics
from ghostfs.errors import (
    DriftError,
    GhostError,
    InvalidCell,
    NameTaken,
    NodeHalted,
    PeerError,
    SessionNotFound,
)
from ghostfs.mesh.backoff import Backoff
from ghostfs.mesh.codec import encode_fingerprint
from ghostfs.mesh.fetcher import Fetcher, Replicating
from ghostfs.mesh.incoming import Incoming
from ghostfs.mesh.link import Link
from ghostfs.mesh.transport import peer_error
from ghostfs.mesh.workers import Workers
from ghostfs.mirror.replica.batch import Batch, Position, Published
from ghostfs.v1 import mesh_pb2 as pb

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FollowerSettings:
    """Seconds, and bytes for `fetch_window`.

    `silence` is how long a hub may say nothing, which is longer than its heartbeats are apart. `resync` is
    the least time between two snapshots that are asked for because something does not add up; it doubles, up
    to twelve times as long, until hub and node agree again. `parked_patience` is how long parked files may
    wait for a newer version before that counts as such.
    """

    fetch_window: int = 16 << 20
    reconnect_min: float = 0.1
    reconnect_max: float = 10.0
    silence: float = 35.0
    resync: float = 300.0
    parked_patience: float = 60.0


class FollowerState(enum.StrEnum):
    """Where the loop is."""

    CONNECTING = "connecting"
    FOLLOWING = "following"
    SYNCING = "syncing"
    HALTED = "halted"


class _ResyncWanted(Exception):
    """Connect again at once, and ask for a snapshot."""


class _Refused(InvalidCell):
    """The replica cannot use a batch: it does not fit what is there."""


_RESYNCS_APART = 12
"""How much longer than `FollowerSettings.resync` the waits between snapshots get that mend nothing."""


class Follower:
    """Keeps one replica up to date. `run` it as a task; cancel it to stop."""

    def __init__(
        self,
        session: str,
        link: Link,
        open_replica: Callable[[], Replicating],
        settings: FollowerSettings,
    ) -> None:
        """`open_replica` blocks, is called in the replica's own thread, and may be called again."""
        self.session = session
        self.state = FollowerState.CONNECTING
        self._link = link
        self._open_replica = open_replica
        self._settings = settings
        self._thread = Workers(f"replica-{session}", 1)
        self._replica: Replicating | None = None
        self._backoff = self._new_backoff()
        self._resync = False
        self._next_resync = 0.0
        self._resync_wait = settings.resync
        self._parked_since: float | None = None
        self._trouble = ""
        self._log = log.bind(session=session)

    async def run(self) -> None:
        """Never returns.

        Raises:
            NodeHalted: going on could lose files; the replica is closed, and the message says what to do.
            NameTaken: the hub knows another node by this one's name.
        """
        try:
            while True:
                await self._once()
                self.state = FollowerState.CONNECTING
                metrics.RECONNECTS.labels(self.session).inc()
                await asyncio.sleep(self._backoff.next())
        except (NodeHalted, NameTaken):
            self.state = FollowerState.HALTED
            raise
        finally:
            metrics.CONNECTED.labels(self.session).set(0)
            await self._close_replica()
            self._thread.close(wait=False)

    async def _once(self) -> None:
        """One connection, from hello to its end; every failure that time or another try may mend ends here."""
        try:
            if self._replica is None:
                self._replica = await self._thread.run_to_end(self._open_replica)
            await self._follow(self._replica)
        except _ResyncWanted:
            self._backoff.reset()
        except (NodeHalted, NameTaken) as error:
            self._log.error("node_halted", error=str(error))
            raise
        except grpc.aio.AioRpcError as error:
            trouble = peer_error(error, self._link.shown)
            # The hub answered; whoever mistyped a name is not to look for a hub that is away.
            event = "session_unknown" if isinstance(trouble, SessionNotFound) else "hub_away"
            self._report(str(trouble), event)
        except asyncio.InvalidStateError:
            # What gRPC raises for a write to a stream that the other side has just ended.
            self._report(f"the hub at {self._link.shown} ended the stream")
        except PeerError as error:
            self._report(str(error))
        except InvalidCell as error:
            self._refused(error)
        except DriftError as error:
            self._drifted(error=str(error))
        except (GhostError, OSError) as error:
            self._report_failure(str(error))
            await self._close_replica()
        except Exception:  # noqa: BLE001 - a bug: logged whole; the node's other sessions go on
            self._log.exception("follower_failed")
            await self._close_replica()
        finally:
            metrics.CONNECTED.labels(self.session).set(0)
            if self._replica is not None:
                await self._thread.run_to_end(self._replica.abandon)

    def _report(self, trouble: str, event: str = "hub_away") -> None:
        """Say what there is to wait for, once and not at every try."""
        if trouble != self._trouble:
            self._trouble = trouble
            self._log.warning(event, reason=trouble)

    def _report_failure(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._log.error("replica_failed", error=trouble)

    def _refused(self, error: InvalidCell) -> None:
        metrics.CELLS_REFUSED.labels(self.session).inc()
        if isinstance(error, _Refused):
            # Such as when the session was restored with an older index: its history is not that of this copy.
            self._want_resync()
        if str(error) != self._trouble:
            self._trouble = str(error)
            self._log.warning("batch_refused", error=str(error), resync=self._resync)

    async def _close_replica(self) -> None:
        replica, self._replica = self._replica, None
        if replica is not None:
            await self._thread.run_to_end(replica.close)

    async def _follow(self, replica: Replicating) -> None:
        await self._link.enrol()
        hello = await self._thread.run_to_end(self._hello, replica)
        call = self._link.stub.Follow()
        try:
            await call.write(pb.FollowRequest(hello=hello))
            fetcher = Fetcher(
                self.session,
                self._link.node_id,
                self._link.fetch,
                replica,
                self._thread,
                window=self._settings.fetch_window,
                backoff=self._new_backoff,
            )
            incoming = Incoming()
            while True:
                event = await self._read(call)
                self._heard()
                begun = event.begin if event.HasField("begin") else None
                if begun is not None:
                    committed_ns = begun.committed_unix_ns
                batch = incoming.feed(event)
                if batch is not None:
                    ack = await self._apply(replica, fetcher, batch, committed_ns)
                    await call.write(pb.FollowRequest(ack=ack))
                if batch is not None or event.HasField("heartbeat"):
                    # All is well only now: a batch that fails every time must not be tried at full speed.
                    self._backoff.reset()
                    self._trouble = ""
                self._check_parked()
        finally:
            call.cancel()

    def _hello(self, replica: Replicating) -> pb.Hello:
        position = replica.position()
        self._note_waiting(position, replica.fingerprint())
        hello = pb.Hello(session=self.session, node_id=self._link.node_id, has_content=replica.has_content)
        if self._resync:
            return hello
        if position.cursor is not None:
            hello.epoch, hello.seq = position.cursor.epoch, position.cursor.seq
        if position.snapshot is not None:
            hello.snapshot.CopyFrom(_snapshot_position(position))
        return hello

    async def _read(self, call: Any) -> pb.FollowEvent:
        try:
            async with asyncio.timeout(self._settings.silence):
                event: pb.FollowEvent = await call.read()
        except TimeoutError:
            raise PeerError(f"the hub at {self._link.shown} has said nothing for too long") from None
        if event is grpc.aio.EOF:
            raise PeerError(f"the hub at {self._link.shown} ended the stream")
        return event

    def _heard(self) -> None:
        """The hub speaks."""
        if self.state is FollowerState.CONNECTING:
            self.state = FollowerState.FOLLOWING
            metrics.CONNECTED.labels(self.session).set(1)
            self._log.info("following", hub=self._link.shown)

    async def _apply(
        self, replica: Replicating, fetcher: Fetcher, batch: Batch, committed_ns: int
    ) -> pb.Ack:
        begun = time.monotonic()
        await self._taken(replica.begin, batch)
        fetched = await fetcher.run()
        published = await self._taken(replica.publish)
        self._resync = False
        self.state = (
            FollowerState.SYNCING if published.position.snapshot is not None else FollowerState.FOLLOWING
        )
        cells = len(batch.inodes) + len(batch.dirents)
        metrics.BATCHES_APPLIED.labels(self.session).inc()
        metrics.CELLS_APPLIED.labels(self.session).inc(cells)
        metrics.CONFLICTS.labels(self.session).inc(len(published.conflicts))
        self._log.debug(
            "batch_applied",
            head=batch.head,
            cells=cells,
            files=published.files,
            fetched=fetched,
            took_ms=round((time.monotonic() - begun) * 1000, 1),
            age_ms=round((time.time_ns() - committed_ns) / 1e6, 1),
        )
        self._note_waiting(published.position, published.fingerprint)
        self._compare(batch, published)
        return _ack(published)

    async def _taken(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A step of the replica's that looks at the batch as a whole."""
        try:
            return await self._thread.run_to_end(step, *args, **kwargs)
        except InvalidCell as error:
            raise _Refused(str(error)) from error

    def _compare(self, batch: Batch, published: Published) -> None:
        """Equal sums at equal cursors are equal trees; anything else is drift."""
        mine, theirs = published.fingerprint, batch.fingerprint
        if mine is not None and theirs is not None and mine != theirs:
            self._drifted(head=batch.head, mine=f"{mine:032x}", hub=f"{theirs:032x}")
            if self._resync:
                raise _ResyncWanted
        elif mine is not None and theirs is not None:
            self._agreed()

    def _agreed(self) -> None:
        """Whatever did not add up does now."""
        self._resync_wait = self._settings.resync

    def _drifted(self, **details: object) -> None:
        self._log.error("drift_detected", **details)
        metrics.DRIFT.labels(self.session).inc()
        self._want_resync()

    def _want_resync(self) -> bool:
        """Ask for a snapshot with the next hello, unless that was done not long ago; whether it will be."""
        now = time.monotonic()
        if now < self._next_resync:
            return False
        self._next_resync = now + self._resync_wait
        self._resync_wait = min(self._resync_wait * 2, self._settings.resync * _RESYNCS_APART)
        self._resync = True
        return True

    def _note_waiting(self, position: Position, fingerprint: int | None) -> None:
        """A replica that is through with a snapshot and has no fingerprint waits for something that it needs."""
        waits = fingerprint is None and position.snapshot is None and position.cursor is not None
        self._parked_since = (self._parked_since or time.monotonic()) if waits else None

    def _check_parked(self) -> None:
        """Content that was superseded comes anew when it is committed; what never comes is asked for again.

        It may never come: a file that was written and then restored has no newer version, and what a delta of
        another history takes for known is nowhere.
        """
        since, now = self._parked_since, time.monotonic()
        if since is None or now - since < self._settings.parked_patience or now < self._next_resync:
            return
        self._parked_since = None
        self._want_resync()
        self._log.info("parked_for_long")
        raise _ResyncWanted

    def _new_backoff(self) -> Backoff:
        return Backoff(self._settings.reconnect_min, self._settings.reconnect_max)


def _snapshot_position(position: Position) -> pb.SnapshotPosition:
    assert position.snapshot is not None
    snapshot_id, at = position.snapshot
    return pb.SnapshotPosition(snapshot_id=snapshot_id, position=at)


def _ack(published: Published) -> pb.Ack:
    position = published.position
    ack = pb.Ack()
    if position.cursor is not None:
        ack.epoch, ack.seq = position.cursor.epoch, position.cursor.seq
    if position.snapshot is not None:
        ack.snapshot.CopyFrom(_snapshot_position(position))
    if published.fingerprint is not None:
        ack.fingerprint = encode_fingerprint(published.fingerprint)
    return ack
