"""Verifying a node's copy: all of it is read and hashed from scratch, and compared with the node's index.

Changes nothing and takes no lock: it may run beside the node. While a plan is carried out the tree is ahead of
the index, so whatever differs at the first look is looked at again, between two moments at which no plan is
under way (no journal is there) and the index says the same of it. What differs then does so by the hand of a
user, or of a failing disk.
"""

from __future__ import annotations

__all__ = ["CopyReport", "Difference", "verify"]

import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ghostfs.errors import DriftError, GhostError
from ghostfs.index import Index
from ghostfs.mirror.layout import SessionLayout
from ghostfs.mirror.owner import is_held
from ghostfs.mirror.replica import root
from ghostfs.mirror.replica.comparison import UNTRACKED, Comparison, Held, listed, open_file
from ghostfs.mirror.replica.conflict import look
from ghostfs.mirror.replica.planlog import JOURNAL
from ghostfs.mirror.replica.reach import Reach
from ghostfs.mirror.replica.steps import Place
from ghostfs.model import ROOT, Inode, InodeId, Kind, Seq
from ghostfs.names import display

Progress = Callable[[int, int], None]
"""progress(done, total): bytes."""

_TRIES = 5
"""How often a place is looked at, or a directory entered, that the node changes each time."""

_POLL = 0.02
_PATIENCE = 300.0
"""Seconds that one plan may take before verifying is given up."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which copy and index differ. `path` is relative to the copy, as `names.display`."""

    path: str
    what: str


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What was compared. `fingerprint` is the index's, `recomputed` the sum over its cells made anew.

    `head` is the hub's change that the copy has reached; None while a snapshot is half applied. `waiting`
    counts inodes whose newest version is not here yet, `untracked` are paths of users' own files.
    """

    session: str
    tree: Path
    head: Seq | None
    inodes: int
    bytes_read: int
    fingerprint: int
    recomputed: int
    changed_meanwhile: int
    waiting: int
    untracked: tuple[str, ...]
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        """Whether the copy holds what the index says; users' own files do not count."""
        return not self.differences and self.fingerprint == self.recomputed


def verify(name: str, state: Path, *, workers: int = 0, progress: Progress | None = None) -> CopyReport:
    """Compares a node's copy of session `name` with the index in `state`, content included.

    Raises:
        DriftError: the copy as a whole is not what the index was made for.
        IndexDamaged, IndexTooNew: the index cannot be read.
        GhostError: nobody has noted where the copy is, or the node would not come to rest.
        OSError: the copy cannot be read.
    """
    with Index.open(state / "index.db", readonly=True) as index:
        known = root.remembered(index)
        if known is None:
            raise GhostError(
                f"where the copy of session {name!r} is has not been noted yet: start its node, and verify again"
            )
        layout = SessionLayout(name, state, known.tree, known.staging)
        strange = root.strange(layout, index)
        if strange is not None:
            raise DriftError(f"the copy of session {name!r}: {layout.tree} {strange}")
        return _Verification(
            layout, index, privileged=known.privileged, workers=workers, progress=progress
        ).run()


class _File(NamedTuple):
    """One to be hashed; `fd` is closed when it is."""

    place: Place
    row: Inode
    st: os.stat_result
    fd: int


