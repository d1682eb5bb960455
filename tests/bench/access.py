"""Single kinds of access, as workloads: databases, small appends, large files in and out of order, many names."""

from __future__ import annotations

__all__ = ["ACCESS_WORKLOADS", "fio_version"]

import json
import os
import random
import shutil
import sqlite3
import subprocess
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sources import MIB, Failed
from workload import Site, Workload, expect

_BLOCK = 4096
_FIRST, _SECOND = b"\x47", b"\x52"
"""What the large file is filled with, and what is then written into it in random order."""


class Sqlite(Workload):
    """Inserts, each in a transaction of its own, that are synced as SQLite does by itself."""

    def __init__(self, journal: str, title: str) -> None:
        self._journal = journal
        self.name = f"sqlite-{title}"
        self.title = f"insert into SQLite, {title}"

    def run(self, site: Site) -> None:
        with closing(sqlite3.connect(site.folder / f"{self.name}.db")) as db:
            (mode,) = db.execute(f"PRAGMA journal_mode={self._journal}").fetchone()
            expect("journal_mode", mode, self._journal)
            db.execute("CREATE TABLE t (x TEXT)")
            for _ in range(site.sizes.inserts):
                with db:
                    db.execute("INSERT INTO t VALUES (?)", ("x" * 500,))

    def check(self, site: Site) -> None:
        with closing(sqlite3.connect(site.folder / f"{self.name}.db")) as db:
            expect("integrity", db.execute("PRAGMA integrity_check").fetchone()[0], "ok")
            expect("rows", db.execute("SELECT count(*) FROM t").fetchone()[0], site.sizes.inserts)


class Append(Workload):
    name, title = "append", "append small pieces"

    def run(self, site: Site) -> None:
        with (site.folder / "log").open("ab", buffering=0) as file:
            for number in range(site.sizes.appends):
                file.write(b"%099d\n" % number)

    def check(self, site: Site) -> None:
        lines = (site.folder / "log").read_bytes().splitlines()
        expect("every line, in order", list(map(int, lines)) == list(range(site.sizes.appends)), True)


