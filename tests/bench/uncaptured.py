"""`ghostfs` with everything that captures changes taken out of a mount, to measure what that costs.

Run as a program in the place of `ghostfs`: the capture thread is not started, bytes are not hashed, and
dirty.log is not written. Such a mount forgets its tree when it ends; the product has no such setting.
"""

from __future__ import annotations

__all__ = ["main"]

import os

from ghostfs.cli import main as ghostfs
from ghostfs.content import BlockMap
from ghostfs.index import DirtyLog
from ghostfs.mirror.live.capture import Capture
from ghostfs.mirror.live.records import Record
from ghostfs.mirror.live.working import WorkingSet


def main() -> None:
    """Patches the classes, then does what the command line says."""
    for owner, name, replacement in (
        (Capture, "start", lambda self: None),
        (Capture, "stop", lambda self: None),
        (Capture, "drain", lambda self, timeout=None: True),
        (DirtyLog, "append_inode", lambda self, inode: None),
        (DirtyLog, "append_dirent", lambda self, parent, name, child: None),
        (BlockMap, "write", _write),
        (WorkingSet, "settle", _settle),
    ):
        assert hasattr(owner, name), f"{owner.__name__} has no {name} any more"
        setattr(owner, name, replacement)
    ghostfs()


def _write(self: BlockMap, offset: int, buffer: bytes | bytearray | memoryview) -> None:
    self.size = max(self.size, offset + len(buffer))


def _settle(self: WorkingSet, record: Record) -> None:
    """Lets go of what is kept of a closed file for the capture thread, as that does after a commit."""
    record.content_dirty = False
    self.hot.pop(record.id, None)
    self.ready[record.id] = record
    if record.settle_fd is not None:
        os.close(record.settle_fd)
        record.settle_fd = None
    if record.handles is None:
        record.map = None


if __name__ == "__main__":
    main()
