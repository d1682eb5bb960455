"""User attributes of an inode as one value: what an inode cell's `xattrs` holds.

The encoding is a sequence of (name length: 2 bytes, value length: 4 bytes, name, value), big-endian,
ascending by name; empty when there are none. One set of attributes has one encoding. Only names in the
`user.` namespace travel: the others are the business of the machine that a file lies on.
"""

from __future__ import annotations

__all__ = ["PREFIX", "XATTRS_MAX", "UserAttributes", "decode_xattrs", "encode_xattrs"]

import errno
import os
import struct
from collections.abc import Mapping

import structlog

from ghostfs.errors import InvalidCell
from ghostfs.model import Kind

log = structlog.get_logger(__name__)

PREFIX = b"user."
XATTRS_MAX = 1 << 20
"""Longest encoding, as on the wire. Some filesystems keep more, and `encode_xattrs` leaves out what is too much."""

_NAME_MAX = 255
_HAVE_THEM = frozenset({Kind.FILE, Kind.DIRECTORY})
"""Linux allows user attributes on nothing else."""
_HEAD = struct.Struct(">HI")


def encode_xattrs(attributes: Mapping[bytes, bytes]) -> bytes:
    """The encoding of the `user.` attributes among these; without the largest, if it would be too long."""
    kept = {name: value for name, value in attributes.items() if name.startswith(PREFIX)}
    size = sum(_HEAD.size + len(name) + len(value) for name, value in kept.items())
    largest = sorted(kept, key=lambda name: (len(name) + len(kept[name]), name))
    while size > XATTRS_MAX:
        name = largest.pop()
        size -= _HEAD.size + len(name) + len(kept[name])
        log.warning("xattr_left_out", name=name.decode(errors="backslashreplace"), size=len(kept.pop(name)))
    return b"".join(
        _HEAD.pack(len(name), len(value)) + name + value for name, value in sorted(kept.items())
    )


def decode_xattrs(encoded: bytes) -> dict[bytes, bytes]:
    """The attributes that `encode_xattrs` made these bytes of.

    Raises:
        InvalidCell: not an encoding of `user.` attributes, or a longer one than `XATTRS_MAX`.
    """
    attributes: dict[bytes, bytes] = {}
    position, last = 0, b""
    while position < len(encoded):
        if position + _HEAD.size > len(encoded):
            raise InvalidCell("extended attributes: cut off")
        name_length, value_length = _HEAD.unpack_from(encoded, position)
        begin = position + _HEAD.size
        position = begin + name_length + value_length
        name = encoded[begin : begin + name_length]
        if position > len(encoded) or name == PREFIX or not name.startswith(PREFIX) or b"\0" in name:
            raise InvalidCell("extended attributes: cut off, or not a user attribute")
        if name <= last or name_length > _NAME_MAX:
            raise InvalidCell("extended attributes: out of order, or a name that is too long")
        attributes[name] = encoded[begin + name_length : position]
        last = name
    if len(encoded) > XATTRS_MAX:
        raise InvalidCell("extended attributes: too many")
    return attributes


class UserAttributes:
    """Reads the user attributes of one tree. A filesystem that says that it has none is not asked again."""

    def __init__(self) -> None:
        self._kept = True

    def read(self, where: int | bytes, kind: Kind) -> bytes:
        """The encoded attributes of an object of a kind: of what a descriptor is open on, or of what is at a path,
        whose last part is not followed.

        Raises:
            OSError: they cannot be read, for want of rights or otherwise.
        """
        if not self._kept or kind not in _HAVE_THEM:
            return b""
        follow = isinstance(where, int)  # Python will not have it otherwise
        try:
            names = os.listxattr(where, follow_symlinks=follow)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            self._kept = False
            return b""
        attributes = {}
        for name in map(os.fsencode, names):
            if name.startswith(PREFIX):
                try:
                    attributes[name] = os.getxattr(where, name, follow_symlinks=follow)
                except OSError as error:
                    if error.errno != errno.ENODATA:  # taken away since
                        raise
        return encode_xattrs(attributes) if attributes else b""

    def keeps(self, where: int | bytes, name: bytes) -> bool:
        """Whether the filesystem could tell of this attribute, had the object it: many list none either way.

        Raises:
            OSError: it does not let us ask.
        """
        if self._kept:
            try:
                os.getxattr(where, name, follow_symlinks=isinstance(where, int))
            except OSError as error:
                if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                    raise
                self._kept = error.errno == errno.ENODATA
        return self._kept
