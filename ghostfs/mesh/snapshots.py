"""Frozen indexes that first syncs are served from: made once, shared, resumed, thrown away when unused.

A snapshot outlives the connection, and the hub, that it was begun for: a node names it by its id and
goes on where it stopped.
"""

from __future__ import annotations

__all__ = ["Snapshot", "SnapshotStore"]

import asyncio
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from ghostfs import private
from ghostfs.errors import GhostError
from ghostfs.index import Frozen
from ghostfs.mesh.indexpool import IndexPool
from ghostfs.mesh.workers import Workers

log = structlog.get_logger(__name__)

IDLE_SECONDS = 600.0
"""How long an unused snapshot is kept: a node that was killed, or lost its line, comes back to it."""

_SUFFIX = ".db"


@dataclass(slots=True)
class _Kept:
    path: Path
    users: int = 0
    idle_since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An open frozen index, for one thread at a time. `release` it, once."""

    frozen: Frozen
    key: tuple[str, bytes]


class SnapshotStore:
    """All snapshots of a hub, in files below one directory. Belongs to the event loop."""

    def __init__(self, directory: Path, workers: Workers, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._directory = directory
        self._workers = workers
        self._idle_seconds = idle_seconds
        self._kept: dict[tuple[str, bytes], _Kept] = {}
        self._making: dict[str, asyncio.Lock] = {}

    async def load(self) -> None:
        """Know again the snapshots that an earlier hub left, and clear what it left half made."""
        for session, snapshot_id, path in await self._workers.run(self._scan):
            self._kept[session, snapshot_id] = _Kept(path)

    async def resume(self, session: str, snapshot_id: bytes) -> Snapshot | None:
        """The snapshot of that id; None when it is gone."""
        return await self._open((session, snapshot_id))

    async def current(self, session: str, indexes: IndexPool, usable: Callable[[Frozen], bool]) -> Snapshot:
        """A snapshot for a new first sync: one that is there, if `usable` (asked in a worker thread) finds
        it near enough to the head, else a new one."""
        async with self._making.setdefault(session, asyncio.Lock()):
            for key in [key for key in reversed(self._kept) if key[0] == session]:
                snapshot = await self._open(key)
                if snapshot is None:
                    continue
                if await self._workers.run_to_end(usable, snapshot.frozen):
                    return snapshot
                await self.release(snapshot)
            key, path = await self._workers.run_to_end(self._freeze, session, indexes)
            self._kept[key] = _Kept(path)
            snapshot = await self._open(key)
            if snapshot is None:
                raise GhostError(f"the snapshot {path} vanished while it was being made")
            return snapshot

    async def release(self, snapshot: Snapshot) -> None:
        """Close a snapshot; its file stays for a while."""
        await self._workers.run_to_end(snapshot.frozen.close)
        kept = self._kept[snapshot.key]
        kept.users -= 1
        kept.idle_since = time.monotonic()

    async def sweep(self) -> None:
        """Delete what nobody has used for long, for ever; run it as a task."""
        while True:
            await asyncio.sleep(min(60.0, self._idle_seconds / 2))
            oldest = time.monotonic() - self._idle_seconds
            for key, kept in list(self._kept.items()):
                if kept.users == 0 and kept.idle_since <= oldest:
                    del self._kept[key]
                    await self._workers.run(_remove, kept.path)
                    log.debug("snapshot_removed", session=key[0], snapshot=key[1].hex())

    async def _open(self, key: tuple[str, bytes]) -> Snapshot | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        kept.users += 1
        try:
            frozen = await self._workers.run_to_end(Frozen.open, kept.path)
        except (FileNotFoundError, GhostError) as error:
            log.info("snapshot_unusable", session=key[0], snapshot=key[1].hex(), reason=str(error))
            self._kept.pop(key, None)
            return None
        except BaseException:
            kept.users -= 1
            raise
        return Snapshot(frozen, key)

    def _freeze(self, session: str, indexes: IndexPool) -> tuple[tuple[str, bytes], Path]:
        directory = self._directory / session
        private.make_directory(directory)
        making = directory / f"{time.time_ns()}.making"
        begun = time.monotonic()
        try:
            with indexes.use() as index:
                index.freeze(making)
            frozen = Frozen.open(making)
            snapshot_id, head = frozen.snapshot_id, frozen.state.head
            frozen.close()
        except BaseException:
            _remove(making)
            raise
        path = making.rename(directory / f"{snapshot_id.hex()}{_SUFFIX}")
        took = round((time.monotonic() - begun) * 1000)
        log.info("snapshot_made", session=session, snapshot=snapshot_id.hex(), head=head, took_ms=took)
        return (session, snapshot_id), path

    def _scan(self) -> list[tuple[str, bytes, Path]]:
        found = []
        private.make_directory(self._directory)
        for directory in self._directory.iterdir():
            if not directory.is_dir():
                continue
            for path in directory.iterdir():
                try:
                    if path.suffix != _SUFFIX:
                        raise ValueError(path.suffix)  # noqa: TRY301 - the same way out as a name that is no id
                    found.append((directory.name, bytes.fromhex(path.stem), path))
                except ValueError:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        return found


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
