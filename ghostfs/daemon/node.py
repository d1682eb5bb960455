"""The node: one process that keeps copies of sessions of a hub below one directory."""

from __future__ import annotations

__all__ = ["run"]

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog

from ghostfs import private
from ghostfs.config import Settings
from ghostfs.daemon import preflight
from ghostfs.daemon.lifecycle import Daemon, finish
from ghostfs.errors import ConfigError, NameTaken, NodeHalted
from ghostfs.mesh.fetcher import Replicating
from ghostfs.mesh.follower import Follower, FollowerSettings
from ghostfs.mesh.identity import node_identity
from ghostfs.mesh.link import Link
from ghostfs.mirror.layout import DataDir, SessionLayout
from ghostfs.mirror.owner import OwnerLock
from ghostfs.mirror.replica import ownership
from ghostfs.mirror.replica.replica import Replica, ReplicaSettings
from ghostfs.names import check_label

log = structlog.get_logger(__name__)

_LEAVE_SECONDS = 1.2
_MS = 1000


def run(
    settings: Settings,
    name: str,
    hub: str,
    root: Path,
    sessions: Sequence[str],
    *,
    adopt_root: bool = False,
    ready_fd: int | None = None,
) -> None:
    """Keep `root/SESSION` equal to each of the hub's sessions until SIGTERM or SIGINT.

    Ready means that all is set up; the hub may still be away. `adopt_root` lets a copy whose directory was
    emptied or exchanged be filled again.

    Raises:
        ConfigError, InvalidName: something is named that cannot be; then nothing was made.
        SessionBusy: another node uses this data directory.
        NodeHalted: no session is left that could go on.
        NameTaken: the hub knows another node by that name.
    """
    check_label("node", name)
    if not sessions:
        raise ConfigError("name at least one session to follow")
    if twice := [session for session in dict.fromkeys(sessions) if sessions.count(session) > 1]:
        raise ConfigError(f"name each session once: {', '.join(twice)} is named more than once")
    ownership.check(settings.ownership, settings.map_uid, settings.map_gid)
    data = DataDir(settings.data_dir)
    root = root.absolute()
    layouts = {session: data.replica(session, root) for session in sessions}
    preflight.check_root(root, data, sessions)
    preflight.check_not_a_hubs(data)
    private.make_directory(data.path)
    root.mkdir(parents=True, exist_ok=True)  # open to whom the umask says: the copies are for everybody
    with OwnerLock(data.node_lock, what=f"the data directory {data.path} (node)").acquire():
        node_id = node_identity(data.node_id)
        asyncio.run(
            _follow(settings, name, node_id, hub, layouts, adopt_root=adopt_root, ready_fd=ready_fd)
        )


async def _follow(
    settings: Settings,
    name: str,
    node_id: bytes,
    hub: str,
    layouts: dict[str, SessionLayout],
    *,
    adopt_root: bool,
    ready_fd: int | None,
) -> None:
    async with Daemon("node", metrics_listen=settings.metrics_listen, ready_fd=ready_fd) as daemon:
        bounds = {
            "reconnect_min": settings.reconnect_min_ms / _MS,
            "reconnect_max": settings.reconnect_max_ms / _MS,
        }
        link = Link(hub, node_id, name, **bounds)
        follower_settings = FollowerSettings(fetch_window=settings.fetch_window_bytes, **bounds)
        replica_settings = ReplicaSettings(
            name, ownership=settings.ownership, uid=settings.map_uid, gid=settings.map_gid
        )
        tasks = {}
        for session, layout in layouts.items():
            opening = partial(_open, layout, replica_settings, adopt_root=adopt_root)
            follower = Follower(session, link, opening, follower_settings)
            tasks[session] = asyncio.create_task(follower.run(), name=f"follow {session}")
        daemon.ready(name=name, hub=hub, sessions=",".join(layouts))
        stopped = asyncio.create_task(daemon.stopping.wait())
        try:
            halted = await _until_stopped(tasks, stopped)
        finally:
            await _end([*tasks.values(), stopped])
            await link.close()
        if halted:
            raise NodeHalted("; ".join(halted))
    # Here, because the loop does not end before the last thread that it waits for.
    finish(threads_done=not _replica_threads())


async def _until_stopped(tasks: dict[str, asyncio.Task[None]], stopped: asyncio.Task[bool]) -> list[str]:
    """Wait for the stop, or for the last session to halt; then why each did.

    One session that halts leaves the others alone.

    Raises:
        NameTaken: that ends the node, whatever its sessions.
    """
    running = dict(tasks)
    reasons: list[str] = []
    while running and not stopped.done():
        await asyncio.wait([stopped, *running.values()], return_when=asyncio.FIRST_COMPLETED)
        for session, task in list(running.items()):
            if task.done():
                del running[session]
                try:
                    task.result()
                except NodeHalted as error:
                    reasons.append(str(error))
    return [] if stopped.done() else reasons


async def _end(tasks: list[asyncio.Task[None] | asyncio.Task[bool]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=_LEAVE_SECONDS)
    for task in tasks:
        if task.done():
            with suppress(asyncio.CancelledError, NodeHalted, NameTaken):
                task.result()


def _open(layout: SessionLayout, settings: ReplicaSettings, *, adopt_root: bool) -> Replicating:
    private.make_directory(layout.state)
    return Replica.open(layout, settings, adopt_root=adopt_root)


def _replica_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("replica-")]
