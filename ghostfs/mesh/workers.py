"""Worker threads for what blocks: SQLite, files, hashing. The event loop itself never waits for a disk."""

from __future__ import annotations

__all__ = ["Workers"]

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A pool of named threads, of a fixed size."""

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of the call, made in one of the threads.

        When the caller is cancelled, a call that has begun still runs to its end, unobserved: whoever
        shares state with it must guard that state.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: function(*args, **kwargs))

    async def run_to_end(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, but a cancelled caller leaves only after the call has ended."""
        call = asyncio.ensure_future(self.run(function, *args, **kwargs))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait([call])
            raise

    def close(self, *, wait: bool = True) -> None:
        """Take no more calls, and drop those that have not begun."""
        self._pool.shutdown(wait=wait, cancel_futures=True)
