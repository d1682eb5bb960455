"""The start of a mount in the background, seen from both sides.

The starter runs `python -m ghostfs.fs`, a fresh interpreter that loads what a mount needs and no more, and
hands it the options on standard input. It forks, so that the mount belongs to nobody who would have to
wait for it, and reports over a pipe: ready, or the reason why not. If the starter has gone by then, the
mount ends again.
"""

from __future__ import annotations

__all__ = ["main", "start"]

import errno
import faulthandler
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import structlog

from ghostfs import errors, logs
from ghostfs.errors import ExitCode, GhostError, MountError, in_words
from ghostfs.fs.options import MountOptions
from ghostfs.mirror.layout import DataDir

log = structlog.get_logger(__name__)


def start(options: MountOptions, mountpoint: Path) -> None:
    """Returns when the mount answers.

    Raises:
        GhostError: it does not, and why; then nothing of it is left.
    """
    reading, writing = os.pipe()
    with open(reading, "rb") as report, tempfile.TemporaryFile() as said:  # noqa: PTH123 (a descriptor)
        try:
            request = {"report": writing, "mountpoint": str(mountpoint), "options": options.to_json()}
            # The names are for whoever looks at the process list; the process reads its standard input.
            subprocess.run(
                [sys.executable, "-m", "ghostfs.fs", options.session, str(mountpoint)],
                input=json.dumps(request).encode(),
                stdout=subprocess.DEVNULL,
                stderr=said,
                pass_fds=(writing,),
                start_new_session=True,
                check=False,
            )
        finally:
            os.close(writing)
        line = report.readline()
        if not line:
            said.seek(0)
            last = said.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise MountError(
                f"the mount process ended before it answered{': ' if last else ''}{last}; "
                f"its log is {_log_file(options)}"
            )
    answer = json.loads(line)
    if "error" in answer:
        kind = getattr(errors, answer["kind"], MountError)
        raise kind(answer["error"])


def main() -> int:
    """The mount process. Not for people: `ghostfs mount` is."""
    # Loaded here: whoever starts a mount imports this module too, and needs no trio and no pyfuse3.
    from ghostfs.fs.serve import serve

    request = json.loads(sys.stdin.read())
    if os.fork():
        os._exit(0)
    report = _Report(int(request["report"]))
    options = MountOptions.from_json(request["options"])
    try:
        _take_over_output(_log_file(options), options)
        serve(options, Path(request["mountpoint"]), lambda: report.say({"ready": os.getpid()}))
    except GhostError as error:
        log.error("mount_failed", error=str(error))  # noqa: TRY400 (the message says all)
        report.fail(type(error).__name__, str(error))
        return error.exit_code
    except Exception as error:
        log.exception("mount_failed")
        why = in_words(error) if isinstance(error, OSError) else repr(error)
        report.fail("MountError", f"the mount failed: {why}; its log is {_log_file(options)}")
        return ExitCode.FAILURE
    return ExitCode.OK


def _log_file(options: MountOptions) -> Path:
    return options.log_file or DataDir(options.data_dir).session(options.session).log_file


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
