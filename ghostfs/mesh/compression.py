"""zstd per message, where it pays.

Agents' files are mostly text, but a session may also hold archives and media that no compression makes
smaller. So a sender tries, keeps a result only if it saves a tenth, and after failures in a row lets
messages pass untried, ever more of them, until one compresses again.
"""

from __future__ import annotations

__all__ = ["Compressor", "decompress", "is_local"]

import ipaddress
import threading
from typing import TypeVar

import zstandard

from ghostfs.content import BLOCK_SIZE
from ghostfs.errors import InvalidCell
from ghostfs.v1 import mesh_pb2 as pb

_SMALLEST = 128
"""Bytes; a shorter message is sent as it is: a zstd frame alone costs a dozen bytes."""

_WORTH = 0.9
_PATIENCE = 4
"""Failures in a row before messages pass untried."""

_LONGEST_PASS = 256
_LEVEL = 1
"""Level 1 keeps up with a gigabit link on one core; higher ones do not."""


class _Local(threading.local):
    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False)
        self.decompressor = zstandard.ZstdDecompressor()


_local = _Local()


class Compressor:
    """Compresses for one peer. Safe to share between threads: what they race for is only statistics."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._failures = 0
        self._pass = 0

    def encode(self, data: bytes) -> tuple[pb.Encoding, bytes]:
        """The encoding to state, and the bytes to send."""
        if not self.enabled or len(data) < _SMALLEST:
            return pb.Encoding.RAW, data
        if self._pass > 0:
            self._pass -= 1
            return pb.Encoding.RAW, data
        packed = _local.compressor.compress(data)
        if len(packed) <= len(data) * _WORTH:
            self._failures = 0
            return pb.Encoding.ZSTD, packed
        self._failures += 1
        if self._failures >= _PATIENCE:
            self._pass = min(_LONGEST_PASS, 1 << (self._failures - _PATIENCE + 2))
        return pb.Encoding.RAW, data


_Data = TypeVar("_Data", bound=bytes | memoryview)


def decompress(encoding: int, data: _Data) -> _Data | bytes:
    """What a peer sent, as it was before `Compressor.encode`; at most one block.

    Raises:
        InvalidCell: an unknown encoding, a broken frame, or more than a block.
    """
    if encoding == pb.Encoding.RAW:
        if len(data) > BLOCK_SIZE:
            raise InvalidCell(f"a block of {len(data)} bytes is longer than {BLOCK_SIZE}")
        return data
    if encoding != pb.Encoding.ZSTD:
        raise InvalidCell(f"unknown encoding {encoding}")
    try:
        # The frame's own statement of its size is checked first, so a bomb is refused unopened.
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= BLOCK_SIZE:
            raise InvalidCell(f"a compressed block states {size} bytes")
        return _local.decompressor.decompress(data, max_output_size=BLOCK_SIZE)
    except zstandard.ZstdError as error:
        raise InvalidCell(f"a compressed block cannot be read: {error}") from error


def is_local(peer: str) -> bool:
    """Whether the peer of a call, as gRPC states it (`ipv4:127.0.0.1:80`), is on this machine."""
    scheme, _, address = peer.partition(":")
    if scheme == "unix":
        return True
    host = address.replace("%5B", "[").replace("%5D", "]").rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
