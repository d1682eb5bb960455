"""What a hub reads before it is asked for: within bounds, the same messages, and nothing stays open."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ghostfs.content import BLOCK_SIZE
from ghostfs.mesh.blocks import BlockReader
from ghostfs.mesh.compression import Compressor
from ghostfs.mesh.indexpool import IndexPool
from ghostfs.mesh.outgoing import Outgoing, Scope
from ghostfs.mesh.workers import undisturbed
from ghostfs.v1 import mesh_pb2 as pb

MIB = 1 << 20


@pytest.fixture
def pool(session: Any) -> Iterator[IndexPool]:
    pool = IndexPool(session.layout.index_db, session.name)
    yield pool
    pool.close()


def outgoing(session: Any, pool: IndexPool, spool_dir: Path) -> Outgoing:
    delta = session.index.delta_since(0)
    return Outgoing(
        Scope(delta.epoch, 0, delta.head, delta.fingerprint, delta.committed_ns),
        delta.inodes,
        delta.dirents,
        spool_dir=spool_dir,
        reader=BlockReader(session.layout, pool),
        compressor=Compressor(enabled=False),
        inline_max=BLOCK_SIZE,
        inline_above=0,
    )


def turns(batch: Outgoing) -> list[list[pb.FollowEvent]]:
    found = []
    done = False
    while not done:
        events, done = batch.turn()
        found.append(events)
    batch.close()
    return found


def test_a_batch_read_ahead_is_the_same(session: Any, pool: IndexPool, tmp_path: Path) -> None:
    for number in range(40):
        (session.tree / f"{number}").write_bytes(os.urandom(BLOCK_SIZE))
    session.sync()
    plain, ahead = outgoing(session, pool, tmp_path), outgoing(session, pool, tmp_path)
    ahead.read_ahead()
    ahead.read_ahead()
    messages = turns(plain)
    assert turns(ahead) == messages
    sizes = [sum(event.ByteSize() for event in events) for events in messages]
    assert sum(sizes) > 10 * MIB
    assert max(sizes) < 2 * MIB


def test_only_some_of_a_batch_is_read_ahead(session: Any, pool: IndexPool, tmp_path: Path) -> None:
    for number in range(40):
        (session.tree / f"{number}").write_bytes(os.urandom(BLOCK_SIZE))
    session.sync()
    with closing(outgoing(session, pool, tmp_path)) as batch:
        batch.read_ahead()
        assert MIB < batch.inline_bytes < 7 * MIB
    assert batch.turn() == ([], True)


def test_work_goes_to_its_end_however_often_its_caller_is_cancelled() -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        ended = []

        async def work() -> None:
            await gate.wait()
            ended.append(True)

        caller = asyncio.create_task(undisturbed(work()))
        for _ in range(3):
            await asyncio.sleep(0)
            caller.cancel()
        await asyncio.sleep(0)
        assert not caller.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert ended == [True]

    asyncio.run(scenario())
