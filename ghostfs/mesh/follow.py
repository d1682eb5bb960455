"""The hub's side of one Follow stream: delta or snapshot, one batch at a time, each acknowledged.

The next batch is read only after the last was acknowledged, so it holds whatever happened meanwhile, once:
a slow node skips what it missed, and costs the hub nothing but its stream.
"""

from __future__ import annotations

__all__ = ["FollowStream", "HubLimits", "SessionSource"]

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from ghostfs import metrics
from ghostfs.errors import InvalidCell, SessionNotFound
from ghostfs.index import CursorTooOld, Delta, DeltaStream
from ghostfs.mesh.blocks import BlockReader
from ghostfs.mesh.codec import encode_fingerprint
from ghostfs.mesh.compression import Compressor
from ghostfs.mesh.firstsync import FirstSync, Lease
from ghostfs.mesh.heads import Head, HeadWatch
from ghostfs.mesh.indexpool import IndexPool
from ghostfs.mesh.outgoing import Outgoing, Scope
from ghostfs.mesh.roster import Attendance
from ghostfs.mesh.snapshots import Snapshot, SnapshotStore
from ghostfs.mesh.unreadable import Unreadable
from ghostfs.mesh.workers import Workers, dropped, undisturbed
from ghostfs.mirror.layout import SessionLayout
from ghostfs.model import Cursor, Dirent, Epoch, Inode, Seq
from ghostfs.v1 import mesh_pb2 as pb

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 10.0
_CHUNK_BYTES = 4 << 20
"""Encoded cells in one snapshot chunk; long block lists make a chunk shorter than its number of cells."""

_IN_MEMORY_CELLS = 4096
"""A larger delta is streamed from the index into the spool, through a connection of its own."""


@dataclass(frozen=True, slots=True)
class HubLimits:
    """The hub's settings that shape what it sends."""

    inline_max: int = 256 << 10
    snapshot_chunk_cells: int = 2000
    delta_max_cells: int = 100_000
    heartbeat_seconds: float = HEARTBEAT_SECONDS


@dataclass(frozen=True, slots=True)
class SessionSource:
    """What of a session is needed to serve it."""

    name: str
    layout: SessionLayout
    indexes: IndexPool
    watch: HeadWatch
    unreadable: Unreadable


class Wire(Protocol):
    """The stream, as gRPC gives it: `read` returns a falsy end-of-stream mark when the node is done."""

    async def read(self) -> pb.FollowRequest: ...

    async def write(self, event: pb.FollowEvent) -> None: ...


StoreCursor = Callable[[Cursor, bytes | None], Awaitable[None]]
"""Keeps what a node has acknowledged, with its fingerprint (empty: it has none to give); None: what it said when
it came, after an acknowledgement that was lost."""


class _NothingNew(Exception):
    """The node has all that the index has."""


