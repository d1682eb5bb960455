"""Cells between protobuf and the model; everything that arrives is validated by the type it becomes.

Encoding trusts the index. Decoding trusts nobody: what a message may hold is checked here, once, and
whatever is not right raises `InvalidCell` before anything of the message is used.
"""

from __future__ import annotations

__all__ = [
    "FINGERPRINT_SIZE",
    "NUMBER_MAX",
    "check_number",
    "decode_dirent",
    "decode_fingerprint",
    "decode_inode",
    "encode_dirent",
    "encode_fingerprint",
    "encode_inode",
]

from ghostfs.content import DIGEST_SIZE
from ghostfs.errors import InvalidCell
from ghostfs.model import ROOT, Dirent, Inode, InodeId, Kind, Replica, Seq
from ghostfs.names import check_filename
from ghostfs.v1 import mesh_pb2 as pb

NUMBER_MAX = 2**63 - 1
"""The largest id, sequence, epoch or size: what an SQLite integer holds."""

FINGERPRINT_SIZE = 16
_MODE_MAX = 0o7777
_ORIGIN_MAX = 2**16 - 1
_XATTRS_MAX = 1 << 20
_KINDS = {kind.value: kind for kind in Kind}
_DEVICES = (Kind.CHAR, Kind.BLOCK)


def encode_inode(inode: Inode, *, with_blocks: bool = True) -> pb.InodeCell:
    """The cell on the wire; without its block list, only the length of that is stated."""
    cell = pb.InodeCell(
        id=inode.id,
        kind=inode.kind,
        mode=inode.mode,
        uid=inode.uid,
        gid=inode.gid,
        mtime_ns=inode.mtime_ns,
        size=inode.size,
        rdev=inode.rdev,
        target=inode.target,
        xattrs=inode.xattrs,
        digest=inode.digest,
        attr_seq=inode.attr_seq,
        content_seq=inode.content_seq,
        origin=inode.origin,
    )
    if with_blocks:
        cell.blocks = inode.blocks
    else:
        cell.blocks_length = len(inode.blocks)
    return cell


def encode_dirent(dirent: Dirent) -> pb.DirentCell:
    """The cell on the wire."""
    return pb.DirentCell(
        parent=dirent.parent,
        name=dirent.name,
        inode=dirent.inode or 0,
        seq=dirent.seq,
        origin=dirent.origin,
    )


def encode_fingerprint(fingerprint: int) -> bytes:
    """16 bytes, big-endian."""
    return fingerprint.to_bytes(FINGERPRINT_SIZE, "big")


def decode_fingerprint(data: bytes) -> int:
    """What `encode_fingerprint` encoded.

    Raises:
        InvalidCell: not 16 bytes.
    """
    if len(data) != FINGERPRINT_SIZE:
        raise InvalidCell(f"a fingerprint of {len(data)} bytes")
    return int.from_bytes(data, "big")


def check_number(what: str, value: int, least: int = 0) -> int:
    """The number itself, if it is from `least` to `NUMBER_MAX`.

    Raises:
        InvalidCell: naming `what`.
    """
    if not least <= value <= NUMBER_MAX:
        raise InvalidCell(f"{what} {value} is out of range")
    return value


def decode_inode(cell: pb.InodeCell, head: int, blocks: bytes | None = None) -> Inode:
    """The inode; `blocks` is the block list when it came in parts.

    What content must be (a canonical block list, a digest that is its digest) is checked where a batch
    is taken in, by `ghostfs.mirror.replica.batch.checked`: once, not once a layer.

    Raises:
        InvalidCell: a field is out of range, does not go with the kind, or the cell is newer than `head`.
    """
    kind = _KINDS.get(cell.kind)
    if kind is None:
        raise InvalidCell(f"inode {cell.id}: unknown kind {cell.kind}")
    check_number("inode id", cell.id, 1)
    check_number("size", cell.size)
    if not 1 <= cell.attr_seq <= head or not 1 <= cell.content_seq <= head:
        raise InvalidCell(
            f"inode {cell.id}: sequences {cell.attr_seq}, {cell.content_seq} not in 1..{head}"
        )
    if cell.mode > _MODE_MAX or cell.origin > _ORIGIN_MAX or len(cell.xattrs) > _XATTRS_MAX:
        raise InvalidCell(f"inode {cell.id}: mode, origin or attributes out of range")
    if cell.id == ROOT and kind is not Kind.DIRECTORY:
        raise InvalidCell(f"the root is not a directory but {kind.name}")
    if cell.rdev > (NUMBER_MAX if kind in _DEVICES else 0):
        raise InvalidCell(f"inode {cell.id}: a device number on a {kind.name}")
    if len(cell.digest) != (DIGEST_SIZE if kind is Kind.FILE else 0):
        raise InvalidCell(f"inode {cell.id}: a digest of {len(cell.digest)} bytes on a {kind.name}")
    encoded = cell.blocks if blocks is None else blocks
    return Inode(
        id=InodeId(cell.id),
        kind=kind,
        mode=cell.mode,
        uid=cell.uid,
        gid=cell.gid,
        mtime_ns=cell.mtime_ns,
        size=cell.size,
        rdev=cell.rdev,
        target=cell.target,
        xattrs=cell.xattrs,
        digest=cell.digest,
        blocks=encoded,
        attr_seq=Seq(cell.attr_seq),
        content_seq=Seq(cell.content_seq),
        origin=Replica(cell.origin),
    )


def decode_dirent(cell: pb.DirentCell, head: int) -> Dirent:
    """The dirent.

    Raises:
        InvalidCell: a field is out of range, the name is no file name, or it names the root.
    """
    check_number("parent", cell.parent, 1)
    check_number("inode", cell.inode)
    if cell.inode in (ROOT, cell.parent):
        raise InvalidCell(f"a dirent under {cell.parent} names the root, or its own directory")
    if not 1 <= cell.seq <= head:
        raise InvalidCell(f"a dirent with sequence {cell.seq}, not in 1..{head}")
    if cell.origin > _ORIGIN_MAX:
        raise InvalidCell(f"a dirent with origin {cell.origin}")
    return Dirent(
        parent=InodeId(cell.parent),
        name=check_filename(cell.name),
        inode=InodeId(cell.inode) if cell.inode else None,
        seq=Seq(cell.seq),
        origin=Replica(cell.origin),
    )
