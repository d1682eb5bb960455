"""Questions that a command asks a hub, one call each, without an event loop."""

from __future__ import annotations

__all__ = ["hub_status"]

from pathlib import Path

import grpc

from ghostfs.errors import PeerError
from ghostfs.mesh.status import HubStatus
from ghostfs.mesh.transport import client_options, peer_error, unix_path
from ghostfs.v1 import mesh_pb2 as pb
from ghostfs.v1 import mesh_pb2_grpc as rpc


def hub_status(hub: str | Path, timeout: float = 5.0) -> HubStatus:
    """Sessions, nodes and lag of the hub at HOST:PORT, or at its Unix socket when `hub` is a path.

    Raises:
        PeerError: it cannot be reached, or did not answer within `timeout` seconds.
    """
    if isinstance(hub, Path):
        if not hub.is_socket():
            raise PeerError(f"no hub is running on {hub.parent}; start one with `ghostfs hub`")
        unix = unix_path(hub)
        try:
            return _status(unix.target, str(hub), timeout)
        finally:
            unix.close()
    return _status(hub, hub, timeout)


def _status(target: str, shown: str, timeout: float) -> HubStatus:
    with grpc.insecure_channel(target, options=client_options()) as channel:
        try:
            stub = rpc.MeshStub(channel)  # type: ignore[no-untyped-call]
            return HubStatus.from_reply(stub.Status(pb.StatusRequest(), timeout=timeout))
        except grpc.RpcError as error:
            raise peer_error(error, shown) from error