class LargeFile(Workload):
    """One file, through fio where that is installed; in order by 1 MiB, or in random order by 4 KiB.

    Nothing drops what the kernel has cached: the file that is read has just been written.
    """

    def __init__(self, kind: str, order: str) -> None:
        self._kind = kind
        self._order = order
        self.name = f"{kind}-{order}"
        self.title = f"{kind} a large file, {order}"

    def prepare(self, site: Site) -> None:
        if self.name != "write-seq":
            site.have("large", lambda path: _fill(path, site.sizes.large_mib))
        if self.name == "write-random":
            site.is_gone("large")

    def run(self, site: Site) -> float:
        return (self._with_fio if fio_version() else self._by_hand)(site)

    def check(self, site: Site) -> None:
        content = (site.folder / "large").read_bytes()
        expect("bytes", len(content), site.sizes.large_mib * MIB)
        written = site.sizes.random_mib * MIB if self.name == "write-random" else 0
        expect("bytes written in random order", content.count(_SECOND), written)
        expect("bytes written in order", content.count(_FIRST), len(content) - written)
        if self.name == "write-seq":
            site.is_complete("large")

    def _amount(self, site: Site) -> int:
        return MIB * (site.sizes.random_mib if self._order == "random" else site.sizes.large_mib)

    def _with_fio(self, site: Site) -> float:
        """Seconds that its calls took."""
        rw = self._kind if self._order == "seq" else f"rand{self._kind}"
        said = site.sources.run(
            *("fio", "--thread", "--name=bench", "--ioengine=psync", "--output-format=json"),
            *("--invalidate=0", "--fallocate=none", "--randrepeat=1", "--scramble_buffers=0"),
            f"--filename={site.folder / 'large'}",
            f"--rw={rw}",
            f"--bs={'1M' if self._order == 'seq' else _BLOCK}",
            f"--size={site.sizes.large_mib}M",
            f"--io_size={self._amount(site)}",
            f"--buffer_pattern=0x{(_FIRST if self._order == 'seq' else _SECOND).hex()}",
        )
        job = json.loads(said[said.index("{") :])["jobs"][0]
        expect("fio's error", job["error"], 0)
        done = job[self._kind]
        expect("bytes moved", done["io_bytes"], self._amount(site))
        return float(done["lat_ns"]["mean"]) * int(done["total_ios"]) / 1e9

    def _by_hand(self, site: Site) -> float:
        size = MIB if self._order == "seq" else _BLOCK
        offsets = [number * size for number in range(site.sizes.large_mib * MIB // size)]
        if self._order == "random":
            random.Random(1).shuffle(offsets)
        offsets = offsets[: self._amount(site) // size]
        block = (_FIRST if self._order == "seq" else _SECOND) * size
        fd = os.open(site.folder / "large", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            started = time.perf_counter()
            if self._kind == "write":
                moved = sum(os.pwrite(fd, block, offset) for offset in offsets)
            else:
                moved = sum(len(os.pread(fd, size, offset)) for offset in offsets)
            seconds = time.perf_counter() - started
        finally:
            os.close(fd)
        expect("bytes moved", moved, self._amount(site))
        return seconds


class Metadata(Workload):
    """One call for each of many empty files, by one process or by several with a folder each."""

    def __init__(self, call: str, processes: int) -> None:
        self._call = call
        self._processes = processes
        self.name = f"{call}-{processes}"
        self.title = f"{call}, {processes} process{'es' if processes > 1 else ''}"

    @property
    def _made(self) -> str:
        return f"names-{self._processes}"

    def _folders(self, site: Site) -> list[Path]:
        return [site.folder / self._made / str(number) for number in range(self._processes)]

    def _names(self, site: Site) -> list[str]:
        return [f"f{number}" for number in range(site.sizes.metadata // self._processes)]

    def prepare(self, site: Site) -> None:
        if self._call == "create":
            self._make_folders(site)
        else:
            site.have(self._made, lambda _: self._make(site))
        if self._call in {"rename", "unlink"}:
            site.is_gone(self._made)

    def _make_folders(self, site: Site) -> None:
        for folder in self._folders(site):
            folder.mkdir(parents=True)

    def _make(self, site: Site) -> None:
        self._make_folders(site)
        for folder in self._folders(site):
            for name in self._names(site):
                _create(f"{folder}/{name}")

    def run(self, site: Site) -> float:
        names = self._names(site)
        call = _CALLS[self._call]

        def work(folder: Path) -> None:
            for name in names:
                call(f"{folder}/{name}")

        return _at_once([lambda folder=folder: work(folder) for folder in self._folders(site)])  # type: ignore[misc]

    def check(self, site: Site) -> None:
        suffix = ".new" if self._call == "rename" else ""
        wanted = [] if self._call == "unlink" else [name + suffix for name in self._names(site)]
        for folder in self._folders(site):
            expect("the names that there should be", sorted(os.listdir(folder)) == sorted(wanted), True)
            if self._call == "rename":
                for name in wanted:
                    os.rename(folder / name, folder / name.removesuffix(suffix))
        if self._call in {"create", "rename"}:
            site.is_complete(self._made)


def _create(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


_CALLS: dict[str, Callable[[str], object]] = {
    "create": _create,
    "stat": os.stat,
    "rename": lambda path: os.rename(path, f"{path}.new"),
    "unlink": os.unlink,
}


def _at_once(works: list[Callable[[], None]]) -> float:
    """Seconds until all are done, each in a process of its own that was there before the clock started.

    Raises:
        Failed: one of them was not done.
    """
    go, start = os.pipe()
    there, here = os.pipe()
    reading, writing = os.pipe()
    children = []
    for work in works:
        pid = os.fork()
        if pid == 0:
            os.close(start)
            try:
                os.write(here, b".")
                os.read(go, 1)  # returns when the last writing end is closed: the parent's
                work()
                os._exit(0)
            except BaseException:
                os.write(
                    writing, traceback.format_exc(limit=1).strip().splitlines()[-1].encode()[:200] + b"\n"
                )
            finally:
                os._exit(1)
        children.append(pid)
    for _ in works:
        os.read(there, 1)
    started = time.perf_counter()
    os.close(start)
    codes = [os.waitpid(pid, 0)[1] for pid in children]
    seconds = time.perf_counter() - started
    for fd in (go, there, here, writing):
        os.close(fd)
    with os.fdopen(reading, "rb") as errors:
        said = errors.read()
    if any(codes):
        raise Failed(
            f"{sum(map(bool, codes))} of {len(works)}: {said.splitlines()[0].decode() if said else codes}"
        )
    return seconds


def _fill(path: Path, mib: int) -> None:
    with path.open("wb", buffering=0) as file:
        for _ in range(mib):
            file.write(_FIRST * MIB)


def fio_version() -> str:
    """Which fio there is; empty without one."""
    if shutil.which("fio") is None:
        return ""
    return subprocess.run(["fio", "--version"], capture_output=True, text=True, check=False).stdout.strip()


ACCESS_WORKLOADS: tuple[Workload, ...] = (
    Sqlite("wal", "wal"),
    Sqlite("delete", "rollback"),
    Append(),
    LargeFile("write", "seq"),
    LargeFile("read", "seq"),
    LargeFile("write", "random"),
    LargeFile("read", "random"),
    *(Metadata(call, processes) for processes in (1, 8) for call in ("create", "stat", "rename", "unlink")),
)
