"""Interleaved rounds: every workload in every place in turn, each run in a process of its own under a time limit."""

from __future__ import annotations

__all__ = ["Results", "in_a_process", "measure", "pick", "prepare", "timed"]

import json
import os
import random
import select
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from places import Broken, Place
from report import geometric_mean, progress
from sources import Failed, Sources
from workload import Site, Workload

from ghostfs.mirror.syscalls import syncfs

_LIMIT = 900.0
"""Seconds for one run; whoever takes longer hangs."""
_DROP = Path("/proc/sys/vm/drop_caches")


@dataclass(slots=True)
class Results:
    """Seconds by workload and place, and what failed instead."""

    workloads: list[Workload]
    places: list[str]
    rounds: int
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Workloads that this machine cannot run, and why."""

    @property
    def basis(self) -> str:
        """What the figures are, for a heading."""
        return f"medians of {self.rounds} interleaved rounds" if self.rounds > 1 else "of one round"

    def broken(self, *places: str) -> tuple[str, ...]:
        """What failed in these places; in any without one."""
        return tuple(
            f"{workload} on {place}: {why}"
            for workload, found in self.failed.items()
            for place, why in found.items()
            if not places or place in places
        )

    def median(self, workload: str, place: str) -> float | None:
        """Seconds; None where it failed, in whatever round."""
        if place in self.failed.get(workload, {}):
            return None
        found = self.seconds.get(workload, {}).get(place)
        return statistics.median(found) if found else None

    def ratio(self, workload: str, place: str, to: str) -> float | None:
        """How many times as long as in the place `to`."""
        mine, other = self.median(workload, place), self.median(workload, to)
        return None if mine is None or other is None else mine / other

    def mean(self, place: str, to: str, *, where: str = "") -> tuple[float | None, int]:
        """The geometric mean of the ratios, and over how many workloads: those that `where` did, too."""
        ratios = [
            ratio
            for workload in self.workloads
            if (ratio := self.ratio(workload.name, place, to)) is not None
            and (not where or self.median(workload.name, where) is not None)
        ]
        return (geometric_mean(ratios) if ratios else None), len(ratios)

    def best(self, workload: str, places: Iterable[str]) -> str | None:
        """The fastest of the places; None if all failed."""
        found = [(seconds, name) for name in places if (seconds := self.median(workload, name)) is not None]
        return min(found)[1] if found else None

    def document(self, to: str) -> dict[str, object]:
        """All of it for `--json`, with the ratios to the place `to`."""
        return {
            "rounds": self.rounds,
            "places": self.places,
            "ratios_to": to,
            "workloads": {
                workload.name: {
                    "title": workload.title,
                    "seconds": self.seconds.get(workload.name, {}),
                    "median": {name: self.median(workload.name, name) for name in self.places},
                    "ratio": {name: self.ratio(workload.name, name, to) for name in self.places},
                    "failed": self.failed.get(workload.name, {}),
                }
                for workload in self.workloads
            },
            "geometric_mean": {name: self.mean(name, to)[0] for name in self.places},
            "skipped": self.skipped,
        }


def pick(workloads: Sequence[Workload], only: Sequence[str]) -> tuple[list[Workload], dict[str, str]]:
    """Those of these names (all without any) that this machine can run, and why it cannot run others."""
    chosen = [workload for workload in workloads if not only or workload.name in only]
    reasons = {workload.name: workload.impossible() for workload in chosen}
    return [w for w in chosen if not reasons[w.name]], {name: why for name, why in reasons.items() if why}


def measure(
    places: Sequence[Place], workloads: Sequence[Workload], sources: Sources, rounds: int
) -> Results:
    """Runs them all; a workload that fails in a place is not tried there again."""
    for workload in workloads:
        for name in workload.sources:
            getattr(sources, name)
    results = Results(list(workloads), [place.name for place in places], rounds)
    order = random.Random(0)
    for number in range(rounds):
        sites = {place.name: _site(place, sources, number) for place in places}
        for workload in workloads:
            # In another order each time: who comes first may find the machine in another state.
            for place in order.sample(places, len(places)):
                if place.name in results.failed.get(workload.name, {}):
                    continue
                progress(f"round {number + 1} of {rounds}: {workload.title} on {place.name}")
                try:
                    seconds = _run_once(workload, place, sites[place.name])
                    results.seconds.setdefault(workload.name, {}).setdefault(place.name, []).append(seconds)
                except (Failed, Broken) as error:
                    results.failed.setdefault(workload.name, {})[place.name] = str(error)
                    _revive(place)
        for place in places:
            with suppress(Failed, Broken):
                in_a_process(lambda site=sites[place.name]: shutil.rmtree(site.folder))  # type: ignore[misc]
            place.settle()
    progress("")
    return results


def _site(place: Place, sources: Sources, number: int) -> Site:
    notes = sources.base / "notes" / place.name / str(number)
    notes.mkdir(parents=True)
    return Site(place.path / f"round{number}", notes, sources)


def prepare(workload: Workload, site: Site) -> None:
    """Makes what the workload needs."""
    site.folder.mkdir(exist_ok=True)
    workload.prepare(site)


def timed(workload: Workload, site: Site) -> float:
    """Does the work; the seconds that it took."""
    started = time.perf_counter()
    measured = workload.run(site)
    taken = time.perf_counter() - started
    return taken if measured is None else measured


def _run_once(workload: Workload, place: Place, site: Site) -> float:
    def run() -> float:
        seconds = timed(workload, site)
        workload.check(site)
        return seconds

    place.check()
    in_a_process(lambda: prepare(workload, site))
    _write_out(place, site)
    if workload.cold:
        place.remount()
        _drop_names()
    seconds = in_a_process(run)
    place.check()
    _write_out(place, site)
    return seconds


def _write_out(place: Place, site: Site) -> None:
    """Nothing of this run is left for the next one to wait for."""
    place.settle()
    fd = os.open(site.notes, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


def _drop_names() -> None:
    """Has the kernel forget names and attributes, everywhere, if we may ask for it."""
    with suppress(OSError):
        _DROP.write_text("2")


def _revive(place: Place) -> None:
    with suppress(Broken):
        place.revive()


def in_a_process(function: Callable[[], float | None], limit: float = _LIMIT) -> float:
    """Calls it in a child, which is ended with all that it started: after the time limit, or when we are.

    Raises:
        Failed: it raised something, or took too long.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _be_the_child(function, writing)
    try:
        os.close(writing)
        with os.fdopen(reading, "rb", buffering=0) as answer:
            if not select.select([answer], [], [], limit)[0]:
                raise Failed(f"it was not done after {limit:.0f} s")
            said = answer.read(1 << 16)
    finally:
        _end(pid)
    message: dict[str, Any] = json.loads(said) if said else {"error": "the process ended by itself"}
    if "error" in message:
        raise Failed(message["error"])
    return float(message["seconds"])


def _be_the_child(function: Callable[[], float | None], writing: int) -> None:
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        answer: dict[str, object] = {"seconds": function() or 0.0}
    except Failed as error:
        answer = {"error": str(error)}
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:300]}
    os.write(writing, json.dumps(answer).encode())
    os._exit(0)


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        os.killpg(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    # One that waits for a filesystem which hangs may not end before that does.
    while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.001)
