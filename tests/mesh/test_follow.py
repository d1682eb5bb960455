"""Hub and node in one loop over real gRPC on loopback: what arrives, in what pieces, after what failures."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from ghostfs.content import BLOCK_SIZE
from ghostfs.daemon.hub import HubServer
from ghostfs.mesh.follow import HubLimits
from ghostfs.mesh.follower import Follower, FollowerSettings
from ghostfs.mesh.hubservice import HubSettings
from ghostfs.mesh.link import Link

SETTINGS = HubSettings(read_threads=2)
FAST = FollowerSettings(reconnect_min=0.01, reconnect_max=0.05)
NODE_ID = bytes(range(16))


@asynccontextmanager
async def hub(data: Any, settings: HubSettings = SETTINGS, port: int = 0) -> AsyncIterator[str]:
    server = HubServer(data, settings)
    bound = await server.start(f"127.0.0.1:{port}")
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        await server.stop()


@asynccontextmanager
async def node(
    target: str,
    replica: Any,
    *,
    session: str = "work",
    settings: FollowerSettings = FAST,
    node_id: bytes = NODE_ID,
) -> AsyncIterator[Follower]:
    link = Link(target, node_id, f"node-{node_id[1]}", reconnect_min=0.01, reconnect_max=0.05)
    follower = Follower(session, link, lambda: replica, settings)
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.wait([task])
        await link.close()


def at_head(session: Any, replica: Any) -> bool:
    return replica.cursor is not None and replica.cursor.seq == session.index.head()


def test_a_tree_arrives_and_follows_changes(
    data: Any, session: Any, replica: Any, run: Any, until: Any
) -> None:
    tree = session.tree
    (tree / "a").mkdir(mode=0o750)
    (tree / "a" / "small").write_bytes(b"small")
    (tree / "empty").touch()
    (tree / "hole").write_bytes(bytes(300_000))
    (tree / "large").write_bytes(os.urandom(3 * BLOCK_SIZE + 17))
    (tree / "link").symlink_to("a/small")
    os.link(tree / "large", tree / "a" / "second")
    (tree / os.fsdecode(b"not\xffutf8")).write_bytes(b"x")
    session.sync()

    async def scenario() -> None:
        async with hub(data) as target, node(target, replica):
            await until(lambda: at_head(session, replica))
            assert replica.picture() == session.picture()
            assert replica.fingerprint() == session.index.fingerprint()
            assert {want.length for want in replica.fetched} == {BLOCK_SIZE, 17}
            (tree / "a").rename(tree / "b")
            (tree / "empty").unlink()
            (tree / "b" / "small").write_bytes(b"changed")
            session.sync()
            await until(lambda: at_head(session, replica))
            assert replica.picture() == session.picture()

    run(scenario())
    renamed = replica.batches[-1]
    assert renamed.snapshot is None
    assert sorted((d.name, d.inode is None) for d in renamed.dirents) == [
        (b"a", True),
        (b"b", False),
        (b"empty", True),
    ]


def test_a_rename_of_a_full_directory_is_two_dirents(
    data: Any, session: Any, replica: Any, run: Any, until: Any
) -> None:
    (session.tree / "many").mkdir()
    for number in range(300):
        (session.tree / "many" / str(number)).write_bytes(b"x")
    session.sync()

    async def scenario() -> None:
        async with hub(data) as target, node(target, replica):
            await until(lambda: at_head(session, replica))
            (session.tree / "many").rename(session.tree / "moved")
            session.sync()
            await until(lambda: at_head(session, replica))

    run(scenario())
    last = replica.batches[-1]
    assert len(last.dirents) == 2
    assert not last.inline
    assert [inode.id for inode in last.inodes] in ([], [1])
    assert replica.picture() == session.picture()


def test_only_changed_blocks_travel(data: Any, session: Any, replica: Any, run: Any, until: Any) -> None:
    (session.tree / "large").write_bytes(os.urandom(8 * BLOCK_SIZE))
    session.sync()

    async def scenario() -> None:
        async with hub(data) as target, node(target, replica):
            await until(lambda: at_head(session, replica))
            replica.fetched.clear()
            with (session.tree / "large").open("r+b") as file:
                file.seek(5 * BLOCK_SIZE + 1)
                file.write(b"!")
            session.sync()
            await until(lambda: at_head(session, replica))

    run(scenario())
    assert [want.index for want in replica.fetched] == [5]
    assert replica.picture() == session.picture()


@pytest.mark.allows_log("replica_failed", "hub_away")
def test_a_snapshot_is_resumed_where_it_stopped(
    data: Any, session: Any, replica: Any, run: Any, until: Any
) -> None:
    for number in range(60):
        (session.tree / f"{number:03}").write_bytes(str(number).encode())
    session.sync()
    settings = replace(SETTINGS, limits=HubLimits(snapshot_chunk_cells=20))
    published = 0

    def fail_on_the_third() -> None:
        nonlocal published
        published += 1
        if published == 3:
            raise OSError("the disk is gone for a moment")

    replica.before_publish = fail_on_the_third

    async def scenario() -> None:
        async with hub(data, settings) as target:
            async with node(target, replica):
                await until(lambda: published >= 3)
            # The hub is started anew below: the snapshot must outlive it.
            (session.tree / "later").write_bytes(b"later")
            session.sync()
        async with hub(data, settings) as target, node(target, replica):
            await until(lambda: at_head(session, replica))

    run(scenario())
    chunks = [batch.snapshot for batch in replica.batches if batch.snapshot is not None]
    assert len({chunk.snapshot_id for chunk in chunks}) == 1
    assert [chunk.position for chunk in chunks] == sorted({chunk.position for chunk in chunks})
    assert [chunk.first for chunk in chunks].count(True) == 1
    assert chunks[-1].last
    assert replica.picture() == session.picture()


@pytest.mark.allows_log("hub_away", "index_set_aside")
def test_a_hub_that_comes_back_with_another_epoch(
    data: Any, session: Any, replica: Any, run: Any, until: Any
) -> None:
    (session.tree / "kept").write_bytes(os.urandom(2 * BLOCK_SIZE))
    (session.tree / "gone").write_bytes(b"gone")
    session.sync()

    async def scenario() -> None:
        async with hub(data) as target, node(target, replica):
            await until(lambda: at_head(session, replica))
            (session.tree / "gone").unlink()
            session.new_index()
            await until(lambda: replica.cursor is not None and replica.cursor.epoch == session.index.epoch)
            assert replica.picture() == session.picture()
            (session.tree / "new").write_bytes(b"new")
            session.sync()
            await until(lambda: at_head(session, replica))

    run(scenario())
    assert replica.picture() == session.picture()


@pytest.mark.allows_log("hub_away")
def test_a_node_outlives_its_hub(data: Any, session: Any, replica: Any, run: Any, until: Any) -> None:
    async def scenario() -> None:
        async with hub(data) as target:
            port = int(target.rpartition(":")[2])
        async with node(target, replica):
            await asyncio.sleep(0.05)
            for number in range(3):
                async with hub(data, port=port):
                    (session.tree / str(number)).write_bytes(b"x")
                    session.sync()
                    await until(lambda: at_head(session, replica))

    run(scenario())
    assert replica.picture() == session.picture()
    assert sum(batch.snapshot is not None for batch in replica.batches) == 1


@pytest.mark.allows_log("session_unknown", "hub_away")
def test_a_session_that_the_hub_lacks_is_said_once_and_followed_when_it_is_made(
    data: Any, make_session: Any, replica: Any, run: Any, until: Any
) -> None:
    def said(logs: Any) -> list[str]:
        return [str(each["event"]) for each in logs if each["log_level"] == "warning"]

    async def scenario() -> None:
        with capture_logs() as logs:
            async with hub(data) as target, node(target, replica):
                await until(lambda: said(logs))
                session = make_session()
                (session.tree / "file").write_bytes(b"x")
                session.sync()
                await until(lambda: at_head(session, replica))
                assert said(logs) == ["session_unknown"]

    run(scenario())


def test_a_node_too_far_behind_gets_a_snapshot(
    data: Any, session: Any, replica: Any, run: Any, until: Any
) -> None:
    settings = replace(SETTINGS, limits=HubLimits(delta_max_cells=20))

    async def scenario() -> None:
        async with hub(data, settings) as target, node(target, replica):
            await until(lambda: at_head(session, replica))
            for number in range(50):
                (session.tree / str(number)).write_bytes(b"x")
            session.sync()
            await until(lambda: at_head(session, replica))

    run(scenario())
    assert replica.batches[-1].snapshot is not None
    assert replica.picture() == session.picture()


def test_forgotten_deletions_lead_to_a_snapshot(
    data: Any, session: Any, replica: Any, run: Any, until: Any
) -> None:
    (session.tree / "gone").write_bytes(b"x")
    session.sync()

    async def scenario() -> None:
        async with hub(data) as target:
            async with node(target, replica):
                await until(lambda: at_head(session, replica))
            (session.tree / "gone").unlink()
            session.sync()
            session.index.collect_tombstones(session.index.head())
            async with node(target, replica):
                await until(lambda: at_head(session, replica))

    run(scenario())
    assert replica.batches[-1].snapshot is not None
    assert replica.picture() == session.picture() == {}


@pytest.mark.allows_log("drift_detected", "node_drifted")
def test_drift_is_seen_and_mended_by_a_snapshot(
    data: Any, session: Any, replica: Any, run: Any, until: Any, logged: Any
) -> None:
    async def scenario() -> None:
        async with hub(data) as target, node(target, replica):
            await until(lambda: at_head(session, replica))
            replica.drift = 1
            (session.tree / "a").write_bytes(b"x")
            session.sync()
            await until(lambda: bool(logged.named("drift_detected")))
            replica.drift = 0
            count = len(replica.batches)
            await until(lambda: len(replica.batches) > count and at_head(session, replica))
            assert replica.batches[count].snapshot is not None

    run(scenario())


def test_content_that_changed_is_superseded_and_comes_later(
    data: Any, session: Any, replica: Any, run: Any, until: Any
) -> None:
    (session.tree / "large").write_bytes(os.urandom(2 * BLOCK_SIZE))
    (session.tree / "small").write_bytes(b"one")
    session.sync()
    # The tree is ahead of the index, as while an agent writes.
    (session.tree / "small").write_bytes(b"two")
    newer = os.urandom(2 * BLOCK_SIZE)
    (session.tree / "large").write_bytes(newer)

    async def scenario() -> None:
        async with hub(data) as target, node(target, replica):
            await until(lambda: at_head(session, replica))
            assert len(replica.waiting) == 2
            session.sync()
            await until(lambda: at_head(session, replica))
            assert not replica.waiting

    run(scenario())
    assert replica.picture() == session.picture()


def test_two_nodes_and_a_slow_one(data: Any, session: Any, replica: Any, run: Any, until: Any) -> None:
    slow = type(replica)()
    gate = asyncio.Event()

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        slow.before_publish = lambda: asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
        async with hub(data) as target, node(target, replica), node(target, slow, node_id=bytes(16)):
            for number in range(5):
                (session.tree / str(number)).write_bytes(b"x")
                session.sync()
                await until(lambda: at_head(session, replica))
            gate.set()
            await until(lambda: at_head(session, slow))

    run(scenario())
    assert slow.picture() == replica.picture() == session.picture()
    # What the slow one missed came at once.
    assert len(slow.batches) < len(replica.batches)


def test_long_block_lists_travel_in_parts(
    data: Any, session: Any, replica: Any, run: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ghostfs.mesh.outgoing._PART_BYTES", 40)
    for name in ("a", "b"):
        (session.tree / name).write_bytes(os.urandom(7 * BLOCK_SIZE))
    (session.tree / "c").write_bytes(b"small")
    session.sync()

    async def scenario() -> None:
        async with hub(data) as target, node(target, replica):
            await until(lambda: at_head(session, replica))

    run(scenario())
    assert replica.picture() == session.picture()


def test_compressed_content_is_the_same(
    data: Any, session: Any, replica: Any, run: Any, until: Any
) -> None:
    (session.tree / "text").write_bytes(b"the same line again\n" * 50_000)
    (session.tree / "noise").write_bytes(os.urandom(BLOCK_SIZE))
    session.sync()

    async def scenario() -> None:
        async with hub(data, replace(SETTINGS, compression="on")) as target, node(target, replica):
            await until(lambda: at_head(session, replica))

    run(scenario())
    assert replica.picture() == session.picture()
