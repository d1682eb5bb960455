"""The first sync of many small files and of one large one, to one and to four nodes, against rsync."""

from __future__ import annotations

__all__ = ["run"]

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from options import Options
from report import heading, show
from stack import Stack

MIB = 1 << 20


@dataclass
class Cost:
    """CPU seconds and peak resident memory of a process while something ran."""

    cpu: float = 0.0
    peak: int = 0


def run(base: Path, options: Options) -> None:
    """50,000 files of 1 KiB, and one file of 4 GiB."""
    files, size = (2_000, 256 * MIB) if options.small else (50_000, 4096 * MIB)
    rows = []
    fills: dict[str, Callable[[Path], None]] = {
        "small": lambda tree: fill_small(tree, files),
        "large": lambda tree: fill_large(tree, size),
    }
    for what, fill in fills.items():
        with Stack(base / what) as stack:
            mount = stack.mount("bench")
            fill(mount)
            stack.settle("bench")
            tree = stack.session("bench").tree
            count, total = measure_tree(tree)
            for nodes in (1, 4):
                peer = sum(rsync(tree, base / f"rsync-{what}-{nodes}-{turn}") for turn in range(nodes))
                rows.append(sync_to(stack, nodes, count, total, peer))
    heading("First sync from a hub to nodes on the same machine; rsync -a between the same two directories")
    show(
        (
            "",
            "nodes",
            "seconds",
            "files/s",
            "MB/s",
            "hub CPU s",
            "node CPU s",
            "hub MiB",
            "node MiB",
            "rsync s",
            "ratio",
        ),
        rows,
    )


def fill_small(tree: Path, count: int) -> None:
    for number in range(count):
        folder = tree / f"d{number // 500}"
        if number % 500 == 0:
            folder.mkdir()
        (folder / f"f{number}").write_bytes(os.urandom(1024))


def fill_large(tree: Path, size: int) -> None:
    with (tree / "large").open("wb") as file:
        for _ in range(size // (4 * MIB)):
            file.write(os.urandom(4 * MIB))


def measure_tree(tree: Path) -> tuple[int, int]:
    found = [path.stat().st_size for path in tree.rglob("*") if path.is_file()]
    return len(found), sum(found)


def rsync(source: Path, target: Path) -> float:
    """Seconds that rsync takes, fsync of the filesystem included, as a node does it; the copy is removed."""
    started = time.perf_counter()
    subprocess.run(["rsync", "-a", f"{source}/", f"{target}/"], check=True)
    subprocess.run(["sync", "-f", target], check=True)
    taken = time.perf_counter() - started
    subprocess.run(["rm", "-rf", target], check=True)
    return taken


def sync_to(stack: Stack, nodes: int, count: int, total: int, peer: float) -> tuple[str, ...]:
    """One row: so many new nodes join at once."""
    names = [f"n{nodes}-{number}" for number in range(nodes)]
    hub = stack.start_hub()
    started = time.perf_counter()
    for name in names:
        stack.start_node(name, "bench")
    with watched([hub.pid]) as hub_cost, watched([stack.nodes[name].pid for name in names]) as node_cost:
        stack.converge("bench", *names, timeout=1800)
    taken = time.perf_counter() - started
    for name in names:
        stack.nodes[name].stop()
        subprocess.run(["rm", "-rf", stack.base / name], check=True)
        del stack.nodes[name]
    hub.stop()
    return (
        f"{count} files, {total / MIB:.0f} MiB",
        str(nodes),
        f"{taken:.2f}",
        f"{nodes * count / taken:.0f}",
        f"{nodes * total / taken / 1e6:.0f}",
        f"{hub_cost.cpu:.1f}",
        f"{node_cost.cpu / nodes:.1f}",
        f"{hub_cost.peak / MIB:.0f}",
        f"{node_cost.peak / MIB:.0f}",
        f"{peer:.2f}",
        f"{taken / peer:.1f}",
    )


@contextmanager
def watched(pids: list[int]) -> Iterator[Cost]:
    """The CPU time of all of them up to the end, and the largest peak of one."""
    cost = Cost()
    yield cost
    for pid in pids:
        cost.cpu += cpu_seconds(pid)
        cost.peak = max(cost.peak, peak_memory(pid))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its threads, those that have ended too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory(pid: int) -> int:
    """VmHWM, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no VmHWM for {pid}")
