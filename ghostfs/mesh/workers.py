"""Worker threads for what blocks: SQLite, files, hashing. The event loop itself never waits for a disk."""

from __future__ import annotations

__all__ = ["Workers", "dropped", "undisturbed"]

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A pool of named threads, of a fixed size."""

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._closed = False

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of the call, made in one of the threads.

        When the caller is cancelled, a call that has begun still runs to its end, unobserved: whoever
        shares state with it must guard that state.

        Raises:
            asyncio.CancelledError: the pool was closed; what is asked for now comes from a task that is
                about to end with the daemon.
        """
        if self._closed:
            raise asyncio.CancelledError
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: function(*args, **kwargs))

    async def run_to_end(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, but a cancelled caller leaves only after the call has ended."""
        return await undisturbed(self.run(function, *args, **kwargs))

    def close(self, *, wait: bool = True) -> None:
        """Take no more calls, and drop those that have not begun."""
        self._closed = True
        self._pool.shutdown(wait=wait, cancel_futures=True)


async def undisturbed(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns. A caller that is cancelled, be it more than once, leaves only after its end."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # seen, so that it is not reported as one that nobody looked at
    raise cancelled


async def dropped(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks and waits for their end. What they raise is nobody's concern any more."""
    for task in tasks:
        task.cancel()
    try:
        if tasks:
            await undisturbed(asyncio.wait(tasks))
    finally:
        for task in tasks:
            if not task.cancelled():
                task.exception()  # seen, as above
