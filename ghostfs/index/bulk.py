"""Many cells with one statement.

Python's sqlite3 gives the interpreter's lock away before every step of a statement and takes it back after it.
While another thread wants it too, as the loop does that answers the kernel, each such exchange costs both more
than the step itself. So cells go in as one blob of numbers (in decimal, each as wide as the others) and one of
all the bytes they refer to, come out as one JSON text, and SQLite does the rest without us.
"""

from __future__ import annotations

__all__ = [
    "BLOB_LIMIT",
    "SLICE",
    "DirentPut",
    "InodePut",
    "RefusedCell",
    "Store",
    "find_orphans",
    "probe_dirents",
    "probe_inodes",
    "remove_inodes",
]

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ghostfs.errors import InvalidCell
from ghostfs.index.rows import InodeValues
from ghostfs.model import Inode, InodeId

SLICE: Final = 1024
"""Cells in one statement at most, so that texts and blobs stay small."""

BLOB_LIMIT: Final = 64 << 10
"""Bytes of a block list with which nothing more is put into its statement."""

_INT64: Final = 1 << 63

Execute = Callable[..., sqlite3.Cursor]

DirentPut = tuple[InodeId, bytes, InodeId | None]
"""Parent, name, and what the name means; None is a tombstone."""


@dataclass(frozen=True, slots=True)
class InodePut:
    """One inode to be committed; the fields are the arguments of `Commit.put_inode`."""

    inode: Inode
    attrs: bool
    content: bool
    fresh: bool = False


class RefusedCell(InvalidCell):
    """One cell of many cannot be stored; `inode` says which."""

    def __init__(self, why: str, inode: InodeId) -> None:
        super().__init__(why)
        self.inode = inode


_PROBE_INODES = """
SELECT json_group_array(json_array(i.id, i.kind, i.size, i.rdev, hex(i.target), hex(i.digest), i.mode, i.uid, i.gid,
  i.mtime_ns, hex(i.xattrs), i.attr_seq, i.content_seq, i.backing_ino, i.backing_ctime_ns, i.held))
FROM json_each(?1) AS wanted CROSS JOIN inode AS i ON i.id = wanted.value"""

_WIDTH: Final = 20
"""Of a number: as many digits as the least one of 64 bits has."""

_NONE: Final = -_INT64
"""Stands for NULL."""


def _rows(numbers: int) -> str:
    """`rows.at` is where each row of so many numbers begins in ?1, in bytes from 1; ?1 must not be empty."""
    step = numbers * _WIDTH
    return f"WITH RECURSIVE rows (at) AS (VALUES (1) UNION ALL SELECT at + {step} FROM rows WHERE at + {step} <= length(?1))"


def _number(position: int) -> str:
    return f"CAST(substr(?1, at + {position * _WIDTH}, {_WIDTH}) AS INTEGER)"


def _bytes(position: int) -> str:
    return f"substr(?2, {_number(position)}, {_number(position + 1)})"


_PROBE_DIRENTS = f"""
{_rows(3)} SELECT json_group_array(json_array((at - 1) / {3 * _WIDTH}, dirent.inode, dirent.seq))
FROM rows CROSS JOIN dirent ON dirent.parent = {_number(0)} AND dirent.name = {_bytes(1)}"""

_ORPHANS = """
SELECT json_group_array(wanted.value) FROM json_each(?1) AS wanted
WHERE NOT EXISTS (SELECT 1 FROM dirent WHERE dirent.inode = wanted.value)
AND EXISTS (SELECT 1 FROM inode WHERE inode.id = wanted.value)"""

_NUMBERS = (
    "id", "kind", "size", "rdev", "mode", "uid", "gid", "mtime_ns",
    "attr_seq", "content_seq", "seq", "origin", "backing_ino", "backing_ctime_ns", "held",
)  # fmt: skip
_BLOBS = ("target", "digest", "xattrs", "blocks")
_NULLABLE = ("backing_ino", "backing_ctime_ns", "inode")
_ATTRIBUTES = ("mode", "uid", "gid", "mtime_ns", "xattrs", "attr_seq", "seq", "origin", "backing_ctime_ns")


def _upsert(
    table: str, numbers: Sequence[str], blobs: Sequence[str], key: Sequence[str], updated: Iterable[str]
) -> str:
    """A row holds the numbers, and then offset and length of each blob."""
    width = len(numbers) + 2 * len(blobs)
    values = [
        f"nullif({_number(at)}, {_NONE})" if name in _NULLABLE else _number(at)
        for at, name in enumerate(numbers)
    ]
    values += [_bytes(at) for at in range(len(numbers), width, 2)]
    return (
        f"{_rows(width)} INSERT INTO {table} ({', '.join((*numbers, *blobs))})"
        f" SELECT {', '.join(values)} FROM rows WHERE true"  # `WHERE`, lest ON be taken for a join's
        f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in updated)}"
    )


_STORE_INODES = _upsert("inode", _NUMBERS, _BLOBS, ("id",), (*_NUMBERS[1:-1], *_BLOBS))
_STORE_ATTRIBUTES = _upsert("inode", _NUMBERS, _BLOBS, ("id",), _ATTRIBUTES)
_STORE_DIRENTS = _upsert(
    "dirent",
    ("parent", "inode", "seq", "origin", "generation"),
    ("name",),
    key=("parent", "name"),
    updated=("inode", "seq", "origin"),
)
_REMOVE = "DELETE FROM {} WHERE {} IN (SELECT value FROM json_each(?1))"


