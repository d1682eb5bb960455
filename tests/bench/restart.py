"""A session of 100,000 files and 2 GB: how soon mount and hub are ready again, and what they read for it."""

from __future__ import annotations

__all__ = ["run"]

import os
import time
from pathlib import Path

from options import Options
from report import heading, show
from stack import Stack

KIB = 1024


def run(base: Path, options: Options) -> None:
    """Fills a session, then starts mount and hub again, five times."""
    count = 5_000 if options.small else 100_000
    with Stack(base / "stack") as stack:
        mount = stack.mount("bench")
        block = os.urandom(20 * KIB)
        started = time.perf_counter()
        for number in range(count):
            if number % 500 == 0:
                folder = mount / f"d{number // 500}"
                folder.mkdir()
            (folder / f"f{number}").write_bytes(b"%d" % number + block)
        stack.settle("bench")
        filled = time.perf_counter() - started
        mounts, hubs, read = [], [], []
        for _ in range(5):
            stack.umount(mount)
            started = time.perf_counter()
            mount = stack.mount("bench")
            mounts.append(time.perf_counter() - started)
            read.append(bytes_read(stack.mount_pid("bench")))
            started = time.perf_counter()
            hub = stack.start_hub()
            hubs.append(time.perf_counter() - started)
            hub.stop()
    heading(f"Restart of a session of {count} files and {count * 20 * KIB / 1e9:.1f} GB, median of 5")
    show(
        ("", "seconds"),
        [
            ("filling it through the mount", f"{filled:.1f}"),
            ("ghostfs mount returns", f"{sorted(mounts)[2]:.3f}"),
            ("ghostfs hub listens", f"{sorted(hubs)[2]:.3f}"),
        ],
    )
    show(
        ("", "MiB"),
        [
            (
                "read by the mount from start to ready, Python's own modules included",
                f"{max(read) / 2**20:.1f}",
            )
        ],
    )


def bytes_read(pid: int) -> int:
    """What a process has asked read(2) and pread(2) for so far: rchar of /proc/<pid>/io."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise ValueError(f"no rchar for {pid}")
