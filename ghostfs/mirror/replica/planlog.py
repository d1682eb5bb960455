"""The plan of one batch on disk: written before its first step, cleared when the index has its outcome.

A replica that is killed in between finds the file when it is opened again, carries out what is left of the
steps, and commits the same outcome. The file is JSON, with bytes as latin-1 text; it is made under another name
and renamed, so that it is there as a whole or not at all. It is private to one version of GhostFS at a time:
`FORMAT` says which, and another one is refused.
"""

from __future__ import annotations

__all__ = ["FORMAT", "JOURNAL", "Objects", "Outcome", "PlanLog", "PlanRecord"]

import json
import os
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ghostfs.errors import IndexDamaged
from ghostfs.mirror.replica import steps as kinds
from ghostfs.mirror.replica.steps import Place, Step
from ghostfs.model import Cursor, Dirent, Epoch, Inode, InodeId, Kind, Replica, Seq

FORMAT = 1

JOURNAL = "plan.journal"
"""The plan's file name in the staging folder."""

_NAME = JOURNAL.encode()
_NEW = b"plan.journal.new"
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_STEPS: dict[str, type[Step]] = {
    kind.__name__: kind
    for kind in (
        kinds.Create,
        kinds.Exchange,
        kinds.Hold,
        kinds.LinkAt,
        kinds.Move,
        kinds.MoveOver,
        kinds.Remove,
        kinds.RemoveDirectory,
        kinds.Replace,
        kinds.ReplaceWithLink,
        kinds.SetAttributes,
    )
}
_FIELDS = {name: tuple(field.name for field in fields(kind)) for name, kind in _STEPS.items()}


