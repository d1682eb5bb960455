"""What is asked of the kernel about our own mount, and answered by our own loop.

A thread of the mount process must never wait for that: it would wait for itself once the loop has ended or the
process is killed, and in the kernel, where no signal reaches it. A process with such a thread does not go away,
/dev/fuse stays open, and whoever uses the mount hangs until somebody aborts the connection by hand. So processes of
their own ask (`outsider`): if the mount dies, what they wait for is ended with it.
"""

from __future__ import annotations

__all__ = ["Outside"]

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from ghostfs.fs import mounts
from ghostfs.model import ROOT, InodeId

_PROGRAM: Final = (sys.executable, "-I", "-S", str(Path(__file__).with_name("outsider.py")))


class Outside:
    """Asks for one mount. What blocks is for worker threads."""

    def __init__(self, mountpoint: Path) -> None:
        self._mountpoint = mountpoint
        self._closed = threading.Condition()
        self._waiting = 0
        self._closed_by: set[int] = set()
        self._ended = False

    def inode(self) -> int:
        """What number the directory at the mountpoint has. Blocks.

        Raises:
            OSError: as stat(2).
        """
        return int(self._ask("inode")[1])

    def flush(self) -> None:
        """What the kernel still holds of our files (memory maps, the writeback cache) is written to us. Blocks.

        syncfs(2) has the kernel send it, and does not wait for our answers (seen with Linux 6.18). But what it sends
        is served in the order in which it was sent, and so is the news that a directory was closed: after syncfs the
        outsider closes the one that it asked for. Only the pages of a file that somebody truncates or syncs at this
        very moment may come later.

        Raises:
            OSError: as open(2) or syncfs(2).
        """
        with self._closed:
            self._waiting += 1
        try:
            pid, _ = self._ask("flush")
            with self._closed:
                self._closed.wait_for(lambda: self._ended or pid in self._closed_by)
        finally:
            with self._closed:
                self._waiting -= 1
                if not self._waiting:
                    self._closed_by.clear()

    def closed(self, inode: InodeId, pid: int) -> None:
        """The kernel tells the loop that a process has closed a directory."""
        if self._waiting and inode == ROOT:
            with self._closed:
                self._closed_by.add(pid)
                self._closed.notify_all()

    def end(self) -> None:
        """The loop serves no more: nobody needs to wait for it."""
        with self._closed:
            self._ended = True
            self._closed.notify_all()

    def detach(self, *, lazy: bool) -> None:
        """As `mounts.detach`. Blocks."""
        mounts.detach(self._mountpoint, lazy=lazy, umount2=self._umount2)

    def _umount2(self, _path: Path, flags: int) -> None:
        self._ask("detach", str(flags))

    def _ask(self, request: str, *flags: str) -> tuple[int, bytes]:
        """The process id of who asked, and what it said."""
        process = subprocess.Popen(
            [*_PROGRAM, request, os.fspath(self._mountpoint), *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        said = process.communicate()[0]
        if process.returncode != 0:
            code = process.returncode
            raise OSError(code, os.strerror(code), os.fspath(self._mountpoint))
        return process.pid, said
