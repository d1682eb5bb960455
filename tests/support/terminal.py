"""Commands on a real pseudo-terminal, for tests of what people see."""

from __future__ import annotations

__all__ = ["Terminal", "plain"]

import fcntl
import os
import re
import select
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()][0-9A-Za-z]|\x1b[=>78]")


def plain(shown: str) -> str:
    """What a terminal was sent, without colours and movements of the cursor."""
    return _CONTROL.sub("", shown)


def _open_pair() -> tuple[int, int]:
    """Both ends of a pseudo-terminal, also where no devpts is mounted: in a plain chroot, say. That needs root."""
    with suppress(OSError):
        return os.openpty()
    with tempfile.TemporaryDirectory() as at:
        subprocess.run(["mount", "-t", "devpts", "-o", "ptmxmode=666", "terminals", at], check=True)
        try:
            master = os.open(f"{at}/ptmx", os.O_RDWR | os.O_NOCTTY)
            fcntl.ioctl(master, _UNLOCK, struct.pack("i", 0))
            return master, fcntl.ioctl(master, _OTHER_END, os.O_RDWR | os.O_NOCTTY)
        finally:
            subprocess.run(["umount", "--lazy", at], check=True)


_UNLOCK, _OTHER_END = 0x40045431, 0x5441
"""TIOCSPTLCK and TIOCGPTPEER of Linux, which Python 3.11 has no names for."""


class Terminal:
    """One command with a terminal of its own. A context manager: at its end the command has ended."""

    def __init__(
        self,
        command: Sequence[str | Path],
        environment: dict[str, str],
        *,
        columns: int = 1000,
        rows: int = 40,
    ) -> None:
        self.shown = ""
        """All that was shown so far, with the control sequences."""
        self._master, slave = _open_pair()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        # Its own session with this terminal: Ctrl-C is then typed, and the kernel makes the signal.
        environment = {
            name: value
            for name, value in environment.items()
            if name not in ("COLUMNS", "LINES", "NO_COLOR")
        }
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *map(str, command)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment | {"TERM": "xterm-256color"},
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._master)  # a hang-up ends what is still there
        self.process.wait(30)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def read_until(self, pattern: str | re.Pattern[str], *, timeout: float = 60.0) -> str:
        """Reads until something is shown anew; what was shown since the last call, without control sequences.

        Raises:
            TimeoutError: it was not shown in time, or the command ended before.
        """
        wanted = re.compile(re.escape(pattern)) if isinstance(pattern, str) else pattern
        deadline, seen = time.monotonic() + timeout, ""
        while not wanted.search(plain(seen)):
            if not (part := self._read(deadline - time.monotonic())):
                raise TimeoutError(f"{pattern!r} is not shown; the last is {plain(seen)[-1000:]!r}")
            seen += part
        return plain(seen)

    def rest(self, *, timeout: float = 60.0) -> str:
        """Reads until the command has ended; what was shown, without control sequences."""
        before = len(self.shown)
        self.end(timeout=timeout)
        return plain(self.shown[before:])

    def end(self, *, timeout: float = 60.0) -> int:
        """Reads until the command has ended; its exit code."""
        deadline = time.monotonic() + timeout
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(max(0.0, deadline - time.monotonic()))

    def _read(self, timeout: float) -> str:
        """What comes next; empty at the end, and when nothing comes."""
        if not select.select([self._master], [], [], max(0.0, timeout))[0]:
            return ""
        part = b""
        with suppress(OSError):  # EIO: the last that had it open has ended
            part = os.read(self._master, 65536)
        text = part.decode("utf-8", "replace")
        self.shown += text
        return text
