"""`Block` messages to and from the bytes of the wire, without the copies that protobuf makes.

Blocks are nearly all of what a large transfer moves. A protobuf object copies a block's data when it is made,
when it is serialized and when it is read; here the data is copied once on the way out, into the message, and
not at all on the way in. The bytes are exactly those of `mesh.proto`; whatever does not look as this module
writes it is given to protobuf, which decides.
"""

from __future__ import annotations

__all__ = ["FETCH_METHOD", "BlockMessage", "decode_block", "encode_block"]

from dataclasses import dataclass

from ghostfs.v1 import mesh_pb2 as pb

FETCH_METHOD = "/ghostfs.v1.Mesh/Fetch"

_WANT, _STATUS, _ENCODING = 0x08, 0x10, 0x18
_DATA = 0x22
"""Tags: the field's number and its wire type, varint or bytes."""

_MORE = 0x80
_NUMBER_BYTES = 4
"""A longer number is left to protobuf, which knows where each of the types ends."""


@dataclass(frozen=True, slots=True)
class BlockMessage:
    """One `Block` of `mesh.proto`; `data` may be a view of the message that it came in."""

    want: int
    status: int = pb.Block.OK
    encoding: int = pb.Encoding.RAW
    data: bytes | memoryview = b""


def encode_block(block: BlockMessage) -> bytes:
    """The message as protobuf would serialize it."""
    head = bytearray()
    for tag, value in ((_WANT, block.want), (_STATUS, block.status), (_ENCODING, block.encoding)):
        if value:
            head.append(tag)
            _put_number(head, value)
    if not block.data:
        return bytes(head)
    head.append(_DATA)
    _put_number(head, len(block.data))
    return b"".join((head, block.data))


def decode_block(message: bytes) -> BlockMessage:
    """The block in a message.

    Raises:
        google.protobuf.message.DecodeError: it is no `Block`.
    """
    found = _quickly(message)
    if found is not None:
        return found
    block = pb.Block.FromString(message)
    return BlockMessage(block.want, block.status, block.encoding, block.data)


def _quickly(message: bytes) -> BlockMessage | None:
    """The block, if the message is written plainly: short numbers, and then nothing but the data."""
    numbers = {_WANT: 0, _STATUS: 0, _ENCODING: 0}
    data = memoryview(b"")
    at, end = 0, len(message)
    while at < end:
        tag = message[at]
        if tag != _DATA and tag not in numbers:
            return None
        value, at = _number(message, at + 1)
        if at < 0:
            return None
        if tag == _DATA:
            if value != end - at:
                return None
            data, at = memoryview(message)[at:], end
        else:
            numbers[tag] = value
    return BlockMessage(numbers[_WANT], numbers[_STATUS], numbers[_ENCODING], data)


def _put_number(into: bytearray, value: int) -> None:
    while value >= _MORE:
        into.append(value & (_MORE - 1) | _MORE)
        value >>= 7
    into.append(value)


def _number(message: bytes, at: int) -> tuple[int, int]:
    """The varint at a position, and the position after it, which is -1 if there is no short one."""
    value = 0
    for shift, byte in enumerate(message[at : at + _NUMBER_BYTES]):
        value |= (byte & (_MORE - 1)) << (7 * shift)
        if byte < _MORE:
            return value, at + shift + 1
    return 0, -1