def probe_inodes(execute: Execute, ids: Sequence[InodeId]) -> dict[int, tuple[Any, ...]]:
    """Rows as of `SQL.INODE_PROBE`, by id; of those that are there."""
    found: dict[int, tuple[Any, ...]] = {}
    unhex = bytes.fromhex
    for at in range(0, len(ids), SLICE):
        (text,) = execute(_PROBE_INODES, (json.dumps(ids[at : at + SLICE]),)).fetchone()
        for row in json.loads(text):
            row[4], row[5], row[10] = unhex(row[4]), unhex(row[5]), unhex(row[10])
            found[row[0]] = tuple(row)
    return found


def probe_dirents(execute: Execute, dirents: Sequence[DirentPut]) -> dict[int, tuple[int | None, int]]:
    """What names meant: position in `dirents` → (inode, sequence), of those that ever meant something."""
    found: dict[int, tuple[int | None, int]] = {}
    for at in range(0, len(dirents), SLICE):
        packed = _Packed()
        for parent, name, _ in dirents[at : at + SLICE]:
            packed.add((parent,), (name,))
        (text,) = execute(_PROBE_DIRENTS, packed.arguments()).fetchone()
        for position, inode, seq in json.loads(text):
            found[at + position] = (inode, seq)
    return found


def find_orphans(execute: Execute, ids: Sequence[int]) -> list[InodeId]:
    """Those of `ids` that have a row and no name, in the order given."""
    found: list[InodeId] = []
    for at in range(0, len(ids), SLICE):
        (text,) = execute(_ORPHANS, (json.dumps(ids[at : at + SLICE]),)).fetchone()
        found += json.loads(text)
    return found


def remove_inodes(execute: Execute, ids: Sequence[InodeId]) -> None:
    """Removes the rows of inodes, and that they are parked."""
    for at in range(0, len(ids), SLICE):
        text = json.dumps(ids[at : at + SLICE])
        execute(_REMOVE.format("inode", "id"), (text,))
        execute(_REMOVE.format("parked", "inode"), (text,))


class _Packed:
    """Rows of numbers, and the bytes that they refer to."""

    __slots__ = ("_blobs", "_end", "_rows")

    def __init__(self) -> None:
        self._rows: list[bytes] = []
        self._blobs = [b"-"]  # of no bytes at all, substr makes NULL
        self._end = 2  # it counts from 1

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, numbers: tuple[int | None, ...], blobs: tuple[bytes, ...]) -> None:
        row = [_NONE if number is None else number for number in numbers]
        for blob in blobs:
            row += (self._end, len(blob))
            if blob:
                self._blobs.append(blob)
                self._end += len(blob)
        if max(row) >= _INT64 or min(row) < -_INT64:
            raise InvalidCell(f"a number in {numbers} is out of range")
        self._rows.append(_FORMATS[len(row)] % tuple(row))

    def arguments(self) -> tuple[bytes, bytes]:
        return b"".join(self._rows), b"".join(self._blobs)


_FORMATS = [b"%20d" * count for count in range(24)]


class Store:
    """Rows on their way into the tables, a statement for `SLICE` of them. `flush` brings the last ones in."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute
        self._waiting: dict[str, _Packed] = {}

    def inode(
        self,
        values: InodeValues,
        attr_seq: int,
        content_seq: int,
        origin: int,
        backing: tuple[int | None, int | None],
        blocks: bytes | None,
    ) -> None:
        """A row whose sequence is the greater of the two; without `blocks`, one that is there gets the
        attributes alone, and keeps its backing file's number. One that is held stays so.

        Raises:
            InvalidCell: a number does not fit an SQLite integer.
        """
        id_, kind, size, rdev, target, digest, mode, uid, gid, mtime_ns, xattrs = values
        seq = max(attr_seq, content_seq)
        numbers = (
            id_,
            kind,
            size,
            rdev,
            mode,
            uid,
            gid,
            mtime_ns,
            attr_seq,
            content_seq,
            seq,
            origin,
            *backing,
            0,
        )
        if blocks is None:
            self._add(_STORE_ATTRIBUTES, numbers, (target, digest, xattrs, b""))
        else:
            self._add(_STORE_INODES, numbers, (target, digest, xattrs, blocks))
            if len(blocks) >= BLOB_LIMIT:
                self.flush()

    def dirent(self, parent: int, name: bytes, inode: int | None, seq: int, origin: int) -> None:
        """A dirent or a tombstone."""
        self._add(_STORE_DIRENTS, (parent, inode, seq, origin, 0), (name,))

    def flush(self) -> None:
        """Nothing waits afterwards."""
        for statement, packed in self._waiting.items():
            self._execute(statement, packed.arguments())
        self._waiting.clear()

    def _add(self, statement: str, numbers: tuple[int | None, ...], blobs: tuple[bytes, ...]) -> None:
        packed = self._waiting.get(statement)
        if packed is None:
            packed = self._waiting[statement] = _Packed()
        packed.add(numbers, blobs)
        if len(packed) >= SLICE:
            self._execute(statement, packed.arguments())
            del self._waiting[statement]
