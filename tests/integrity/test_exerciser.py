"""One file under every kind of read and write at once: each read is right, and so is the index afterwards.

`GHOSTFS_TEST_EXERCISES` is how many operations all forms of the test do together.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from stack import Stack, eventually

from ghostfs.mirror.live.verify import verify

pytestmark = pytest.mark.timeout(24 * 3600)

EXERCISER = Path(__file__).with_name("exerciser.py")
FORMS = 6
SHARE = int(os.environ.get("GHOSTFS_TEST_EXERCISES", "18000")) // FORMS
ROUND = 100_000
"""Most operations on one file, from one seed."""


def exercise(path: Path, seed: int, operations: int, *options: str) -> str:
    """Runs the exerciser on a file; the digest of what the file must hold afterwards."""
    command = [
        sys.executable,
        str(EXERCISER),
        str(path),
        f"--seed={seed}",
        f"--operations={operations}",
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"{' '.join([*command, *options])}\n{done.stderr}", pytrace=False)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "options", [(), ("--processes=3",), ("--unlinked", "--processes=2")], ids=["one", "three", "unlinked"]
)
def test_every_read_is_right_and_so_is_the_index(
    stack: Stack, mount: Callable[..., Path], options: tuple[str, ...]
) -> None:
    here = mount()
    layout = stack.session("work")
    kept = "--unlinked" not in options
    for seed, begin in enumerate(range(0, SHARE, ROUND)):
        file = here / f"file{seed}"
        expected = exercise(file, seed, min(ROUND, SHARE - begin), *options)
        assert file.exists() == kept
        stack.settle("work")
        report = verify(layout)
        assert report.ok, (seed, report.problems)
        if begin + ROUND < SHARE and kept:
            file.unlink()
    stack.umount(here)
    mount()
    assert not kept or hashlib.sha256(file.read_bytes()).hexdigest() == expected
    stack.umount(here)
    report = verify(layout)
    assert report.ok, report.problems
    assert report.changed_meanwhile == 0


def test_a_seed_repeats_a_run(tmp_path: Path) -> None:
    assert exercise(tmp_path / "a", 5, 2000) == exercise(tmp_path / "b", 5, 2000, "--processes=2")


def flip(fd: int) -> None:
    size = os.fstat(fd).st_size
    os.pwrite(fd, bytes(byte ^ 1 for byte in os.pread(fd, size, 0)), 0)


@pytest.mark.parametrize(
    ("damage", "told"),
    [(flip, "bytes differ"), (lambda fd: os.ftruncate(fd, 0), "the file has 0x0 bytes, not")],
    ids=["bytes", "size"],
)
def test_a_file_that_somebody_else_changes_is_noticed(
    tmp_path: Path, damage: Callable[[int], None], told: str
) -> None:
    path, lock = tmp_path / "file", tmp_path / "file.lock"
    command = [sys.executable, str(EXERCISER), str(path), "--operations=1000000000", "--processes=2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        try:
            eventually(lambda: path.exists() and path.stat().st_size, what="it did not begin")
            with lock.open("r+b") as held, path.open("r+b") as file:

                def damaged_and_noticed() -> bool:
                    """Once may not do: the file may just be empty, or be overwritten before it is read."""
                    fcntl.lockf(held, fcntl.LOCK_EX)
                    damage(file.fileno())
                    fcntl.lockf(held, fcntl.LOCK_UN)
                    return running.poll() is not None

                eventually(damaged_and_noticed, what="it noticed nothing")
            log = running.communicate(timeout=60)[1]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 1
    assert told in log
    assert re.search(r"seed 0, operation \d+: ", log)
    assert re.search(r"\d+  process [01]  write mapped +0x[0-9a-f]+ \+ +0x", log)
