"""Verifying a mirror: the whole tree, with its extended attributes, is read and hashed from scratch, and compared
with the index.

Changes nothing. May run beside the owner: what changed while it ran is not a problem, and is counted.
"""

from __future__ import annotations

__all__ = ["Problem", "VerifyReport", "verify"]

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ghostfs.errors import SessionNotFound
from ghostfs.index import DirtyEntries, DirtyLog, Index
from ghostfs.mirror.layout import SessionLayout
from ghostfs.mirror.live.findings import Findings
from ghostfs.mirror.live.hashing import HashPool
from ghostfs.mirror.live.reconcile import Reconciler
from ghostfs.mirror.owner import is_held
from ghostfs.model import ROOT, Epoch, Inode, InodeId, Kind, Seq
from ghostfs.names import display

_SHOWN = {"mtime_ns": "mtime", "xattrs": "extended attributes"}

Progress = Callable[[int, int], None]
"""progress(done, total): bytes."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing in which tree and index differ. `path` is relative to the session, as `names.display`."""

    path: str
    what: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was compared. `fingerprint` is the index's, `recomputed` the sum over its cells made anew."""

    session: str
    epoch: Epoch
    head: Seq
    inodes: int
    bytes_read: int
    fingerprint: int
    recomputed: int
    changed_meanwhile: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.problems and self.fingerprint == self.recomputed


def verify(layout: SessionLayout, *, workers: int = 0, progress: Progress | None = None) -> VerifyReport:
    """Compares a session's tree with its index, content included.

    Raises:
        SessionNotFound: there is no such session.
        IndexDamaged, IndexTooNew: the index cannot be read.
        OSError: the tree cannot be read.
    """
    if not layout.tree.is_dir():
        raise SessionNotFound(f"there is no session {layout.name!r}: see `ghostfs session list`")
    pool = HashPool(workers)
    root_fd = os.open(layout.tree, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with Index.open(layout.index_db, readonly=True) as index:
            before = index.state()
            counts = index.counts()
            done_bytes = 0

            def advance(count: int) -> None:
                nonlocal done_bytes
                done_bytes += count
                if progress is not None:
                    progress(done_bytes, max(counts.bytes, done_bytes))

            unknown = itertools.count(-1, -1)
            reconciler = Reconciler(
                index,
                root_fd,
                pool,
                distrust_since_ns=0,
                progress=advance,
                allocate=lambda count: (next(unknown) for _ in range(count)),
            )
            findings = reconciler.everything()
            # After the tree and before the rows: a change is still in the log, or already in the index.
            dirty = DirtyLog.entries(layout.dirty_log)
            problems: list[Problem] = []
            if dirty and not is_held(layout.owner_lock):
                # Nobody is going to commit what the log names.
                problems.append(
                    Problem(".", "was not unmounted: mount it, which recovers it, and verify again")
                )
                dirty = DirtyEntries(frozenset(), (), torn=False)
            judged = list(_judge(index, findings, before.head, dirty))
            recomputed = index.recomputed_fingerprint()
            after = index.state()
            if after.head != before.head:
                # Two reads of a moving index cannot be compared; the check above holds for each cell.
                recomputed = after.fingerprint
            return VerifyReport(
                session=layout.name,
                epoch=after.epoch,
                head=after.head,
                inodes=counts.inodes,
                bytes_read=findings.bytes_read,
                fingerprint=after.fingerprint,
                recomputed=recomputed,
                changed_meanwhile=judged.count(None),
                problems=(*problems, *(problem for problem in judged if problem is not None)),
            )
    finally:
        os.close(root_fd)
        pool.close()


def _judge(index: Index, findings: Findings, since: Seq, dirty: DirtyEntries) -> Iterator[Problem | None]:
    """Each difference as a problem, or as `None` if the owner changes it now or has committed that since."""
    places = {(entry.parent, entry.name) for entry in dirty.dirents}
    inodes = dirty.inodes | {entry.parent for entry in dirty.dirents}
    inodes_unborn: set[InodeId] = set()
    for parent, name in findings.unreadable:
        yield Problem(_path(index, parent, name), "may not be read by this user, and was not compared")
    for (parent, name), child in findings.names.items():
        cell = index.dirent_cell(parent, name) if parent > 0 else None
        if (cell is not None and cell.seq > since) or (parent, name) in places or parent in inodes_unborn:
            if child is not None and child < 0:
                inodes_unborn.add(child)
            yield None
            continue
        path = _path(index, parent, name)
        if child is None:
            yield Problem(path, "is in the index and not in the tree")
        elif cell is None or cell.inode is None:
            yield Problem(path, "is in the tree and not in the index: it was written behind the mount")
        else:
            yield Problem(path, "is another file than the index says: it was replaced behind the mount")
    for found in findings.inodes.values():
        row = index.inode(found.id) if found.id > 0 else None
        if row is None:
            continue
        differing = _differences(row, found)
        if not differing:
            continue
        if row.seq > since or found.id in inodes:
            yield None
            continue
        links = index.links(found.id)
        path = _path(index, *links[0]) if links else ("." if found.id == ROOT else f"inode {found.id}")
        yield Problem(path, f"differs from the index in {', '.join(differing)}")


def _differences(row: Inode, found: Inode) -> list[str]:
    names = ["kind", "mode", "uid", "gid", "mtime_ns", "target", "rdev", "xattrs"]
    if row.kind is Kind.FILE:
        names += ["size", "digest", "blocks"]
    return [_SHOWN.get(name, name) for name in names if getattr(row, name) != getattr(found, name)]


def _path(index: Index, parent: InodeId, name: bytes) -> str:
    parts = [name]
    seen = set()
    while parent != ROOT:
        links = index.links(parent) if parent > 0 and parent not in seen else []
        seen.add(parent)
        if not links:
            parts.append(b"?")
            break
        parent, above = links[0]
        parts.append(above)
    return display(b"/".join(reversed(parts)))
