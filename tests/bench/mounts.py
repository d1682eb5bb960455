"""The mount against the filesystem below it, bindfs and mergerfs, on the same workloads in turn."""

from __future__ import annotations

__all__ = ["run"]

import os
import shutil
import statistics
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from report import geometric_mean, heading, show
from stack import Stack

MIB = 1 << 20
GIT = ("git", "-c", "user.name=Bench", "-c", "user.email=bench@example.org", "-c", "gc.auto=0")

MERGERFS = "cache.files=auto-full,cache.attr=300,cache.entry=300,cache.negative_entry=300,cache.readdir=true,cache.statfs=300,dropcacheonclose=false,category.create=mfs"
"""mergerfs with every cache on, as its documentation says for speed."""


def run(base: Path, *, small: bool) -> None:
    """Three rounds (one with `small`), every filesystem in each; medians."""
    rounds = 1 if small else 3
    source = base / "source"
    make_source(source, small=small)
    taken: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        places = {"native": base / "native"}
        places["native"].mkdir()
        places["ghostfs"] = stack.enter_context(ghostfs(base / "ghostfs"))
        for name, options in (("bindfs", ("bindfs",)), ("mergerfs", ("mergerfs", "-o", MERGERFS))):
            if shutil.which(name) is not None:
                places[name] = stack.enter_context(peer(base / name, options))
        for number in range(rounds):
            for workload in WORKLOADS:
                for name, place in places.items():
                    folder = place / f"round{number}"
                    folder.mkdir(exist_ok=True)
                    started = time.perf_counter()
                    workload(folder, source)
                    seconds = time.perf_counter() - started
                    taken.setdefault(workload.__name__, {}).setdefault(name, []).append(seconds)
            for place in places.values():
                shutil.rmtree(place / f"round{number}")
    heading(f"Seconds, medians of {rounds} interleaved rounds; in brackets the ratio to native")
    show(("", *places), [row(name, series) for name, series in taken.items()])
    show(
        ("geometric mean of the ratio to native", *list(places)[1:]),
        [("", *(f"{mean(taken, name):.2f}" for name in list(places)[1:]))],
    )


def row(workload: str, series: dict[str, list[float]]) -> tuple[str, ...]:
    native = statistics.median(series["native"])
    cells = [f"{native:.3f}"]
    for name, seconds in series.items():
        if name != "native":
            median = statistics.median(seconds)
            cells.append(f"{median:.3f} ({median / native:.2f})")
    return workload.replace("_", " "), *cells


def mean(taken: dict[str, dict[str, list[float]]], name: str) -> float:
    return geometric_mean(
        statistics.median(series[name]) / statistics.median(series["native"]) for series in taken.values()
    )


# --- where ---------------------------------------------------------------------------------------------


@contextmanager
def ghostfs(base: Path) -> Iterator[Path]:
    """A mounted session, with everything on."""
    with Stack(base) as stack:
        yield stack.mount("bench")


@contextmanager
def peer(base: Path, command: tuple[str, ...]) -> Iterator[Path]:
    """Another filesystem over a plain directory."""
    below, mountpoint = base / "below", base / "mnt"
    below.mkdir(parents=True)
    mountpoint.mkdir()
    subprocess.run([*command, below, mountpoint], check=True, stdout=subprocess.DEVNULL)
    try:
        yield mountpoint
    finally:
        subprocess.run(["fusermount3", "-u", mountpoint], check=True)


# --- what ----------------------------------------------------------------------------------------------


def make_source(source: Path, *, small: bool) -> None:
    """A real source tree as folder, archive and git repository."""
    library = Path(sysconfig.get_path("stdlib"))
    ignored = shutil.ignore_patterns(
        "site-packages", "__pycache__", "*.so", "*.a", "config-*", *(["test"] if small else [])
    )
    shutil.copytree(library, source / "tree", symlinks=True, ignore=ignored)
    quietly("tar", "-cf", str(source / "tree.tar"), "-C", str(source / "tree"), ".")
    repository = source / "repository"
    shutil.copytree(source / "tree", repository, symlinks=True)
    for arguments in (("init", "-q", "-b", "main"), ("add", "."), ("commit", "-q", "-m", "one")):
        quietly(*GIT, "-C", str(repository), *arguments)
    quietly(*GIT, "-C", str(repository), "checkout", "-q", "-b", "other")
    for path in sorted(repository.glob("*.py")):
        path.write_bytes(path.read_bytes() + b"# changed\n")
    quietly(*GIT, "-C", str(repository), "commit", "-q", "-a", "-m", "two")
    quietly(*GIT, "-C", str(repository), "checkout", "-q", "main")


def quietly(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def copy_a_tree_in(folder: Path, source: Path) -> None:
    quietly("cp", "-a", str(source / "tree"), str(folder / "copied"))


def grep_cold_then_warm(folder: Path, source: Path) -> None:
    for _ in range(2):
        subprocess.run(
            ["grep", "-rc", "def main", folder / "copied"], check=False, stdout=subprocess.DEVNULL
        )


def list_and_stat(folder: Path, source: Path) -> None:
    quietly("ls", "-lR", str(folder / "copied"))
    quietly("find", str(folder / "copied"), "-newer", "/etc/passwd")


def untar(folder: Path, source: Path) -> None:
    (folder / "untarred").mkdir()
    quietly("tar", "-xf", str(source / "tree.tar"), "-C", str(folder / "untarred"))


def remove_a_tree(folder: Path, source: Path) -> None:
    quietly("rm", "-rf", str(folder / "untarred"))


def git_clone(folder: Path, source: Path) -> None:
    quietly(*GIT, "clone", "-q", "--no-local", str(source / "repository"), str(folder / "clone"))


def git_status_log_checkout(folder: Path, source: Path) -> None:
    for arguments in (
        ("status",),
        ("log", "-p"),
        ("checkout", "-q", "other"),
        ("status",),
        ("checkout", "-q", "main"),
    ):
        quietly(*GIT, "-C", str(folder / "clone"), *arguments)


def compile_python(folder: Path, source: Path) -> None:
    quietly(
        "python3",
        "-m",
        "compileall",
        "-q",
        str(folder / "copied" / "email"),
        str(folder / "copied" / "asyncio"),
    )


def make_small_files(folder: Path, source: Path) -> None:
    (folder / "small").mkdir()
    for number in range(2000):
        (folder / "small" / f"f{number}").write_bytes(b"x" * 1000)


def append_small_pieces(folder: Path, source: Path) -> None:
    with (folder / "log").open("ab", buffering=0) as file:
        for _ in range(20_000):
            file.write(b"x" * 100)


def insert_into_sqlite(folder: Path, source: Path) -> None:
    import sqlite3

    db = sqlite3.connect(folder / "data.db")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE t (x TEXT)")
    for _ in range(300):
        with db:
            db.execute("INSERT INTO t VALUES (?)", ("x" * 500,))
    db.close()


def write_512_mib(folder: Path, source: Path) -> None:
    block = os.urandom(MIB)
    with (folder / "large").open("wb", buffering=0) as file:
        for _ in range(512):
            file.write(block)


def read_512_mib(folder: Path, source: Path) -> None:
    with (folder / "large").open("rb", buffering=0) as file:
        while file.read(MIB):
            pass


WORKLOADS: tuple[Callable[[Path, Path], None], ...] = (
    copy_a_tree_in,
    list_and_stat,
    grep_cold_then_warm,
    compile_python,
    untar,
    remove_a_tree,
    git_clone,
    git_status_log_checkout,
    make_small_files,
    append_small_pieces,
    insert_into_sqlite,
    write_512_mib,
    read_512_mib,
)
