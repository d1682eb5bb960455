"""The hub's gRPC service: Enrol, Follow, Fetch and Status over all sessions of one data directory."""

from __future__ import annotations

__all__ = ["HubService", "HubSettings"]

import asyncio
import time
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog

from ghostfs import __version__, metrics
from ghostfs.content import DIGEST_SIZE
from ghostfs.errors import InvalidCell, SessionNotFound
from ghostfs.index import Members
from ghostfs.mesh.blocks import PATIENCE_SECONDS, BlockReader
from ghostfs.mesh.calls import Calls
from ghostfs.mesh.codec import check_number
from ghostfs.mesh.compression import Compressor, is_local
from ghostfs.mesh.fetchserver import FetchServer
from ghostfs.mesh.follow import FollowStream, HubLimits
from ghostfs.mesh.heap import keep_buffers
from ghostfs.mesh.identity import NODE_ID_SIZE
from ghostfs.mesh.roster import Attendance, Roster
from ghostfs.mesh.snapshots import SnapshotStore
from ghostfs.mesh.sources import Sources
from ghostfs.mesh.statusreport import StatusReport
from ghostfs.mesh.workers import Workers, dropped
from ghostfs.mirror.layout import DataDir
from ghostfs.model import Cursor
from ghostfs.names import check_label
from ghostfs.v1 import mesh_pb2 as pb

log = structlog.get_logger(__name__)

SERVICE = "ghostfs.v1.Mesh"
WANTS_MAX = 1024
"""Blocks that one Fetch may ask for."""

_SNAPSHOT_ID_SIZE = 16
_PATIENCE_SECONDS = 0.4
"""How long the end waits for calls that are in the middle of a read."""


@dataclass(frozen=True, slots=True)
class HubSettings:
    """Plain values; `compression` is auto, on or off, `patience` how many seconds a file is waited for that is not
    where the index says."""

    compression: str = "auto"
    read_threads: int = 4
    patience: float = PATIENCE_SECONDS
    limits: HubLimits = field(default_factory=HubLimits)


