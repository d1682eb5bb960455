"""Owning a mirror from start to end: make, open, recover, close.

What a start costs depends on how the last owner ended: after a clean stop nothing is read; after a kill
what dirty.log names; after a power cut (the boot id is another one) every name once, and the content of
what changed; without a usable index everything.
"""

from __future__ import annotations

__all__ = ["Ending", "OwnedMirror", "Recovery", "create_session"]

import contextlib
import enum
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import structlog

from ghostfs import private
from ghostfs.errors import GhostError, IndexDamaged, SessionExists, SessionNotFound, in_words
from ghostfs.index import DirtyLog, Index, set_aside
from ghostfs.mirror.layout import SessionLayout
from ghostfs.mirror.live.capture import Capture
from ghostfs.mirror.live.findings import Findings, apply
from ghostfs.mirror.live.gather import Gatherer
from ghostfs.mirror.live.hashing import HashPool
from ghostfs.mirror.live.identities import Identities
from ghostfs.mirror.live.mirror import Mirror
from ghostfs.mirror.live.reconcile import Reconciler
from ghostfs.mirror.live.retention import Retention
from ghostfs.mirror.live.rights import Rights
from ghostfs.mirror.live.settings import MirrorSettings
from ghostfs.mirror.live.settle import SettleRule
from ghostfs.mirror.live.settling import Settling
from ghostfs.mirror.live.spool import Spool
from ghostfs.mirror.live.spooling import Spooler
from ghostfs.mirror.live.working import WorkingSet
from ghostfs.mirror.owner import OwnerLock
from ghostfs.mirror.privileges import id_maps
from ghostfs.mirror.syscalls import boot_id, syncfs
from ghostfs.model import InodeId

log = structlog.get_logger(__name__)

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_WRITEBACK_NS = 60_000_000_000
"""Longer than Linux keeps dirty pages (30 s, and 5 s between two looks): what was written before this
long ahead of the last commit has reached the disk."""


