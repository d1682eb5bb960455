"""The benchmarks measure what they say, say what they leave out, and leave nothing behind."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from stack import eventually

from ghostfs.fs.mounts import mounted
from ghostfs.index import Index
from ghostfs.model import ROOT

BENCH = Path(__file__).parent
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def bench_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def command(base: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(BENCH), *arguments, "--small", "--base", str(base)]


def mounted_below(base: Path) -> list[Path]:
    return [entry.path for entry in mounted() if entry.path.is_relative_to(base)]


def test_a_run_measures_checks_and_leaves_nothing(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    only = ("--only", "append,rename-8,grep-cold", "--peers", "bindfs,mergerfs", "--rounds", "2")
    files = ("--json", str(tmp_path / "figures.json"), "--svg", str(tmp_path / "chart.svg"))
    done = subprocess.run(
        command(base, "mounts", "capture", *only, *files), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert mounted_below(base) == []
    assert os.listdir(base) == []
    figures = json.loads((tmp_path / "figures.json").read_text())
    for name in ("append", "rename-8", "grep-cold"):
        found = figures["mounts"]["workloads"][name]
        assert len(found["seconds"]["native"]) == len(found["seconds"]["ghostfs"]) == 2
        assert found["ratio"]["native"] == 1
        assert found["ratio"]["ghostfs"] == found["median"]["ghostfs"] / found["median"]["native"]
    assert figures["capture"]["workloads"].keys() == {"append", "rename-8"}
    for peer in ("bindfs", "mergerfs"):
        assert peer in figures["mounts"]["filesystems"] or peer in figures["mounts"]["left_out"]
    assert ElementTree.parse(tmp_path / "chart.svg").getroot().tag == f"{SVG}svg"


def test_requests_are_counted(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    base = tmp_path / "base"
    base.mkdir()
    done = subprocess.run(
        command(base, "requests", "--only", "append,stat-1", "--json", str(figures)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())["requests"]["workloads"]
    # The kernel makes two of a write that goes over the end of a page.
    assert 2000 <= found["append"]["requests"]["write"] <= 2000 + 2000 * 100 // 4096
    assert "create" not in found["stat-1"]["requests"], "what prepares a workload is not counted"
    for each in found.values():
        assert each["requests"].keys() == each["handler_ns"].keys()
        assert each["loop_ns"] > 0
    assert 0 < sum(found["append"]["handler_ns"].values()) < found["append"]["seconds"] * 1e9
    assert os.listdir(base) == []


def test_a_peer_that_is_not_installed_is_left_out_and_said_so(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "mounts", "--only", "append,npm-install", "--peers", "bindfs"),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": "/nonexistent"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bindfs: LEFT OUT, bindfs is not installed" in done.stdout
    assert "workload npm-install: LEFT OUT, npm is not installed" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_unmounts_and_ends_what_it_started(
    tmp_path: Path, number: signal.Signals
) -> None:
    with subprocess.Popen(
        command(tmp_path, "mounts", "--only", "make", "--rounds", "50"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as run:
        try:
            eventually(
                lambda: list(tmp_path.glob("*/ghostfs/below/sessions/bench/tree/round0/c/*.o")),
                what="nothing is compiled in the mount",
            )
            run.send_signal(number)
            assert run.wait(120) == 128 + number
        finally:
            run.kill()
    assert mounted_below(tmp_path) == []
    assert os.listdir(tmp_path) == []
    eventually(lambda: not processes_at(tmp_path), timeout=10, what=f"left: {processes_at(tmp_path)}")


def processes_at(base: Path) -> list[bytes]:
    """The command lines of processes that name a file below."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(base) in line and int(process.name) != os.getpid():
            found.append(line)
    return found


def test_a_mount_without_capture_works_and_captures_nothing(tmp_path: Path) -> None:
    from capture import UNCAPTURED
    from places import Mounted

    with Mounted(UNCAPTURED, tmp_path / "off") as place:
        for number in range(50):
            (place.path / f"f{number}").write_bytes(b"x" * 300_000)
        (place.path / "f0").rename(place.path / "g")
        with (place.path / "g").open("ab") as file:
            file.write(b"y")
        assert (place.path / "g").read_bytes() == b"x" * 300_000 + b"y"
        assert len(list(place.path.glob("[fg]*"))) == 50
        state = tmp_path / "off" / "below" / "sessions" / "bench"
        assert (state / "dirty.log").stat().st_size == 8  # its magic alone
        assert len(os.listdir(f"/proc/{place.pid}/fd")) < 50  # none is kept open for a commit
    assert (state / "tree" / "g").stat().st_size == 300_001
    with Index.open(state / "index.db", readonly=True) as index:
        assert list(index.children(ROOT)) == []


def test_what_hangs_is_ended_and_told(tmp_path: Path) -> None:
    from rounds import in_a_process
    from sources import Failed

    def hang() -> None:
        subprocess.Popen(["sleep", "1000"])
        (tmp_path / "begun").touch()
        time.sleep(1000)

    with pytest.raises(Failed, match="not done after"):
        in_a_process(hang, limit=1.0)
    assert (tmp_path / "begun").exists()


def test_what_fails_in_one_place_is_told_and_not_tried_there_again(tmp_path: Path) -> None:
    from places import Plain
    from rounds import measure
    from sources import SMALL, Sources
    from workload import Site, Workload, expect

    class Picky(Workload):
        name = title = "picky"

        def run(self, site: Site) -> float:
            (site.folder / "file").touch()
            with (tmp_path / "tried").open("a") as tried:
                tried.write(f"{site.folder.parent.name}\n")
            return 0.5

        def check(self, site: Site) -> None:
            expect("place", site.folder.parent.name, "good")

    places = [Plain(name, tmp_path / name) for name in ("good", "bad")]
    for place in places:
        place.path.mkdir()
    results = measure(places, [Picky()], Sources(tmp_path / "sources", SMALL), 3)
    assert results.median("picky", "good") == 0.5
    assert results.median("picky", "bad") is None
    assert results.broken() == ("picky on bad: place: bad, not good",)
    assert results.mean("bad", "good") == (None, 0)
    assert sorted((tmp_path / "tried").read_text().split()) == ["bad", "good", "good", "good"]
    assert os.listdir(tmp_path / "good") == []


def test_bars_are_as_long_as_the_logarithms(tmp_path: Path) -> None:
    import chart

    drawn = chart.draw(
        title="Title & <more>",
        subtitle="",
        groups=["one"],
        series=[
            chart.Series("ours", [10.0], ours=True),
            chart.Series("a", [100.0]),
            chart.Series("b", [0.1]),
            chart.Series("c", [None]),
        ],
    )
    root = ElementTree.fromstring(drawn)
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "Title & <more>" in texts
    assert texts.count("failed") == 1
    bars = [bar for bar in root.iter(f"{SVG}rect") if bar.get("height") == "7.0"]
    x = [float(bar.get("x", "nan")) for bar in bars]
    width = [float(bar.get("width", "nan")) for bar in bars]
    assert x[0] == x[1]
    assert math.isclose(x[2] + width[2], x[0], abs_tol=0.2)
    assert math.isclose(width[1], 2 * width[0], abs_tol=0.2)
    assert math.isclose(width[2], width[0], abs_tol=0.2)
