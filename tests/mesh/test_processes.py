"""Hub and nodes as processes, with real replicas: killed, stopped and ended at any moment, they converge."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ghostfs.mesh.client import hub_status

HUB = """
import json, sys
from pathlib import Path
from ghostfs import logs
from ghostfs.config import Settings
from ghostfs.daemon.hub import run
fd, given = int(sys.argv[1]), json.loads(sys.argv[2])
logs.configure(level="debug", renderer="json", file=Path(given["data_dir"], "log"))
run(Settings(**given), ready_fd=fd)
"""

NODE = """
import json, sys
from pathlib import Path
from ghostfs import logs
from ghostfs.config import Settings
from ghostfs.daemon.node import run
fd, given = int(sys.argv[1]), json.loads(sys.argv[2])
name, hub, root, sessions = (given.pop(key) for key in ("name", "at", "root", "sessions"))
logs.configure(level="debug", renderer="json", file=Path(given["data_dir"], "log"))
run(Settings(**given), name, hub, Path(root), sessions, ready_fd=fd)
"""


class Processes:
    """Starts daemons, and ends what is left of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.living: list[subprocess.Popen[bytes]] = []
        self.port = 0

    def hub(self, **settings: Any) -> subprocess.Popen[bytes]:
        values = {"data_dir": str(self.folder / "hub"), "listen": f"127.0.0.1:{self.port}", **settings}
        process, line = self._start(HUB, values)
        self.port = int(line.split("listen=127.0.0.1:")[1].split()[0])
        return process

    def node(self, name: str, **settings: Any) -> subprocess.Popen[bytes]:
        data = self.folder / name
        data.mkdir(exist_ok=True)
        values = {
            "data_dir": str(data),
            "name": name,
            "at": f"127.0.0.1:{self.port}",
            "root": str(self.root(name)),
            "sessions": ["work"],
            "reconnect_min_ms": 10,
            "reconnect_max_ms": 100,
            **settings,
        }
        return self._start(NODE, values)[0]

    def root(self, name: str) -> Path:
        return self.folder / f"root-{name}"

    def log(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folder / name / "log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def kill(self, process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> int:
        process.send_signal(number)
        code = process.wait(10)
        self.living.remove(process)
        return code

    def close(self) -> None:
        for process in self.living:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def _start(self, program: str, values: dict[str, Any]) -> tuple[subprocess.Popen[bytes], str]:
        reading, writing = os.pipe()
        try:
            command = [sys.executable, "-c", program, str(writing), json.dumps(values)]
            process = subprocess.Popen(command, pass_fds=[writing])
        finally:
            os.close(writing)
        self.living.append(process)
        with os.fdopen(reading) as pipe:
            assert select.select([pipe], [], [], 20)[0], "not ready after 20 s"
            line = pipe.readline()
        assert line.startswith("ready"), f"ended with {process.wait(10)}"
        return process, line


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    processes.close()


def picture(root: Path) -> dict[str, tuple[Any, ...]]:
    """Names, types, modes, links, times and content below a directory."""
    seen: dict[str, tuple[Any, ...]] = {}
    links: dict[int, str] = {}
    for folder, names, files in os.walk(root):
        names.sort()
        for name in sorted((*names, *files)):
            path = Path(folder, name)
            status = path.lstat()
            relative = str(path.relative_to(root))
            body: Any = None
            if path.is_symlink():
                body = os.readlink(path)
            elif path.is_file():
                body = path.read_bytes()
            first = links.setdefault(status.st_ino, relative) if not path.is_dir() else relative
            seen[relative] = (status.st_mode, status.st_mtime_ns, first, body)
    return seen


def wait_for(condition: Callable[[], bool], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.02)


def arrived(data: Any, session: Any, nodes: int) -> bool:
    """Whether all nodes have acknowledged the head, with the hub's fingerprint."""
    [status] = hub_status(data.hub_socket).sessions
    return (
        status.head == session.index.head()
        and len(status.members) == nodes
        and all(m.seq == status.head and m.fingerprint == status.fingerprint for m in status.members)
    )


def fill(tree: Path, seed: int, files: int = 40) -> None:
    """Some of everything."""
    draw = random.Random(seed)
    for number in range(files):
        folder = tree / f"d{draw.randrange(5)}" / f"e{draw.randrange(3)}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"f{number}"
        if not path.exists():
            path.write_bytes(draw.randbytes(draw.choice([0, 10, 5000, 300_000, 1_000_000])))
            path.chmod(draw.choice([0o600, 0o644, 0o755]))
    (tree / "link").symlink_to("d0/e0")
    (tree / "hole").touch()
    os.truncate(tree / "hole", 10_000_000)
    os.mkfifo(tree / "fifo")
    first = next(path for path in sorted(tree.rglob("f*")) if path.is_file())
    os.link(first, tree / "second name")
    (tree / os.fsdecode(b"\xff\xfe")).write_bytes(b"not UTF-8")


def test_everything_arrives_on_two_nodes_and_follows(data: Any, session: Any, processes: Processes) -> None:
    fill(session.tree, 1)
    session.sync()
    processes.hub(inline_max_kib=64, snapshot_chunk_cells=30)
    processes.node("one")
    processes.node("two", compression="on")
    wait_for(lambda: arrived(data, session, 2))
    for name in ("one", "two"):
        assert picture(processes.root(name) / "work") == picture(session.tree)
    tree = session.tree
    (tree / "d1").rename(tree / "d9")
    (tree / "link").unlink()
    (tree / "link").mkdir()
    (tree / "link" / "inside").write_bytes(b"where a symlink was")
    with (tree / "hole").open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"not a hole any more")
    (tree / "second name").unlink()
    session.sync()
    wait_for(lambda: arrived(data, session, 2))
    for name in ("one", "two"):
        assert picture(processes.root(name) / "work") == picture(tree)
    assert not [
        e for n in ("hub", "one", "two") for e in processes.log(n) if e["level"] in ("error", "warning")
    ]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_at_random_moments_both_sides_converge(
    data: Any, session: Any, processes: Processes, seed: int
) -> None:
    draw = random.Random(seed)
    fill(session.tree, seed, files=150)
    session.sync()
    hub, node = processes.hub(snapshot_chunk_cells=50), None
    for round_ in range(8):
        node = node or processes.node("one")
        time.sleep(draw.uniform(0.0, 0.5))
        if draw.random() < 0.5:
            processes.kill(hub)
            hub = processes.hub(snapshot_chunk_cells=50)
        else:
            processes.kill(node)
            node = None
        victim = draw.choice([p for p in session.tree.rglob("f*") if p.is_file()])
        victim.write_bytes(draw.randbytes(400_000))
        folder = draw.choice([p for p in session.tree.iterdir() if p.is_dir()])
        folder.rename(session.tree / f"moved{round_}")
        session.sync()
    node = node or processes.node("one")
    wait_for(lambda: arrived(data, session, 1))
    assert picture(processes.root("one") / "work") == picture(session.tree)
    assert not [
        e
        for e in processes.log("one")
        if e["event"] in ("drift_detected", "follower_failed", "batch_refused")
    ]
    assert processes.kill(node, signal.SIGTERM) == 0
    assert processes.kill(hub, signal.SIGTERM) == 0


