"""A new head is heard of: pushed by an owner at once, polled without one, and both in turn."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from ghostfs.errors import SessionNotFound
from ghostfs.index import Index, State
from ghostfs.mesh.heads import POLL_SECONDS, Head, HeadWatch
from ghostfs.mesh.indexpool import IndexPool
from ghostfs.mesh.owner import owner_status
from ghostfs.mesh.workers import Workers
from ghostfs.mirror.control import frame
from ghostfs.v1 import control_pb2 as pb


def copy_index(session: Any, path: Path) -> None:
    """A backup of the index."""
    with closing(sqlite3.connect(session.layout.index_db)) as index, closing(sqlite3.connect(path)) as copy:
        index.backup(copy)


def put_back(session: Any, path: Path) -> None:
    """Restore a backup, as somebody does who leaves the index in."""
    for suffix in ("-wal", "-shm"):
        session.layout.index_db.with_name(f"index.db{suffix}").unlink(missing_ok=True)
    path.replace(session.layout.index_db)
    session.index = Index.open(session.layout.index_db)


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
async def watching(session: Any, **told: Any) -> AsyncIterator[HeadWatch]:
    pool = IndexPool(session.layout.index_db, session.name)
    workers = Workers("test-index", 1)
    watch = HeadWatch(session.name, session.layout.control_socket, pool, workers, **told)
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
                    (session.tree / "b").touch()
                    session.sync()
                    owner.push(epoch, session.index.head())
                    await changed.wait()
                assert time.monotonic() - begun < POLL_SECONDS / 2
                assert watch.head == Head(epoch, session.index.head())
                assert watch.subscribed
                owner.push(epoch, first)
            await until(lambda: not watch.subscribed)
            assert watch.head == Head(epoch, session.index.head())
            session.new_index()
            await until(lambda: watch.head.epoch == session.index.epoch)

    run(scenario())


@pytest.mark.allows_log("history_taken_back")
def test_a_history_that_was_taken_back(session: Any, run: Any, until: Any, logged: Any) -> None:
    told = []

    async def scenario() -> None:
        async with watching(session, on_taken_back=lambda: told.append(True)) as watch:
            before = session.index.head()
            older = session.layout.index_db.with_name("older")
            copy_index(session, older)
            (session.tree / "a").touch()
            session.sync()
            await until(lambda: watch.head.seq > before)
            session.index.close()
            put_back(session, older)
            with watch.listening() as changed:
                await until(changed.is_set)
            assert watch.head == Head(session.index.epoch, before)
            await watch.look()

    run(scenario())
    assert len(told) == len(logged.named("history_taken_back")) == 1


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


@pytest.mark.allows_log("index_unreadable")
@pytest.mark.parametrize("when", ["at the first look", "later"])
def test_polling_outlives_what_nobody_expected(
    session: Any, run: Any, until: Any, logged: Any, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    looks = []
    state = Index.state
    fail = [when == "at the first look"]

    def failing(index: Index) -> State:
        looks.append(index)
        if fail[0]:
            raise sqlite3.OperationalError("a new sort of trouble")
        return state(index)

    monkeypatch.setattr(Index, "state", failing)

    async def scenario() -> None:
        async with asyncio.timeout(10), watching(session) as watch:
            fail[0] = True
            seen = len(looks)
            await until(lambda: len(looks) >= seen + 2 and watch.problem is not None)
            assert isinstance(watch.problem, sqlite3.OperationalError)
            fail[0] = False
            await until(lambda: watch.problem is None)
            assert watch.head == Head(session.index.epoch, session.index.head())

    run(scenario())
    (said,) = logged.named("index_unreadable")
    assert said["error"] == "a new sort of trouble"
    assert said["exc_info"].__traceback__ is not None


def test_the_owner_is_asked_how_it_is(session: Any, run: Any) -> None:
    async def scenario() -> None:
        socket = session.layout.control_socket
        assert await owner_status(socket) is None
        async with Owner().serving(socket):
            status = await owner_status(socket)
        assert status is not None
        assert (status.pid, status.mountpoint) == (7, "/m")

    run(scenario())
