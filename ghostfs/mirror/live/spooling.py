"""Which blocks go into the spool: those that differ, in the version that settles, of a file open for writing.

They are put aside as they are read back, so a version is whole in the spool whatever is written meanwhile; or
nothing of it is, if it is more than the spool may hold. Then nodes cannot have such a version once it has been
written over, and have the file when it rests.
"""

from __future__ import annotations

__all__ = ["Spooler"]

import structlog

from ghostfs.content import BLOCK_SIZE, BlockMap
from ghostfs.mirror.live.changed import Changed
from ghostfs.mirror.live.records import Record
from ghostfs.mirror.live.spool import Spool
from ghostfs.model import InodeId

log = structlog.get_logger(__name__)


class Spooler:
    """Decides for one mirror. `wants` needs the working set's lock."""

    def __init__(self, spool: Spool, mirror: Changed) -> None:
        self._spool = spool
        self._mirror = mirror
        self._too_large: set[InodeId] = set()
        """Said of once."""

    def wants(self, record: Record, content: BlockMap) -> bool:
        """Whether the blocks that have changed since the last settle are to be put aside in this one."""
        if record.writers == 0 or self._spool.limit == 0:
            return False
        size = content.changed_blocks * BLOCK_SIZE
        if size <= self._spool.limit:
            return True
        if record.id not in self._too_large:
            self._too_large.add(record.id)
            log.warning(
                "spool_too_small", path=self._mirror.path(record), changed=size, limit=self._spool.limit
            )
        return False

    def keep(self, digest: bytes, data: bytes) -> None:
        """Puts a block aside, if there is room on the disk. From any thread."""
        try:
            self._spool.keep(digest, data)
        except OSError as error:
            log.debug("not_put_aside", error=str(error))
