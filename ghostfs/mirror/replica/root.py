"""The root of a replica's tree: is it the directory that it was, and does it still hold anything?

A directory that was exchanged, emptied or not mounted looks like one whose user has deleted everything. To
go on there could lose files, here or, once changes travel both ways, everywhere; so the replica halts.
"""

from __future__ import annotations

__all__ = ["Known", "Root", "open_index", "remember", "remembered", "strange"]

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import structlog

from ghostfs import private
from ghostfs.errors import IndexDamaged, NodeHalted
from ghostfs.index import Index, set_aside
from ghostfs.mirror import syscalls
from ghostfs.mirror.layout import SessionLayout
from ghostfs.mirror.replica.planlog import JOURNAL
from ghostfs.model import ROOT

log = structlog.get_logger(__name__)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_KEY = "replica.root"
_COPY = "replica.copy"
_ADOPTING = "replica.adopting"
_ASKED, _BEGUN, _DONE = "asked", "1", "0"
"""Of a root that was to be adopted: no snapshot of it has begun yet; it has; or none is needed any more."""


@dataclass(frozen=True, slots=True)
class Known:
    """Where a copy is, and whether it has the privileged modes of its cells; for whoever has only the index."""

    tree: Path
    staging: Path
    privileged: bool


def remember(index: Index, known: Known) -> None:
    """Notes it in the index, if it is news: a copy may have been moved since."""
    text = json.dumps([str(known.tree), str(known.staging), known.privileged])
    if index.meta(_COPY) != text:
        with index.adopt() as adopt:
            adopt.set_meta(_COPY, text)


def remembered(index: Index) -> Known | None:
    """What was noted when the copy was opened last; None if that was before such notes were made."""
    text = index.meta(_COPY)
    if text is None:
        return None
    tree, staging, privileged = json.loads(text)
    return Known(Path(tree), Path(staging), privileged)


def open_index(layout: SessionLayout, *, adopt: bool) -> tuple[Index, Root]:
    """The index and the root of a replica; both are made when there is no index yet.

    Raises:
        NodeHalted: the root is not what the index was made for, or holds files before the first sync.
        IndexTooNew, IndexDamaged: the index cannot be used.
    """
    if layout.index_db.exists():
        try:
            return _open_known(layout, adopt=adopt)
        except IndexDamaged as error:
            # The files are our own copies: they are compared with the hub's again, and nothing is overwritten.
            aside = set_aside(layout.index_db)
            log.warning("index_damaged", root=str(layout.tree), error=str(error), kept=str(aside))
            adopt = True
        except _Adopted as adopted:
            aside = set_aside(layout.index_db)
            log.warning("root_adopted", root=str(layout.tree), reason=str(adopted), old_index=str(aside))
    _set_plan_aside(layout)
    index = Index.create(layout.index_db, durable=True, holders=True)
    try:
        return index, Root.make(layout, index, adopt=adopt)
    except BaseException:
        index.close()
        raise


class _Adopted(Exception):
    """The root is not what the index was made for, and is to be taken as it is; the message says why."""


def _open_known(layout: SessionLayout, *, adopt: bool) -> tuple[Index, Root]:
    index = Index.open(layout.index_db, durable=True, holders=True)
    try:
        index.check_pages()
        if index.meta(_KEY) is None:
            # A crash came before the root was noted.
            return index, Root.make(layout, index, adopt=adopt)
        reason = strange(layout, index)
        if reason is None:
            if adopt:
                with index.adopt() as transaction:
                    transaction.set_meta(_ADOPTING, _ASKED)
            return index, Root(layout, index)
        _take_as_it_is(layout, reason, adopt=adopt)
    except BaseException:
        index.close()
        raise


def _take_as_it_is(layout: SessionLayout, reason: str, *, adopt: bool) -> NoReturn:
    _refuse(layout, reason, unless=adopt)
    raise _Adopted(reason)


def _set_plan_aside(layout: SessionLayout) -> None:
    """A plan belongs to the index it was made from; what it was moving may be a user's, and is kept."""
    if (layout.staging / JOURNAL).exists():
        utc = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        aside = layout.staging.with_name(f"{layout.staging.name}.aside-{utc}-{os.getpid()}")
        layout.staging.rename(aside)
        log.warning("plan_set_aside", root=str(layout.tree), kept=str(aside))


