"""The hashing pool: files are read and hashed by as many threads as a setting says.

xxh3-128 and `pread` let go of Python's lock, so threads read in parallel. How many are worth it depends
on where the tree lies: see `hash_workers` in `docs/settings.md`.
"""

from __future__ import annotations

__all__ = ["HashPool", "hash_file"]

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ghostfs.content import BlockList, scan
from ghostfs.mirror.syscalls import data_ranges, pread_exactly

Item = TypeVar("Item")
Result = TypeVar("Result")


def hash_file(fd: int, size: int, progress: Callable[[int], None] | None = None) -> BlockList:
    """The block list of an open file of `size` bytes; holes are not read. `progress` gets bytes read.

    Raises:
        Superseded: the file is shorter than `size`.
    """

    def reader(offset: int, length: int) -> bytes:
        data = pread_exactly(fd, length, offset)
        if progress is not None:
            progress(len(data))
        return data

    return scan(reader, size, data_ranges(fd, size))


class HashPool:
    """Worker threads with a bounded queue; `map` keeps order, and at most a few items a worker in flight."""

    def __init__(self, workers: int) -> None:
        """`workers` 0 means one for each processor this process may run on, 8 at the most."""
        self.workers = workers or min(len(os.sched_getaffinity(0)), 8)
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`function` of each item, in order; items are taken only as fast as results are."""
        window: list[Future[Result]] = []
        try:
            for item in items:
                window.append(self._executor().submit(function, item))
                if len(window) >= 4 * self.workers:
                    yield window.pop(0).result()
            while window:
                yield window.pop(0).result()
        finally:
            for future in window:
                future.cancel()

    def _executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="hash")
            return self._pool

    def close(self) -> None:
        """Ends the threads."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=True, cancel_futures=True)
                self._pool = None
