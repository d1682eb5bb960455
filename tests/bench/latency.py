"""From close(2) in the mount to the file on a node: one file of 4 KiB after another, idle and under load."""

from __future__ import annotations

__all__ = ["run"]

import os
import statistics
import threading
import time
from pathlib import Path

from options import Options
from report import heading, show
from stack import Stack, eventually


def run(base: Path, options: Options) -> None:
    """1,000 files idle; 1,000 files while another thread copies files into the same session."""
    count = 100 if options.small else 1000
    with Stack(base / "stack") as stack:
        stack.start_hub()
        mount = stack.mount("bench")
        node = stack.start_node("n1", "bench")
        stack.converge("bench")
        copy = node.copy("bench")
        measure(mount, copy, "warm", 50)
        idle = measure(mount, copy, "idle", count)
        stop = threading.Event()
        load = threading.Thread(target=keep_busy, args=(mount / "load", stop))
        load.start()
        try:
            loaded = measure(mount, copy, "loaded", count)
        finally:
            stop.set()
            load.join()
    heading(f"From close(2) to the new file on a node, 4 KiB, {count} files, milliseconds")
    show(("", "p50", "p90", "p99", "max"), [row("idle", idle), row("under load", loaded)])


def measure(mount: Path, copy: Path, prefix: str, count: int) -> list[float]:
    """Seconds for each file."""
    taken = []
    for number in range(count):
        name = f"{prefix}{number}"
        (mount / name).write_bytes(os.urandom(4096))
        closed = time.perf_counter()
        eventually((copy / name).exists, timeout=30, what=f"{name} did not arrive", every=0.0002)
        taken.append(time.perf_counter() - closed)
    return taken


def keep_busy(folder: Path, stop: threading.Event) -> None:
    """A load of 100 files of 16 KiB a second, in bursts of ten."""
    folder.mkdir()
    number = 0
    while not stop.wait(0.1):
        for _ in range(10):
            number += 1
            (folder / f"f{number % 500}").write_bytes(os.urandom(16384))


def row(name: str, seconds: list[float]) -> tuple[str, ...]:
    """Percentiles of one series."""
    cuts = statistics.quantiles(seconds, n=100)
    return name, *(f"{value * 1e3:.2f}" for value in (cuts[49], cuts[89], cuts[98], max(seconds)))
