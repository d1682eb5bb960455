"""The sessions that a hub serves or watches: made when they are asked for, let go when they were removed."""

from __future__ import annotations

__all__ = ["Sources"]

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from ghostfs.errors import SessionNotFound
from ghostfs.mesh.follow import SessionSource
from ghostfs.mesh.heads import HeadWatch
from ghostfs.mesh.indexpool import IndexPool
from ghostfs.mesh.snapshots import SnapshotStore
from ghostfs.mesh.unreadable import Unreadable
from ghostfs.mesh.workers import Workers
from ghostfs.mirror.layout import DataDir

log = structlog.get_logger(__name__)


class Sources:
    """By session. Belongs to the event loop; `tend` must run as a task."""

    def __init__(
        self,
        data: DataDir,
        workers: Workers,
        snapshots: SnapshotStore,
        *,
        on_gone: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_gone` is called with a session that was removed."""
        self._data = data
        self._workers = workers
        self._snapshots = snapshots
        self._on_gone = on_gone
        self._sources: dict[str, SessionSource] = {}
        self._gone: set[str] = set()
        self._taken_back: set[str] = set()
        self._news = asyncio.Event()

    def names(self) -> list[str]:
        """The sessions that are watched now."""
        return sorted(self._sources)

    def existing(self, session: str) -> SessionSource:
        """A session of the data directory, watched from now on.

        Raises:
            SessionNotFound: there is none; what to do.
            InvalidName: no session can be called that.
        """
        source = self._sources.get(session)
        layout = self._data.session(session)
        if not layout.tree.is_dir():
            raise SessionNotFound(f"the hub has no session {session!r}; `ghostfs session create` makes it")
        if source is None:
            indexes = IndexPool(layout.index_db, session)
            watch = HeadWatch(
                session,
                layout.control_socket,
                indexes,
                self._workers,
                on_gone=partial(self._note, self._gone, session),
                on_taken_back=partial(self._note, self._taken_back, session),
            )
            source = self._sources[session] = SessionSource(
                session, layout, indexes, watch, Unreadable(session)
            )
        return source

    async def tend(self) -> None:
        """Let go of what was removed, for ever. A session that only lacks its index, which the next mount
        makes, is still watched."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._taken_back:
                await self._snapshots.forget(self._taken_back.pop())
            while self._gone:
                session = self._gone.pop()
                source = self._sources.get(session)
                if source is not None and not await self._workers.run(source.layout.state.exists):
                    await self._let_go(session)

    async def close(self) -> None:
        """End all watching."""
        for session in list(self._sources):
            await self._end(session)

    async def _let_go(self, session: str) -> None:
        """Streams of the session end by themselves: the watch has told them that it is gone."""
        log.info("session_gone", session=session)
        self._on_gone(session)
        await self._end(session)
        await self._snapshots.forget(session)

    async def _end(self, session: str) -> None:
        source = self._sources.pop(session)
        await source.watch.close()
        source.indexes.close()

    def _note(self, which: set[str], session: str) -> None:
        which.add(session)
        self._news.set()
