"""The head of each session: who is told of a new one, and how soon.

A mounted session's owner pushes every new head over its control socket, which takes well under a
millisecond. Beside that the index is polled: twice a second while nobody pushes, seldom otherwise, so
that a push that was missed costs a moment and not an update.
"""

from __future__ import annotations

__all__ = ["POLL_SECONDS", "Head", "HeadWatch"]

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from ghostfs.errors import GhostError, PeerError, SessionNotFound
from ghostfs.mesh.indexpool import IndexPool
from ghostfs.mesh.owner import heads
from ghostfs.mesh.workers import Workers

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.5
_POLL_SUBSCRIBED_SECONDS = 5.0
_SETTLING_SECONDS = 2.0
"""For this long after a subscription begins or ends the index is polled at the short interval: a commit
may fall between the poll and the moment the owner knows of the subscription."""

_RETRY_SECONDS = 0.25
_HISTORY_MAX = 4096


@dataclass(frozen=True, slots=True)
class Head:
    """A session's epoch and the sequence of its last change."""

    epoch: int
    seq: int


class HeadWatch:
    """Watches one session. Belongs to the event loop."""

    def __init__(
        self,
        session: str,
        control_socket: Path,
        indexes: IndexPool,
        workers: Workers,
        *,
        on_gone: Callable[[], None] = lambda: None,
        on_taken_back: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_gone` is called whenever the session is found to have no index, `on_taken_back` when its head is
        lower than it was: an older index was put in its place."""
        self.session = session
        self.head: Head | None = None
        """None until the index was read, and when there is none."""
        self.problem: Exception | None = None
        """Why the index cannot be read."""
        self.subscribed = False
        self._socket = control_socket
        self._indexes = indexes
        self._workers = workers
        self._on_gone = on_gone
        self._on_taken_back = on_taken_back
        self._listeners: set[asyncio.Event] = set()
        self._history: deque[tuple[int, int]] = deque()
        self._kick = asyncio.Event()
        self._changed_at = time.monotonic()
        self._looked = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._poll(), name=f"poll {session}"),
            asyncio.create_task(self._listen(), name=f"listen {session}"),
        ]

    async def close(self) -> None:
        """Stop watching."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def ready(self) -> None:
        """Returns once the index has been looked at for the first time."""
        await self._looked.wait()

    @contextmanager
    def listening(self) -> Iterator[asyncio.Event]:
        """An event that is set at every change; whoever waits for it clears it before looking at `head`."""
        event = asyncio.Event()
        self._listeners.add(event)
        try:
            yield event
        finally:
            self._listeners.discard(event)

    def waiting_since(self, seq: int) -> int:
        """When the first change above `seq` was seen, in ns since 1970; 0 when there is none."""
        return next((seen for head, seen in self._history if head > seq), 0)

    def observe(self, head: Head, seen_ns: int) -> None:
        """Take note of a head that was seen; one that is older than what is known changes nothing."""
        known = self.head
        if known is not None and known.epoch == head.epoch and known.seq >= head.seq:
            return
        if known is None or known.epoch != head.epoch:
            self._history.clear()
        self.head = head
        self._history.append((head.seq, seen_ns))
        if len(self._history) > _HISTORY_MAX:
            # Thinned out, not cut off: the oldest entry is what the longest lag is measured from.
            self._history = deque(list(self._history)[::2])
        self._wake()

    async def _listen(self) -> None:
        while True:
            with suppress(PeerError):
                async for epoch, seq in heads(self._socket):
                    if not self.subscribed:
                        self._subscription(began=True)
                    self.observe(Head(epoch, seq), time.time_ns())
            if self.subscribed:
                self._subscription(began=False)
            await asyncio.sleep(_RETRY_SECONDS)

    def _subscription(self, *, began: bool) -> None:
        self.subscribed = began
        self._changed_at = time.monotonic()
        self._kick.set()
        log.debug("owner_answers" if began else "owner_left", session=self.session)

    async def _poll(self) -> None:
        while True:
            self._kick.clear()
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - logged whole; whoever follows the session waits for the next look
                self._trouble(error)
            self._looked.set()
            settled = time.monotonic() - self._changed_at > _SETTLING_SECONDS
            wait = _POLL_SUBSCRIBED_SECONDS if self.subscribed and settled else POLL_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._kick.wait()

    async def look(self) -> None:
        """Read the index now. What it says counts, also if it is less than what was known."""
        before = self.head
        try:
            found = await self._workers.run(self._read)
        except SessionNotFound as error:
            self.head = None
            self._trouble(error)
            self._on_gone()
        except (GhostError, OSError) as error:
            self._trouble(error)
        else:
            self.problem = None
            head = found[0]
            if before is not None and before.epoch == head.epoch and before.seq > head.seq:
                # Whatever was known before the read began was in that index.
                log.warning("history_taken_back", session=self.session, was=before.seq, head=head.seq)
                self.head = None
                self._on_taken_back()
            self.observe(*found)

    def _read(self) -> tuple[Head, int]:
        with self._indexes.use() as index:
            state = index.state()
        return Head(state.epoch, state.head), state.committed_ns

    def _trouble(self, error: Exception) -> None:
        if str(error) != str(self.problem) and not isinstance(error, SessionNotFound):
            trace = None if isinstance(error, GhostError | OSError) else error
            log.error("index_unreadable", session=self.session, error=str(error), exc_info=trace)
        self.problem = error
        self._wake()

    def _wake(self) -> None:
        for event in self._listeners:
            event.set()
