"""The owner's socket: what the hub and the command line ask of a mount.

Runs beside the request loop on the same thread, and never blocks it: what takes long is done in worker
threads. A subscriber that is slow misses heads, never the latest one.
"""

from __future__ import annotations

__all__ = ["ControlServer", "Heads", "Owner"]

import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import structlog
import trio
from google.protobuf.message import DecodeError

from ghostfs.errors import GhostError, in_words
from ghostfs.index import State
from ghostfs.mirror.control import MAX_MESSAGE, PREFIX, frame
from ghostfs.v1 import control_pb2 as pb

log = structlog.get_logger(__name__)


class Owner(Protocol):
    """What the server asks of the mount. The blocking ones are called in worker threads."""

    def status(self) -> pb.OwnerStatus:
        """Counters; quick."""

    def state(self) -> State:
        """Epoch and head as they are committed; quick."""

    def settle_blocking(self) -> None:
        """Commits everything that is dirty now."""

    def unmount_blocking(self) -> None:
        """Takes the mount out of the tree, so that it drains and ends; `MountError` if it is in use."""


class Heads:
    """The latest committed state, for any number of subscribers; `publish` is for any thread."""

    def __init__(self, token: trio.lowlevel.TrioToken, state: State) -> None:
        self._token = token
        self._state = state
        self._changed = trio.Event()

    def publish(self, state: State) -> None:
        """Never blocks; late calls, when the loop has ended, are lost on purpose."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._set, state, idempotent=False)

    def _set(self, state: State) -> None:
        self._state = state
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    @property
    def latest(self) -> State:
        """The last state that was published; for any thread."""
        return self._state

    async def follow(self) -> AsyncIterator[State]:
        """The state now, and each later one that the caller is quick enough to see."""
        while True:
            changed = self._changed
            yield self._state
            await changed.wait()


class ControlServer:
    """Serves `control.sock` until cancelled. The socket belongs to the user of the mount alone."""

    def __init__(self, path: Path, owner: Owner, heads: Heads) -> None:
        self._path = path
        self._owner = owner
        self._heads = heads
        self._settling = trio.CapacityLimiter(16)

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Binds, reports started, and serves. The caller holds the owner lock, so a socket that is there is dead."""
        self._path.unlink(missing_ok=True)
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Through the directory's descriptor: a socket's path may have 108 bytes at most.
        directory = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fchmod(sock.fileno(), 0o600)
            await sock.bind(f"/proc/self/fd/{directory}/{self._path.name}")
            self._path.chmod(0o600)
        finally:
            os.close(directory)
        sock.listen(64)
        task_status.started()
        try:
            await trio.serve_listeners(self._converse, [trio.SocketListener(sock)])
        finally:
            self._path.unlink(missing_ok=True)

    async def _converse(self, stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with stream:
                while (request := await _receive(stream)) is not None:
                    if request.WhichOneof("kind") == "subscribe":
                        await self._tell_heads(stream)
                        return
                    # Unmounting ends the server too, which must not cut off the answer.
                    with trio.CancelScope(shield=request.HasField("unmount")):
                        await stream.send_all(frame(await self._answer(request)))

    async def _tell_heads(self, stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_closed, stream, nursery.cancel_scope)
            async for state in self._heads.follow():
                await stream.send_all(frame(pb.ControlReply(epoch=state.epoch, head=state.head)))

    async def _answer(self, request: pb.ControlRequest) -> pb.ControlReply:
        reply = pb.ControlReply()
        try:
            match request.WhichOneof("kind"):
                case "status":
                    reply.status.CopyFrom(self._owner.status())
                case "settle":
                    # A mount that ends does not wait for commits that fail.
                    await trio.to_thread.run_sync(
                        self._owner.settle_blocking, abandon_on_cancel=True, limiter=self._settling
                    )
                case "unmount":
                    # Never behind those who settle on a disk that is full.
                    await trio.to_thread.run_sync(
                        self._owner.unmount_blocking, limiter=trio.CapacityLimiter(1)
                    )
                case kind:
                    reply.error = f"unknown request {kind}"
            state = self._owner.state()
            reply.epoch, reply.head = state.epoch, state.head
        except (GhostError, OSError) as error:
            reply.error = in_words(error)
        except Exception:
            log.exception("control_request_failed")
            reply.error = "the mount failed to answer; its log says why"
        return reply


async def _receive(stream: trio.SocketStream) -> pb.ControlRequest | None:
    """The next request; None at the end, and when the peer breaks the framing."""
    prefix = await _exactly(stream, PREFIX.size)
    if prefix is None:
        return None
    (length,) = PREFIX.unpack(prefix)
    if length > MAX_MESSAGE:
        log.warning("control_message_too_long", length=length)
        return None
    body = await _exactly(stream, length)
    if body is None:
        return None
    try:
        return pb.ControlRequest.FromString(body)
    except DecodeError:
        log.warning("control_message_invalid")
        return None


async def _exactly(stream: trio.SocketStream, length: int) -> bytes | None:
    data = bytearray()
    while len(data) < length:
        part = await stream.receive_some(length - len(data))
        if not part:
            return None
        data += part
    return bytes(data)


async def _until_closed(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while await stream.receive_some(4096):
            pass
    scope.cancel()
