"""What the mount process tells whoever started it, and what it does when something fails after that."""

from __future__ import annotations

import io
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ghostfs.errors import ExitCode, MountError
from ghostfs.fs import process
from ghostfs.fs.options import MountOptions
from ghostfs.fs.starting import MountProcess

Serve = Callable[[MountOptions, Path, Callable[[], None]], None]


@pytest.fixture
def report() -> Iterator[tuple[int, int]]:
    """Both ends of a report: what is read, and what the mount process gets."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


@pytest.fixture
def run(
    report: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Serve], tuple[int, list[Any]]]:
    """Runs the mount process's `main` in this one, which keeps its output; what it returned and logged."""

    def run(with_serve: Serve) -> tuple[int, list[Any]]:
        options = MountOptions("work", tmp_path / "mnt", tmp_path / "data")
        request = {"report": report[1], "mountpoint": str(options.mountpoint), "options": options.to_json()}
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(request)))
        monkeypatch.setattr(os, "fork", lambda: 0)
        monkeypatch.setattr(process, "_take_over_output", lambda *_: None)
        monkeypatch.setattr(process, "serve", with_serve)
        with capture_logs() as said:
            code = process.main()
        return code, said

    return run


def answers(report: tuple[int, int]) -> list[Any]:
    """All that was said; the other end is closed, or this would not end."""
    said = b""
    while more := os.read(report[0], 65536):
        said += more
    return [json.loads(line) for line in said.splitlines()]


@pytest.mark.parametrize("error", [MountError("too late"), OSError(5, "too late")])
@pytest.mark.allows_log("mount_failed")
def test_what_fails_after_it_was_ready_goes_to_the_log_and_into_no_file(
    run: Callable[[Serve], tuple[int, list[Any]]],
    report: tuple[int, int],
    tmp_path: Path,
    error: Exception,
) -> None:
    others = []

    def serve_and_fail(_options: MountOptions, _mountpoint: Path, ready: Callable[[], None]) -> None:
        ready()
        others.append(os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT))
        assert others == [report[1]], "the number is another file's by now"
        raise error

    code, said = run(serve_and_fail)
    assert code != ExitCode.OK
    assert [each["event"] for each in said if each["log_level"] == "error"] == ["mount_failed"]
    assert (tmp_path / "other").read_bytes() == b""
    os.close(others[0])
    assert answers(report) == [{"ready": os.getpid()}]


@pytest.mark.allows_log("mount_failed")
def test_what_fails_before_is_told(
    run: Callable[[Serve], tuple[int, list[Any]]], report: tuple[int, int]
) -> None:
    def fail(*_: object) -> None:
        raise MountError("not today")

    code, _ = run(fail)
    assert code == MountError.exit_code
    assert answers(report) == [{"error": "not today", "kind": "MountError"}]


def test_a_mount_process_that_was_never_told_what_to_mount_is_ended(tmp_path: Path) -> None:
    with MountProcess("work", tmp_path / "mnt") as started:
        held = os.pidfd_open(started.pid)
    ended, _, _ = select.select([held], [], [], 0)
    os.close(held)
    assert ended, "it was waited for, so it is gone when the block is left"


def test_a_mount_process_whose_starter_was_killed_while_it_loaded_ends_by_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ghostfs.fs"], input=b"", capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (ExitCode.OK, b"", b"")