class Ending(enum.StrEnum):
    """How the last owner ended, as far as the next one can tell."""

    CLEAN = "clean"
    KILLED = "killed"
    POWER_CUT = "power cut"
    NO_INDEX = "no index"
    RESCAN = "rescan"


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a start had to do."""

    ending: Ending
    looked_at: int = 0
    files_read: int = 0
    bytes_read: int = 0
    changed: int = 0
    seconds: float = 0.0
    unreadable: frozenset[InodeId] = frozenset()
    """What may not be read, so that the index has an old state of it."""


def create_session(layout: SessionLayout) -> None:
    """Makes an empty session.

    Raises:
        SessionExists: there is one of that name.
    """
    private.make_directory(layout.staging)  # and the state folder above it
    with contextlib.suppress(FileExistsError), Index.create(layout.index_db):
        pass
    # The tree comes last: with it the session exists; what a killed call left before that is completed.
    try:
        layout.tree.mkdir(mode=0o755)
    except FileExistsError:
        raise SessionExists(f"session {layout.name!r} exists already") from None


class OwnedMirror:
    """A mirror that this process owns: the operations on its tree, and the capture behind them."""

    def __init__(
        self,
        layout: SessionLayout,
        lock: OwnerLock,
        index: Index,
        pool: HashPool,
        settings: MirrorSettings,
        recovery: Recovery,
        root_fd: int,
        rights: Rights,
        members_db: Path | None,
    ) -> None:
        """Use `open`."""
        self.layout = layout
        self.recovery = recovery
        self._lock = lock
        self._rights = rights
        self._trouble: str | None = None
        self._index = index
        self._pool = pool
        self._dirty_log = DirtyLog(layout.dirty_log)
        self._lookups = Index.open(layout.index_db)
        self._identities = identities = Identities(Index.open(layout.index_db))
        self.working = WorkingSet(self._dirty_log)
        self.working.unreadable |= recovery.unreadable
        self.mirror = Mirror(root_fd, self._lookups, self.working, identities, rights)
        rule = SettleRule(quiet=settings.settle_quiet, max_age=settings.settle_max_age)
        spooler = Spooler(Spool(layout.spool, settings.spool_bytes), self.mirror)
        settling = Settling(self.mirror, self.working, pool, spooler)
        gatherer = Gatherer(self.mirror, self.working, rule, settling)
        retention = members_db and Retention(members_db, layout.name, settings.tombstone_retention)
        self.capture = Capture(
            index,
            gatherer,
            self.working.work,
            identities,
            commit_interval=settings.commit_interval,
            tidy=partial(retention.collect, index) if retention else None,
        )
        self.capture.start()

    @classmethod
    def open(
        cls,
        layout: SessionLayout,
        settings: MirrorSettings,
        *,
        rescan: bool = False,
        progress: Callable[[int], None] | None = None,
        members_db: Path | None = None,
    ) -> Self:
        """Takes the owner lock and brings the index up to what the tree is.

        `rescan` looks at every name even after a clean stop, for a tree that was changed behind the
        owner's back. `progress` gets the bytes read while hashing. `members_db` is the hub's, where it is
        known: tombstones that no member needs are then collected.

        Raises:
            SessionNotFound, SessionBusy, IndexTooNew: as they say.
            OSError: the tree cannot be read.
        """
        if not layout.tree.is_dir():
            raise SessionNotFound(
                f"there is no session {layout.name!r}: make it with `ghostfs session create`"
            )
        lock = OwnerLock(layout.owner_lock, what=f"session {layout.name!r}").acquire()
        with contextlib.ExitStack() as undo:
            undo.callback(lock.release)
            pool = HashPool(settings.hash_workers)
            undo.callback(pool.close)
            root_fd = os.open(layout.tree, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            undo.callback(os.close, root_fd)
            rights = Rights(layout.lent_modes, root_fd)
            rights.put_back()
            recovered = partial(_open_recovered, layout, root_fd, pool, rights, progress, rescan=rescan)
            try:
                index, recovery = recovered()
            except IndexDamaged as error:
                _set_aside(layout, error)
                index, recovery = recovered()
            undo.callback(index.close)
            _mark(layout, clean=False)
            owned = cls(layout, lock, index, pool, settings, recovery, root_fd, rights, members_db)
            undo.pop_all()
            return owned

    @property
    def trouble(self) -> str | None:
        """Why not all is committed, or durable; None if nothing is known."""
        return self._trouble or self.capture.trouble

    def close(self, *, timeout: float | None = None) -> bool:
        """Settles and commits everything, makes the tree durable, marks the stop clean.

        Returns whether it was clean; if not (a disk that stayed full for `timeout` seconds), the next
        start goes by dirty.log and nothing is lost.
        """
        with contextlib.ExitStack() as parts:
            for close in (
                self._lock.release,
                self._dirty_log.close,
                self._pool.close,
                self._identities.close,
                self._lookups.close,
                self._index.close,
            ):
                parts.callback(close)
            clean = self.capture.drain(timeout)
            self.capture.stop()
            self.mirror.close()
            if not clean:
                return False
            try:
                syncfs_of(self.layout, self._rights)
                _mark(self.layout, clean=True)
                # It may still name what was announced and failed, which is nothing to look at.
                self._dirty_log.reset(self.working.unreadable)
            except (OSError, GhostError) as error:
                self._trouble = in_words(error)
                log.error("not_stopped_clean", session=self.layout.name, error=str(error))  # noqa: TRY400
                return False
        return True


def syncfs_of(layout: SessionLayout, rights: Rights) -> None:
    """Makes a session's tree durable, also where its owner may not read the root of it.

    Raises:
        OSError: it cannot be opened, or as syncfs(2).
    """
    try:
        fd = os.open(layout.tree, _FOLDER)
    except PermissionError:
        fd = _open_on_filesystem_of(layout, rights)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


def _open_on_filesystem_of(layout: SessionLayout, rights: Rights) -> int:
    """A descriptor of something on the filesystem of a tree whose root may not be read."""
    if os.stat(layout.tree).st_dev == os.stat(layout.staging).st_dev:
        return os.open(layout.staging, _FOLDER)
    root = os.open(layout.tree, os.O_PATH | _FOLDER)
    try:
        with rights.lent(root, stat.S_IRUSR):
            return os.open(layout.tree, _FOLDER)
    finally:
        os.close(root)


def _mark(layout: SessionLayout, *, clean: bool) -> None:
    """Notes durably whether the index is all there is to know."""
    with Index.open(layout.index_db, durable=True) as index, index.commit() as commit:
        commit.set_meta("clean", "1" if clean else "0")
        commit.set_meta("boot", boot_id())
        commit.set_meta("ids", id_maps())


def _open_recovered(
    layout: SessionLayout,
    root_fd: int,
    pool: HashPool,
    rights: Rights,
    progress: Callable[[int], None] | None,
    *,
    rescan: bool,
) -> tuple[Index, Recovery]:
    index = _open_index(layout)
    try:
        index.check_pages()
        ending = _ending(index, layout)
        if rescan and ending is not Ending.NO_INDEX:
            ending = Ending.RESCAN
        return index, _recover(index, layout, root_fd, pool, rights, ending, progress)
    except BaseException:
        index.close()
        raise


def _open_index(layout: SessionLayout) -> Index:
    try:
        return Index.open(layout.index_db)
    except FileNotFoundError:
        log.warning("index_missing", session=layout.name, path=str(layout.index_db))
        for suffix in ("-wal", "-shm"):
            # They belong to the index that is gone: SQLite would put their pages into the new one.
            layout.index_db.with_name(layout.index_db.name + suffix).unlink(missing_ok=True)
    return Index.create(layout.index_db)


def _set_aside(layout: SessionLayout, error: IndexDamaged) -> None:
    kept = set_aside(layout.index_db)
    log.warning("index_damaged", session=layout.name, error=str(error), kept=str(kept))


def _ending(index: Index, layout: SessionLayout) -> Ending:
    left = False
    try:
        left = bool(DirtyLog.entries(layout.dirty_log))
    except GhostError as error:
        layout.dirty_log.rename(layout.dirty_log.with_name(layout.dirty_log.name + ".damaged"))
        log.warning("dirty_log_damaged", session=layout.name, error=str(error))
    clean, boot = index.meta("clean"), index.meta("boot")
    if clean is None or index.head() == 0:
        return Ending.NO_INDEX
    if (boot == boot_id() or clean == "1") and index.meta("ids") not in (None, id_maps()):
        return Ending.RESCAN  # in another user namespace: the owners of all files are others
    if clean == "1":
        # What could not be read is still named, and perhaps can be now.
        return Ending.KILLED if left else Ending.CLEAN
    if boot != boot_id():
        return Ending.POWER_CUT
    return Ending.KILLED if layout.dirty_log.exists() else Ending.RESCAN


def _recover(
    index: Index,
    layout: SessionLayout,
    root_fd: int,
    pool: HashPool,
    rights: Rights,
    ending: Ending,
    progress: Callable[[int], None] | None,
) -> Recovery:
    if ending is Ending.CLEAN:
        return Recovery(ending)
    started = time.monotonic()
    distrust = index.committed_ns() - _WRITEBACK_NS if ending is Ending.POWER_CUT else None
    reconciler = Reconciler(
        index,
        root_fd,
        pool,
        distrust_since_ns=distrust,
        progress=progress,
        rights=rights,
    )
    entries = DirtyLog.entries(layout.dirty_log)
    if ending is Ending.KILLED:
        findings = reconciler.named(entries.dirents, sorted(entries.inodes))
    else:
        findings = reconciler.everything(entries.inodes)
    if ending is Ending.POWER_CUT:
        # The last commits may be lost, and their numbers known to nodes: none may be given twice.
        with index.commit() as commit:
            commit.new_epoch()
    apply(index, findings)
    with DirtyLog(layout.dirty_log) as dirty:
        dirty.reset(_unreadable(index, findings))
    recovery = _report(index, ending, findings, time.monotonic() - started)
    if ending is not Ending.NO_INDEX or findings.files_read:
        log.info(
            "recovered",
            session=layout.name,
            ending=ending.value,
            looked_at=recovery.looked_at,
            files_read=recovery.files_read,
            bytes_read=recovery.bytes_read,
            changed=recovery.changed,
            seconds=round(recovery.seconds, 3),
        )
    return recovery


def _unreadable(index: Index, findings: Findings) -> frozenset[InodeId]:
    inodes = {inode for inode in findings.unreadable.values() if inode is not None}
    return frozenset(inode for inode in inodes if index.inode_light(inode) is not None)


def _report(index: Index, ending: Ending, findings: Findings, seconds: float) -> Recovery:
    return Recovery(
        ending,
        looked_at=findings.looked_at,
        files_read=findings.files_read,
        bytes_read=findings.bytes_read,
        changed=len(findings.names) + len(findings.inodes),
        seconds=seconds,
        unreadable=_unreadable(index, findings),
    )
