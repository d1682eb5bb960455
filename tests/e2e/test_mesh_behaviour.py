"""What crosses the wire, and what a node that stands still costs the others."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from stack import GHOSTFS, Stack, differences, eventually

from ghostfs.errors import ExitCode

pytestmark = pytest.mark.timeout(900)

MIB = 1 << 20


def member(stack: Stack, session: str, node: str) -> dict[str, Any]:
    status = json.loads(stack.run("status", "--json"))
    (found,) = (s for s in status["sessions"] if s["name"] == session)
    (one,) = (m for m in found["nodes"] if m["name"] == node)
    return dict(one)


def test_one_byte_of_a_large_file_is_one_block_on_the_wire(stack: Stack, long: int) -> None:
    size = (1024 if long else 64) * MIB
    stack.start_hub()
    mount = stack.mount("work")
    with (mount / "large").open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    stack.start_node("n1", "work")
    stack.converge("work")
    before = member(stack, "work", "n1")["bytes_sent"]
    with (mount / "large").open("r+b") as file:
        file.seek(size // 2 + 12345)
        file.write(b"!")
    stack.converge("work")
    assert 0 < member(stack, "work", "n1")["bytes_sent"] - before <= 262_144
    assert differences(mount, stack.nodes["n1"].copy("work"), excluded=("/.skills",)) == ""


def test_renaming_a_large_directory_sends_no_content(stack: Stack) -> None:
    stack.start_hub()
    mount = stack.mount("work")
    (mount / "old").mkdir()
    for number in range(10_000):
        (mount / "old" / f"file{number}").write_bytes(b"%d" % number)
    stack.start_node("n1", "work")
    stack.converge("work")
    node = stack.nodes["n1"]
    identity = (node.copy("work") / "old" / "file77").stat().st_ino
    before = member(stack, "work", "n1")
    _, head = stack.settle("work")
    (mount / "old").rename(mount / "new")
    stack.converge("work")
    after = member(stack, "work", "n1")
    assert after["bytes_sent"] == before["bytes_sent"]
    # Two dirents, the moved directory and its parent: four cells at the most.
    assert stack.settle("work")[1] - head <= 4
    assert (node.copy("work") / "new" / "file77").stat().st_ino == identity
    assert not (node.copy("work") / "old").exists()


def arrivals(source: Path, copy: Path, prefix: str, count: int) -> list[float]:
    """Seconds from close(2) in the mount to the file's being there on the node, one after another."""
    taken = []
    for number in range(count):
        name = f"{prefix}{number}"
        (source / name).write_bytes(os.urandom(4096))
        closed = time.perf_counter()
        arrived = copy / name
        eventually(arrived.exists, timeout=20, what=f"{name} did not arrive", every=0.0005)
        taken.append(time.perf_counter() - closed)
    return taken


def test_a_stopped_node_costs_the_others_nothing(stack: Stack, long: int) -> None:
    stack.start_hub()
    mount = stack.mount("work")
    quick = stack.start_node("quick", "work")
    stopped = stack.start_node("stopped", "work")
    stack.converge("work")
    count = 300 if long else 60
    arrivals(mount, quick.copy("work"), "warm", 20)
    together = arrivals(mount, quick.copy("work"), "before", count)
    assert stack.hub is not None
    stopped.signal(signal.SIGSTOP)
    memory = psutil.Process(stack.hub.pid).memory_info().rss
    alone = arrivals(mount, quick.copy("work"), "during", count)
    for number in range(64 if long else 16):
        (mount / f"bulk{number}").write_bytes(os.urandom(4 * MIB))
    stack.converge("work", "quick")
    grown = psutil.Process(stack.hub.pid).memory_info().rss - memory
    print(
        f"median before {statistics.median(together) * 1e3:.1f} ms, while stopped "
        f"{statistics.median(alone) * 1e3:.1f} ms; hub grew by {grown / MIB:.1f} MiB"
    )
    assert grown < 64 * MIB
    assert statistics.median(alone) < 3 * statistics.median(together) + 0.01
    stopped.signal(signal.SIGCONT)
    stack.converge("work")
    for node in stack.nodes.values():
        assert differences(mount, node.copy("work"), excluded=("/.skills",)) == ""


def test_a_hub_made_anew_brings_its_nodes_along(stack: Stack) -> None:
    """The index is lost: another epoch, other sequences; the node keeps what is right and sends for nothing."""
    stack.start_hub()
    mount = stack.mount("work")
    for number in range(50):
        (mount / f"file{number}").write_bytes(os.urandom(300_000))
    stack.start_node("n1", "work")
    stack.converge("work")
    node = stack.nodes["n1"]
    identity = (node.copy("work") / "file7").stat().st_ino
    assert stack.hub is not None
    stack.umount(mount)
    stack.hub.stop()
    for path in stack.session("work").state.glob("index.db*"):
        path.unlink()
    mount = stack.mount("work")
    (mount / "file8").write_bytes(b"new")
    stack.start_hub()
    stack.converge("work")
    assert differences(mount, node.copy("work"), excluded=("/.skills",)) == ""
    assert (node.copy("work") / "file7").stat().st_ino == identity
    assert member(stack, "work", "n1")["bytes_sent"] < 300_000


def test_a_node_keeps_no_copy_inside_a_mounted_session(stack: Stack) -> None:
    mount = stack.mount("work")
    (mount / "below").mkdir()
    for root in (mount, mount / "below", mount / "below" / "new"):
        done = subprocess.run(
            [*GHOSTFS, "node", "--name", "n1", "--root", root, "work"],
            env=stack.environment | {"GHOSTFS_DATA_DIR": str(stack.base / "n1")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == ExitCode.USAGE
        assert "lies inside the mounted session" in done.stderr
    assert sorted(path.name for path in mount.iterdir()) == [".skills", "below"]
