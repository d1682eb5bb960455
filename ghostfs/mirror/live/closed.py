"""Descriptors of files that were closed and are not settled yet: the last few, and those that nothing replaces.

Reading a file back by the descriptor that it was written by is cheap and sure. But thousands of files may be
closed before the capture thread comes to them, and then they would leave no descriptors to open others. So
the oldest ones are closed, if the file can be opened again by its name.
"""

from __future__ import annotations

__all__ = ["ClosedFiles"]

import os
import resource
from collections import OrderedDict
from collections.abc import Callable

from ghostfs.mirror.live.records import Record
from ghostfs.model import InodeId

_LIMIT = 256
_LEAST = 16

_TRIES = 4
"""Descriptors that are looked at when one too many is kept: with more, a close could take long."""


class ClosedFiles:
    """The `settle_fd` of each record that has one. Guarded by the working set's lock."""

    def __init__(self, can_reopen: Callable[[Record], bool]) -> None:
        """`can_reopen` says whether the file of a record's `settle_fd` can be had by its name as well."""
        self.limit = max(_LEAST, min(_LIMIT, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))
        self._can_reopen = can_reopen
        self._records: OrderedDict[InodeId, Record] = OrderedDict()

    def keep(self, record: Record, fd: int) -> None:
        """`fd` is this object's from now on: a descriptor by which the record's file was open."""
        if record.settle_fd is not None:
            os.close(fd)
            return
        record.settle_fd = fd
        self._records[record.id] = record
        if len(self._records) > self.limit:
            self._thin_out()

    def drop(self, record: Record) -> None:
        """Closes the record's descriptor, if it has one."""
        if record.settle_fd is not None:
            os.close(record.settle_fd)
            record.settle_fd = None
            del self._records[record.id]

    def close(self) -> None:
        """Closes all."""
        for record in list(self._records.values()):
            self.drop(record)

    def _thin_out(self) -> None:
        for _ in range(_TRIES):
            inode, record = next(iter(self._records.items()))
            if self._can_reopen(record):
                self.drop(record)
                if len(self._records) <= self.limit:
                    return
            else:
                self._records.move_to_end(inode)
