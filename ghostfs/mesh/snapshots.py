"""Frozen indexes that first syncs are served from: made once, shared, resumed, thrown away when unused.

A snapshot outlives the connection, and the hub, that it was begun for: a node names it by its id and
goes on where it stopped.
"""

from __future__ import annotations

__all__ = ["Snapshot", "SnapshotStore"]

import asyncio
import math
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from ghostfs import private
from ghostfs.errors import GhostError
from ghostfs.index import Frozen
from ghostfs.mesh.indexpool import IndexPool
from ghostfs.mesh.workers import Workers, undisturbed

log = structlog.get_logger(__name__)

IDLE_SECONDS = 600.0
"""How long an unused snapshot is kept: a node that was killed, or lost its line, comes back to it."""

PER_SESSION = 4
"""Snapshots of one session at a time. More help nobody: all nodes that come while one is fresh share it."""

TOTAL_BYTES = 4 << 30
"""What all snapshots of a hub may take together; one alone may be larger. An index has 200 to 300 bytes a
file, so this is some fifteen million files."""

_SUFFIX = ".db"

Key = tuple[str, bytes]
"""A session's name and a snapshot's id."""


@dataclass(slots=True)
class _Kept:
    """A file. `source` is which index it was made from: one that was put in its place may have used the same
    epoch and sequences for other things. `made_at` is monotonic; a `doomed` one is not given to anybody any more."""

    key: Key
    path: Path
    source: tuple[int, int]
    size: int
    made_at: float
    users: int = 0
    idle_since: float = field(default_factory=time.monotonic)
    doomed: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An open frozen index, for one thread at a time. `release` it, once."""

    frozen: Frozen
    kept: _Kept

    @property
    def key(self) -> Key:
        """Session and id."""
        return self.kept.key


class SnapshotStore:
    """All snapshots of a hub, in files below one directory. Belongs to the event loop."""

    def __init__(self, directory: Path, workers: Workers, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._directory = directory
        self._workers = workers
        self._idle_seconds = idle_seconds
        self._kept: dict[Key, _Kept] = {}
        self._choosing: dict[str, asyncio.Lock] = {}
        self._making = asyncio.Lock()
        self._room = asyncio.Event()

    async def load(self) -> None:
        """Know again the snapshots that an earlier hub left, and clear what it left half made."""
        for key, path, source, size in await self._workers.run(self._scan):
            self._kept[key] = _Kept(key, path, source, size, made_at=-math.inf)

    async def resume(self, session: str, indexes: IndexPool, snapshot_id: bytes) -> Snapshot | None:
        """The snapshot of that id; None when it is gone, or when the index is another one by now."""
        await self._forget_replaced(session, indexes)
        kept = self._kept.get((session, snapshot_id))
        return None if kept is None else await self._open(kept)

    async def current(
        self, session: str, indexes: IndexPool, usable: Callable[[Frozen, float], bool]
    ) -> Snapshot:
        """A snapshot for a new first sync: one that is there, if `usable` will have it, else a new one.

        `usable` is asked in a worker thread, with the snapshot and its age in seconds. A new one takes the
        place of those that are idle; if too many are in use, it waits until one is released.
        """
        while True:
            async with self._choosing.setdefault(session, asyncio.Lock()):
                await self._forget_replaced(session, indexes)
                snapshot = await self._usable(session, usable)
                if snapshot is not None:
                    return snapshot
                room = self._room
                kept = await undisturbed(self._make(session, indexes))
                snapshot = None if kept is None else await self._open(kept)
                if snapshot is not None:
                    return snapshot
            if kept is not None:
                raise GhostError(f"the snapshot {kept.path} vanished while it was being made")
            log.info("snapshot_waits", session=session, reason="too many snapshots are in use")
            await room.wait()

    async def release(self, snapshot: Snapshot) -> None:
        """Close a snapshot; its file stays for a while."""
        kept = snapshot.kept
        try:
            await self._workers.run_to_end(snapshot.frozen.close)
        finally:
            kept.users -= 1
            kept.idle_since = time.monotonic()
            self._wake()
        if kept.doomed and not kept.users:
            await self._remove(kept)

    async def forget(self, session: str) -> None:
        """Give a session's snapshots to nobody any more; those in use go when they are released."""
        await self._doom(kept for kept in self._kept.values() if kept.key[0] == session)

    async def sweep(self) -> None:
        """Delete what nobody has used for long, for ever; run it as a task."""
        while True:
            await asyncio.sleep(min(60.0, self._idle_seconds / 2))
            oldest = time.monotonic() - self._idle_seconds
            for kept in list(self._kept.values()):
                if kept.users == 0 and kept.idle_since <= oldest:
                    await self._remove(kept)

    async def _forget_replaced(self, session: str, indexes: IndexPool) -> None:
        source = await self._workers.run(indexes.identity)
        await self._doom(
            kept for kept in self._kept.values() if kept.key[0] == session and kept.source != source
        )

    async def _doom(self, condemned: Iterable[_Kept]) -> None:
        for kept in list(condemned):
            kept.doomed = True
            if not kept.users:
                await self._remove(kept)

    async def _usable(self, session: str, usable: Callable[[Frozen, float], bool]) -> Snapshot | None:
        """The newest one that will do."""
        for kept in reversed([kept for kept in self._kept.values() if kept.key[0] == session]):
            snapshot = await self._open(kept)
            if snapshot is None:
                continue
            will_do = False
            try:
                age = time.monotonic() - kept.made_at
                will_do = await self._workers.run_to_end(usable, snapshot.frozen, age)
            finally:
                if not will_do:
                    await self.release(snapshot)
            if will_do:
                return snapshot
        return None

    async def _open(self, kept: _Kept) -> Snapshot | None:
        if kept.doomed:
            return None
        kept.users += 1
        try:
            frozen = await self._workers.run_to_end(Frozen.open, kept.path)
        except (FileNotFoundError, GhostError) as error:
            session, snapshot_id = kept.key
            log.info("snapshot_unusable", session=session, snapshot=snapshot_id.hex(), reason=str(error))
            kept.users -= 1
            await self._remove(kept)
            return None
        except BaseException:
            kept.users -= 1
            raise
        return Snapshot(frozen, kept)

    async def _make(self, session: str, indexes: IndexPool) -> _Kept | None:
        """A new snapshot, as nobody's yet; None if there is no room."""
        async with self._making:
            coming = await self._workers.run(_size, indexes.path)
            if not await self._make_room(session, coming):
                return None
            key, path, source, size = await self._workers.run(self._freeze, session, indexes)
            kept = self._kept[key] = _Kept(key, path, source, size, made_at=time.monotonic())
            return kept

    async def _make_room(self, session: str, coming: int) -> bool:
        """Delete idle snapshots, those that were idle for longest first, until one more of about that size is
        within bounds; False if those in use leave no room."""
        while True:
            living = [kept for kept in self._kept.values() if not kept.doomed]
            many = sum(kept.key[0] == session for kept in living) >= PER_SESSION
            large = bool(living) and sum(kept.size for kept in living) + coming > TOTAL_BYTES
            if not (many or large):
                return True
            idle = [kept for kept in living if not kept.users and (large or kept.key[0] == session)]
            if not idle:
                return False
            await self._remove(min(idle, key=lambda kept: kept.idle_since))

    async def _remove(self, kept: _Kept) -> None:
        """Take a snapshot away; whoever has it open goes on reading it."""
        kept.doomed = True
        if self._kept.pop(kept.key, None) is None:
            return
        self._wake()
        session, snapshot_id = kept.key
        try:
            await self._workers.run(_remove, kept.path)
        except OSError as error:
            log.warning("snapshot_not_removed", session=session, path=str(kept.path), error=str(error))
        else:
            log.debug("snapshot_removed", session=session, snapshot=snapshot_id.hex())

    def _wake(self) -> None:
        """There may be room, for all who wait."""
        room, self._room = self._room, asyncio.Event()
        room.set()

    def _freeze(self, session: str, indexes: IndexPool) -> tuple[Key, Path, tuple[int, int], int]:
        directory = self._directory / session
        private.make_directory(directory)
        making = directory / f"{time.time_ns()}.making"
        begun = time.monotonic()
        source = indexes.identity()
        try:
            with indexes.use() as index:
                index.freeze(making)
            frozen = Frozen.open(making)
            snapshot_id, head = frozen.snapshot_id, frozen.state.head
            frozen.close()
        except BaseException:
            _remove(making)
            raise
        device, inode = source
        path = making.rename(directory / f"{snapshot_id.hex()}-{device:x}-{inode:x}{_SUFFIX}")
        took = round((time.monotonic() - begun) * 1000)
        log.info("snapshot_made", session=session, snapshot=snapshot_id.hex(), head=head, took_ms=took)
        return (session, snapshot_id), path, source, _size(path)

    def _scan(self) -> list[tuple[Key, Path, tuple[int, int], int]]:
        found = []
        private.make_directory(self._directory)
        for directory in self._directory.iterdir():
            if not directory.is_dir():
                continue
            for path in directory.iterdir():
                try:
                    if path.suffix != _SUFFIX:
                        raise ValueError(path.suffix)  # noqa: TRY301 - the same way out as a name that is no id
                    snapshot_id, device, inode = path.stem.split("-")
                    key = directory.name, bytes.fromhex(snapshot_id)
                    found.append((key, path, (int(device, 16), int(inode, 16)), _size(path)))
                except ValueError:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        return found


def _size(path: Path) -> int:
    """Bytes; 0 if there is no such file, which is told by whoever opens it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with suppress(OSError):  # others are in there
        path.parent.rmdir()
