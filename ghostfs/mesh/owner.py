"""What the hub asks a mirror's owner over its control socket: every new head, and how it is.

Asynchronous twin of `ghostfs.mirror.control`, for the same frames: 4 bytes of length, big-endian, then
a message of at most 1 MiB.
"""

from __future__ import annotations

__all__ = ["heads", "owner_status"]

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from google.protobuf.message import DecodeError

from ghostfs.errors import PeerError
from ghostfs.mesh.transport import unix_path
from ghostfs.v1 import control_pb2 as pb

_FRAME_MAX = 1 << 20
_LENGTH_SIZE = 4

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def heads(socket: Path) -> AsyncIterator[tuple[int, int]]:
    """(epoch, head) at every commit of the owner, until it ends.

    Raises:
        PeerError: nobody answers at the socket, or what answers makes no sense.
    """
    async with _connected(socket) as (reader, writer):
        writer.write(_frame(pb.ControlRequest(subscribe=pb.Subscribe())))
        while True:
            reply = await _reply(reader)
            if reply is None:
                return
            yield reply.epoch, reply.head


async def owner_status(socket: Path, patience: float = 1.0) -> pb.OwnerStatus | None:
    """How the owner is; None when there is none, or it does not answer in time."""
    try:
        async with asyncio.timeout(patience), _connected(socket) as (reader, writer):
            writer.write(_frame(pb.ControlRequest(status=pb.OwnerStatusRequest())))
            reply = await _reply(reader)
    except (PeerError, TimeoutError):
        return None
    return reply.status if reply is not None and reply.HasField("status") else None


@asynccontextmanager
async def _connected(socket: Path) -> AsyncIterator[Streams]:
    try:
        unix = unix_path(socket)
        try:
            reader, writer = await asyncio.open_unix_connection(unix.path, limit=_FRAME_MAX)
        finally:
            unix.close()
    except OSError as error:
        raise PeerError(f"no owner answers at {socket}: {error.strerror}") from error
    try:
        yield reader, writer
    except OSError as error:
        raise PeerError(f"the owner at {socket} is gone: {error.strerror}") from error
    finally:
        writer.close()


def _frame(request: pb.ControlRequest) -> bytes:
    data = request.SerializeToString()
    return len(data).to_bytes(_LENGTH_SIZE, "big") + data


async def _reply(reader: asyncio.StreamReader) -> pb.ControlReply | None:
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_SIZE), "big")
        if length > _FRAME_MAX:
            raise PeerError(f"an owner sent a message of {length} bytes")
        reply = pb.ControlReply.FromString(await reader.readexactly(length))
    except asyncio.IncompleteReadError:
        return None
    except DecodeError as error:
        raise PeerError(f"an owner sent what is no message: {error}") from error
    if reply.error:
        raise PeerError(f"an owner refused: {reply.error}")
    return reply
