"""What kernel and libfuse agree on when a mount begins, and the one thing that we want otherwise.

The kernel's first request is FUSE_INIT: it offers what it can do, and libfuse answers with what it wants of that
(both in `linux/fuse.h`). pyfuse3 leaves no say in the answer. So for that one request libfuse has a socket in the
place of its descriptor of /dev/fuse: the offer is passed on as it came, the answer with a flag less, and then the
descriptor is put back.

The flag is FUSE_AUTO_INVAL_DATA, by which the kernel drops all that it has cached of a file whose time of
modification it finds changed: also when that was the doing of what it has just written itself. Content of a session
changes through its mount or not at all; what comes from elsewhere is another inode. What does change otherwise is
dropped when it is opened: files of which the disk has refused something, and files of the overlay.
"""

from __future__ import annotations

__all__ = ["Handshake", "amend"]

import errno
import os
import socket
import struct
from typing import Final, Self

import structlog
import trio

log = structlog.get_logger(__name__)

_AUTO_INVAL_DATA: Final = 1 << 12
_ANSWER: Final = struct.Struct("=IiQIIII")
"""To FUSE_INIT: length, error, number of the request; major, minor, most to read ahead, flags."""
_REQUEST_MAX: Final = 2 << 20
"""Room for any request: of contents, the kernel sends 1 MiB at most."""
_ANSWER_MAX: Final = 4096


def amend(answer: bytes) -> bytes:
    """The answer to FUSE_INIT as the kernel is to have it; one that says no, or says less than we know, as it is."""
    if len(answer) < _ANSWER.size:
        return answer
    length, error, number, major, minor, ahead, flags = _ANSWER.unpack_from(answer)
    if error or major != 7:
        return answer
    head = _ANSWER.pack(length, error, number, major, minor, ahead, flags & ~_AUTO_INVAL_DATA)
    return head + answer[_ANSWER.size :]


class Handshake:
    """Stands between the kernel and libfuse for the first request: from `begin` to `finish`, or `abandon`."""

    def __init__(self, fd: int, kernel: int, ours: socket.socket) -> None:
        self._fd = fd
        self._kernel = kernel
        self._ours = ours

    @classmethod
    async def begin(cls, fd: int) -> Self | None:
        """Waits for the first request and gives it to libfuse, which from now on has a socket for `fd`.

        None if the mount has gone before there was one: libfuse will find that out for itself.
        """
        await trio.lowlevel.wait_readable(fd)
        try:
            request = os.read(fd, _REQUEST_MAX)
        except OSError as error:
            log.debug("gone_before_it_began", error=str(error))
            return None
        kernel = os.dup(fd)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            os.dup2(theirs.fileno(), fd, inheritable=False)
        ours.send(request)
        return cls(fd, kernel, ours)

    def finish(self) -> None:
        """Passes on what libfuse has answered, and puts the descriptor back.

        Raises:
            BlockingIOError: there is no answer.
            OSError: the kernel does not understand it.
        """
        try:
            answer = self._ours.recv(_ANSWER_MAX, socket.MSG_DONTWAIT)
            try:
                os.write(self._kernel, amend(answer))
            except OSError as error:
                if error.errno == errno.EINVAL:
                    raise  # else the mount has gone meanwhile
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Puts the descriptor back, whatever was said."""
        os.dup2(self._kernel, self._fd, inheritable=False)
        os.close(self._kernel)
        self._ours.close()
