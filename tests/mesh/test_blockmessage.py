"""Blocks are encoded and decoded by hand, and nobody can tell: the bytes are those of protobuf, either way."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from ghostfs.content import BLOCK_SIZE
from ghostfs.mesh.blockmessage import FETCH_METHOD, BlockMessage, decode_block, encode_block
from ghostfs.mesh.hubservice import SERVICE
from ghostfs.v1 import mesh_pb2 as pb

MESH = pb.DESCRIPTOR.services_by_name["Mesh"]

wants = st.integers(0, 2**32 - 1)
statuses = st.sampled_from(pb.Block.Status.values())
encodings = st.sampled_from(pb.Encoding.values())


def as_protobuf(block: pb.Block) -> BlockMessage:
    return BlockMessage(block.want, block.status, block.encoding, block.data)


@given(wants, statuses, encodings, st.binary(max_size=600))
@example(0, pb.Block.OK, pb.Encoding.RAW, b"")
@example(1023, pb.Block.OK, pb.Encoding.RAW, bytes(BLOCK_SIZE))
def test_the_bytes_are_those_of_protobuf(want: int, status: int, encoding: int, data: bytes) -> None:
    message = encode_block(BlockMessage(want, status, encoding, data))
    expected = pb.Block(
        want=want, status=pb.Block.Status.Name(status), encoding=pb.Encoding.Name(encoding), data=data
    )
    assert message == expected.SerializeToString()
    assert decode_block(message) == as_protobuf(expected)


@given(st.binary(max_size=40) | st.lists(st.sampled_from(list(b"\x08\x10\x18\x22\x2a\x00\x01\x80\xff"))))
@example(b"\x22\x01ab")
@example(b"\x22\x03ab")
@example(b"\x22\x01a\x08\x05")
@example(b"\x22\x01a\x22\x01b")
@example(b"\x08\x01\x08\x02\x22\x00")
@example(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x28\x01\x08\x07")
@example(b"\x08")
@example(b"\x88\x80\x00\x01")
def test_whatever_comes_is_what_protobuf_makes_of_it(message: bytes | list[int]) -> None:
    message = bytes(message)
    try:
        expected = as_protobuf(pb.Block.FromString(message))
    except DecodeError:
        with pytest.raises(DecodeError):
            decode_block(message)
    else:
        assert decode_block(message) == expected


def test_data_is_not_copied_on_the_way_in() -> None:
    message = encode_block(BlockMessage(3, data=bytes(BLOCK_SIZE)))
    data = decode_block(message).data
    assert isinstance(data, memoryview)
    assert data.obj is message


def test_names_are_those_of_the_proto() -> None:
    assert MESH.full_name == SERVICE
    assert f"/{SERVICE}/{MESH.methods_by_name['Fetch'].name}" == FETCH_METHOD
