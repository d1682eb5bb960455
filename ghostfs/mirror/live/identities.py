"""A stock of inode ids, so that making a file waits for no database."""

from __future__ import annotations

__all__ = ["Identities"]

import threading
from collections import deque

from ghostfs.index import Index
from ghostfs.model import InodeId

_RESERVE = 65536
_LOW = 16384


class Identities:
    """Ids reserved durably in runs; what is left of a run at a crash is never used.

    `take` is for the threads that hold the mirror's lock, `top_up` for the one that commits.
    """

    def __init__(self, index: Index) -> None:
        """`index` is a connection of this object's own: ids are reserved while others are in the middle of
        a commit."""
        self._index = index
        self._lock = threading.Lock()
        self._stock: deque[range] = deque()
        self._next = 0
        self._end = 0
        self.top_up()

    def take(self) -> InodeId:
        """An id never used before.

        Raises:
            IndexDamaged: none could be reserved.
        """
        if self._next == self._end:
            self._open_run()
        inode = InodeId(self._next)
        self._next += 1
        return inode

    def top_up(self) -> None:
        """Reserves more if few are left. Called between commits by the thread that commits."""
        with self._lock:
            if not self._stock and self._end - self._next < _LOW:
                self._reserve()

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._index.close()

    def _open_run(self) -> None:
        with self._lock:
            if not self._stock:
                self._reserve()
            run = self._stock.popleft()
            self._next, self._end = run.start, run.stop

    def _reserve(self) -> None:
        run = self._index.allocate_ids(_RESERVE)
        self._stock.append(range(run.start, run.stop))
