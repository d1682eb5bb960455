"""The capture thread: carries what changed from the working set into the index, a group at a time.

One thread a mirror. It sleeps until something is ready, commits all that is, and tells whoever listens
the new head. Under load, what arrives while it commits and rests becomes the next group.
"""

from __future__ import annotations

__all__ = ["Capture", "CaptureStats"]

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from ghostfs.content import EMPTY
from ghostfs.errors import GhostError, in_words
from ghostfs.index import Index, InodePut, RefusedCell, State
from ghostfs.mirror.live.cells import cell_of
from ghostfs.mirror.live.gather import Gatherer
from ghostfs.mirror.live.gathered import Gathered, Sealed
from ghostfs.mirror.live.identities import Identities
from ghostfs.model import Kind
from ghostfs.names import display

_RETRY_AFTER = 1.0
"""Seconds before a commit that failed (a full disk, say) is tried again."""

_SHARE = 8
"""How many times as long as the last commit took the thread rests while changes go on and on: it takes the lock of the
interpreter from those who make them, and one large group costs less than many small ones."""

_LONGEST_REST = 16
"""The longest rest, in commit intervals: what is closed while changes go on is not seen elsewhere before."""

_TIDY_EVERY = 600.0

_CHECKPOINT_AFTER = 2.0
"""Seconds without a commit after which the index's write-ahead log is carried over: it syncs, which those
who write would feel."""

log = structlog.get_logger(__name__)

Listener = Callable[[State], None]


@dataclass(slots=True)
class CaptureStats:
    """Counted since the mirror was opened."""

    commits: int = 0
    cells: int = 0
    failures: int = 0
    refused: int = 0
    """Inodes that were left out of a commit, for the index would not have them."""
    bytes_hashed: int = 0
    """Bytes that went through a hash function, those read back included."""
    bytes_reread: int = 0
    """Bytes read back at settles."""