class HubService:
    """Serves one data directory. Belongs to the event loop that `start` was called in."""

    def __init__(self, data: DataDir, settings: HubSettings) -> None:
        self._data = data
        self._settings = settings
        self._started_ns = time.time_ns()
        # Three pools, so that a long read of one sort never delays a short one of another.
        self._indexing = Workers("hub-index", settings.read_threads)
        self._reading = Workers("hub-read", settings.read_threads)
        self._freezing = Workers("hub-freeze", 1)
        self._membering = Workers("hub-members", 1)
        self._members: Members | None = None
        self._roster = Roster()
        self._calls = Calls()
        self._snapshots = SnapshotStore(data.snapshots, self._freezing)
        self._sources = Sources(data, self._indexing, self._snapshots, on_gone=self._roster.forget)
        self._keeping: list[asyncio.Task[None]] = []
        self._fetching = FetchServer(self._reading, patience=settings.patience)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Have a server, which has not been started, serve this."""
        # As protobuf's compiler would do it, but Fetch, which sends messages that are encoded already.
        handlers = {
            "Enrol": grpc.unary_unary_rpc_method_handler(
                self.Enrol, pb.EnrolRequest.FromString, pb.EnrolReply.SerializeToString
            ),
            "Follow": grpc.stream_stream_rpc_method_handler(
                self.Follow, pb.FollowRequest.FromString, pb.FollowEvent.SerializeToString
            ),
            "Fetch": grpc.unary_stream_rpc_method_handler(self.Fetch, pb.FetchRequest.FromString, None),
            "Status": grpc.unary_unary_rpc_method_handler(
                self.Status, pb.StatusRequest.FromString, pb.StatusReply.SerializeToString
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def start(self) -> None:
        """Open hub.db, and watch the sessions that have members, so that their lag is known."""
        keep_buffers()
        self._members = await self._membering.run(Members.open, self._data.hub_db)
        await self._snapshots.load()
        self._keeping = [
            asyncio.create_task(self._snapshots.sweep(), name="snapshot sweep"),
            asyncio.create_task(self._sources.tend(), name="tend sources"),
        ]
        for session in await self._membering.run(self._opened.sessions):
            with suppress(SessionNotFound):
                self._sources.existing(session)

    async def close(self) -> None:
        """End all calls and all watching, and give everything back. Threads that still read end by themselves."""
        await dropped(*self._keeping)
        await self._calls.end(_PATIENCE_SECONDS)
        await self._sources.close()
        if self._members is not None:
            await self._membering.run(self._members.close)
        for workers in (self._indexing, self._reading, self._freezing, self._membering):
            workers.close(wait=False)

    async def Enrol(self, request: pb.EnrolRequest, context: Any) -> pb.EnrolReply:  # noqa: N802 - gRPC's name
        """A node says who it is; the reply has its replica number, always the same one."""
        async with self._calls.answering(context):
            node_id = _node_id(request.node_id)
            name = check_label("node", request.node_name)
            known = await self._membering.run(self._opened.node, node_id)
            replica = await self._membering.run(self._opened.enrol, node_id, name)
            if known is None:
                log.info("node_enrolled", node=name, node_id=node_id.hex(), replica=replica)
            return pb.EnrolReply(replica=replica, hub_id=self._opened.hub_id)

    async def Follow(self, _requests: Any, context: Any) -> None:  # noqa: N802
        """Deltas and snapshots of one session, for as long as the node stays."""
        async with self._calls.answering(context):
            first = await context.read()
            if not isinstance(first, pb.FollowRequest) or not first.HasField("hello"):
                raise InvalidCell("a Follow stream begins with a hello")
            hello = first.hello
            node_id = _check_hello(hello)
            source = self._sources.existing(hello.session)
            await source.watch.ready()
            await self._membering.run(self._opened.join, hello.session, node_id)
            attendance = self._roster.of(hello.session, node_id)
            token = self._roster.arrive(attendance)

            async def store(cursor: Cursor, fingerprint: bytes | None) -> None:
                await self._membering.run(self._store, hello.session, node_id, cursor, fingerprint)

            async def lease(cursor: Cursor) -> None:
                await self._membering.run(self._opened.lease, hello.session, node_id, cursor)

            stream = FollowStream(
                source,
                context,
                attendance,
                limits=self._settings.limits,
                snapshots=self._snapshots,
                workers=self._indexing,
                spool_dir=self._data.snapshots,
                compressor=self._compressor(attendance, context.peer()),
                store_cursor=store,
                lease=lease,
            )
            bound = log.bind(session=hello.session, node_id=node_id.hex())
            bound.info("node_follows", cursor=hello.seq, peer=context.peer())
            gauge = metrics.FOLLOWERS.labels(hello.session)
            gauge.inc()
            try:
                await _until(token, stream.run(hello))
            finally:
                gauge.dec()
                self._roster.leave(attendance, token)
                bound.info("node_left")

    async def Fetch(self, request: pb.FetchRequest, context: Any) -> None:  # noqa: N802
        """The blocks wanted, in that order, each verified."""
        async with self._calls.answering(context):
            node_id = _node_id(request.node_id)
            _check_wants(request.wants)
            source = self._sources.existing(request.session)
            reader = BlockReader(
                source.layout, source.indexes, source.unreadable, patience=self._settings.patience
            )
            # Nothing is kept of a node that does not follow: it may state any id.
            attendance = self._roster.known(request.session, node_id) or Attendance()
            compressor = self._compressor(attendance, context.peer())
            async for turn in self._fetching.turns(request, reader, compressor):
                for message in turn.messages:
                    await context.write(message)
                attendance.sent.add(turn.bytes)

    async def Status(self, _request: pb.StatusRequest, context: Any) -> pb.StatusReply:  # noqa: N802
        """Every session of the data directory, and its members."""
        async with self._calls.answering(context):
            names = await self._indexing.run(self._data.session_names)
            members = {name: await self._membering.run(self._opened.members, name) for name in names}
            report = StatusReport(self._roster, self._indexing)
            sources = []
            for name in names:
                with suppress(SessionNotFound):  # removed meanwhile
                    sources.append((self._sources.existing(name), members[name]))
            return pb.StatusReply(
                version=__version__,
                hub_id=self._opened.hub_id,
                started_unix_ns=self._started_ns,
                sessions=await asyncio.gather(
                    *(report.session(source, those) for source, those in sources)
                ),
            )

    def _store(self, session: str, node_id: bytes, cursor: Cursor, fingerprint: bytes | None) -> None:
        members = self._opened
        if fingerprint is None and members.cursor(session, node_id) == cursor:
            return  # with its fingerprint
        if not members.acknowledge(session, node_id, cursor, fingerprint, durable=False):
            # The session was removed, and made anew under the stream.
            members.join(session, node_id)
            members.acknowledge(session, node_id, cursor, fingerprint, durable=False)

    @property
    def _opened(self) -> Members:
        assert self._members is not None, "start was not called"
        return self._members

    def _compressor(self, attendance: Attendance, peer: str) -> Compressor:
        mode = self._settings.compression
        enabled = mode == "on" or (mode == "auto" and not is_local(peer))
        compressor = attendance.compressor
        if compressor is None or compressor.enabled is not enabled:
            compressor = attendance.compressor = Compressor(enabled=enabled)
        return compressor


async def _until(token: asyncio.Event, serving: Coroutine[Any, Any, None]) -> None:
    """Serve, until a newer stream of the same node takes this one's place."""
    work = asyncio.create_task(serving)
    replaced = asyncio.create_task(token.wait())
    try:
        await asyncio.wait([work, replaced], return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        await dropped(work, replaced)


def _node_id(node_id: bytes) -> bytes:
    if len(node_id) != NODE_ID_SIZE:
        raise InvalidCell(f"a node id of {len(node_id)} bytes")
    return node_id


def _check_hello(hello: pb.Hello) -> bytes:
    check_label("session", hello.session)
    check_number("epoch", hello.epoch)
    check_number("cursor", hello.seq)
    if hello.seq and not hello.epoch:
        raise InvalidCell("a cursor without an epoch")
    if hello.HasField("snapshot"):
        check_number("position", hello.snapshot.position)
        if len(hello.snapshot.snapshot_id) != _SNAPSHOT_ID_SIZE:
            raise InvalidCell(f"a snapshot id of {len(hello.snapshot.snapshot_id)} bytes")
    return _node_id(hello.node_id)


def _check_wants(wants: Iterable[pb.Want]) -> None:
    count = 0
    for want in wants:
        count += 1
        check_number("inode", want.inode, 1)
        check_number("block", want.index)
        if len(want.digest) != DIGEST_SIZE:
            raise InvalidCell(f"a block digest of {len(want.digest)} bytes")
    if count > WANTS_MAX:
        raise InvalidCell(f"{count} blocks wanted at once; at most {WANTS_MAX}")
