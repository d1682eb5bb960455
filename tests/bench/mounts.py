"""The mount against the filesystem below it and against other FUSE filesystems, on the same workloads in turn."""

from __future__ import annotations

__all__ = ["NATIVE", "WORKLOADS", "names", "run"]

import os
from contextlib import ExitStack
from pathlib import Path

import chart
from access import ACCESS_WORKLOADS, fio_version
from options import Options, Outcome
from peers import GHOSTFS, PEERS, version_of, whatever_is_installed
from places import Broken, Mounted, Place, Plain, Recipe
from report import heading, machine, note, show
from rounds import Results, measure, pick
from sources import FULL, SMALL, Sources
from workload import Workload
from workloads import TREE_WORKLOADS

NATIVE = "native"
_OURS = "ghostfs"
WORKLOADS: tuple[Workload, ...] = (*TREE_WORKLOADS, *ACCESS_WORKLOADS)


def run(base: Path, options: Options) -> Outcome:
    """Three rounds, every filesystem in each; what fails natively or through GhostFS is broken."""
    recipes, left_out = whatever_is_installed(options.peers)
    ours = [recipe for recipe in GHOSTFS if recipe.name == _OURS or recipe.name in options.peers]
    workloads, skipped = pick(WORKLOADS, options.only)
    sources = Sources(base / "sources", SMALL if options.small else FULL)
    with ExitStack() as stack:
        (base / NATIVE).mkdir()
        places: list[Place] = [Plain(NATIVE, base / NATIVE)]
        mounted: list[Recipe] = []
        for recipe in [*ours, *recipes]:
            try:
                places.append(stack.enter_context(Mounted(recipe, base / recipe.name)))
                mounted.append(recipe)
            except Broken as error:
                if recipe in ours:
                    raise
                left_out[recipe.name] = str(error)
        results = measure(places, workloads, sources, options.rounds_of(3))
    results.skipped = skipped
    versions = {recipe.name: version_of(recipe) for recipe in mounted}
    peers = [recipe.name for recipe in mounted if recipe not in ours]
    _say_what(mounted, versions, left_out, results)
    _say_seconds(results)
    _say_ratios(results, peers)
    if options.svg is not None:
        options.svg.write_text(_draw(results, peers))
        note(f"drawn in {options.svg}")
    broken = results.broken(NATIVE, *(recipe.name for recipe in ours))
    return Outcome(_document(results, mounted, versions, left_out, peers), broken)


def _say_what(
    mounted: list[Recipe], versions: dict[str, str], left_out: dict[str, str], results: Results
) -> None:
    heading("What was measured")
    note(f"{NATIVE}: the filesystem below all of them")
    for recipe in mounted:
        note(f"{recipe.name}: {versions[recipe.name]}; {recipe.options}")
    for name, why in left_out.items():
        note(f"{name}: LEFT OUT, {why}")
    for name, why in results.skipped.items():
        note(f"workload {name}: LEFT OUT, {why}")
    note(f"large files: {fio_version() or 'by a loop in Python, fio is not installed'}")
    names = ", and names and attributes forgotten by drop_caches" if os.geteuid() == 0 else ""
    note(f"cold: just mounted{names}; what the files hold is in the page cache of the filesystem below")


def _say_seconds(results: Results) -> None:
    heading(f"Seconds, {results.basis}")
    rows = []
    for workload in results.workloads:
        medians = (results.median(workload.name, place) for place in results.places)
        rows.append((workload.title, *("failed" if m is None else f"{m:.4f}" for m in medians)))
    show(("", *results.places), rows)
    for failure in results.broken():
        note(f"failed: {failure}")


def _say_ratios(results: Results, peers: list[str]) -> None:
    heading(f"Ratio to {NATIVE}; the best of the peers, and what GhostFS takes of its time")
    others = results.places[1:]
    rows = []
    for workload in results.workloads:
        cells = [_figure(results.ratio(workload.name, place, NATIVE)) for place in others]
        best = results.best(workload.name, peers)
        to_best = None if best is None else results.ratio(workload.name, _OURS, best)
        rows.append((workload.title, *cells, best or "", _figure(to_best)))
    means = {place: results.mean(place, NATIVE) for place in others}
    same = {place: results.mean(_OURS, NATIVE, where=place)[0] for place in others}
    rows.append(("geometric mean", *(_figure(means[place][0]) for place in others), "", ""))
    rows.append(("of so many workloads", *(str(means[place][1]) for place in others), "", ""))
    rows.append(("GhostFS, over the same ones", *(_figure(same[place]) for place in others), "", ""))
    show(("", *others, "best peer", "GhostFS to it"), rows)


def _figure(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _draw(results: Results, peers: list[str]) -> str:
    series = []
    for place in results.places[1:]:
        mean = _figure(results.mean(place, NATIVE)[0])
        ratios = [results.ratio(workload.name, place, NATIVE) for workload in results.workloads]
        series.append(chart.Series(f"{place} ({mean})", ratios, ours=place not in peers))
    return chart.draw(
        title="Time taken, as a multiple of the filesystem below",
        subtitle=f"{results.basis}; in brackets geometric means; {machine()}",
        groups=[workload.title for workload in results.workloads],
        series=series,
    )


def _document(
    results: Results,
    mounted: list[Recipe],
    versions: dict[str, str],
    left_out: dict[str, str],
    peers: list[str],
) -> dict[str, object]:
    best = {workload.name: results.best(workload.name, peers) for workload in results.workloads}
    return results.document(NATIVE) | {
        "filesystems": {
            recipe.name: {"version": versions[recipe.name], "options": recipe.options} for recipe in mounted
        },
        "left_out": left_out,
        "best_peer": {
            name: {"peer": peer, "ghostfs_to_it": results.ratio(name, _OURS, peer)}
            for name, peer in best.items()
            if peer is not None
        },
    }


def names() -> dict[str, tuple[str, ...]]:
    """What `--only` and `--peers` may name."""
    return {
        "only": tuple(workload.name for workload in WORKLOADS),
        "peers": tuple(recipe.name for recipe in (*GHOSTFS[1:], *PEERS)),
    }
