"""How to speak to a mirror's owner over its control socket: framing, and a client that waits.

A message is preceded by its length: 4 bytes, big-endian, at most 1 MiB. The server is the mount's
(`ghostfs.fs.control`); `proto/ghostfs/v1/control.proto` has the messages.
"""

from __future__ import annotations

__all__ = ["MAX_MESSAGE", "PREFIX", "ControlClient", "frame"]

import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from google.protobuf.message import DecodeError, Message

from ghostfs.errors import PeerError
from ghostfs.v1 import control_pb2 as pb

PREFIX = struct.Struct(">I")
"""The length of a message."""

MAX_MESSAGE = 1 << 20
"""Longest message in bytes; a longer one is a mistake of whoever speaks."""


def frame(message: Message) -> bytes:
    """A message as it goes over the socket."""
    data = message.SerializeToString()
    return PREFIX.pack(len(data)) + data


class ControlClient:
    """A connection to an owner. Not thread-safe. Closed by leaving the `with` block, or by `close`."""

    def __init__(self, path: Path, *, timeout: float | None = None) -> None:
        """`timeout` is in seconds, for each send and receive; None waits for as long as it takes.

        Raises:
            PeerError: nobody answers at the socket.
        """
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            # Through the directory's descriptor: a socket's path may have 108 bytes at most.
            directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._socket.connect(f"/proc/self/fd/{directory}/{path.name}")
            finally:
                os.close(directory)
        except OSError as error:
            self._socket.close()
            raise PeerError(f"no owner answers at {path}: {error.strerror or error}") from None

    def request(
        self, request: pb.ControlRequest, *, waiting: Callable[[], object] | None = None
    ) -> pb.ControlReply:
        """Sends one request and waits for the reply. `waiting` is called each second until it comes.

        Raises:
            PeerError: the owner ended, was too slow, or made no sense.
        """
        try:
            self._socket.sendall(frame(request))
        except OSError as error:
            raise self._gone(error) from None
        while waiting is not None and not select.select([self._socket], [], [], 1.0)[0]:
            waiting()
        reply = self._reply()
        if reply is None:
            raise PeerError(f"the owner at {self._path} ended before it answered")
        return reply

    def subscribe(self) -> Iterator[pb.ControlReply]:
        """The head now, and every later one, until the owner ends; heads may be left out, the last never is."""
        yield self.request(pb.ControlRequest(subscribe=pb.Subscribe()))
        while (reply := self._reply()) is not None:
            yield reply

    def close(self) -> None:
        """Ends the connection; harmless when called again."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reply(self) -> pb.ControlReply | None:
        prefix = self._exactly(PREFIX.size)
        if prefix is None:
            return None
        (length,) = PREFIX.unpack(prefix)
        if length > MAX_MESSAGE:
            raise PeerError(f"the owner at {self._path} sent a message of {length} bytes")
        body = self._exactly(length)
        if body is None:
            raise PeerError(f"the owner at {self._path} ended inside a message")
        try:
            return pb.ControlReply.FromString(body)
        except DecodeError:
            raise PeerError(f"the owner at {self._path} sent a message that makes no sense") from None

    def _exactly(self, length: int) -> bytes | None:
        data = bytearray()
        while len(data) < length:
            try:
                part = self._socket.recv(length - len(data))
            except OSError as error:
                raise self._gone(error) from None
            if not part:
                return None
            data += part
        return bytes(data)

    def _gone(self, error: OSError) -> PeerError:
        return PeerError(f"the owner at {self._path} does not answer: {error.strerror or error}")
