"""Adaptive polling: what an idle mount uses of a processor, and what polling does to a build that wants them all."""

from __future__ import annotations

__all__ = ["run"]

import os
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

from options import Options, Outcome
from peers import ghostfs
from places import Mounted
from report import heading, show
from rounds import measure
from sources import FULL, SMALL, Sources
from workloads import Make

_SETTINGS: dict[str, dict[str, str]] = {"polling": {}, "no-polling": {"GHOSTFS_POLL_US": "0"}}
_QUIET = 3.0
"""Seconds at rest before the clock starts: the index's write-ahead log has been carried over by then."""


def run(base: Path, options: Options) -> Outcome:
    """Idle for a minute, one mount and twenty of each kind; then five rounds of a build."""
    seconds, many = (5, 3) if options.small else (60, 20)
    idle = {count: _idle(base / f"idle{count}", count, seconds) for count in (1, many)}
    heading(
        f"Processor time of idle mounts over {seconds} s, in ms for each mount (and percent of one processor)"
    )
    rows = []
    for count, used in idle.items():
        what = f"{count} mount{'s' if count > 1 else ''} of each"
        rows.append(
            (what, *(f"{1e3 * used[name]:.2f} ({100 * used[name] / seconds:.3f} %)" for name in _SETTINGS))
        )
    show(("", *_SETTINGS), rows)

    jobs = max(4, len(os.sched_getaffinity(0)))
    build, failed = _build(base, jobs, options)
    return Outcome({"idle_seconds": seconds, "idle_cpu_seconds_each": idle, "build": build}, failed)


def _mounts(base: Path, stack: ExitStack, count: int) -> dict[str, list[Mounted]]:
    """So many mounts of each kind."""
    return {
        name: [
            stack.enter_context(Mounted(ghostfs(name=name, environment=said), base / f"{name}{number}"))
            for number in range(count)
        ]
        for name, said in _SETTINGS.items()
    }


def _idle(base: Path, count: int, seconds: float) -> dict[str, float]:
    """Processor seconds a mount, of `count` of each kind side by side; each has been busy before."""
    with ExitStack() as stack:
        mounts = _mounts(base, stack, count)
        everyone = [mount for same in mounts.values() for mount in same]
        for mount in everyone:
            for number in range(200):
                (mount.path / f"f{number}").write_bytes(b"x" * 1000)
        for mount in everyone:
            mount.settle(quiet=_QUIET)
        before = {name: [mount.cpu_seconds() for mount in same] for name, same in mounts.items()}
        time.sleep(seconds)
        return {
            name: statistics.fmean(
                mount.cpu_seconds() - used for mount, used in zip(same, before[name], strict=True)
            )
            for name, same in mounts.items()
        }


def _build(base: Path, jobs: int, options: Options) -> tuple[dict[str, object], tuple[str, ...]]:
    sources = Sources(base / "sources", SMALL if options.small else FULL)
    make = Make(jobs)
    with ExitStack() as stack:
        places = [same[0] for same in _mounts(base / "build", stack, 1).values()]
        results = measure(places, [make], sources, options.rounds_of(5))
    on, off = (results.median(make.name, name) for name in _SETTINGS)
    ratio = results.ratio(make.name, *_SETTINGS)
    heading(f"Seconds of {make.title} of {sources.sizes.c_files} files, on all processors; {results.basis}")
    figures = ("failed" if figure is None else f"{figure:.3f}" for figure in (on, off, ratio))
    show(("", *_SETTINGS, "ratio"), [(make.title, *figures)])
    return results.document("no-polling") | {"jobs": jobs}, results.broken()