class _Verification:
    def __init__(
        self,
        layout: SessionLayout,
        index: Index,
        *,
        privileged: bool,
        workers: int,
        progress: Progress | None,
    ) -> None:
        self._layout = layout
        self._index = index
        self._privileged = privileged
        self._workers = workers or min(len(os.sched_getaffinity(0)), 8)
        self._progress = progress
        self._lock = threading.Lock()
        self._total = 0
        self._read = 0
        self._walked: set[InodeId] = set()
        self._suspects: dict[Place, InodeId | None] = {}
        self._entered: dict[InodeId, int] = {}
        self._changed = 0
        self._differences: list[Difference] = []
        self._untracked: list[str] = []

    def run(self) -> CopyReport:
        index = self._index
        counts = index.counts()
        self._total = counts.bytes
        with ExitStack() as opened:
            tree, held = (
                os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                for path in (self._layout.tree, self._layout.staging / "held")
            )
            opened.callback(os.close, tree)
            opened.callback(os.close, held)
            reach = Reach(tree, held, index)
            opened.callback(reach.close)
            comparison = Comparison(index, reach, privileged=self._privileged, progress=self._advance)
            if self._journal() is not None and not is_held(self._layout.owner_lock):
                self._differences.append(
                    Difference(".", "a change was interrupted: the node finishes it when it goes on")
                )
            tops = [ROOT]
            while tops:
                self._walk(tops, comparison)
                tops = list(self._look_again(comparison))
        before = index.state()
        recomputed = index.recomputed_fingerprint()
        after = index.state()
        if after != before:
            recomputed = after.fingerprint  # two reads of a moving index cannot be compared
        cursor = index.cursor()
        return CopyReport(
            session=self._layout.name,
            tree=self._layout.tree,
            head=None if cursor is None else cursor.seq,
            inodes=counts.inodes,
            bytes_read=self._read,
            fingerprint=after.fingerprint,
            recomputed=recomputed,
            changed_meanwhile=self._changed,
            waiting=len(index.parked()),
            untracked=tuple(sorted(self._untracked)),
            differences=tuple(self._differences),
        )

    # The first look.

    def _walk(self, tops: list[InodeId], comparison: Comparison) -> None:
        """Looks at all that is below some directories, files hashed by a pool; what differs is suspect."""
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="verify")
        window: deque[tuple[_File, Future[Held | None]]] = deque()

        def take() -> None:
            file, future = window.popleft()
            held = future.result()
            if held is None or comparison.content(file.row, file.st, held) is not None:
                self._suspects[file.place] = file.row.id

        try:
            for file in self._files(tops, comparison):
                window.append((file, pool.submit(_look_and_close, comparison, file)))
                if len(window) >= 4 * self._workers:
                    take()
            while window:
                take()
        finally:
            pool.shutdown(wait=True)  # each job closes its file

    def _files(self, tops: list[InodeId], comparison: Comparison) -> Iterator[_File]:
        """Each file that is right at a glance, open; all else is compared on the way."""
        queue = deque(tops)
        while queue:
            directory = queue.popleft()
            if directory in self._walked or self._entered.get(directory, 0) >= _TRIES:
                continue
            self._entered[directory] = self._entered.get(directory, 0) + 1
            try:
                names = set(listed(comparison.reach.fd(directory)))
            except OSError:
                self._suspects.update((Place(*link), directory) for link in self._index.links(directory))
                continue
            self._walked.add(directory)
            for name, inode in self._index.children(directory):
                names.discard(name)
                place = Place(directory, name)
                try:
                    file = self._glance(comparison, place, inode, queue)
                except OSError:
                    self._suspects[place] = inode
                else:
                    if file is not None:
                        yield file
            self._suspects.update((Place(directory, name), None) for name in sorted(names))

    def _glance(
        self, comparison: Comparison, place: Place, inode: InodeId, queue: deque[InodeId]
    ) -> _File | None:
        row = self._index.inode_light(inode)
        directory = comparison.reach.fd(place.parent)
        st = look(directory, place.name)
        if row is None or st is None:
            self._suspects[place] = inode
            return None
        if comparison.glance(row, directory, place.name, st) is not None:
            self._suspects[place] = inode
        elif row.kind is Kind.FILE:
            return _File(place, row, st, open_file(directory, place.name))
        if row.kind is Kind.DIRECTORY and stat.S_ISDIR(st.st_mode):
            queue.append(inode)
        return None

    # The second look.

    def _look_again(self, comparison: Comparison) -> Iterator[InodeId]:
        """Judges the suspects; gives the directories among them that are somewhere else by now."""
        suspects = list(self._suspects.items())
        self._suspects.clear()
        for place, inode in suspects:
            wrong = self._judge(comparison, place)
            if wrong is None:
                self._changed += 1
                row = None if inode is None else self._index.inode_light(inode)
                if row is not None and row.kind is Kind.DIRECTORY and row.id not in self._walked:
                    yield row.id
            elif wrong == UNTRACKED:
                self._untracked.append(self._path(comparison, place))
            else:
                self._differences.append(Difference(self._path(comparison, place), wrong))

    def _path(self, comparison: Comparison, place: Place) -> str:
        try:
            return display(comparison.reach.path(place))
        except FileNotFoundError:  # removed since
            return display(place.name)

    def _judge(self, comparison: Comparison, place: Place) -> str | None:
        """What is wrong with a place while nobody changes it; None also if the node does so each time."""
        for _ in range(_TRIES):
            self._wait_for_rest()
            before = comparison.facts(place)
            comparison.reach.begin()
            wrong = comparison.judge(place)
            if wrong is None:
                return None
            self._wait_for_rest()
            if comparison.facts(place) == before:
                return wrong
        return None

    def _wait_for_rest(self) -> None:
        """Returns when no plan is under way, or nobody is there to carry it out."""
        since, seen = time.monotonic(), self._journal()
        while (now := self._journal()) is not None and is_held(self._layout.owner_lock):
            if now != seen:
                since, seen = time.monotonic(), now
            elif time.monotonic() - since > _PATIENCE:
                raise GhostError(
                    f"the node has been publishing in {self._layout.tree} for minutes: verify again later"
                )
            time.sleep(_POLL)

    def _journal(self) -> tuple[int, int] | None:
        try:
            st = (self._layout.staging / JOURNAL).stat()
        except FileNotFoundError:
            return None
        return st.st_ino, st.st_mtime_ns

    def _advance(self, count: int) -> None:
        with self._lock:
            self._read += count
            if self._progress is not None:
                self._progress(self._read, max(self._total, self._read))


def _look_and_close(comparison: Comparison, file: _File) -> Held | None:
    try:
        return comparison.held(file.row, file.fd)
    except OSError:
        return None
    finally:
        os.close(file.fd)
