"""The dirty log: what the owner of a mirror has touched since its last commit.

Each record is written before the system call it announces, so that after the process was killed only what
the log names has to be looked at. It is not synced: a power cut is recovered from the tree itself.

File format: the 8 bytes `GFSDIRT1`, then records

    type:1 length:2 payload:length check:4

all integers big-endian; `check` is the xxh32 of the record's bytes before it. Types:

    "I"  inode:8                     this inode's attributes or content may change
    "D"  parent:8 inode:8 name       this name may change; inode is what it is to mean, 0 for nothing

A record that is cut short or fails its check ends the log: its system call was never made.

Beside the log lies `<log>.slack`, a file of `SLACK` bytes that says nothing. It is given up when the disk is
full, so that records can still be written: without them nothing could be deleted to make room.
"""

from __future__ import annotations

__all__ = ["DirtyDirent", "DirtyEntries", "DirtyLog"]

import errno
import os
import struct
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from xxhash import xxh32_intdigest

from ghostfs.errors import GhostError
from ghostfs.model import InodeId

_MAGIC = b"GFSDIRT1"
_HEAD = struct.Struct(">cH")
_INODE = struct.Struct(">cHQ")
_DIRENT = struct.Struct(">cHQQ")
_CHECK = struct.Struct(">I")
_PAIR = struct.Struct(">QQ")
_SIXTEEN = 16
SLACK = 64 << 10


@dataclass(frozen=True, slots=True)
class DirtyDirent:
    """A name that may have changed, and the inode it was to mean (`None`: nothing)."""

    parent: InodeId
    name: bytes
    child: InodeId | None


@dataclass(frozen=True, slots=True)
class DirtyEntries:
    """What a log names: each inode once, the dirents in the order they were touched.

    `torn` says that the log did not end with a whole record, which is what a kill in the middle of a write
    leaves.
    """

    inodes: frozenset[InodeId]
    dirents: tuple[DirtyDirent, ...]
    torn: bool

    def __bool__(self) -> bool:
        return bool(self.inodes or self.dirents)


