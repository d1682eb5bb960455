"""Which blocks of a file that stays open for writing go into the spool."""

from __future__ import annotations

__all__ = ["Spooler"]

import os
from pathlib import Path

from ghostfs.content import BLOCK_SIZE, EMPTY, BlockList, block_digest
from ghostfs.mirror.live.gathered import Sealed
from ghostfs.mirror.live.mirror import Mirror
from ghostfs.mirror.live.spool import Spool
from ghostfs.mirror.live.working import WorkingSet
from ghostfs.mirror.syscalls import pread_exactly
from ghostfs.model import Inode


class Spooler:
    """Copies the changed blocks of hot files aside. Used by the capture thread."""

    def __init__(self, folder: Path, limit: int, mirror: Mirror, working: WorkingSet) -> None:
        """`limit` is in bytes, see `Spool`."""
        self._spool = Spool(folder, limit)
        self._mirror = mirror
        self._working = working

    def keep(self, sealed: Sealed, old: Inode | None) -> None:
        """Puts aside the blocks in which the version just settled differs from the last one.

        A block that has been written to again meanwhile is left out: a newer version is on its way.
        """
        blocks = sealed.blocks
        if blocks is None or self._spool.limit == 0:
            return
        before = BlockList.decode(old.size, old.blocks) if old is not None else EMPTY
        changed = [(index, digest) for index, digest in blocks.data_blocks() if before.get(index) != digest]
        if len(changed) * BLOCK_SIZE > self._spool.limit:
            return
        try:
            with self._working.lock:
                fd = self._mirror.open_for_settle(sealed.record)
        except OSError:
            return
        try:
            for index, digest in changed:
                data = pread_exactly(fd, blocks.length_of(index), index * BLOCK_SIZE)
                if block_digest(data) == digest:
                    self._spool.keep(digest, data)
        except OSError:
            return
        finally:
            os.close(fd)
