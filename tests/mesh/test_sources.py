"""What a hub holds of its sessions, for as long as they are there."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from ghostfs.content import block_digest
from ghostfs.daemon.hub import HubServer
from ghostfs.errors import SessionNotFound
from ghostfs.index import Members
from ghostfs.mesh.follower import Follower, FollowerSettings
from ghostfs.mesh.hubservice import HubSettings
from ghostfs.mesh.link import Link
from ghostfs.mesh.snapshots import SnapshotStore
from ghostfs.mesh.sources import Sources
from ghostfs.mesh.workers import Workers
from ghostfs.v1 import mesh_pb2 as pb
from ghostfs.v1 import mesh_pb2_grpc as rpc


@asynccontextmanager
async def sources(data: Any) -> AsyncIterator[tuple[Sources, SnapshotStore]]:
    workers = Workers("test-index", 1)
    snapshots = SnapshotStore(data.snapshots, workers)
    made = Sources(data, workers, snapshots)
    tending = asyncio.create_task(made.tend())
    try:
        yield made, snapshots
    finally:
        tending.cancel()
        await asyncio.wait([tending])
        await made.close()
        workers.close()


def watching() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name().endswith(" work")}


def test_a_session_that_was_removed_is_let_go(data: Any, session: Any, run: Any, until: Any) -> None:
    async def scenario() -> None:
        async with sources(data) as (made, snapshots):
            source = made.existing("work")
            await source.watch.ready()
            snapshot = await snapshots.current("work", source.indexes, lambda _frozen, _age: False)
            await snapshots.release(snapshot)
            assert watching() == {"poll work", "listen work"}
            away = session.layout.state.rename(data.path / "away")
            await until(lambda: not watching())
            await until(lambda: not list(data.snapshots.rglob("*.db")))
            assert isinstance(source.watch.problem, SessionNotFound)
            with pytest.raises(SessionNotFound):
                made.existing("work")
            assert made.names() == []
            away.rename(session.layout.state)
            again = made.existing("work")
            assert again is not source
            await again.watch.ready()
            assert again.watch.head is not None

    run(scenario())


def test_a_session_without_an_index_yet_is_waited_for(
    data: Any, session: Any, run: Any, until: Any, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with sources(data) as (made, _):
            source = made.existing("work")
            await source.watch.ready()
            index = session.layout.index_db
            kept = Path(shutil.copy(index, tmp_path / "kept"))
            index.unlink()
            await until(lambda: source.watch.head is None)
            looks = 0
            look = source.watch.look

            async def count() -> None:
                nonlocal looks
                await look()
                looks += 1

            source.watch.look = count  # type: ignore[method-assign]
            await until(lambda: looks >= 2)
            assert watching()
            kept.rename(index)
            await until(lambda: source.watch.head is not None)

    run(scenario())


def test_nothing_is_kept_of_who_only_fetches(data: Any, session: Any, run: Any, until: Any) -> None:
    (session.tree / "f").write_bytes(b"data")
    session.sync()
    want = pb.Want(inode=session.id_of("f"), index=0, digest=block_digest(b"data"))
    follower = bytes(16)

    async def fetch(stub: Any, node_id: bytes) -> bytes:
        blocks = stub.Fetch(pb.FetchRequest(session="work", node_id=node_id, wants=[want]))
        return b"".join([block.data async for block in blocks])

    async def scenario() -> None:
        server = HubServer(data, HubSettings(read_threads=1, compression="on"))
        roster = server._service._roster
        port = await server.start("127.0.0.1:0")
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = rpc.MeshStub(channel)
                await stub.Enrol(pb.EnrolRequest(node_id=follower, node_name="n"))
                follow = stub.Follow()
                await follow.write(pb.FollowRequest(hello=pb.Hello(session="work", node_id=follower)))
                await follow.read()
                for number in range(1, 50):
                    assert await fetch(stub, number.to_bytes(16)) == b"data"
                assert await fetch(stub, follower) == b"data"
                assert set(roster._entries) == {("work", follower)}
                assert roster.of("work", follower).sent.total >= 4
                assert not [
                    held for held in vars(server._service).values() if isinstance(held, dict) and held
                ]
                follow.cancel()
                session.layout.state.rename(data.path / "away")
                await until(lambda: not roster._entries)
        finally:
            await server.stop()

    run(scenario())


@pytest.mark.allows_log("hub_away", "session_unknown")
def test_a_node_follows_on_when_its_session_is_removed_and_made_anew(
    data: Any, make_session: Any, replica: Any, run: Any, until: Any
) -> None:
    session = make_session()
    (session.tree / "old").write_bytes(b"old")
    session.sync()

    async def scenario() -> None:
        server = HubServer(data, HubSettings(read_threads=1))
        port = await server.start("127.0.0.1:0")
        link = Link(f"127.0.0.1:{port}", bytes(16), "n1", reconnect_min=0.01, reconnect_max=0.05)
        settings = FollowerSettings(reconnect_min=0.01, reconnect_max=0.05)
        node = asyncio.create_task(Follower("work", link, lambda: replica, settings).run())
        try:
            await until(lambda: replica.cursor is not None and acknowledged() == replica.cursor)
            # As `ghostfs session rm`, and `create`, in less time than the hub needs to look.
            session.index.close()
            session.layout.state.rename(data.path / "removed")
            with Members.open(data.hub_db) as members:
                assert members.remove_session("work") == 1
            again = make_session()
            (again.tree / "new").write_bytes(b"new")
            again.sync()
            await until(lambda: replica.picture() == again.picture())
            await until(lambda: acknowledged() == replica.cursor)
        finally:
            node.cancel()
            await asyncio.wait([node])
            await link.close()
            await server.stop()

    def acknowledged() -> Any:
        with Members.open(data.hub_db, readonly=True) as members:
            return members.cursor("work", bytes(16))

    run(scenario())