class Capture:
    """Runs the capture thread of one mirror."""

    def __init__(
        self,
        index: Index,
        gatherer: Gatherer,
        work: threading.Event,
        identities: Identities,
        *,
        commit_interval: float,
        tidy: Callable[[], object] | None = None,
    ) -> None:
        """`index` is the writer's connection, used by this object's thread alone from `start` to `stop`.
        `commit_interval` is in seconds: after a commit, the next one starts once nothing has changed for so long,
        or when the thread has rested in proportion to its work (`_SHARE`, `_LONGEST_REST`). `tidy` is called
        in the thread, between commits: first of all, and then once in `_TIDY_EVERY` seconds."""
        self.stats = CaptureStats()
        self.listeners: list[Listener] = []
        """Called from the capture thread with the state after each commit; must not block."""
        self._index = index
        self._gatherer = gatherer
        self._work = work
        self._identities = identities
        self._interval = commit_interval
        self._tidy = tidy
        self._tidy_at = float("-inf")
        self._checkpoint_at: float | None = None
        self._stopping = threading.Event()
        self._stopped = False
        self._drain_wanted: list[threading.Event] = []
        self._abandoned: set[threading.Event] = set()
        """Drains that will never succeed: the thread has ended."""
        self._drain_lock = threading.Lock()
        self._trouble: str | None = None
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def drain(self, timeout: float | None = None) -> bool:
        """Settles and commits everything that has changed so far, open files too.

        Returns False if that did not succeed within `timeout` seconds (the disk may be full), or before the
        thread was stopped; what is missing stays in dirty.log and in memory.
        """
        done = threading.Event()
        with self._drain_lock:
            if self._stopped:
                return False
            self._drain_wanted.append(done)
        self._work.set()
        return done.wait(timeout) and done not in self._abandoned

    def stop(self) -> None:
        """Ends the thread after the commit it is at; drain first. Whoever still waits for a drain waits no more."""
        self._stopping.set()
        self._work.set()
        self._thread.join()
        with self._drain_lock:
            self._stopped = True
            left, self._drain_wanted = self._drain_wanted, []
            self._abandoned.update(left)
        for done in left:
            done.set()

    @property
    def trouble(self) -> str | None:
        """Why the last commit failed; `None` when it did not."""
        return self._trouble

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._keep_tidy()
                rest = self._step()
            except Exception as error:
                self._failed(error)
                log.exception("capture_failed")
            if self._trouble is not None:
                self._stopping.wait(_RETRY_AFTER)
            elif rest:
                self._rest(rest)
            # `stop` says so before it sets `work`, and `_step` clears that before it works: no call is missed.
            if self._stopping.is_set():
                return
            self._work.wait(self._patience())

    def _patience(self) -> float | None:
        """How long to wait for work, in seconds; None is until there is some."""
        due = self._gatherer.next_due()
        tidy_at = None if self._tidy is None else self._tidy_at
        moments = [at for at in (due, tidy_at, self._checkpoint_at) if at is not None]
        return max(min(moments) - time.monotonic(), 0.0) if moments else None

    def _keep_tidy(self) -> None:
        now = time.monotonic()
        if self._tidy is not None and now >= self._tidy_at:
            self._tidy_at = now + _TIDY_EVERY
            self._tidy()
        if self._checkpoint_at is not None and now >= self._checkpoint_at:
            self._checkpoint_at = None
            try:
                self._index.checkpoint()
            except (OSError, GhostError) as error:
                log.warning("checkpoint_failed", error=str(error))  # the next commit asks for another

    def _step(self) -> float:
        """One commit, if there is something; how long to rest after it at the most, in seconds."""
        self._work.clear()
        with self._drain_lock:
            drains, self._drain_wanted = self._drain_wanted, []
        began = time.monotonic()
        drained = False
        cells = 0
        try:
            gathered = self._gatherer.gather(everything=bool(drains))
            if not gathered.empty:
                cells = self._carry(gathered)
            else:
                self._gatherer.nothing_changed()
            if gathered.trouble is not None:
                raise gathered.trouble
            self._trouble = None
            drained = gathered.returned == 0
        except (OSError, GhostError) as error:
            self._failed(error)
            return 0.0
        finally:
            if drained:
                for done in drains:
                    done.set()
            elif drains:
                with self._drain_lock:
                    self._drain_wanted[:0] = drains
                self._work.set()
        if not (cells or gathered.returned):
            return 0.0
        worked = time.monotonic() - began
        return min(max(_SHARE * worked, self._interval), _LONGEST_REST * self._interval)

    def _rest(self, longest: float) -> None:
        """Returns when nothing has changed for a commit interval, after `longest` seconds, or for a drain."""
        until = time.monotonic() + longest
        changed = False
        while not self._drain_wanted:
            if self._work.is_set():
                changed = True
                self._work.clear()
            left = until - time.monotonic()
            if self._stopping.wait(min(self._interval, max(left, 0.0))):
                break
            if left <= self._interval or not self._work.is_set():
                break
        if changed:
            self._work.set()

    def _failed(self, error: Exception) -> None:
        self.stats.failures += 1
        trouble = in_words(error)
        if self._trouble != trouble:
            log.error("commit_failed", error=trouble, retry_after_s=_RETRY_AFTER)
        self._trouble = trouble

    def _carry(self, gathered: Gathered) -> int:
        """Into the index with it, or all back into the working set; the number of cells."""
        try:
            self._gatherer.hash_changes(gathered)
            self._gatherer.seal(gathered)
            cells = len(gathered.sealed) + sum(map(len, gathered.names.values()))
            if cells:
                self._commit_what_fits(gathered)
        except BaseException:
            self._gatherer.give_back(gathered)
            raise
        self._gatherer.committed(gathered)
        self.stats.bytes_hashed += gathered.bytes_hashed
        self.stats.bytes_reread += gathered.bytes_reread
        if cells:
            self._checkpoint_at = time.monotonic() + _CHECKPOINT_AFTER
            self.stats.commits += 1
            self.stats.cells += cells
            self._tell(self._index.state())
            self._identities.top_up()
        return cells

    def _tell(self, state: State) -> None:
        for listener in self.listeners:
            try:
                listener(state)
            except Exception:
                log.exception("listener_failed")

    def _commit_what_fits(self, gathered: Gathered) -> None:
        """One cell that the index refuses must not keep all others from it: the commit is made without it."""
        while True:
            try:
                self._commit(gathered)
            except RefusedCell as refusal:
                sealed = next(sealed for sealed in gathered.sealed if sealed.record.id == refusal.inode)
                self.stats.refused += 1
                name = display(sealed.record.name)
                log.error("cell_refused", inode=refusal.inode, name=name, error=str(refusal))  # noqa: TRY400
                self._gatherer.leave_out(gathered, sealed)
            else:
                return

    def _commit(self, gathered: Gathered) -> None:
        names = [
            (parent, name, child)
            for parent, siblings in gathered.names.items()
            for name, child in siblings.items()
        ]
        moved = {child for _, _, child in names} - {None}
        inodes = [put for sealed in gathered.sealed if (put := self._put_of(sealed)) is not None]
        # The file that is at a held place now has to wait; what was there and moved must not be in two places.
        left = [
            (parent, name, None)
            for parent, name in gathered.held
            if self._index.dirent(parent, name) in moved
        ]
        gathered.dirents = left + names
        with self._index.commit() as commit:
            commit.put(inodes, gathered.dirents)
            commit.drop_orphans()

    def _put_of(self, sealed: Sealed) -> InodePut | None:
        record = sealed.record
        fresh = not record.in_index
        blocks = EMPTY if sealed.blocks is None and fresh else sealed.blocks
        is_file = record.kind is Kind.FILE
        cell = cell_of(
            record.id,
            sealed.st,
            target=sealed.target,
            xattrs=sealed.xattrs,
            blocks=blocks if is_file else None,
            kind=record.kind,
        )
        if not is_file or (blocks is None and not record.content_dirty):
            return InodePut(cell, attrs=True, content=False, fresh=fresh)
        if blocks is not None:
            return InodePut(cell, attrs=True, content=True, fresh=fresh)
        old = self._index.inode_light(record.id)
        if old is None:
            return None
        # The content that the index has is older than these times; whoever compares must see that.
        return InodePut(
            replace(cell, mtime_ns=old.mtime_ns, backing=old.backing), attrs=True, content=False
        )
