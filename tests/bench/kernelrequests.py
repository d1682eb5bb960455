"""What workloads ask of a mount: how many requests of which kind, and where the time of each goes (`counted.py`)."""

from __future__ import annotations

__all__ = ["run"]

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from counted import COUNTS
from mounts import WORKLOADS
from options import Options, Outcome
from peers import ghostfs
from places import Mounted
from report import heading, note, progress, show
from rounds import in_a_process, pick, prepare, timed
from sources import FULL, SMALL, Failed, Sources
from stack import eventually
from workload import Site, Workload

_FEW = 5
"""Kinds of requests that are told of each workload."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a mount has counted over a while. Nanoseconds."""

    requests: dict[str, int]
    handler_ns: dict[str, int]
    """Inside the handlers, what they wait for included."""
    loop_ns: int
    """Processor time of the thread that serves requests, polling included."""


class _Counted(Mounted):
    """A GhostFS mount that counts."""

    def __init__(self, base: Path) -> None:
        self._file = base.with_name("counts.json")
        launcher = (sys.executable, str(Path(__file__).with_name("counted.py")))
        environment = {COUNTS: str(self._file)}
        super().__init__(ghostfs(name="counted", launcher=launcher, environment=environment), base)

    def counts(self) -> Counts:
        """Since the last call."""
        self._file.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)
        eventually(self._file.exists, what="the mount does not say what it counted", every=0.005)
        return Counts(**json.loads(self._file.read_text()))


def run(base: Path, options: Options) -> Outcome:
    """Each workload of `mounts` once."""
    workloads, skipped = pick(WORKLOADS, options.only)
    sources = Sources(base / "sources", SMALL if options.small else FULL)
    notes = base / "notes"
    notes.mkdir()
    rows, document, failed = [], {}, []
    with _Counted(base / "counted") as place:
        site = Site(place.path / "work", notes, sources)
        for workload in workloads:
            for name in workload.sources:
                getattr(sources, name)
            progress(workload.title)
            try:
                seconds, counts = _count(workload, place, site)
            except Failed as error:
                failed.append(f"{workload.name}: {error}")
                continue
            document[workload.name] = {"seconds": seconds} | {
                name: getattr(counts, name) for name in Counts.__slots__
            }
            rows.append(_row(workload.title, seconds, counts))
        progress("")
    heading(
        "Requests of the kernel, and microseconds of each: of the workload, in the loop's thread, in the handler"
    )
    show(
        (
            "",
            "seconds",
            "requests",
            "each",
            "loop",
            "handler",
            "most frequent, and the time in their handlers",
        ),
        rows,
    )
    for name, why in skipped.items():
        note(f"workload {name}: LEFT OUT, {why}")
    return Outcome({"workloads": document, "skipped": skipped}, tuple(failed))


def _count(workload: Workload, place: _Counted, site: Site) -> tuple[float, Counts]:
    in_a_process(lambda: prepare(workload, site))
    place.settle()
    if workload.cold:
        place.remount()
    place.counts()
    seconds = in_a_process(lambda: timed(workload, site))
    counts = place.counts()
    in_a_process(lambda: workload.check(site))
    place.settle()
    return seconds, counts


def _row(title: str, seconds: float, counts: Counts) -> tuple[str, ...]:
    total = sum(counts.requests.values())
    if not total:
        return title, f"{seconds:.3f}", "0", "", "", "", ""
    often = sorted(counts.requests.items(), key=lambda item: -item[1])[:_FEW]
    told = ", ".join(
        f"{name} {count} ({counts.handler_ns[name] / count / 1e3:.0f})" for name, count in often
    )
    each = (seconds * 1e9, counts.loop_ns, sum(counts.handler_ns.values()))
    return title, f"{seconds:.3f}", str(total), *(f"{ns / total / 1e3:.0f}" for ns in each), told
