"""A new head is heard of: pushed by an owner at once, polled without one, and both in turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ghostfs.errors import SessionNotFound
from ghostfs.index import Index
from ghostfs.mesh.heads import POLL_SECONDS, Head, HeadWatch
from ghostfs.mesh.indexpool import IndexPool
from ghostfs.mesh.owner import owner_status
from ghostfs.mesh.workers import Workers
from ghostfs.mirror.control import frame
from ghostfs.v1 import control_pb2 as pb


class Owner:
    """What a mount answers on its control socket."""

    def __init__(self) -> None:
        self.subscribers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def serving(self, path: Path) -> AsyncIterator[None]:
        server = await asyncio.start_unix_server(self._answer, path)
        try:
            yield
        finally:
            server.close()
            for writer in self.subscribers:
                writer.close()
            self.subscribers.clear()
            path.unlink()

    def push(self, epoch: int, head: int) -> None:
        for writer in self.subscribers:
            writer.write(frame(pb.ControlReply(epoch=epoch, head=head)))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            length = int.from_bytes(await reader.readexactly(4), "big")
        except asyncio.IncompleteReadError:
            return
        request = pb.ControlRequest.FromString(await reader.readexactly(length))
        if request.HasField("status"):
            writer.write(frame(pb.ControlReply(status=pb.OwnerStatus(pid=7, mountpoint="/m"))))
            writer.close()
        else:
            self.subscribers.append(writer)


@asynccontextmanager
async def watching(session: Any) -> AsyncIterator[HeadWatch]:
    pool = IndexPool(session.layout.index_db, session.name)
    workers = Workers("test-index", 1)
    watch = HeadWatch(session.name, session.layout.control_socket, pool, workers)
    try:
        await watch.ready()
        yield watch
    finally:
        await watch.close()
        pool.close()
        workers.close()


@pytest.mark.allows_log("index_set_aside")
def test_polled_pushed_and_polled_again(session: Any, run: Any, until: Any) -> None:
    owner = Owner()
    epoch = session.index.epoch

    async def scenario() -> None:
        async with watching(session) as watch:
            first = session.index.head()
            assert watch.head == Head(epoch, first)
            (session.tree / "a").touch()
            session.sync()
            await until(lambda: watch.head.seq > first)
            async with owner.serving(session.layout.control_socket):
                await until(lambda: bool(owner.subscribers))
                with watch.listening() as changed:
                    begun = time.monotonic()
                    owner.push(epoch, 1_000)
                    await changed.wait()
                assert time.monotonic() - begun < POLL_SECONDS / 2
                assert watch.head == Head(epoch, 1_000)
                assert watch.subscribed
                owner.push(epoch, 999)
            await until(lambda: not watch.subscribed)
            assert watch.head == Head(epoch, 1_000)
            session.new_index()
            await until(lambda: watch.head.epoch == session.index.epoch)

    run(scenario())


def test_how_long_changes_have_waited(session: Any, run: Any) -> None:
    async def scenario() -> None:
        async with watching(session) as watch:
            epoch, head = session.index.epoch, session.index.head()
            for number in range(1, 10_001):
                watch.observe(Head(epoch, head + number), number)
            assert watch.waiting_since(head + 10_000) == 0
            assert watch.waiting_since(head + 9_999) == 10_000
            # Old entries are thinned out, the oldest is kept.
            assert 0 < watch.waiting_since(head) <= 16

    run(scenario())


def test_a_session_that_goes_and_comes(session: Any, run: Any, until: Any) -> None:
    async def scenario() -> None:
        async with watching(session) as watch:
            away = session.layout.state.rename(session.layout.state.with_name("away"))
            await until(lambda: watch.head is None and isinstance(watch.problem, SessionNotFound))
            away.rename(session.layout.state)
            await until(lambda: watch.head is not None and watch.problem is None)

    run(scenario())


@pytest.mark.allows_log("index_unreadable")
def test_a_damaged_index_is_said_once(session: Any, run: Any, until: Any, logged: Any) -> None:
    async def scenario() -> None:
        session.index.close()
        session.layout.index_db.write_bytes(b"no database" * 100)
        async with watching(session) as watch:
            assert watch.problem is not None
            await asyncio.sleep(POLL_SECONDS * 2.5)
            session.layout.index_db.unlink()
            session.index = Index.create(session.layout.index_db)
            session.sync()
            await until(lambda: watch.problem is None)

    run(scenario())
    assert len(logged.named("index_unreadable")) == 1


def test_the_owner_is_asked_how_it_is(session: Any, run: Any) -> None:
    async def scenario() -> None:
        socket = session.layout.control_socket
        assert await owner_status(socket) is None
        async with Owner().serving(socket):
            status = await owner_status(socket)
        assert status is not None
        assert (status.pid, status.mountpoint) == (7, "/m")

    run(scenario())
