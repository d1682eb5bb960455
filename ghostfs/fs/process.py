"""The process of a mount in the background, from its start on; `ghostfs.fs.starting` is the other side.

Once it has loaded all it needs, it reads from standard input what to mount. It forks, so that the mount
belongs to nobody who would have to wait for it, and reports over a pipe: ready, or the reason why not. If
the starter has gone by then, the mount ends again.
"""

from __future__ import annotations

__all__ = ["main"]

import errno
import faulthandler
import json
import os
import sys
from pathlib import Path

import structlog

from ghostfs import logs
from ghostfs.errors import ExitCode, GhostError, in_words
from ghostfs.fs.options import MountOptions
from ghostfs.fs.serve import serve

log = structlog.get_logger(__name__)


def main() -> int:
    """The mount process. Not for people: `ghostfs mount` is."""
    asked = sys.stdin.read()
    if not asked:
        return ExitCode.OK  # the starter has gone
    request = json.loads(asked)
    if os.fork():
        os._exit(0)
    report = _Report(int(request["report"]))
    options = MountOptions.from_json(request["options"])
    try:
        _take_over_output(options.where_it_logs, options)
        serve(options, Path(request["mountpoint"]), lambda: report.say({"ready": os.getpid()}))
    except GhostError as error:
        log.error("mount_failed", error=str(error))  # noqa: TRY400 (the message says all)
        report.fail(type(error).__name__, str(error))
        return error.exit_code
    except Exception as error:
        log.exception("mount_failed")
        why = in_words(error) if isinstance(error, OSError) else repr(error)
        report.fail("MountError", f"the mount failed: {why}; its log is {options.where_it_logs}")
        return ExitCode.FAILURE
    return ExitCode.OK


def _take_over_output(file: Path, options: MountOptions) -> None:
    os.chdir("/")
    logs.configure(level=options.log_level, renderer=options.log_format, file=file)
    fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    faulthandler.enable()


class _Report:
    """The way back to the starter, for one answer: its descriptor's number is another file's soon after."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._fd: int | None = fd

    def say(self, answer: dict[str, object]) -> None:
        """Answers.

        Raises:
            OSError: the starter has gone, or has its answer.
        """
        if self._fd is None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        fd, self._fd = self._fd, None
        try:
            os.write(fd, json.dumps(answer).encode() + b"\n")
        finally:
            os.close(fd)

    def fail(self, kind: str, message: str) -> None:
        """Answers why there is no mount, if that is still to be answered; the log has it in any case."""
        try:
            self.say({"error": message, "kind": kind})
        except OSError:
            log.debug("nobody_listens")  # it failed after it was ready, or the starter has gone