class DirtyLog:
    """The log of one mirror, open for writing by its owner.

    Opening keeps what is there and cuts off a torn end. The methods may be called from several threads.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the log.

        Raises:
            GhostError: the file is not a dirty log, or one of another version.
        """
        self.path = path
        self._slack = path.with_name(path.name + ".slack")
        self._lock = threading.Lock()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND, 0o600)
        try:
            valid = len(_parse(path, _read(self._fd))[0])
            if valid == 0:
                os.ftruncate(self._fd, 0)
                os.write(self._fd, _MAGIC)
            else:
                os.ftruncate(self._fd, valid)
        except BaseException:
            os.close(self._fd)
            raise
        self._torn_at: int | None = None
        self._has_slack = False
        self._take_slack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and leave what is in it; a second time does nothing."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def append_inode(self, inode: InodeId) -> None:
        """Say that an inode is about to be changed: one `write(2)`.

        Raises:
            OSError: it could not be written (ENOSPC): do not make the change.
        """
        self._append(_inode_record(inode))

    def append_dirent(self, parent: InodeId, name: bytes, child: InodeId | None) -> None:
        """Say that a name is about to mean `child`: one `write(2)`.

        Raises:
            OSError: it could not be written (ENOSPC): do not make the change.
        """
        self._append(_dirent_record(parent, name, child))

    def reset(self, inodes: Iterable[InodeId] = (), dirents: Iterable[DirtyDirent] = ()) -> None:
        """Let the log name these and nothing else: what is still dirty after a commit.

        The caller makes sure that nothing is appended between its choice of what is still dirty and this.
        A kill leaves the old log or the new one.
        """
        records = b"".join(_inode_record(inode) for inode in inodes)
        records += b"".join(_dirent_record(d.parent, d.name, d.child) for d in dirents)
        with self._lock:
            if not records:
                os.ftruncate(self._fd, len(_MAGIC))
                self._torn_at = None
                self._take_slack()
                return
            new = self.path.with_name(self.path.name + ".new")
            fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_APPEND, 0o600)
            try:
                _write_all(fd, _MAGIC + records)
                new.rename(self.path)
            except BaseException:
                os.close(fd)
                raise
            self._fd, old = fd, self._fd
            self._torn_at = None
            os.close(old)

    @staticmethod
    def entries(path: Path) -> DirtyEntries:
        """What a log names; nothing if there is no log.

        Raises:
            GhostError: the file is not a dirty log, or one of another version.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return DirtyEntries(frozenset(), (), torn=False)
        valid, inodes, dirents = _parse(path, data)
        return DirtyEntries(frozenset(inodes), tuple(dirents), torn=len(valid) != len(data))

    def _append(self, record: bytes) -> None:
        with self._lock:
            try:
                self._write(record)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._has_slack:
                    raise
                self._has_slack = False
                self._slack.unlink(missing_ok=True)
                self._write(record)

    def _write(self, record: bytes) -> None:
        if self._torn_at is not None:
            self._cut(self._torn_at)
        written = os.write(self._fd, record)
        if written != len(record):
            # Let write(2) say what is wrong, and cut the part off, so that records after it can be read.
            begin = os.lseek(self._fd, 0, os.SEEK_CUR) - written
            self._cut(begin)
            try:
                _write_all(self._fd, record)
            except OSError:
                self._cut(begin)
                raise

    def _cut(self, begin: int) -> None:
        """Takes a part of a record from the end; where that fails, it is tried again before the next record."""
        self._torn_at = begin
        os.ftruncate(self._fd, begin)
        self._torn_at = None

    def _take_slack(self) -> None:
        """Sets room aside, if there is any."""
        if self._has_slack:
            return
        try:
            fd = os.open(self._slack, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            os.posix_fallocate(fd, 0, SLACK)
            self._has_slack = True
        except OSError:
            with suppress(OSError):
                os.ftruncate(fd, 0)
        finally:
            os.close(fd)


def _inode_record(inode: InodeId) -> bytes:
    body = _INODE.pack(b"I", 8, inode)
    return body + _CHECK.pack(xxh32_intdigest(body))


def _dirent_record(parent: InodeId, name: bytes, child: InodeId | None) -> bytes:
    body = _DIRENT.pack(b"D", _SIXTEEN + len(name), parent, child or 0) + name
    return body + _CHECK.pack(xxh32_intdigest(body))


def _parse(path: Path, data: bytes) -> tuple[memoryview, set[InodeId], list[DirtyDirent]]:
    """The valid prefix of a log, and what it names."""
    view = memoryview(data)
    if not data.startswith(_MAGIC):
        if _MAGIC.startswith(data):
            return view[:0], set(), []
        raise GhostError(f"{path} is not a dirty log that this GhostFS can read: move it away")
    inodes: set[InodeId] = set()
    dirents: dict[DirtyDirent, None] = {}
    at = len(_MAGIC)
    while at + _HEAD.size <= len(data):
        kind, length = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + length
        if end + _CHECK.size > len(data) or _CHECK.unpack_from(data, end)[0] != xxh32_intdigest(
            view[at:end]
        ):
            break
        payload = data[at + _HEAD.size : end]
        if kind == b"I":
            inodes.add(InodeId(int.from_bytes(payload, "big")))
        elif kind == b"D":
            parent, child = _PAIR.unpack_from(payload)
            dirent = DirtyDirent(InodeId(parent), payload[_SIXTEEN:], InodeId(child) if child else None)
            dirents.pop(dirent, None)
            dirents[dirent] = None
        else:
            raise GhostError(f"{path} has a record of type {kind!r}: it was written by a newer GhostFS")
        at = end + _CHECK.size
    return view[:at], inodes, list(dirents)


def _read(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
