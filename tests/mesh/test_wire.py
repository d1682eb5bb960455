"""What goes over the wire: codec, compression, reassembly. What breaks a rule is refused, whatever it is."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostfs.content import BLOCK_SIZE, BlockList, block_digest, file_digest
from ghostfs.errors import InvalidCell
from ghostfs.mesh.backoff import Backoff
from ghostfs.mesh.codec import (
    NUMBER_MAX,
    decode_dirent,
    decode_fingerprint,
    decode_inode,
    encode_dirent,
    encode_fingerprint,
    encode_inode,
)
from ghostfs.mesh.compression import Compressor, decompress, is_local
from ghostfs.mesh.incoming import Incoming
from ghostfs.mirror.replica.batch import checked
from ghostfs.model import Dirent, Inode, Kind
from ghostfs.v1 import mesh_pb2 as pb

numbers = st.integers(1, NUMBER_MAX)
CONTENT = BlockList(5, {0: block_digest(b"hello")})
FILE = Inode(
    7,
    Kind.FILE,
    0o644,
    1,
    2,
    -3,
    size=5,
    digest=CONTENT.digest(),
    blocks=CONTENT.encode(),
    attr_seq=4,
    content_seq=5,
)


@given(
    numbers,
    st.sampled_from([Kind.DIRECTORY, Kind.FIFO, Kind.SOCKET, Kind.SYMLINK]),
    st.integers(0, 0o7777),
    st.integers(0, 2**32 - 2),
    st.integers(-(2**63), 2**63 - 1),
    numbers,
)
def test_inodes_come_back_as_they_were(
    id_: int, kind: Kind, mode: int, uid: int, mtime: int, seq: int
) -> None:
    target = b"\xff/x" if kind is Kind.SYMLINK else b""
    inode = Inode(id_, kind, mode, uid, uid, mtime, target=target, attr_seq=seq, content_seq=1, origin=9)
    if id_ == 1 and kind is not Kind.DIRECTORY:
        return
    assert decode_inode(pb.InodeCell.FromString(encode_inode(inode).SerializeToString()), seq) == inode


@given(numbers, st.binary(min_size=1, max_size=255), st.none() | st.integers(2, NUMBER_MAX), numbers)
def test_dirents_come_back_as_they_were(parent: int, name: bytes, child: int | None, seq: int) -> None:
    dirent = Dirent(parent, name, child, seq, 3)
    cell = pb.DirentCell.FromString(encode_dirent(dirent).SerializeToString())
    if b"/" in name or b"\0" in name or name in (b".", b"..") or child == parent:
        with pytest.raises(InvalidCell):
            decode_dirent(cell, seq)
    else:
        assert decode_dirent(cell, seq) == dirent


@pytest.mark.parametrize(
    "change",
    [
        {"id": 0},
        {"id": 1},
        {"id": 2**63},
        {"kind": 3},
        {"mode": 0o10000},
        {"size": 2**63},
        {"digest": b"short"},
        {"digest": b""},
        {"rdev": 1},
        {"attr_seq": 0},
        {"content_seq": 6},
        {"origin": 2**16},
        {"kind": int(Kind.DIRECTORY)},
    ],
    ids=str,
)
def test_inodes_that_cannot_be(change: dict[str, Any]) -> None:
    cell = encode_inode(FILE)
    for name, value in change.items():
        setattr(cell, name, value)
    with pytest.raises(InvalidCell):
        decode_inode(cell, 5)


@pytest.mark.parametrize(
    "cell",
    [
        pb.DirentCell(parent=0, name=b"x", inode=5, seq=1),
        pb.DirentCell(parent=1, name=b"x", inode=1, seq=1),
        pb.DirentCell(parent=1, name=b"..", inode=5, seq=1),
        pb.DirentCell(parent=1, name=b"a/b", inode=5, seq=1),
        pb.DirentCell(parent=1, name=b"x" * 256, inode=5, seq=1),
        pb.DirentCell(parent=1, name=b"x", inode=2**63, seq=1),
        pb.DirentCell(parent=1, name=b"x", inode=5, seq=3),
        pb.DirentCell(parent=1, name=b"x", inode=5, seq=0),
        pb.DirentCell(parent=1, name=b"x", inode=5, seq=1, origin=1 << 16),
    ],
)
def test_dirents_that_cannot_be(cell: pb.DirentCell) -> None:
    with pytest.raises(InvalidCell):
        decode_dirent(cell, 2)


def test_fingerprints_are_16_bytes() -> None:
    assert decode_fingerprint(encode_fingerprint(2**128 - 2)) == 2**128 - 2
    with pytest.raises(InvalidCell):
        decode_fingerprint(b"x" * 15)


@given(st.binary(max_size=2000), st.integers(1, 50))
def test_compression_is_reversible(piece: bytes, times: int) -> None:
    data = piece * times
    encoding, packed = Compressor(enabled=True).encode(data)
    assert decompress(encoding, packed) == data
    assert len(packed) <= len(data)


def test_noise_is_soon_left_alone_and_text_found_again() -> None:
    compressor = Compressor(enabled=True)
    noise, text = os.urandom(10_000), b"line\n" * 2_000
    assert [compressor.encode(noise)[0] for _ in range(100)] == [pb.Encoding.RAW] * 100
    tries = [compressor.encode(text)[0] for _ in range(600)]
    assert pb.Encoding.ZSTD in tries
    assert tries[tries.index(pb.Encoding.ZSTD) :] == [pb.Encoding.ZSTD] * (
        600 - tries.index(pb.Encoding.ZSTD)
    )


def test_what_cannot_be_decompressed_is_refused() -> None:
    bomb = Compressor(enabled=True)
    _, packed = bomb.encode(bytes(BLOCK_SIZE + 1))
    for encoding, data in [(1, packed), (1, b"no frame"), (2, b"x"), (0, bytes(BLOCK_SIZE + 1)), (1, b"")]:
        with pytest.raises(InvalidCell):
            decompress(encoding, data)


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("ipv4:127.0.0.1:80", True),
        ("ipv6:%5B::1%5D:80", True),
        ("ipv6:[::1]:80", True),
        ("unix:", True),
        ("unix:/x", True),
        ("ipv4:10.0.0.1:80", False),
        ("ipv6:%5Bfe80::1%5D:80", False),
        ("dns:127.evil.example:80", False),
    ],
)
def test_which_peers_are_local(peer: str, local: bool) -> None:
    assert is_local(peer) is local


def begin(**fields: Any) -> pb.FollowEvent:
    values: dict[str, Any] = {"epoch": 1, "since": 0, "head": 9, "delta": True}
    return pb.FollowEvent(begin=pb.Begin(**(values | fields)))


END = pb.FollowEvent(end=pb.End(fingerprint=bytes(16)))


def test_a_batch_is_put_together() -> None:
    cell = encode_inode(FILE)
    cell.inline.data = b"hello"
    long = encode_inode(FILE, with_blocks=False)
    long.id = 8
    incoming = Incoming()
    for event in (
        begin(),
        pb.FollowEvent(cells=pb.Cells(inodes=[cell])),
        pb.FollowEvent(heartbeat=pb.Heartbeat()),
        pb.FollowEvent(cells=pb.Cells(inodes=[long])),
        pb.FollowEvent(block_list=pb.BlockListPart(inode=8, data=FILE.blocks[:7])),
        pb.FollowEvent(block_list=pb.BlockListPart(inode=8, data=FILE.blocks[7:])),
    ):
        assert incoming.feed(event) is None
    batch = incoming.feed(END)
    assert batch is not None
    assert [inode.blocks for inode in batch.inodes] == [FILE.blocks] * 2
    assert batch.inline == {7: b"hello"}
    assert (batch.epoch, batch.since, batch.head, batch.fingerprint) == (1, 0, 9, 0)


def short() -> pb.InodeCell:
    cell = encode_inode(FILE)
    cell.inline.data = b"hell"
    return cell


CELL = encode_inode(FILE)
PARTED = encode_inode(FILE, with_blocks=False)
BROKEN = {
    "cells outside": [pb.FollowEvent(cells=pb.Cells())],
    "end outside": [END],
    "nothing": [begin(), pb.FollowEvent()],
    "twice begun": [begin(), begin()],
    "no epoch": [begin(epoch=0)],
    "backwards": [begin(since=10)],
    "odd snapshot": [begin(snapshot=pb.SnapshotChunk(snapshot_id=b"x"))],
    "odd fingerprint": [begin(), pb.FollowEvent(end=pb.End(fingerprint=b"x"))],
    "short inline": [begin(), pb.FollowEvent(cells=pb.Cells(inodes=[short()]))],
    "cut off list": [begin(), pb.FollowEvent(cells=pb.Cells(inodes=[PARTED])), END],
    "cell after list": [begin(), pb.FollowEvent(cells=pb.Cells(inodes=[PARTED, CELL]))],
    "foreign part": [begin(), pb.FollowEvent(block_list=pb.BlockListPart(inode=7, data=b"x"))],
    "long part": [
        begin(),
        pb.FollowEvent(cells=pb.Cells(inodes=[PARTED])),
        pb.FollowEvent(block_list=pb.BlockListPart(inode=7, data=FILE.blocks + b"x")),
    ],
}


@pytest.mark.parametrize("events", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_stream_is_refused(events: list[pb.FollowEvent]) -> None:
    incoming = Incoming()
    for event in events[:-1]:
        assert incoming.feed(event) is None
    with pytest.raises(InvalidCell):
        incoming.feed(events[-1])


def whole_stream() -> list[bytes]:
    with_content = encode_inode(FILE)
    with_content.inline.data = b"hello"
    in_parts = encode_inode(FILE, with_blocks=False)
    in_parts.id = 8
    events = [
        begin(),
        pb.FollowEvent(cells=pb.Cells(inodes=[with_content, in_parts])),
        pb.FollowEvent(block_list=pb.BlockListPart(inode=8, data=FILE.blocks)),
        END,
    ]
    return [event.SerializeToString() for event in events]


edits = st.tuples(st.integers(0, 3), st.integers(0, 200), st.binary(min_size=1, max_size=4))


@settings(max_examples=500)
@given(st.lists(edits, max_size=3))
def test_a_stream_with_other_bytes_in_it_is_refused_or_makes_sense(
    changes: list[tuple[int, int, bytes]],
) -> None:
    stream = [bytearray(data) for data in whole_stream()]
    for which, at, data in changes:
        position = at % len(stream[which])
        stream[which][position : position + len(data)] = data
    incoming = Incoming()
    taken = None
    try:
        for data in stream:
            batch = incoming.feed(pb.FollowEvent.FromString(bytes(data)))
            taken = checked(batch) if batch is not None else taken
    except (InvalidCell, DecodeError):
        assert changes
        return
    if taken is None:  # the end became something that is passed over
        assert changes
        return
    for inode, blocks in taken.blocks.items():
        cell = taken.inodes[inode]
        assert cell.digest == file_digest(cell.size, blocks.encode())
    for inode, content in taken.batch.inline.items():
        assert len(content) == taken.inodes[inode].size


def test_backoff_doubles_up_to_the_longest_with_full_jitter() -> None:
    backoff = Backoff(0.1, 5.0, random.Random(1))
    waits = [backoff.next() for _ in range(200)]
    assert all(0 <= wait <= min(5.0, 0.1 * 2**n) for n, wait in enumerate(waits))
    assert max(waits) > 4.5
    assert min(waits[20:]) < 0.5
    backoff.reset()
    assert backoff.next() <= 0.1
