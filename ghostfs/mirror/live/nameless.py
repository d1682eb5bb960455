"""Descriptors of what has lost its last name while the kernel still knows it.

Whoever has it as a working directory, by O_PATH or as a fifo goes on using it, and the kernel asks for it by
id. Nearly always it forgets within moments. But it tells so when it likes, and a million removed files may
leave no descriptors to open others: then the oldest are closed, and asking for one of those fails with ENOENT.
"""

from __future__ import annotations

__all__ = ["Nameless"]

import os
import resource
from collections import OrderedDict

from ghostfs.mirror.live.records import Record
from ghostfs.model import InodeId

_LEAST = 16


class Nameless:
    """The `kept_fd` of each record that has one. Guarded by the working set's lock."""

    def __init__(self) -> None:
        self.limit = max(_LEAST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8)
        self._records: OrderedDict[InodeId, Record] = OrderedDict()

    def keep(self, record: Record, fd: int) -> None:
        """`fd` is this object's from now on, and leads to the record's inode. The record must have no `kept_fd`."""
        record.kept_fd = fd
        self._records[record.id] = record
        if len(self._records) > self.limit:
            self.drop(next(iter(self._records.values())))

    def drop(self, record: Record) -> None:
        """Closes the record's descriptor, if it has one."""
        if record.kept_fd is not None:
            os.close(record.kept_fd)
            record.kept_fd = None
            del self._records[record.id]

    def close(self) -> None:
        """Closes all."""
        for record in list(self._records.values()):
            self.drop(record)
