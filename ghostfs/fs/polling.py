"""Not sleeping between the requests of a busy client.

A synchronous client sends its next request some 10 µs after the answer to the last one, and most of what
a request costs is going to sleep and waking up for that. pyfuse3 looks up its event loop as the module
global `pyfuse3.trio`, which is how it supports asyncio; `install` puts an adapter there which delegates
to trio, except that waiting for the next request asks poll(2) for a while before it sleeps.

Polling is worth it only while it succeeds, so the window opens and closes as in the kernel's own polling
for virtual machines (KVM's halt_poll_ns): it opens once sleeps turn out to have been short, and closes
when polls miss. An idle mount sleeps. While requests follow each other, other processors are kept awake, too
(`wakefulness`).
"""

from __future__ import annotations

__all__ = ["PollingTrio", "Window", "install"]

import os
import select
import time
from collections import deque
from types import TracebackType
from typing import Any, Final

import pyfuse3
import trio

from ghostfs.fs.handshake import Handshake
from ghostfs.fs.wakefulness import Wakefulness

_WAKE_NS: Final = 60_000
"""What sleeping and waking up cost: a wait this much longer than the window would have been a hit."""
_SHORT_SLEEPS: Final = 2
"""Short sleeps in a row that open the window."""
_MISSES: Final = 3
"""Misses in a row that close it."""
_MAX_BACKOFF: Final = 256
"""Most short sleeps that are asked for after the window has closed again and again."""
_YIELD_EVERY: Final = 128
"""Requests after which other tasks get their turn: some 3 ms of a busy mount."""
_PAUSE_NS: Final = 1_000_000
"""A client that lets this much time pass is not busy."""
_BUSY: Final = 32
"""Requests without such a pause from which a client is."""


class Window:
    """How long to poll, in nanoseconds; learns from how waiting went. Pure."""

    def __init__(self, longest_ns: int) -> None:
        self.longest_ns = longest_ns
        self.ns = 0
        self._short_sleeps = 0
        self._wanted = _SHORT_SLEEPS
        self._misses = 0
        self._hits = 0

    def hit(self, waited_ns: int) -> None:
        """A request came while polling."""
        if waited_ns > 4 * self.longest_ns:
            self.missed()  # we lost the core meanwhile: there is none to spare
            return
        self._misses = 0
        self._hits += 1
        if self._hits >= _YIELD_EVERY:
            self._wanted = _SHORT_SLEEPS

    def missed(self) -> None:
        """The window passed without a request."""
        self._hits = 0
        self._misses += 1
        if self._misses >= _MISSES:
            self.ns = 0
            self._misses = self._short_sleeps = 0
            self._wanted = min(self._wanted * 2, _MAX_BACKOFF)

    def slept(self, ns: int) -> None:
        """A sleep ended with a request."""
        if ns > self.longest_ns + _WAKE_NS:
            self._short_sleeps = 0
            if ns > 100 * _WAKE_NS:
                self._wanted = _SHORT_SLEEPS  # idle: what was learnt is of another client
            return
        self._short_sleeps += 1
        if self._short_sleeps >= self._wanted:
            self.ns = self.longest_ns


class _Lock:
    """A mutex that a task which lets go of it may take again at once, without a turn of the loop.

    trio's own hands over in order, which would switch tasks at every request. A task that waits here is
    woken at each release, and takes the lock if whoever released it has gone to wait for something else.
    """

    def __init__(self) -> None:
        self._held = False
        self._parked: deque[trio.lowlevel.Task] = deque()

    async def __aenter__(self) -> None:
        while self._held:
            await self._park()
        self._held = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held = False
        if self._parked:
            trio.lowlevel.reschedule(self._parked.popleft())

    async def _park(self) -> None:
        task = trio.lowlevel.current_task()
        self._parked.append(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._parked.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)


class PollingTrio:
    """What pyfuse3 uses of the module `trio`, with a `wait_readable` that polls first."""

    ClosedResourceError = trio.ClosedResourceError
    Lock = _Lock
    open_nursery = staticmethod(trio.open_nursery)
    from_thread = trio.from_thread

    def __init__(
        self, longest_us: int, wakefulness: Wakefulness | None = None, *, greets: bool = False
    ) -> None:
        """`greets`: the first request is the kernel's greeting, and the second call says that it was answered."""
        self.window = Window(longest_us * 1000)
        self.polls_hit = 0
        self.requests = 0
        """How many were waited for."""
        self.elsewhere = 0
        """Tasks that wait for threads: it sleeps at once then, for polling would not hear that they are done."""
        self.wakefulness = wakefulness or Wakefulness(None)
        self._yield_at = _YIELD_EVERY
        self._paused_at = 0
        self._greets = greets
        self._handshake: Handshake | None = None
        self._polls: dict[int, Any] = {}
        self.lowlevel = self

    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)

    def notify_closing(self, fd: int) -> None:
        """As trio's."""
        self._polls.pop(fd, None)
        if self._handshake is not None:
            self._handshake.abandon()
            self._handshake = None
        trio.lowlevel.notify_closing(fd)

    async def wait_readable(self, fd: int) -> None:
        """As trio's, but a checkpoint only when it sleeps, and every `_YIELD_EVERY` calls."""
        if self._greets:
            self._greets = False
            self._handshake = await Handshake.begin(fd)
            return
        if self._handshake is not None:
            handshake, self._handshake = self._handshake, None
            handshake.finish()
        self.requests += 1
        if self.requests >= self._yield_at:
            self._yield_at = self.requests + _YIELD_EVERY
            self._perhaps_busy()
            await trio.lowlevel.checkpoint()
        poll = self._polls.get(fd) or self._register(fd)
        if poll(0):
            self.polls_hit += 1
            return
        window = self.window
        clock = time.monotonic_ns
        start = clock()
        if window.ns and not self.elsewhere:
            deadline = start + window.ns
            while True:
                if poll(0):
                    self.polls_hit += 1
                    window.hit(clock() - start)
                    return
                if clock() >= deadline:
                    break
            window.missed()
        await trio.lowlevel.wait_readable(fd)
        slept = clock() - start
        window.slept(slept)
        self._yield_at = self.requests + _YIELD_EVERY
        if slept > _PAUSE_NS:
            self._paused_at = self.requests
        else:
            self._perhaps_busy()

    def _perhaps_busy(self) -> None:
        wakefulness = self.wakefulness
        if self.requests - self._paused_at >= _BUSY and wakefulness.possible and not wakefulness.held:
            wakefulness.hold()
            trio.lowlevel.spawn_system_task(self._until_paused)

    async def _until_paused(self) -> None:
        try:
            seen = -1
            while seen != self.requests:
                seen = self.requests
                await trio.sleep(_PAUSE_NS / 1e9)
        finally:
            self.wakefulness.let_go()

    def _register(self, fd: int) -> Any:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        self._polls[fd] = poller.poll
        return poller.poll


def install(longest_us: int, awake_cpus: int = 0) -> PollingTrio:
    """Makes pyfuse3 poll for up to `longest_us` microseconds before it sleeps; call before `pyfuse3.init`.

    On a machine of at most `awake_cpus` processors, none sleeps while a client is busy. With one processor there is
    neither: the client needs it.
    """
    if len(os.sched_getaffinity(0)) == 1:
        longest_us = 0
    adapter = PollingTrio(longest_us, Wakefulness.open(awake_cpus if longest_us else 0), greets=True)
    pyfuse3.trio = adapter  # type: ignore[attr-defined]
    return adapter
