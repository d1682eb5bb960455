"""The owner lock: at any moment at most one process writes a mirror's tree and index."""

from __future__ import annotations

__all__ = ["OwnerLock", "is_held"]

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from ghostfs.errors import SessionBusy


class OwnerLock:
    """flock(2) on a file; the kernel lets go of it when the owner ends, however it ends.

    The file holds the owner's pid for people to read; the lock, not the number, is what counts.
    """

    def __init__(self, path: Path, *, what: str) -> None:
        """`what` names the thing owned, for the error message."""
        self._path = path
        self._what = what
        self._fd: int | None = None

    def acquire(self) -> Self:
        """Takes the lock without waiting. Calling it twice on one object is a mistake.

        Raises:
            SessionBusy: another process (or another object) holds it.
            OSError: the file cannot be made.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise SessionBusy(
                f"{self._what} is in use by process {pid}: end that process or wait for it"
            ) from None
        except BaseException:
            os.close(fd)
            raise
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd
        return self

    def release(self) -> None:
        """Lets go; harmless when not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self if self._fd is not None else self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock, as far as we may look."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True  # another user's: leave it alone
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
