"""What is asked of the kernel about our own mount, and answered by our own loop.

A thread of the mount process must never wait for that: it would wait for itself once the loop has ended or the
process is killed, and in the kernel, where no signal reaches it. A process with such a thread does not go away,
/dev/fuse stays open, and whoever uses the mount hangs until somebody aborts the connection by hand. So processes of
their own ask (`outsider`): if the mount dies, what they wait for is ended with it.
"""

from __future__ import annotations

__all__ = ["Outside"]

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import pyfuse3
import structlog

from ghostfs.fs import mounts
from ghostfs.fs.mounts import Mounted
from ghostfs.model import ROOT, InodeId

log = structlog.get_logger(__name__)

_SOURCE: Final = Path(__file__).with_name("outsider.py").read_text(encoding="utf-8")
_PYTHON: Final = os.path.realpath(sys.executable)
_TRIES: Final = 2
"""How often a file is looked for that was just renamed."""


class Outside:
    """Asks for one mount. What blocks is for worker threads.

    All programs are found, and read, before there is a mount: to find them later, or to start them, might lead
    through it.
    """

    def __init__(self, mountpoint: Path) -> None:
        self._mountpoint = mountpoint
        self._fusermount = shutil.which("fusermount3")
        self._mounted: Mounted | None = None
        self._closed = threading.Condition()
        self._waiting = 0
        self._closed_by: set[int] = set()
        self._ended = False
        self._dropping = 0
        self._finished = False

    def find(self) -> tuple[int, Mounted | None]:
        """The inode of what is at the mountpoint, and its entry in the mount table; to be asked once, of what has
        just been mounted. Blocks.

        Raises:
            OSError: as stat(2).
        """
        inode = int(self._ask("inode", self._mountpoint)[1])
        self._mounted = mounts.find(self._mountpoint)
        return inode, self._mounted

    def place(self) -> Path | None:
        """Where the mount is now: perhaps elsewhere, if a directory above was renamed. None once it is detached."""
        if self._mounted is None:
            return self._mountpoint  # not found yet
        ours = [m.path for m in mounts.mounted() if m.device == self._mounted.device]
        return self._mountpoint if self._mountpoint in ours else next(iter(ours), None)

    def flush(self, files: Callable[[], Mapping[InodeId, bytes]]) -> None:
        """What the kernel still holds of our files (memory maps, the writeback cache) is written to us. Blocks.

        `files` are those that are open for writing, and the paths that they have now. Each is synced by itself:
        syncfs(2) begins with what is dirty, and passes over what there is too much of (seen with Linux 6.18). Older
        kernels do not wait until we have answered. But what they send is served in the order in which it was sent,
        and so is the news that a directory was closed: the outsider closes the root last of all.

        A file may be out of its reach: the mount is detached or covered, its directory is closed to us, it is renamed
        all the time, no process can be started. Of such the kernel is told to drop its pages, which has them written
        first. Only for that a thread of ours does wait for us, and only if the process is killed at that moment it
        stays.

        Raises:
            OSError: pages could not be written, and why.
        """
        wanted = files()
        left = list(wanted)
        trouble = None
        try:
            place = self.place()
            for _ in range(_TRIES):
                if place is None:
                    break
                left, trouble = self._flush(place, {inode: wanted[inode] for inode in left})
                wanted = files()
                left = [inode for inode in left if inode in wanted]
                if not left or trouble is not None:
                    break
        except OSError as error:
            log.info("outsider_failed", error=str(error))
        trouble = self._drop(left) or trouble
        if trouble is not None:
            raise trouble

    def _flush(self, place: Path, files: Mapping[InodeId, bytes]) -> tuple[list[InodeId], OSError | None]:
        """Those that could not be reached, and why pages could not be written."""
        device = 0 if self._mounted is None else self._mounted.st_dev
        listed = b"".join(b"%d %s\0" % item for item in files.items())
        with self._closed:
            self._waiting += 1
        try:
            pid, said = self._ask("flush", place, device, ROOT, told=listed)
            with self._closed:
                self._closed.wait_for(lambda: self._ended or pid in self._closed_by)
        finally:
            with self._closed:
                self._waiting -= 1
                if not self._waiting:
                    self._closed_by.clear()
        missed, _, code = said.partition("!")
        trouble = OSError(int(code), os.strerror(int(code))) if code else None
        return [InodeId(int(number)) for number in missed.split()], trouble

    def _drop(self, inodes: Sequence[InodeId]) -> OSError | None:
        """Has the kernel drop the pages of some files; why one's could not be written."""
        with self._closed:
            if self._finished or not inodes:
                return None
            self._dropping += 1
        trouble = None
        try:
            for inode in inodes:
                try:
                    pyfuse3.invalidate_inode(inode, attr_only=False)
                except FileNotFoundError:
                    pass  # the kernel has forgotten it, and so has nothing of it
                except OSError as error:
                    trouble = error
        finally:
            with self._closed:
                self._dropping -= 1
                self._closed.notify_all()
        return trouble

    def finish(self, *, wait: bool) -> bool:
        """To be called before the loop ends: from now on no thread of ours waits for it, once this is true. Blocks if
        it is to `wait`."""
        with self._closed:
            if self._dropping and not wait:
                return False
            self._finished = True
            self._closed.wait_for(lambda: not self._dropping)
            return True

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

    def detach(self, *, lazy: bool) -> bool:
        """Takes the mount out of the tree, if it is there and nothing covers it; whether it is not there any more.
        Blocks.

        Raises:
            OSError, MountError: as `mounts.detach`.
        """
        while (place := self.place()) is not None:
            at = mounts.find(place)
            if self._mounted is not None and at is not None and at.device != self._mounted.device:
                return False
            mounts.detach(place, lazy=lazy, umount2=self._umount2, fusermount=self._fusermount)
            if self._mounted is None or place != self._mountpoint:
                break
        return True

    def _umount2(self, path: Path, flags: int) -> None:
        self._ask("detach", path, flags)

    def _ask(self, request: str, place: Path, *numbers: int, told: bytes = b"") -> tuple[int, str]:
        """The process id of who asked, and what it said."""
        arguments = [request, os.fspath(place), *map(str, numbers)]
        with subprocess.Popen(
            [_PYTHON, "-I", "-S", "-c", _SOURCE, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            said = process.communicate(told)[0].decode()
        if process.returncode != 0:
            raise OSError(
                errno.EIO, f"who was to {request} ended with {process.returncode}", os.fspath(place)
            )
        if said.startswith("errno "):
            code = int(said.split()[1])
            raise OSError(code, os.strerror(code), os.fspath(place))
        return process.pid, said