def test_what_was_staged_is_not_sent_again(data: Any, session: Any, processes: Processes) -> None:
    size = 96 << 20
    (session.tree / "large").write_bytes(random.Random(1).randbytes(size))
    session.sync()
    processes.hub()
    node = processes.node("one", fetch_window_mib=1)
    kills = 5

    def sent() -> int:
        [status] = hub_status(data.hub_socket).sessions
        return sum(member.bytes_sent for member in status.members)

    for number in range(kills):
        wait_for(lambda: sent() > size * number // 20)  # noqa: B023 - called at once
        processes.kill(node)
        node = processes.node("one", fetch_window_mib=1)
    wait_for(lambda: arrived(data, session, 1))
    assert (processes.root("one") / "work" / "large").stat().st_size == size
    # A window, and what was in flight in socket buffers, may be lost at each kill.
    assert size <= sent() <= size + kills * (8 << 20)


def test_a_stopped_node_disturbs_nobody(data: Any, session: Any, processes: Processes) -> None:
    hub = processes.hub()
    stopped = processes.node("stopped")
    processes.node("lively")
    wait_for(lambda: arrived(data, session, 2))
    stopped.send_signal(signal.SIGSTOP)
    memory = psutil.Process(hub.pid).memory_info
    before = 0
    draw = random.Random(1)
    for number in range(12):
        for name in range(8):
            (session.tree / f"{name}").write_bytes(draw.randbytes(1 << 20))
        session.sync()

        def lively() -> bool:
            [status] = hub_status(data.hub_socket).sessions
            return any(m.seq == status.head == session.index.head() for m in status.members)

        wait_for(lively, 10)
        if number == 3:
            before = memory().rss
    assert memory().rss < before + (16 << 20)
    [status] = hub_status(data.hub_socket).sessions
    assert sorted(member.lag_changes > 0 for member in status.members) == [False, True]
    assert max(member.lag_ns for member in status.members) > 10**8
    stopped.send_signal(signal.SIGCONT)
    wait_for(lambda: arrived(data, session, 2))
    assert picture(processes.root("stopped") / "work") == picture(session.tree)


def test_both_end_in_time_in_the_middle_of_a_transfer(
    data: Any, session: Any, processes: Processes
) -> None:
    for name in range(20):
        (session.tree / f"{name}").write_bytes(os.urandom(8 << 20))
    session.sync()
    for first in ("hub", "node"):
        hub = processes.hub()
        node = processes.node("one", fetch_window_mib=1)
        wait_for(
            lambda: any(m.bytes_sent > 0 for s in hub_status(data.hub_socket).sessions for m in s.members)
        )
        for process in (hub, node) if first == "hub" else (node, hub):
            begun = time.monotonic()
            assert processes.kill(process, signal.SIGTERM) == 0
            assert time.monotonic() - begun < 2.0
        assert not data.hub_socket.exists()


def test_a_session_that_halts_leaves_the_others_alone(
    data: Any, make_session: Any, processes: Processes
) -> None:
    sessions = {name: make_session(name) for name in ("work", "other")}
    for made in sessions.values():
        (made.tree / "file").write_bytes(b"one")
        made.sync()
    processes.hub()
    node = processes.node("one", sessions=list(sessions))

    def both(name: str) -> bool:
        status = {s.name: s for s in hub_status(data.hub_socket).sessions}[name]
        return any(m.seq == sessions[name].index.head() for m in status.members)

    wait_for(lambda: both("work") and both("other"))
    (processes.root("one") / "other").rename(processes.root("one") / "elsewhere")
    for made in sessions.values():
        (made.tree / "file").write_bytes(b"two")
        made.sync()
    wait_for(lambda: both("work"))
    wait_for(lambda: any(e["event"] == "node_halted" for e in processes.log("one")))
    assert node.poll() is None
    assert (processes.root("one") / "work" / "file").read_bytes() == b"two"
    assert not both("other")
    assert processes.kill(node, signal.SIGTERM) == 0
