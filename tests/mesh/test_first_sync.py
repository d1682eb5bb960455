"""First syncs: what happens in the session meanwhile is kept for them, and their snapshots are few."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from ghostfs.daemon.hub import HubServer
from ghostfs.index import Members
from ghostfs.mesh import firstsync, snapshots
from ghostfs.mesh.follow import HubLimits
from ghostfs.mesh.follower import Follower, FollowerSettings
from ghostfs.mesh.hubservice import HubSettings
from ghostfs.mesh.indexpool import IndexPool
from ghostfs.mesh.link import Link
from ghostfs.mesh.snapshots import SnapshotStore
from ghostfs.mesh.workers import Workers
from ghostfs.mirror.live.retention import Retention
from ghostfs.v1 import mesh_pb2 as pb
from ghostfs.v1 import mesh_pb2_grpc as rpc

SETTINGS = HubSettings(read_threads=2, limits=HubLimits(snapshot_chunk_cells=20))
FAST = FollowerSettings(reconnect_min=0.01, reconnect_max=0.05)
NODE = bytes(range(16))


@asynccontextmanager
async def hub(data: Any, settings: HubSettings = SETTINGS) -> AsyncIterator[str]:
    server = HubServer(data, settings)
    bound = await server.start("127.0.0.1:0")
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        await server.stop()


@asynccontextmanager
async def node(target: str, replica: Any, node_id: bytes = NODE) -> AsyncIterator[None]:
    link = Link(target, node_id, f"node-{node_id.hex()}", reconnect_min=0.01, reconnect_max=0.05)
    task = asyncio.create_task(Follower("work", link, lambda: replica, FAST).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        await link.close()


def fill(session: Any, files: int = 60) -> None:
    for number in range(files):
        (session.tree / f"{number:03}").write_bytes(str(number).encode())
    session.sync()


def collect(data: Any, session: Any) -> int:
    """As the owner does, every ten minutes."""
    return Retention(data.hub_db, "work", 3600.0).collect(session.index)


def at_head(session: Any, replica: Any) -> bool:
    return replica.cursor is not None and replica.cursor.seq == session.index.head()


def cursor_of(data: Any) -> Any:
    """As the hub knows it."""
    with Members.open(data.hub_db, readonly=True) as members:
        return members.cursor("work", NODE)


def chunks(replica: Any) -> list[Any]:
    return [batch.snapshot for batch in replica.batches if batch.snapshot is not None]


@pytest.mark.parametrize("interrupted", [False, True], ids=["one stream", "a new stream"])
def test_a_first_sync_outlasts_a_collection_of_tombstones(
    data: Any, session: Any, replica: Any, run: Any, until: Any, interrupted: bool
) -> None:
    fill(session)
    gate = asyncio.Event()

    async def scenario() -> None:
        loop = asyncio.get_running_loop()

        def wait_in_the_middle() -> None:
            if len(replica.batches) == 1:
                asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()

        replica.before_publish = wait_in_the_middle
        async with hub(data) as target:
            async with node(target, replica):
                await until(lambda: len(replica.batches) == 1)
                (session.tree / "000").unlink()
                (session.tree / "059").unlink()
                session.sync()
                assert collect(data, session) == 0
                if not interrupted:
                    gate.set()
                    await until(lambda: at_head(session, replica))
                gate.set()
            assert len(chunks(replica)) < 4 or not interrupted
            async with node(target, replica):
                await until(lambda: at_head(session, replica) and cursor_of(data) == replica.cursor)
            with Members.open(data.hub_db, readonly=True) as members:
                assert members.leases("work") == []

    run(scenario())
    sent = chunks(replica)
    assert [chunk.first for chunk in sent] == [True] + [False] * (len(sent) - 1)
    assert len({chunk.snapshot_id for chunk in sent}) == 1
    assert replica.batches[-1].snapshot is None
    assert replica.picture() == session.picture()
    assert collect(data, session) == 2


def test_a_lease_is_renewed_while_chunks_go(
    data: Any, session: Any, replica: Any, run: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firstsync, "RENEW_SECONDS", 0.0)
    fill(session)
    leased = []

    def look() -> None:
        with Members.open(data.hub_db, readonly=True) as members:
            leased.extend(members.leases("work"))

    replica.before_publish = look

    async def scenario() -> None:
        async with hub(data) as target, node(target, replica):
            await until(lambda: at_head(session, replica))

    run(scenario())
    assert len(chunks(replica)) == len(leased) > 3
    assert {lease.cursor.seq for lease in leased} == {session.index.head()}
    taken = [lease.taken_ns for lease in leased]
    assert taken == sorted(set(taken))


@pytest.mark.allows_log("tombstones_kept")
def test_a_hub_database_that_is_not_upgraded_yet_keeps_all_tombstones(
    data: Any, session: Any, logged: Any
) -> None:
    Members.open(data.hub_db).close()
    with sqlite3.connect(data.hub_db) as old:
        old.execute("DROP TABLE lease")
        old.execute("PRAGMA user_version=1")
    old.close()
    fill(session)
    (session.tree / "000").unlink()
    session.sync()
    assert collect(data, session) == 0
    assert session.index.counts().tombstones == 1
    assert "start the hub" in logged.named("tombstones_kept")[0]["error"]
    Members.open(data.hub_db).close()
    assert collect(data, session) == 1


class Store:
    """A store of snapshots of one session."""

    def __init__(self, session: Any, folder: Path) -> None:
        self.indexes = IndexPool(session.layout.index_db, "work")
        self.folder = folder
        self.workers = Workers("test-freeze", 1)
        self.store = SnapshotStore(folder, self.workers)

    async def current(self, usable: Callable[..., bool] = lambda _frozen, _age: False) -> Any:
        return await self.store.current("work", self.indexes, usable)

    def files(self) -> int:
        return sum(1 for path in self.folder.rglob("*.db"))

    def close(self) -> None:
        self.indexes.close()
        self.workers.close()


@pytest.fixture
def store(session: Any, tmp_path: Path) -> Any:
    made = Store(session, tmp_path / "snapshots")
    yield made
    made.close()


def test_idle_snapshots_make_room_and_one_in_use_is_waited_for(
    store: Store, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "PER_SESSION", 3)

    async def scenario() -> None:
        held = [await store.current() for _ in range(3)]
        assert store.files() == 3
        await store.store.release(held[1])
        await store.store.release(held[0])
        fourth = await store.current()
        assert store.files() == 3
        # The one that was idle for longest has gone, not the oldest.
        assert await store.store.resume("work", store.indexes, held[1].key[1]) is None
        again = await store.store.resume("work", store.indexes, held[0].key[1])
        assert again is not None
        waiting = asyncio.create_task(store.current())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
        # Whoever can share one does not wait behind it.
        shared = await store.current(lambda _frozen, _age: True)
        await store.store.release(shared)
        await store.store.release(fourth)
        last = await waiting
        assert store.files() == 3
        for snapshot in (again, held[2], last):
            await store.store.release(snapshot)

    run(scenario())


def test_all_snapshots_together_have_a_size(
    store: Store, session: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(session)

    async def scenario() -> None:
        first = await store.current()
        size = first.frozen.path.stat().st_size
        monkeypatch.setattr(snapshots, "TOTAL_BYTES", size)
        waiting = asyncio.create_task(store.current())
        await asyncio.wait([waiting], timeout=0.1)
        assert not waiting.done()
        await store.store.release(first)
        second = await waiting
        assert store.files() == 1
        await store.store.release(second)
        # One alone may be as large as it is.
        monkeypatch.setattr(snapshots, "TOTAL_BYTES", 1)
        await store.store.release(await store.current())
        assert store.files() == 1

    run(scenario())


def test_whoever_leaves_while_a_snapshot_is_made_leaves_it_to_the_next(
    store: Store, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        freeze = store.store._freeze

        def slowly(*arguments: Any) -> Any:
            loop.call_soon_threadsafe(begun.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
            return freeze(*arguments)

        monkeypatch.setattr(store.store, "_freeze", slowly)
        leaving = asyncio.create_task(store.current())
        await begun.wait()
        leaving.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        snapshot = await store.current(lambda _frozen, _age: True)
        await store.store.release(snapshot)
        assert store.files() == 1
        await store.store.forget("work")
        assert store.files() == 0
        assert not (store.folder / "work").exists()

    run(scenario())


def test_a_snapshot_that_cannot_be_opened_troubles_nobody_who_has_it(
    store: Store, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        held = await store.current()
        held.frozen.path.write_bytes(b"no database" * 100)
        assert await store.store.resume("work", store.indexes, held.key[1]) is None
        await store.store.release(held)
        assert store.files() == 0

    run(scenario())


def test_a_session_that_was_forgotten_keeps_what_is_in_use_until_then(store: Store, run: Any) -> None:
    async def scenario() -> None:
        held = await store.current()
        await store.store.forget("work")
        assert await store.store.resume("work", store.indexes, held.key[1]) is None
        other = await store.current(lambda _frozen, _age: True)
        assert other.key != held.key
        await store.store.release(held)
        assert store.files() == 1
        await store.store.release(other)

    run(scenario())


class Raw:
    """A node that takes a stream as it comes."""

    def __init__(self, target: str, number: int) -> None:
        self.channel = grpc.aio.insecure_channel(target)
        self.stub: Any = rpc.MeshStub(self.channel)  # type: ignore[no-untyped-call]
        self.node_id = number.to_bytes(16, "big")
        self.call: Any = None

    async def hello(self, **fields: Any) -> None:
        await self.stub.Enrol(pb.EnrolRequest(node_id=self.node_id, node_name=f"n{self.node_id.hex()}"))
        self.call = self.stub.Follow()
        hello = pb.Hello(session="work", node_id=self.node_id, **fields)
        await self.call.write(pb.FollowRequest(hello=hello))

    async def begin(self) -> pb.Begin:
        while True:
            event = await self.call.read()
            if event.HasField("begin"):
                return event.begin

    async def close(self) -> None:
        if self.call is not None:
            self.call.cancel()
        await self.channel.close()


@asynccontextmanager
async def raw_nodes(target: str, count: int) -> AsyncIterator[list[Raw]]:
    nodes = [Raw(target, number + 1) for number in range(count)]
    try:
        yield nodes
    finally:
        for each in nodes:
            await each.close()


def snapshot_files(data: Any) -> int:
    return sum(1 for path in data.snapshots.rglob("*.db"))


def test_followers_with_content_share_a_snapshot_that_was_just_made(
    data: Any, session: Any, run: Any
) -> None:
    fill(session)

    async def scenario() -> None:
        async with hub(data) as target, raw_nodes(target, 5) as nodes:
            begun = []
            for number, each in enumerate(nodes):
                await each.hello(has_content=True)
                begun.append(await each.begin())
                (session.tree / f"new{number}").touch()
                session.sync()
            assert len({begin.snapshot.snapshot_id for begin in begun}) == 1
            assert snapshot_files(data) == 1

    run(scenario())


def test_an_older_snapshot_is_not_for_those_who_may_have_shown_more(
    data: Any, session: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firstsync, "SHARED_SECONDS", 0.0)
    fill(session)
    epoch, head = session.index.epoch, session.index.head()

    async def scenario() -> None:
        limits = HubLimits(delta_max_cells=16)
        async with hub(data, replace(SETTINGS, limits=limits)) as target, raw_nodes(target, 4) as nodes:
            first, behind, other, unknown = nodes
            await first.hello(has_content=True)
            begun = await first.begin()
            (session.tree / "new").touch()
            session.sync()
            await behind.hello(has_content=True, epoch=epoch, seq=head - 20)
            assert (await behind.begin()).snapshot.snapshot_id == begun.snapshot.snapshot_id
            await other.hello(has_content=True, epoch=epoch + 1, seq=head + 20)
            assert (await other.begin()).snapshot.snapshot_id == begun.snapshot.snapshot_id
            await unknown.hello(has_content=True)
            assert (await unknown.begin()).head == session.index.head()
            assert snapshot_files(data) == 2

    run(scenario())


def test_who_waits_for_room_hears_from_the_hub(
    data: Any, session: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firstsync, "SHARED_SECONDS", 0.0)
    monkeypatch.setattr(snapshots, "PER_SESSION", 1)
    fill(session)
    limits = HubLimits(heartbeat_seconds=0.05)

    async def scenario() -> None:
        async with hub(data, replace(SETTINGS, limits=limits)) as target, raw_nodes(target, 2) as nodes:
            first, second = nodes
            await first.hello(has_content=True)
            begun = await first.begin()
            (session.tree / "new").touch()
            session.sync()
            await second.hello(has_content=True)
            for _ in range(2):
                assert (await second.call.read()).HasField("heartbeat")
            first.call.cancel()
            assert (await second.begin()).head > begun.head
            assert snapshot_files(data) == 1

    run(scenario())


def test_a_snapshot_whose_deltas_are_forgotten_is_not_resumed(data: Any, session: Any, run: Any) -> None:
    fill(session)

    async def scenario() -> None:
        async with hub(data) as target, raw_nodes(target, 1) as [lone]:
            await lone.hello()
            begun = await lone.begin()
            lone.call.cancel()
            (session.tree / "000").unlink()
            session.sync()
            session.index.collect_tombstones(session.index.head())
            at = pb.SnapshotPosition(
                snapshot_id=begun.snapshot.snapshot_id, position=begun.snapshot.position
            )
            await lone.hello(has_content=True, snapshot=at)
            again = await lone.begin()
            assert again.snapshot.first
            assert again.head == session.index.head()

    run(scenario())
