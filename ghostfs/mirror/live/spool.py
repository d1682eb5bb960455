"""The spool: blocks of files that never rest, put aside so that the version that was hashed can be sent.

A content-addressed folder bounded in bytes; the oldest blocks go first. What is missing from it is
never wrong, only later: the file is then sent in a newer version.
"""

from __future__ import annotations

__all__ = ["Spool"]

import threading
from collections import OrderedDict
from pathlib import Path

from ghostfs import private


class Spool:
    """Blocks under the hex of their digests. Written by the owner, in any thread; read by anyone."""

    def __init__(self, folder: Path, limit: int) -> None:
        """`limit` is in bytes; 0 turns the spool off. What an earlier owner left is thrown away."""
        self._folder = folder
        self._limit = limit
        self._sizes: OrderedDict[bytes, int] = OrderedDict()
        self._total = 0
        self._lock = threading.Lock()
        folder.mkdir(mode=0o700, exist_ok=True)
        for left in folder.iterdir():
            left.unlink()

    @property
    def limit(self) -> int:
        return self._limit

    def keep(self, digest: bytes, data: bytes) -> None:
        """Puts a block aside, and drops the oldest ones over the limit."""
        if len(data) > self._limit:
            return
        with self._lock:
            self._put(digest, data)

    def _put(self, digest: bytes, data: bytes) -> None:
        if digest in self._sizes:
            self._sizes.move_to_end(digest)
            return
        path = self._path(digest)
        incoming = path.with_suffix(".new")
        try:
            with open(incoming, "wb", opener=private.opener) as file:
                file.write(data)
            incoming.rename(path)
        except BaseException:
            incoming.unlink(missing_ok=True)
            raise
        self._sizes[digest] = len(data)
        self._total += len(data)
        while self._total > self._limit:
            oldest, size = self._sizes.popitem(last=False)
            self._total -= size
            self._path(oldest).unlink(missing_ok=True)

    def _path(self, digest: bytes) -> Path:
        return self._folder / digest.hex()
