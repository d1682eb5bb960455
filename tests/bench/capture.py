"""What capture costs: a GhostFS mount as it is, against one that captures nothing (`uncaptured.py`)."""

from __future__ import annotations

__all__ = ["UNCAPTURED", "run"]

import sys
from contextlib import ExitStack
from pathlib import Path

from mounts import WORKLOADS
from options import Options, Outcome
from peers import ghostfs
from places import Mounted
from report import heading, note, show
from rounds import measure, pick
from sources import FULL, SMALL, Sources

_ON, _OFF = "captured", "uncaptured"
UNCAPTURED = ghostfs(name=_OFF, launcher=(sys.executable, str(Path(__file__).with_name("uncaptured.py"))))
"""A mount that captures nothing."""


def run(base: Path, options: Options) -> Outcome:
    """Three rounds of the workloads of `mounts` on both in turn."""
    workloads, skipped = pick(WORKLOADS, options.only)
    for workload in workloads:
        if workload.cold:
            skipped[workload.name] = "it remounts, and a mount that captures nothing forgets its tree"
    workloads = [workload for workload in workloads if not workload.cold]
    sources = Sources(base / "sources", SMALL if options.small else FULL)
    with ExitStack() as stack:
        places = [
            stack.enter_context(Mounted(ghostfs(name=_ON), base / _ON)),
            stack.enter_context(Mounted(UNCAPTURED, base / _OFF)),
        ]
        results = measure(places, workloads, sources, options.rounds_of(3))
    results.skipped = skipped
    heading(f"Seconds with capture, hashing and dirty.log, and without; {results.basis}")
    rows = []
    for workload in results.workloads:
        on, off = (results.median(workload.name, name) for name in (_ON, _OFF))
        ratio = results.ratio(workload.name, _ON, _OFF)
        cells = ("failed" if figure is None else f"{figure:.4f}" for figure in (on, off))
        rows.append((workload.title, *cells, "" if ratio is None else f"{ratio:.2f}"))
    mean = results.mean(_ON, _OFF)[0]
    rows.append(("geometric mean", "", "", "" if mean is None else f"{mean:.2f}"))
    show(("", _ON, _OFF, "ratio"), rows)
    for name, why in skipped.items():
        note(f"workload {name}: LEFT OUT, {why}")
    return Outcome(results.document(_OFF), results.broken())
