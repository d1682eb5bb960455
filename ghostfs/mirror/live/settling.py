"""How the content of a file settles: begun, read back, finished.

When it has begun, the file may go on being written: what is found is the content at that moment. Whoever
changes a block that is still to be read has it read first (`Changed.about_to_write`), so one write waits for
the blocks that it touches, and nobody ever waits for all that is to be read.
"""

from __future__ import annotations

__all__ = ["Settling"]

import os
import time
from collections.abc import Iterable

from ghostfs.content import BlockList, BlockMap, Settlement
from ghostfs.mirror.live.changed import Changed
from ghostfs.mirror.live.gathered import Taken
from ghostfs.mirror.live.hashing import HashPool
from ghostfs.mirror.live.records import Record
from ghostfs.mirror.live.spooling import Spooler
from ghostfs.mirror.live.working import WorkingSet
from ghostfs.mirror.syscalls import data_ranges, pread_exactly

_FEW = 4
"""Blocks that may be read back with the lock held: requests wait meanwhile."""

_PARALLEL_FROM = 8
"""Blocks to be read back from which the hashing pool is worth its wake-ups."""


class Settling:
    """Settles files for the capture thread. `begin` and `finish` need the working set's lock."""

    def __init__(self, mirror: Changed, working: WorkingSet, pool: HashPool, spooler: Spooler) -> None:
        self._mirror = mirror
        self._working = working
        self._pool = pool
        self._spooler = spooler

    def begin(self, taken: Taken) -> None:
        """From here on the content is what it is now, whatever is written before it was read."""
        record = taken.record
        content = self._mirror.map_of(record)
        all_changed = self._spooler.wants(record, content)
        settlement = content.begin_settle(guarded=True, all_changed=all_changed)
        if settlement.pending:
            taken.st = self._mirror.stat_of_content(record)
            if self._changed_unseen(record, content, taken.st):
                settlement = content.begin_settle(guarded=True, all_changed=all_changed)
            record.settling = settlement
        if all_changed:
            settlement.aside = self._spooler.keep
        taken.settlement = settlement
        taken.at = time.monotonic()

    def read_back(self, taken: Iterable[Taken]) -> None:
        """Reads what must be, in parallel where that pays. Needs no lock, and takes it for moments."""
        settling = [
            (each, each.settlement) for each in taken if each.settlement and each.settlement.pending
        ]
        blocks = sum(settlement.pending for _, settlement in settling)
        if len(settling) > 1 and blocks >= _PARALLEL_FROM:
            for _ in self._pool.map(self._read_back, settling):
                pass
        else:
            for each in settling:
                self._read_back(each)

    def _read_back(self, settling: tuple[Taken, Settlement]) -> None:
        """Descriptors are had only while they are used: a commit may hold more files than may be open."""
        taken, settlement = settling
        try:
            with self._working.lock:
                fd = self._mirror.open_for_settle(taken.record)
            try:
                settlement.read(lambda offset, length: pread_exactly(fd, length, offset))
            finally:
                os.close(fd)
        except OSError as error:
            taken.failed = error

    def finish(self, taken: Taken, settlement: Settlement) -> tuple[BlockList | None, os.stat_result]:
        """The content, if it can be made final, and the attributes that belong to it.

        Raises:
            OSError: it cannot be read.
        """
        content = self._mirror.map_of(taken.record)
        blocks, st = self._final(taken, settlement, content)
        if blocks is not None:
            self._settled(taken, content)
        return blocks, st

    def _final(
        self, taken: Taken, settlement: Settlement, content: BlockMap
    ) -> tuple[BlockList | None, os.stat_result]:
        record = taken.record
        record.settling = None
        st = self._mirror.stat_of_content(record)
        if content.version != settlement.version and taken.st is not None:
            # It is what it was when it was taken: whoever has changed it since had that read before.
            blocks = content.finish_settle(settlement)
            if blocks is not None:
                return blocks, taken.st
        if self._changed_unseen(record, content, st):
            return None, st
        if content.version != settlement.version or settlement.spoiled:
            settlement = content.begin_settle()
            if settlement.pending > _FEW:
                return None, st
            fd = self._mirror.open_for_settle(record)
            try:
                settlement.read(lambda offset, length: pread_exactly(fd, length, offset))
            finally:
                os.close(fd)
        return content.finish_settle(settlement), st

    def _settled(self, taken: Taken, content: BlockMap) -> None:
        """The content is final; what was written since is the next one's."""
        record = taken.record
        record.settled_at = time.monotonic()
        self._working.hot.pop(record.id, None)
        if not content.unsettled:
            record.content_dirty = record.due = False
        elif record.writers and not record.due:
            record.first_dirty_at = taken.at
            self._working.hot[record.id] = record
        else:
            self._working.settle(record)

    def _changed_unseen(self, record: Record, content: BlockMap, st: os.stat_result) -> bool:
        """Whether the file has another size than it was given through this mirror; then all of it is to be read."""
        if content.size == st.st_size:
            return False
        fd = self._mirror.open_for_settle(record)
        try:
            content.seen_anew(st.st_size, data_ranges(fd, st.st_size))
        finally:
            os.close(fd)
        return True
