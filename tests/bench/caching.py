"""Write-through against the kernel's writeback cache: what each gains, and what a killed mount loses."""

from __future__ import annotations

__all__ = ["run"]

import itertools
import os
import signal
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mounts import (
    append_small_pieces,
    copy_a_tree_in,
    git_clone,
    insert_into_sqlite,
    make_small_files,
    make_source,
    read_512_mib,
    write_512_mib,
)
from report import heading, show
from stack import Stack, eventually

MODES = {"write-through": (), "writeback": ("--writeback",)}
WORKLOADS: tuple[Callable[[Path, Path], None], ...] = (
    copy_a_tree_in,
    git_clone,
    make_small_files,
    append_small_pieces,
    insert_into_sqlite,
    write_512_mib,
    read_512_mib,
)


def run(base: Path, *, small: bool) -> None:
    """Three rounds of each workload in turn; then ten kills in the middle of writing."""
    rounds = 1 if small else 3
    source = base / "source"
    make_source(source, small=small)
    taken: dict[str, dict[str, list[float]]] = {}
    with Stack(base / "stack") as stack:
        places = {mode: stack.mount(mode, *options) for mode, options in MODES.items()}
        for number in range(rounds):
            for workload in WORKLOADS:
                for mode, place in places.items():
                    folder = place / f"round{number}"
                    folder.mkdir(exist_ok=True)
                    started = time.perf_counter()
                    workload(folder, source)
                    seconds = time.perf_counter() - started
                    taken.setdefault(workload.__name__, {}).setdefault(mode, []).append(seconds)
    heading(f"Seconds, medians of {rounds} interleaved rounds")
    rows = []
    for name, series in taken.items():
        through, back = (statistics.median(series[mode]) for mode in MODES)
        rows.append((name.replace("_", " "), f"{through:.3f}", f"{back:.3f}", f"{back / through:.2f}"))
    show(("", *MODES, "ratio"), rows)
    kills = 2 if small else 10
    lost = {
        mode: [lost_bytes(base / f"{mode}{n}", options) for n in range(kills)]
        for mode, options in MODES.items()
    }
    heading(
        f"Bytes of 200 files of 50 kB, written, still open and not synced, that a SIGKILL of the mount lost; {kills} kills"
    )
    show(
        ("", "median", "worst", "of"),
        [
            (mode, str(int(statistics.median(n))), str(max(n)), str(200 * 50_000))
            for mode, n in lost.items()
        ],
    )


def lost_bytes(base: Path, options: tuple[str, ...]) -> int:
    """Writes files that stay open, kills the mount at once, mounts again and counts what is missing."""
    with Stack(base) as stack:
        mount = stack.mount("crash", *options)
        content = os.urandom(50_000)
        files = [(mount / f"f{number}").open("wb", buffering=0) for number in range(200)]
        for file in files:
            file.write(content)
        pid = stack.mount_pid("crash")
        # Not by starting kill(1): a fork that closes its copies of the files would have them written back.
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{pid}").exists(), what="the mount did not end")
        for file in files:
            with suppress(OSError):
                file.close()
        stack.mounts.remove(mount)
        mount = stack.mount("crash", *options)
        return sum(missing(mount / f"f{number}", content) for number in range(200))


def missing(path: Path, content: bytes) -> int:
    """How many bytes of the content a file has not."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return len(content)
    return sum(a != b for a, b in itertools.zip_longest(found, content)) if found != content else 0
