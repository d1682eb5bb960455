"""The hub: one process that serves all sessions of a data directory to the nodes that follow them."""

from __future__ import annotations

__all__ = ["HubServer", "run"]

import asyncio
import os
import stat
import threading

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ghostfs import private
from ghostfs.config import Settings
from ghostfs.daemon import preflight
from ghostfs.daemon.lifecycle import Daemon, finish
from ghostfs.errors import ConfigError
from ghostfs.mesh.follow import HubLimits
from ghostfs.mesh.hubservice import HubService, HubSettings
from ghostfs.mesh.transport import check_free, check_listen, server_options, unix_path
from ghostfs.mirror.layout import DataDir
from ghostfs.mirror.owner import OwnerLock

log = structlog.get_logger(__name__)

SERVICE = "ghostfs.v1.Mesh"
_GRACE_SECONDS = 0.3
"""For calls under way when the hub stops; a Follow stream never ends by itself."""

_LEAVE_SECONDS = 0.7


def run(settings: Settings, *, ready_fd: int | None = None) -> None:
    """Serve `settings.data_dir` until SIGTERM or SIGINT; returns in less than 2 s after either.

    Raises:
        ConfigError: the address cannot be listened on, or the data directory is a node's.
        SessionBusy: another hub serves this data directory.
    """
    data = DataDir(settings.data_dir)
    listen = check_listen(settings.listen)
    private.make_directory(data.path)
    preflight.check_not_a_nodes(data)
    with OwnerLock(data.hub_lock, what=f"the data directory {data.path} (hub)").acquire():
        check_free(listen)  # before anything is logged: whoever typed the command gets one line
        asyncio.run(_serve(settings, data, listen, ready_fd))


async def _serve(settings: Settings, data: DataDir, listen: str, ready_fd: int | None) -> None:
    async with Daemon("hub", metrics_listen=settings.metrics_listen, ready_fd=ready_fd) as daemon:
        server = HubServer(data, hub_settings(settings))
        try:
            port = await server.start(listen)
            log.info(
                "port_open_to_local_users", listen=listen, reason="no TLS yet: every user here can connect"
            )
            daemon.ready(listen=f"{listen.rpartition(':')[0]}:{port}", socket=data.hub_socket)
            await daemon.stopping.wait()
        finally:
            await server.stop()
    # Here, because the loop does not end before the last thread that it waits for.
    finish(threads_done=_only_quick_threads())


def hub_settings(settings: Settings) -> HubSettings:
    """The plain values that the mesh takes."""
    return HubSettings(
        compression=settings.compression,
        read_threads=max(2, settings.hash_threads),
        limits=HubLimits(
            inline_max=settings.inline_max_kib << 10,
            snapshot_chunk_cells=settings.snapshot_chunk_cells,
            delta_max_cells=settings.delta_max_cells,
        ),
    )


class HubServer:
    """The gRPC server around a `HubService`. `start` once, `stop` once."""

    def __init__(self, data: DataDir, settings: HubSettings) -> None:
        self._data = data
        self._service = HubService(data, settings)
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._unix = unix_path(data.hub_socket)

    async def start(self, listen: str) -> int:
        """Listen on `listen` (as `check_listen` returns it) and on the data directory's Unix socket; the port.

        Raises:
            ConfigError: the port is taken, or the socket cannot be made. Call `stop` all the same.
        """
        check_free(listen)
        await self._service.start()
        server = self._server = grpc.aio.server(options=server_options())
        self._service.add_to(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        try:
            # The socket first: where the port answers, `ghostfs status` finds a hub too.
            self._bind_socket(server)
            port = self._bind(server, listen, f"cannot listen on {listen}; choose another with --listen")
        finally:
            # Also without its ports: gRPC crashes when a server that never ran is collected.
            await server.start()
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self) -> None:
        """End all calls, and take the socket away."""
        await self._health.enter_graceful_shutdown()
        if self._server is not None:
            await self._server.stop(_GRACE_SECONDS)
        await self._service.close()
        self._data.hub_socket.unlink(missing_ok=True)
        self._unix.close()

    def _bind(self, server: grpc.aio.Server, target: str, trouble: str) -> int:
        try:
            return int(server.add_insecure_port(target))
        except RuntimeError:  # its text names no reason, and advises about gRPC's own log
            raise ConfigError(trouble) from None

    def _bind_socket(self, server: grpc.aio.Server) -> None:
        """Only the hub's own user may connect: the mode is right from the start, by way of the umask."""
        path = self._data.hub_socket
        # The lock is ours, so a socket that is there belonged to a hub that was killed.
        if path.exists() and stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
        umask = os.umask(0o177)
        try:
            self._bind(server, self._unix.target, f"cannot listen on {path}")
        finally:
            os.umask(umask)


def _only_quick_threads() -> bool:
    """Whether no worker of ours is still in a call after a moment."""
    for thread in threading.enumerate():
        if thread.name.startswith("hub-"):
            thread.join(_LEAVE_SECONDS)
            if thread.is_alive():
                return False
    return True
