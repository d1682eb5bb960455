"""SIGKILL of the mount while eight writers run: nothing that fsync returned for is lost."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import writers
from stack import Stack, eventually

from ghostfs.index import DirtyLog, Index
from ghostfs.mirror.live.verify import verify

pytestmark = pytest.mark.timeout(3600)

WRITERS = 8


@contextmanager
def writing(mount: Path, diaries: Path, seed: int) -> Iterator[None]:
    """The writers at work; they end when the mount does."""
    running = [
        subprocess.Popen(
            [
                sys.executable,
                writers.__file__,
                mount / f"w{n}",
                diaries / f"{n}.log",
                str(seed * WRITERS + n),
            ],
            stderr=subprocess.DEVNULL,
        )
        for n in range(WRITERS)
    ]
    try:
        eventually(
            lambda: all((diaries / f"{n}.log").exists() for n in range(WRITERS)),
            timeout=30,
            what="the writers did not start",
        )
        yield
        for writer in running:
            writer.wait(30)
    finally:
        for writer in running:
            writer.kill()
            writer.wait()


def kept(diaries: Path) -> int:
    """Checks every promise against the tree; how many there were."""
    count = 0
    for diary in diaries.iterdir():
        for path, promise in writers.promises(diary).items():
            if promise.digest is None:
                continue
            content = Path(path).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (promise.size, promise.digest), (
                path
            )
            count += 1
    return count


def named_in(log: Path, index: Index) -> set[int]:
    entries = DirtyLog.entries(log)
    named: set[int] = set(entries.inodes)
    for dirent in entries.dirents:
        named.add(dirent.parent)
        known = index.dirent(dirent.parent, dirent.name)
        named |= {number for number in (dirent.child, known) if number is not None}
    return named


def test_nothing_synced_is_lost(stack: Stack, tmp_path: Path, long: int) -> None:
    rng = random.Random(20)
    layout = stack.session("work")
    diaries = tmp_path / "diaries"
    diaries.mkdir()
    for round_number in range(long or 4):
        mount = stack.mount("work")
        with writing(mount, diaries, round_number):
            time.sleep(rng.uniform(0.1, 1.5))  # not to synchronise: the moment of the kill is to be random
            pid = stack.mount_pid("work")
            os.kill(pid, signal.SIGKILL)
        proc = Path(f"/proc/{pid}")
        eventually(lambda proc=proc: not proc.exists(), what="the mount did not end")
        with Index.open(layout.index_db) as index:
            named = len(named_in(layout.dirty_log, index))
        stack.mounts.remove(mount)
        mount = stack.mount("work")
        recovered = [
            json.loads(line)
            for line in layout.log_file.read_text().splitlines()
            if '"recovered"' in line and '"killed"' in line
        ][-1]
        assert recovered["files_read"] <= recovered["looked_at"] <= named
        assert kept(diaries) > 0
        stack.umount(mount)
        report = verify(layout)
        assert report.ok, report.problems[:5]
        assert report.changed_meanwhile == 0