class FollowStream:
    """Serves one node until it leaves. Belongs to the event loop."""

    def __init__(
        self,
        source: SessionSource,
        wire: Wire,
        attendance: Attendance,
        *,
        limits: HubLimits,
        snapshots: SnapshotStore,
        workers: Workers,
        spool_dir: Path,
        compressor: Compressor,
        store_cursor: StoreCursor,
        lease: Lease,
    ) -> None:
        self._source = source
        self._wire = wire
        self._attendance = attendance
        self._limits = limits
        self._snapshots = snapshots
        self._workers = workers
        self._spool_dir = spool_dir
        self._compressor = compressor
        self._store_cursor = store_cursor
        self._lease = lease
        self._has_content = False
        self._log = log.bind(session=source.name)

    async def run(self, hello: pb.Hello) -> None:
        """Returns when the node ends the stream.

        Raises:
            InvalidCell: the node broke the rules of the wire.
            SessionNotFound, IndexDamaged: the session cannot be served.
        """
        cursor = Cursor(Epoch(hello.epoch), Seq(hello.seq)) if hello.epoch else None
        resume = hello.snapshot if hello.HasField("snapshot") else None
        self._has_content = hello.has_content
        acknowledged = False
        with self._source.watch.listening() as changed:
            while True:
                changed.clear()
                head = self._head()
                if head is None or (resume is None and cursor == Cursor(Epoch(head.epoch), Seq(head.seq))):
                    if head is not None and cursor is not None and not acknowledged:
                        await self._store_cursor(cursor, None)
                        acknowledged = True
                    await self._idle(changed)
                    continue
                outgoing = None
                if resume is None and cursor is not None and cursor.epoch == head.epoch:
                    try:
                        outgoing = await self._workers.run_to_end(self._read_delta, cursor)
                    except _NothingNew:
                        # The watch is behind the index, or has yet to see that its history was taken back.
                        await self._source.watch.look()
                        continue
                if outgoing is not None:
                    cursor = await self._deliver(outgoing)
                else:
                    cursor = await self._snapshot(resume, cursor)
                    resume = None
                    self._has_content = True
                if cursor is None:
                    return
                acknowledged = True

    def _head(self) -> Head | None:
        """The session's head; None while there is nothing to send."""
        watch = self._source.watch
        if watch.head is None and isinstance(watch.problem, SessionNotFound):
            raise watch.problem
        return watch.head if watch.head is not None and watch.head.seq > 0 else None

    async def _idle(self, changed: asyncio.Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.heartbeat_seconds):
                await changed.wait()
                return
        await self._beat()

    async def _beat(self) -> None:
        head = self._source.watch.head or Head(0, 0)
        await self._wire.write(pb.FollowEvent(heartbeat=pb.Heartbeat(epoch=head.epoch, head=head.seq)))

    def _read_delta(self, cursor: Cursor) -> Outgoing | None:
        """The delta since the cursor; None when only a snapshot will do.

        Raises:
            _NothingNew: there is nothing above the cursor.
        """
        with self._source.indexes.use() as index:
            try:
                size = index.delta_size(cursor.seq)
                if size > self._limits.delta_max_cells:
                    self._log.info("node_too_far_behind", cursor=cursor.seq, reason=f"{size} cells")
                    return None
                if size <= _IN_MEMORY_CELLS:
                    return self._of_delta(cursor, index.delta_since(cursor.seq))
                with index.stream_since(cursor.seq) as stream:
                    return self._of_delta(cursor, stream)
            except CursorTooOld as error:
                if cursor.seq > index.head():
                    log_it = self._log.debug if self._attendance.stranger else self._log.warning
                    self._attendance.stranger = True
                    log_it("node_of_another_history", cursor=cursor.seq, head=index.head())
                else:
                    self._log.info("node_too_far_behind", cursor=cursor.seq, reason=str(error))
                return None

    def _of_delta(self, cursor: Cursor, delta: Delta | DeltaStream) -> Outgoing | None:
        if delta.epoch != cursor.epoch:
            return None
        if delta.head == cursor.seq:
            raise _NothingNew
        scope = Scope(delta.epoch, cursor.seq, delta.head, delta.fingerprint, delta.committed_ns)
        return self._outgoing(scope, delta.inodes, delta.dirents, inline_above=cursor.seq)

    async def _snapshot(self, resume: pb.SnapshotPosition | None, cursor: Cursor | None) -> Cursor | None:
        """Send a snapshot to its end; the cursor after it, None when the node left."""
        source = self._source
        first = FirstSync(
            source.name,
            source.indexes,
            self._snapshots,
            self._workers,
            lease=self._lease,
            most_behind=self._limits.delta_max_cells // 4,
            cursor=cursor,
            has_content=self._has_content,
        )
        try:
            position = await self._with_heartbeats(first.begin(resume))
            frozen = first.snapshot.frozen
            state = frozen.state
            self._log.info(
                "snapshot_begins", snapshot=frozen.snapshot_id.hex(), position=position, head=state.head
            )
            cursor = await self._chunks(first, position)
            if cursor is not None:
                source.watch.observe(Head(state.epoch, state.head), state.committed_ns)
            return cursor
        finally:
            await first.release()

    async def _with_heartbeats(self, work: Coroutine[Any, Any, int]) -> int:
        """The result of what may take long; the node hears meanwhile that somebody is there."""
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait([task], timeout=self._limits.heartbeat_seconds))[0]:
                await self._beat()
            return task.result()
        finally:
            await dropped(task)

    async def _chunks(self, first: FirstSync, position: int) -> Cursor | None:
        """Send what is left of a snapshot. While the node applies a chunk, the next one is read, not sent."""
        # Whether content goes along is decided once: a node that has something may have most of it.
        inline = not self._has_content
        snapshot = first.snapshot
        ahead = self._start_chunk(snapshot, position, inline)
        try:
            while True:
                outgoing = await asyncio.shield(ahead)
                chunk = outgoing.scope.snapshot
                assert chunk is not None
                begun = await self._send(outgoing)
                if not chunk.last:
                    ahead = self._start_chunk(snapshot, chunk.position, inline)
                cursor = await self._acknowledged(outgoing, begun)
                if cursor is None or chunk.last:
                    return cursor
                await first.renew()
        finally:
            # It uses the snapshot, which is about to be closed.
            await undisturbed(self._drop(ahead))

    async def _drop(self, ahead: asyncio.Task[Outgoing]) -> None:
        await asyncio.wait([ahead])
        if ahead.cancelled() or ahead.exception() is not None:
            return
        try:
            await self._workers.run(ahead.result().close)
        except asyncio.CancelledError:  # the hub ends, and takes no more work
            ahead.result().close()

    def _start_chunk(self, snapshot: Snapshot, position: int, inline: bool) -> asyncio.Task[Outgoing]:
        return asyncio.create_task(self._workers.run_to_end(self._read_chunk, snapshot, position, inline))

    def _read_chunk(self, snapshot: Snapshot, position: int, inline: bool) -> Outgoing:
        frozen = snapshot.frozen
        state = frozen.state
        chunk = frozen.chunk(position, self._limits.snapshot_chunk_cells, _CHUNK_BYTES)
        part = pb.SnapshotChunk(
            snapshot_id=frozen.snapshot_id, position=chunk.position, first=position == 0, last=chunk.last
        )
        scope = Scope(state.epoch, 0, state.head, state.fingerprint, state.committed_ns, part)
        outgoing = self._outgoing(scope, chunk.inodes, chunk.dirents, inline_above=0 if inline else None)
        try:
            outgoing.read_ahead()
        except BaseException:
            outgoing.close()
            raise
        return outgoing

    def _outgoing(
        self, scope: Scope, inodes: Iterable[Inode], dirents: Iterable[Dirent], *, inline_above: int | None
    ) -> Outgoing:
        return Outgoing(
            scope,
            inodes,
            dirents,
            spool_dir=self._spool_dir,
            reader=BlockReader(self._source.layout, self._source.indexes, self._source.unreadable),
            compressor=self._compressor,
            inline_max=self._limits.inline_max,
            inline_above=inline_above,
        )

    async def _deliver(self, outgoing: Outgoing) -> Cursor | None:
        """Send a batch and wait until it is durable on the node: its cursor, None when the node left."""
        return await self._acknowledged(outgoing, await self._send(outgoing))

    async def _send(self, outgoing: Outgoing) -> float:
        """Send a batch, whose object is closed then; when that was begun."""
        begun = time.monotonic()
        try:
            done = False
            while not done:
                events, done = await self._workers.run_to_end(outgoing.turn)
                for event in events:
                    await self._wire.write(event)
        finally:
            await self._workers.run_to_end(outgoing.close)
        self._attendance.sent.add(outgoing.inline_bytes)
        metrics.BYTES_SENT.labels(self._source.name).inc(outgoing.inline_bytes)
        return begun

    async def _acknowledged(self, outgoing: Outgoing, begun: float) -> Cursor | None:
        """Wait until a batch is durable on the node: its cursor, None when the node left."""
        scope = outgoing.scope
        ack = await self._acknowledgement(scope)
        if ack is None:
            return None
        self._attendance.last_ack_ns = time.time_ns()
        self._attendance.fingerprint = ack.fingerprint
        cursor = Cursor(Epoch(scope.epoch), Seq(scope.head))
        if scope.snapshot is None:
            # Read from the index, maybe before the watch has heard of it: a cursor is never above the head.
            self._source.watch.observe(Head(scope.epoch, scope.head), scope.committed_ns)
        if scope.snapshot is None or scope.snapshot.last:
            await self._store_cursor(cursor, ack.fingerprint)
            self._attendance.stranger = False
            if ack.fingerprint and ack.fingerprint != encode_fingerprint(scope.fingerprint):
                self._log.error("node_drifted", head=scope.head)
                metrics.DRIFT.labels(self._source.name).inc()
        self._log.debug(
            "batch_acknowledged",
            since=scope.since,
            head=scope.head,
            cells=outgoing.cells,
            took_ms=round((time.monotonic() - begun) * 1000, 1),
        )
        return cursor

    async def _acknowledgement(self, scope: Scope) -> pb.Ack | None:
        request = await self._wire.read()
        if not isinstance(request, pb.FollowRequest):
            return None
        if not request.HasField("ack"):
            raise InvalidCell("a Follow stream goes on with acknowledgements only")
        ack = request.ack
        chunk = scope.snapshot
        if chunk is not None and not chunk.last:
            expected = (chunk.snapshot_id, chunk.position)
            if (ack.snapshot.snapshot_id, ack.snapshot.position) != expected:
                raise InvalidCell(
                    f"position {ack.snapshot.position} acknowledged, {chunk.position} was sent"
                )
        elif (ack.epoch, ack.seq) != (scope.epoch, scope.head):
            raise InvalidCell(f"sequence {ack.seq} acknowledged, {scope.head} was sent")
        if len(ack.fingerprint) not in (0, 16):
            raise InvalidCell(f"a fingerprint of {len(ack.fingerprint)} bytes")
        return ack
