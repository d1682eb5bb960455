"""Read-only connections to one session's index, for any thread, one at a time each."""

from __future__ import annotations

__all__ = ["IndexPool"]

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ghostfs.errors import SessionNotFound
from ghostfs.index import Index

_IDLE_MAX = 4


class IndexPool:
    """Opens connections when they are needed and keeps a few. Thread-safe.

    An index that was replaced by another file (rebuilt, or the session made anew) is noticed at the next
    use: connections to the old file are closed, never handed out again.
    """

    def __init__(self, path: Path, session: str) -> None:
        self.path = path
        self._session = session
        self._lock = threading.Lock()
        self._idle: list[tuple[tuple[int, int], Index]] = []
        self._closed = False

    @contextmanager
    def use(self) -> Iterator[Index]:
        """A connection of one's own for the time of the block.

        Raises:
            SessionNotFound: there is no index.
            IndexTooNew, IndexDamaged: it cannot be read.
        """
        identity = self.identity()
        index = self._take(identity)
        try:
            yield index
        except BaseException:
            index.close()
            raise
        with self._lock:
            if not self._closed and len(self._idle) < _IDLE_MAX:
                self._idle.append((identity, index))
                return
        index.close()

    def close(self) -> None:
        """Close what is idle; connections in use are closed when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, index in idle:
            index.close()

    def identity(self) -> tuple[int, int]:
        """Which file the index is: another one after it was rebuilt, restored, or the session made anew.

        Raises:
            SessionNotFound: there is no index.
        """
        try:
            status = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise SessionNotFound(f"session {self._session} has no index here") from None
        return status.st_dev, status.st_ino

    def _take(self, identity: tuple[int, int]) -> Index:
        stale = []
        found = None
        with self._lock:
            while self._idle and found is None:
                key, index = self._idle.pop()
                if key == identity:
                    found = index
                else:
                    stale.append(index)
        for index in stale:
            index.close()
        if found is not None:
            return found
        try:
            return Index.open(self.path, readonly=True)
        except FileNotFoundError:
            raise SessionNotFound(f"session {self._session} has no index here") from None
