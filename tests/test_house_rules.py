"""The rules of `conftest.py` catch what they are there for, and let pass what is allowed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def run(tmp_path: Path, body: str) -> tuple[int, str]:
    """Run one test file under the house's conftest; its exit code and output."""
    folder = tmp_path / "inner"
    folder.mkdir()
    shutil.copy(TESTS / "conftest.py", folder)
    (folder / "test_inner.py").write_text(body)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        str(TESTS.parent / "pyproject.toml"),
        "-p",
        "no:cacheprovider",
    ]
    command += ["--rootdir", str(folder), "--basetemp", str(tmp_path / "base"), str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_GHOSTFS_RUN"}
    environment["PYTEST_GHOSTFS_GRACE"] = "0.5"
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (
            "import subprocess\ndef test_it(): subprocess.Popen(['sleep', '1000'])",
            "sleep 1000",
        ),
        (
            # A daemon: its parent has ended, so it is nobody's child.
            "import subprocess\ndef test_it(): subprocess.run(['sh', '-c', 'setsid sleep 1001 >/dev/null 2>&1 &'])",
            "sleep 1001",
        ),
        (
            "import threading\ndef test_it(): threading.Thread(target=threading.Event().wait, name='stray', daemon=True).start()",
            "threads: stray",
        ),
        (
            "import subprocess\ndef test_it(tmp_path): subprocess.run(['mount', '-t', 'tmpfs', 'x', str(tmp_path)], check=True)",
            "mounts: ",
        ),
        (
            "import structlog\ndef test_it(): structlog.get_logger('a').warning('odd_thing', what=3)",
            "WARNING odd_thing",
        ),
        (
            "import logging\ndef test_it(): logging.getLogger('library').error('from %s', 'elsewhere')",
            "ERROR from elsewhere",
        ),
    ],
    ids=["child", "daemon", "thread", "mount", "event", "foreign-event"],
)
def test_what_is_left_behind_fails(tmp_path: Path, body: str, complaint: str) -> None:
    code, output = run(tmp_path, body)
    assert code == 1, output
    assert complaint in output
    assert not any(str(tmp_path) in line for line in Path("/proc/self/mountinfo").read_text().splitlines())


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    code, output = run(
        tmp_path,
        """
import subprocess, structlog, pytest
from hypothesis import given, strategies as st

@pytest.mark.allows_log("odd_thing")
def test_it(logged):
    subprocess.run(["true"], check=True)
    structlog.get_logger("a").warning("odd_thing", what=3)
    structlog.get_logger("a").info("fine")
    assert logged.named("odd_thing")[0]["what"] == 3

@given(st.integers())
def test_property(number):
    assert number == number
""",
    )
    assert code == 0, output
    assert "2 passed" in output
