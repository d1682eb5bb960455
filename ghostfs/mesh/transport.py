"""gRPC's options, addresses, and where its status codes become GhostFS errors and the reverse.

Limits: a message stays under 4 MiB. Pings notice a peer that is gone without a word (a machine that lost
power, a process that is stopped) within half a minute; stream windows are small, so that what waits for
a stopped peer waits in the kernel of that peer.
"""

from __future__ import annotations

__all__ = [
    "MESSAGE_MAX",
    "check_free",
    "check_listen",
    "client_options",
    "peer_error",
    "server_options",
    "status_code",
    "unix_path",
]

import errno
import ipaddress
import os
import socket
from pathlib import Path

import grpc

from ghostfs.errors import (
    ConfigError,
    GhostError,
    IndexDamaged,
    IndexTooNew,
    InvalidCell,
    InvalidName,
    NameTaken,
    PeerError,
    SessionBusy,
    SessionNotFound,
)

MESSAGE_MAX = 4 << 20
_STREAM_WINDOW = 1 << 20
_SUN_PATH = 107
"""Bytes that a Unix socket's address can hold, less the final NUL (unix(7))."""

Options = list[tuple[str, int]]

_COMMON: Options = [
    ("grpc.max_receive_message_length", MESSAGE_MAX),
    ("grpc.max_send_message_length", MESSAGE_MAX),
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.lookahead_bytes", _STREAM_WINDOW),
    ("grpc.http2.bdp_probe", 0),
]


def server_options() -> Options:
    """For the hub. Two hubs must not share a port unnoticed, so address re-use is off."""
    return [
        *_COMMON,
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
    ]


def client_options(reconnect_min_ms: int = 100, reconnect_max_ms: int = 10_000) -> Options:
    """For a node or the command. A channel's own reconnects keep to the same bounds as the node's."""
    return [
        *_COMMON,
        ("grpc.initial_reconnect_backoff_ms", reconnect_min_ms),
        ("grpc.min_reconnect_backoff_ms", max(reconnect_min_ms, 1_000)),
        ("grpc.max_reconnect_backoff_ms", max(reconnect_max_ms, 1_000)),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]


def check_listen(address: str) -> str:
    """The loopback address itself, in the form gRPC binds.

    Raises:
        ConfigError: not HOST:PORT, or an address that other machines could reach: there is no TLS yet.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not colon or not port.isascii() or not port.isdigit() or int(port) >= 1 << 16:
        raise ConfigError(f"cannot listen on {address!r}: give HOST:PORT, such as 127.0.0.1:7447")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        ip = None
    if ip is None or not ip.is_loopback:
        raise ConfigError(
            f"refusing to listen on {address}: without TLS the hub listens on loopback only "
            "(127.0.0.1:7447 or [::1]:7447); reach it from another machine through an SSH tunnel"
        )
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def check_free(listen: str) -> None:
    """Find out whether an address, as `check_listen` returns it, can be listened on now, and why not.

    gRPC would print text of its own, and hide the reason.

    Raises:
        ConfigError: it is taken, or cannot be had; one line that says what to do.
    """
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as gRPC: old connections do not count
            probe.bind((host, int(port)))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = "end what listens there, or choose" if error.errno == errno.EADDRINUSE else "choose"
        raise ConfigError(f"cannot listen on {listen}: {reason}; {hint} another with --listen") from None


class UnixPath:
    """A gRPC target for a Unix socket, whatever the length of its path; close it when done.

    A path that does not fit a socket address is reached through an open descriptor of its directory.
    """

    def __init__(self, path: Path) -> None:
        self._fd: int | None = None
        if len(os.fsencode(path)) <= _SUN_PATH:
            self.path = str(path)
        else:
            self._fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self.path = f"/proc/self/fd/{self._fd}/{path.name}"
        self.target = f"unix:{self.path}"

    def close(self) -> None:
        """Give back the descriptor; the target is then worth nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def unix_path(path: Path) -> UnixPath:
    """The target for the socket at `path`, whose directory must exist."""
    return UnixPath(path)


def status_code(error: Exception) -> grpc.StatusCode:
    """The code a call ends with when `error` is raised in its handler."""
    if isinstance(error, NameTaken):
        return grpc.StatusCode.ALREADY_EXISTS
    if isinstance(error, InvalidName | InvalidCell):
        return grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(error, SessionNotFound | FileNotFoundError):
        return grpc.StatusCode.NOT_FOUND
    if isinstance(error, IndexDamaged | IndexTooNew):
        return grpc.StatusCode.FAILED_PRECONDITION
    if isinstance(error, SessionBusy):
        return grpc.StatusCode.UNAVAILABLE
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
        return grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.UNAVAILABLE
    return grpc.StatusCode.INTERNAL


def peer_error(error: grpc.RpcError, peer: str) -> GhostError:
    """What a failed call means, in words for a person; `peer` is what was called."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.NOT_FOUND:
        return SessionNotFound(details or f"the hub at {peer} does not have it")
    if code is grpc.StatusCode.ALREADY_EXISTS:
        return NameTaken(details)
    if code is grpc.StatusCode.UNAVAILABLE:
        return PeerError(f"the hub at {peer} cannot be reached; is `ghostfs hub` running? ({details})")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return PeerError(f"the hub at {peer} did not answer in time")
    return PeerError(f"the hub at {peer} refused: {details} ({code.name.lower()})")