class Objects(NamedTuple):
    """The inode numbers that an inode's backing object has before the plan, and that its new one has."""

    old: int | None
    new: int | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the index shall say once the steps are done.

    `inodes` are cells without their backing, which is looked up then; `forget` are places that hold nothing
    any more. `unplaced` are all dirents that wait for their inode. Either `cursor` is reached, or `snapshot`
    (id, position), or neither changes; `sweep` is the cursor to be reached when what is stale is gone.
    """

    inodes: tuple[Inode, ...] = ()
    dirents: tuple[Dirent, ...] = ()
    forget: tuple[Place, ...] = ()
    parked: tuple[tuple[InodeId, Seq], ...] = ()
    unparked: tuple[InodeId, ...] = ()
    unplaced: tuple[Dirent, ...] = ()
    cursor: Cursor | None = None
    snapshot: tuple[bytes, int] | None = None
    sweep: Cursor | None = None


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """The steps, the objects they are about, and what is true after them."""

    steps: tuple[Step, ...]
    objects: dict[InodeId, Objects]
    outcome: Outcome


class PlanLog:
    """At most one plan, in the staging folder."""

    def __init__(self, directory: int) -> None:
        """`directory` is a descriptor of the staging folder and stays the caller's."""
        self._directory = directory

    def write(self, record: PlanRecord, *, sync: bool) -> None:
        """Puts the plan down; durably at once with `sync`, else with the caller's next syncfs."""
        data = json.dumps(_encode(record), ensure_ascii=False, separators=(",", ":")).encode()
        fd = os.open(_NEW, _WRITE, 0o600, dir_fd=self._directory)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(_NEW, _NAME, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def read(self) -> PlanRecord | None:
        """The plan that was not finished, if there is one.

        Raises:
            IndexDamaged: the file is not a plan of this version.
        """
        try:
            fd = os.open(_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        except FileNotFoundError:
            return None
        with os.fdopen(fd, "rb") as file:
            data = file.read()
        try:
            return _decode(json.loads(data))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise IndexDamaged(
                "plan.journal in the staging folder cannot be read: it is damaged, or of another version; "
                "remove it to have the batch sent again"
            ) from error

    def clear(self) -> None:
        """The plan is done; nothing happens if there is none."""
        try:
            os.unlink(_NAME, dir_fd=self._directory)
        except FileNotFoundError:
            return


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")


def _encode(record: PlanRecord) -> dict[str, Any]:
    out = record.outcome
    return {
        "format": FORMAT,
        "steps": [_encode_step(step) for step in record.steps],
        "objects": [(id_, *numbers) for id_, numbers in record.objects.items()],
        "inodes": [_encode_inode(inode) for inode in out.inodes],
        "dirents": [_encode_dirent(dirent) for dirent in out.dirents],
        "forget": [_encode_place(place) for place in out.forget],
        "parked": out.parked,
        "unparked": out.unparked,
        "unplaced": [_encode_dirent(dirent) for dirent in out.unplaced],
        "cursor": _encode_cursor(out.cursor),
        "snapshot": None if out.snapshot is None else (_text(out.snapshot[0]), out.snapshot[1]),
        "sweep": _encode_cursor(out.sweep),
    }


def _decode(data: dict[str, Any]) -> PlanRecord:
    if data["format"] != FORMAT:
        raise ValueError(data["format"])
    snapshot = data["snapshot"]
    outcome = Outcome(
        inodes=tuple(_decode_inode(row) for row in data["inodes"]),
        dirents=tuple(_decode_dirent(row) for row in data["dirents"]),
        forget=tuple(_decode_place(row) for row in data["forget"]),
        parked=tuple((InodeId(id_), Seq(seq)) for id_, seq in data["parked"]),
        unparked=tuple(data["unparked"]),
        unplaced=tuple(_decode_dirent(row) for row in data["unplaced"]),
        cursor=_decode_cursor(data["cursor"]),
        snapshot=None if snapshot is None else (_bytes(snapshot[0]), snapshot[1]),
        sweep=_decode_cursor(data["sweep"]),
    )
    return PlanRecord(
        steps=tuple(_decode_step(row) for row in data["steps"]),
        objects={InodeId(id_): Objects(old, new) for id_, old, new in data["objects"]},
        outcome=outcome,
    )


def _encode_place(place: Place | None) -> tuple[int, str] | None:
    return None if place is None else (place.parent, _text(place.name))


def _decode_place(row: list[Any]) -> Place:
    return Place(InodeId(row[0]), _bytes(row[1]))


def _encode_step(step: Step) -> list[Any]:
    name = type(step).__name__
    row: list[Any] = [name]
    for field in _FIELDS[name]:
        value = getattr(step, field)
        row.append(_encode_place(value) if isinstance(value, Place) else value)
    return row


def _decode_step(row: list[Any]) -> Step:
    kind: Any = _STEPS[row[0]]
    values = (_decode_place(v) if isinstance(v, list) else v for v in row[1:])
    step: Step = kind(**dict(zip(_FIELDS[row[0]], values, strict=True)))
    return step


def _encode_cursor(cursor: Cursor | None) -> tuple[int, int] | None:
    return None if cursor is None else (cursor.epoch, cursor.seq)


def _decode_cursor(row: list[int] | None) -> Cursor | None:
    return None if row is None else Cursor(Epoch(row[0]), Seq(row[1]))


def _encode_dirent(dirent: Dirent) -> tuple[Any, ...]:
    return dirent.parent, _text(dirent.name), dirent.inode, dirent.seq, dirent.origin


def _decode_dirent(row: list[Any]) -> Dirent:
    return Dirent(InodeId(row[0]), _bytes(row[1]), row[2], Seq(row[3]), Replica(row[4]))


def _encode_inode(inode: Inode) -> tuple[Any, ...]:
    return (
        inode.id,
        int(inode.kind),
        inode.mode,
        inode.uid,
        inode.gid,
        inode.mtime_ns,
        inode.size,
        inode.rdev,
        _text(inode.target),
        _text(inode.xattrs),
        _text(inode.digest),
        _text(inode.blocks),
        inode.attr_seq,
        inode.content_seq,
        inode.origin,
    )


def _decode_inode(row: list[Any]) -> Inode:
    id_, kind, mode, uid, gid, mtime_ns, size, rdev, target, xattrs, digest, blocks = row[:12]
    attr_seq, content_seq, origin = row[12:]
    return Inode(
        id_,
        Kind(kind),
        mode,
        uid,
        gid,
        mtime_ns,
        size,
        rdev,
        _bytes(target),
        _bytes(xattrs),
        _bytes(digest),
        _bytes(blocks),
        attr_seq,
        content_seq,
        origin,
    )
