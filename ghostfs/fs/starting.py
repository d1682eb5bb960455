"""The start of a mount in the background, as its starter sees it; `ghostfs.fs.process` is the other side.

The starter runs `python -m ghostfs.fs`, a fresh interpreter that loads what a mount needs and no more, and
hands it the options on standard input. The process reports over a pipe: ready, or the reason why not. It may
be started before it is known what to mount: it loads while its starter reads settings and looks at the
mountpoint, which takes as long. This module therefore imports next to nothing.
"""

from __future__ import annotations

__all__ = ["MountProcess"]

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ghostfs import errors
from ghostfs.errors import MountError

if TYPE_CHECKING:
    from ghostfs.fs.options import MountOptions


class MountProcess:
    """A mount process that loads, and mounts when `mount` is called. One that was never told what is ended
    when the `with` block is left, and ends by itself if its starter is killed."""

    def __init__(self, session: str, mountpoint: Path) -> None:
        """Both names are for whoever looks at the process list."""
        with ExitStack() as opened:
            reading, writing = os.pipe()
            self._report = opened.enter_context(open(reading, "rb"))  # noqa: PTH123 (a descriptor)
            self._reported = opened.enter_context(open(writing, "wb"))  # noqa: PTH123 (a descriptor)
            self._said = opened.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(
                # Without the current directory in the way of Python's modules, whoever's that is.
                [sys.executable, "-P", "-m", "ghostfs.fs", session, str(mountpoint)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                pass_fds=(writing,),
                start_new_session=True,
            )
            self._opened = opened.pop_all()

    @property
    def pid(self) -> int:
        """Of the process that loads; the one that mounts is a child of it."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._process.kill()  # unless it has forked and ended
        self._process.communicate()
        self._opened.close()

    def mount(self, options: MountOptions, mountpoint: Path) -> None:
        """Has it mount, and returns when the mount answers. To be called once.

        Raises:
            GhostError: it does not, and why; then nothing of it is left.
        """
        request = {
            "report": self._reported.fileno(),
            "mountpoint": str(mountpoint),
            "options": options.to_json(),
        }
        self._process.communicate(json.dumps(request).encode())
        self._reported.close()
        line = self._report.readline()
        if not line:
            self._said.seek(0)
            last = self._said.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise MountError(
                f"the mount process ended before it answered{': ' if last else ''}{last}; "
                f"its log is {options.where_it_logs}"
            )
        answer = json.loads(line)
        if "error" in answer:
            kind = getattr(errors, answer["kind"], MountError)
            raise kind(answer["error"])
