"""What of a session its hub may not or cannot read: said once each, and not at every try of every node."""

from __future__ import annotations

__all__ = ["Unreadable"]

import threading

import structlog

from ghostfs.model import InodeId

log = structlog.get_logger(__name__)

_NAMED_MAX = 100
"""Files that are named in the log. A session may hold any number that cannot be read; one more line says so."""


class Unreadable:
    """The inodes of one session that were met and cannot be read. Thread-safe."""

    def __init__(self, session: str) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._known: dict[InodeId, int | None] = {}
        self._more_said = False

    def add(self, inode: InodeId, path: str, reason: str, block: int | None = None) -> None:
        """The inode cannot be read, or at least not that block of it; `path` is relative to the session, `reason`
        what the kernel says."""
        with self._lock:
            if inode in self._known:
                return
            named = len(self._known) < _NAMED_MAX
            if not named and self._more_said:
                return
            if named:
                self._known[inode] = block
            else:
                self._more_said = True
        if named:
            log.warning("file_unreadable", session=self._session, path=path, error=reason)
        else:
            log.warning("more_files_unreadable", session=self._session, named=_NAMED_MAX)

    def discard(self, inode: InodeId, block: int | None = None) -> None:
        """The inode could be opened, or that block of it be read; if it cannot another time, that is news."""
        with self._lock:
            if inode in self._known and self._known[inode] == block:
                del self._known[inode]
