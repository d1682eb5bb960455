"""What libfuse says is an event of the log, and never a bare line on standard error."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SAY = """
import ctypes, os, sys
from ghostfs.fs import libfuse
from ghostfs import logs

logs.configure(level="debug", renderer="json")
libfuse.log_through()
level, name, number = int(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])
ctypes.CDLL("libfuse3.so.3").fuse_log(level, b"fuse: %s: %s (%d of %s)\\n", name, name, number, b"x" * 2000)
"""


def said(level: int, name: str, number: int) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", SAY, str(level), name, str(number)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    (line,) = (done.stdout + done.stderr).splitlines()
    event: dict[str, str] = json.loads(line)
    return event


@pytest.mark.parametrize(
    ("level", "named"), [(0, "error"), (3, "error"), (4, "warning"), (6, "info"), (7, "info")]
)
def test_it_has_its_level_and_its_arguments(level: int, named: str) -> None:
    event = said(level, "reading", -7)
    assert (event["event"], event["level"]) == ("libfuse", named)
    assert event["message"].startswith("fuse: reading: reading (-7 of xxx")
    assert 1000 < len(event["message"]) < 1024
