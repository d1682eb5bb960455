"""A node's one connection to its hub, shared by all its sessions."""

from __future__ import annotations

__all__ = ["Link"]

import asyncio
from typing import Any

import grpc
import structlog

from ghostfs import __version__
from ghostfs.mesh.blockmessage import FETCH_METHOD, decode_block
from ghostfs.mesh.heap import keep_buffers
from ghostfs.mesh.transport import client_options, peer_error
from ghostfs.model import Replica
from ghostfs.v1 import mesh_pb2 as pb
from ghostfs.v1 import mesh_pb2_grpc as rpc

log = structlog.get_logger(__name__)

_ENROL_SECONDS = 10.0


class Link:
    """The channel, and who this node is to the hub. Belongs to the event loop it was made in.

    gRPC connects when something is called, and connects anew by itself; calls fail at once while the hub
    is away, so that each session's loop decides how long to wait.
    """

    def __init__(
        self, target: str, node_id: bytes, name: str, *, reconnect_min: float, reconnect_max: float
    ) -> None:
        self.shown = target
        self.node_id = node_id
        self.name = name
        self.replica: Replica | None = None
        options = client_options(int(reconnect_min * 1000), int(reconnect_max * 1000))
        keep_buffers()
        self._channel = grpc.aio.insecure_channel(target, options=options)
        self.stub: Any = rpc.MeshStub(self._channel)  # type: ignore[no-untyped-call]
        self.fetch: Any = self._channel.unary_stream(
            FETCH_METHOD,
            request_serializer=pb.FetchRequest.SerializeToString,
            response_deserializer=decode_block,
        )
        self._hub_id = b""
        self._enrolling = asyncio.Lock()

    async def enrol(self) -> Replica:
        """Say who we are; done again at each connection, because the hub may be another one by now.

        Raises:
            NameTaken: the hub knows another node by this one's name.
            grpc.aio.AioRpcError: the hub cannot be reached, or refuses otherwise.
        """
        async with self._enrolling:
            request = pb.EnrolRequest(node_id=self.node_id, node_name=self.name, version=__version__)
            try:
                reply = await self.stub.Enrol(request, timeout=_ENROL_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                    raise peer_error(error, self.shown) from None
                raise
            if reply.hub_id != self._hub_id:
                changed = bool(self._hub_id)
                self._hub_id = reply.hub_id
                log.info(
                    "hub_changed" if changed else "enrolled",
                    hub=self.shown,
                    hub_id=reply.hub_id.hex(),
                    replica=reply.replica,
                )
            self.replica = Replica(reply.replica)
            return self.replica

    async def close(self) -> None:
        """End all calls and the connection."""
        await self._channel.close()
