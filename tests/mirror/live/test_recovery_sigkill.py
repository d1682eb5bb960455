"""A real process, killed at moments of no choosing while several threads write."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ghostfs.index import DirtyLog
from ghostfs.mirror.live.session import Ending

KILLS = int(os.environ.get("GHOSTFS_TEST_KILLS", "5"))
"""How often to kill; more for long runs."""

WRITER = Path(__file__).with_name("killed_writer.py")


def test_killed_again_and_again(live: Any, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    dice = random.Random(seed)
    live.open()
    live.close()
    synced: dict[str, list[str]] = {}
    for kill in range(KILLS):
        report = tmp_path / f"synced{kill}"
        operations = run_until_killed(live.home, report, seed + kill, lines=dice.randrange(20, 400))
        dirty = DirtyLog.entries(live.layout.dirty_log)
        recovery = live.open().recovery
        assert recovery.ending is Ending.KILLED, (seed, kill)
        live.check()
        named = len(dirty.inodes) + len(dirty.dirents)
        assert recovery.files_read <= named, (seed, kill)
        for line in report.read_text().splitlines():
            name, *versions = json.loads(line)
            synced[name] = versions
        for name, (least, digit) in synced.items():
            content = (live.layout.tree / name).read_bytes()
            assert len(content) >= int(least), (seed, kill, name)
            assert content[: int(least)] == digit.encode() * int(least), (seed, kill, name)
        assert operations > 0
        if kill % 4 == 3:
            for name in synced:
                live.unlink(name)
            synced.clear()
        live.close()


def run_until_killed(data: Path, report: Path, seed: int, *, lines: int) -> int:
    """Starts the writer and kills it after so many of its lines; how many there were."""
    with subprocess.Popen(
        [sys.executable, str(WRITER), str(data), str(report), str(seed)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        count = 0
        for _ in process.stdout:
            count += 1
            if count == lines:
                process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    return count
