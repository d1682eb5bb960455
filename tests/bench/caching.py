"""Write-through against the kernel's writeback cache: what each gains, and what a killed mount loses."""

from __future__ import annotations

__all__ = ["run"]

import itertools
import os
import signal
import statistics
from contextlib import ExitStack, suppress
from pathlib import Path

from access import ACCESS_WORKLOADS
from options import Options, Outcome
from peers import ghostfs
from places import Mounted
from report import heading, show
from rounds import measure, pick
from sources import FULL, SMALL, Sources
from stack import Stack, eventually
from workloads import TREE_WORKLOADS

MODES = {"write-through": (), "writeback": ("--writeback",)}
WORKLOADS = (
    "copy-tree",
    "untar",
    "git-clone",
    "make",
    "sqlite-wal",
    "append",
    "write-seq",
    "read-seq",
    "write-random",
)


def run(base: Path, options: Options) -> Outcome:
    """Three rounds of each workload in turn; then ten kills in the middle of writing."""
    workloads, _ = pick((*TREE_WORKLOADS, *ACCESS_WORKLOADS), options.only or WORKLOADS)
    sources = Sources(base / "sources", SMALL if options.small else FULL)
    with ExitStack() as stack:
        places = [
            stack.enter_context(Mounted(ghostfs(*told, name=mode), base / mode))
            for mode, told in MODES.items()
        ]
        results = measure(places, workloads, sources, options.rounds_of(3))
    heading(f"Seconds, {results.basis}")
    rows = []
    for workload in results.workloads:
        figures = [results.median(workload.name, mode) for mode in MODES]
        figures.append(results.ratio(workload.name, "writeback", "write-through"))
        rows.append(
            (workload.title, *("failed" if figure is None else f"{figure:.3f}" for figure in figures))
        )
    show(("", *MODES, "ratio"), rows)
    kills = 2 if options.small else 10
    lost = {
        mode: [lost_bytes(base / f"lost-{mode}{n}", told) for n in range(kills)]
        for mode, told in MODES.items()
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
    return Outcome(results.document("write-through") | {"lost_bytes": lost}, results.broken())


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