class Root:
    """The open root directory, and what the index remembers of it."""

    def __init__(self, layout: SessionLayout, index: Index) -> None:
        """For a root that is what it should be."""
        self._layout = layout
        self._said: set[str] = set()
        self.fd = os.open(layout.tree, _DIRECTORY)
        adoption = index.meta(_ADOPTING)
        self.adoption_waits = adoption == _ASKED
        self.adopting = adoption in (_ASKED, _BEGUN)
        self._filled = self.has_entries(index)

    @classmethod
    def make(cls, layout: SessionLayout, index: Index, *, adopt: bool) -> Root:
        """The root of a replica that has nothing yet.

        Raises:
            NodeHalted: it holds files, and `adopt` is not given.
        """
        # Above it the umask rules: copies are for everybody. Its own mode comes with the session's cells.
        layout.tree.parent.mkdir(parents=True, exist_ok=True)
        private.make_directory(layout.tree)
        holds_files = any(layout.tree.iterdir())
        if holds_files:
            _refuse(layout, "holds files before the first sync", unless=adopt)
        with index.adopt() as transaction:
            transaction.set_meta(_KEY, json.dumps(_identity(os.stat(layout.tree), os.statvfs(layout.tree))))
            transaction.set_meta(_ADOPTING, _BEGUN if holds_files else _DONE)
        return cls(layout, index)

    def check_filesystem(self, staging: int) -> None:
        """To be done once, before anything is published out of `staging`, a folder that may be written to.

        Without renames that never replace, and that exchange, a user's change could be overwritten unseen, or
        a name be missing for a moment; so there is no second way for filesystems that lack them.

        Raises:
            NodeHalted: the tree and its staging are on two filesystems, so nothing can be renamed between
                them; or on one that has no such renames.
        """
        if os.fstat(staging).st_dev != os.fstat(self.fd).st_dev:
            raise NodeHalted(
                f"{self._layout.tree} and {self._layout.staging} are on two filesystems: "
                "mount the filesystem above both"
            )
        if not syscalls.knows_rename_flags(staging):
            raise NodeHalted(
                f"{self._layout.tree} is on a filesystem that cannot rename without replacing, or exchange two "
                "names (NFS, 9p): keep copies on ext4, xfs, btrfs or tmpfs"
            )

    def check(self, index: Index) -> None:
        """To be done before every batch.

        Raises:
            NodeHalted: the root is another directory than before, or was emptied.
        """
        try:
            st = os.stat(self._layout.tree)
        except OSError:
            raise _halted(self._layout, "has vanished") from None
        mine = os.fstat(self.fd)
        if (st.st_ino, st.st_dev) != (mine.st_ino, mine.st_dev):
            raise _halted(self._layout, "is another directory than before")
        if self._filled and _is_empty(self._layout) and self.has_entries(index):
            raise _halted(self._layout, "was emptied")

    def has_entries(self, index: Index) -> bool:
        """Whether the session, as far as it is here, has any entries."""
        return bool(index.children(ROOT))

    def seen(self, index: Index) -> None:
        """A batch was published."""
        self._filled = self._filled or self.has_entries(index)

    def adoption_begins(self, index: Index) -> None:
        """The first chunk of a snapshot has come: it may go on where it is interrupted."""
        if self.adoption_waits:
            with index.adopt() as adopt:
                adopt.set_meta(_ADOPTING, _BEGUN)
            self.adoption_waits = False

    def adopted(self, index: Index) -> None:
        """A first sync is complete: what is not tracked now is the user's own."""
        if self.adopting:
            with index.adopt() as adopt:
                adopt.set_meta(_ADOPTING, _DONE)
            self.adopting = False

    def first_time(self, what: str) -> bool:
        """Whether this is asked for the first time since the replica was opened."""
        first = what not in self._said
        self._said.add(what)
        return first

    def close(self) -> None:
        """Closes the directory; a second time does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _identity(st: os.stat_result, vfs: os.statvfs_result) -> dict[str, int]:
    # A device number may change at a reboot, the id of a filesystem does not; some have no id.
    return {"ino": st.st_ino, "dev": st.st_dev, "fsid": vfs.f_fsid}


def strange(layout: SessionLayout, index: Index) -> str | None:
    """Why the root is not the one that the index was made for, as the end of a sentence; None if it is."""
    try:
        now = _identity(os.stat(layout.tree), os.statvfs(layout.tree))
    except OSError:
        return "has vanished"
    before: dict[str, Any] = json.loads(index.meta(_KEY) or "{}")
    if now["ino"] != before["ino"] or (now["dev"] != before["dev"] and now["fsid"] != before["fsid"]):
        return "is another directory than before"
    if index.children(ROOT) and _is_empty(layout):
        return "was emptied"
    return None


def _is_empty(layout: SessionLayout) -> bool:
    with os.scandir(layout.tree) as entries:
        return next(entries, None) is None


def _refuse(layout: SessionLayout, reason: str, *, unless: bool) -> None:
    if not unless:
        raise _halted(layout, reason)


def _halted(layout: SessionLayout, reason: str) -> NodeHalted:
    return NodeHalted(
        f"{layout.tree} {reason}: put it back (is its filesystem mounted?), or start the node with "
        "--adopt-root to take it as it is: what is missing is fetched again, and files that differ from the "
        "session's are kept beside them under conflict names"
    )
