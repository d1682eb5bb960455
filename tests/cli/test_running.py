"""Commands about what runs: mounts, a hub, nodes; as real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stack import GHOSTFS, Stack, eventually, free_port

from ghostfs.errors import ExitCode


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path / "stack") as made:
        yield made


def call(stack: Stack, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A command that may fail."""
    return subprocess.run(
        [*GHOSTFS, *map(str, arguments)],
        env=stack.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def status(stack: Stack) -> dict[str, Any]:
    return json.loads(stack.run("status", "--json"))


def test_a_mount_is_seen_and_protected(stack: Stack) -> None:
    mountpoint = stack.mount("demo")
    (mountpoint / "file").write_bytes(b"content")
    stack.settle("demo")
    session = status(stack)["sessions"][0]
    assert session["mount"]["mountpoint"] == str(mountpoint)
    assert session["mount"]["pid"] == stack.mount_pid("demo")
    assert (session["names"], session["bytes"]) == (1, 7)
    assert str(mountpoint) in stack.run("session", "list")
    assert f"{mountpoint} (process {stack.mount_pid('demo')})" in stack.run("session", "show", "demo")

    refused = call(stack, "session", "rm", "--yes", "demo")
    assert refused.returncode == ExitCode.BUSY
    assert f"`ghostfs umount {mountpoint}`" in refused.stderr
    twice = call(stack, "mount", "demo", mountpoint)
    assert twice.returncode == ExitCode.BUSY
    assert twice.stderr.count("\n") == 1
    stack.umount(mountpoint)
    assert status(stack)["sessions"][0]["mount"] is None
    stack.run("session", "rm", "--yes", "demo")
    assert status(stack)["sessions"] == []


def test_verify_settles_first_and_names_what_differs(stack: Stack) -> None:
    mountpoint = stack.mount("demo")
    with (mountpoint / "open").open("wb", buffering=0) as file:
        file.write(b"not closed yet")
        report = json.loads(stack.run("verify", "demo", "--json"))
        assert (report["ok"], report["problems"], report["bytes_read"]) == (True, [], 14)
    assert "index and files agree" in stack.run("verify", "demo")
    (stack.session("demo").tree / os.fsdecode(b"beh\xedind")).write_bytes(b"x")
    found = call(stack, "verify", "demo", "--json")
    assert found.returncode == ExitCode.DRIFT
    assert "beh\\xedind" in {problem["path"] for problem in json.loads(found.stdout)["problems"]}
    told = call(stack, "verify", "demo")
    assert told.returncode == ExitCode.DRIFT
    assert "beh\\xedind: is in the tree and not in the index" in told.stdout
    assert re.fullmatch(r"ghostfs: session demo: \d differences between index and files\n", told.stderr)


def test_a_mount_in_the_foreground_ends_on_sigterm(stack: Stack) -> None:
    mountpoint = stack.base / "mnt"
    mountpoint.mkdir(parents=True)
    mount = subprocess.Popen(
        [*GHOSTFS, "mount", "-f", "--create", "demo", mountpoint],
        env=stack.environment,
        stderr=subprocess.PIPE,
    )
    try:
        eventually(mountpoint.is_mount, what="it does not mount")
        (mountpoint / "file").write_bytes(b"x")
    finally:
        mount.send_signal(signal.SIGTERM)
        _, logged = mount.communicate(timeout=30)
    assert mount.returncode == 0
    events = [json.loads(line)["event"] for line in logged.splitlines()]
    assert events[-1] == "unmounted"
    assert not mountpoint.is_mount()
    assert (stack.session("demo").tree / "file").read_bytes() == b"x"


def test_watching_gives_a_line_each_time(stack: Stack) -> None:
    stack.run("session", "create", "demo")
    watch = subprocess.Popen(
        [*GHOSTFS, "status", "--json", "--watch", "--interval", "0.1"],
        env=stack.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert watch.stdout is not None
    try:
        looks = [json.loads(watch.stdout.readline()) for _ in range(3)]
    finally:
        watch.send_signal(signal.SIGINT)
        _, said = watch.communicate(timeout=30)
    assert (watch.returncode, said) == (0, b"")
    assert looks[0]["taken_unix_ns"] < looks[1]["taken_unix_ns"] < looks[2]["taken_unix_ns"]


def test_a_hub_is_asked_and_ends_cleanly(stack: Stack) -> None:
    stack.run("session", "create", "demo")
    assert status(stack)["hub"] is None
    port = free_port()
    hub = stack.start_hub("--metrics-listen", f"127.0.0.1:{port}")
    seen = status(stack)
    assert re.fullmatch("[0-9a-f]{32}", seen["hub"]["id"])
    assert seen["hub_problem"] is None
    assert "hub started" in stack.run("status")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        assert b"ghostfs_hub_bytes_sent_total" in response.read()
    second = call(stack, "hub", "--listen", f"127.0.0.1:{free_port()}")
    assert second.returncode == ExitCode.BUSY
    assert second.stderr.splitlines()[-1].startswith("ghostfs: ")
    assert hub.stop() == 0
    assert status(stack)["hub"] is None


def test_a_taken_port_is_one_line(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = call(stack, "hub", "--listen", address)
    assert refused.returncode == ExitCode.USAGE
    assert refused.stderr.count("\n") == 1
    assert refused.stderr.startswith(f"ghostfs: cannot listen on {address}: ")
    assert "--listen" in refused.stderr


def test_a_hub_that_was_killed_is_no_error(stack: Stack) -> None:
    stack.run("session", "create", "demo")
    stack.start_hub().kill()
    seen = status(stack)
    assert seen["hub"] is None
    assert seen["hub_problem"]
    assert seen["sessions"][0]["name"] == "demo"


@pytest.mark.parametrize("address", ["0.0.0.0:7447", "192.0.2.1:7447"])
def test_a_hub_listens_on_loopback_only(stack: Stack, address: str) -> None:
    refused = call(stack, "hub", "--listen", address)
    assert refused.returncode == ExitCode.USAGE
    assert refused.stderr.startswith(f"ghostfs: refusing to listen on {address}")
    assert refused.stderr.count("\n") == 1


def test_a_node_is_seen_with_its_lag(stack: Stack) -> None:
    mountpoint = stack.mount("demo")
    stack.start_hub()
    node = stack.start_node("n1", "demo")
    (mountpoint / "file").write_bytes(b"content")
    stack.converge("demo", "n1")
    assert (node.copy("demo") / "file").read_bytes() == b"content"

    def caught_up() -> bool:
        session = status(stack)["sessions"][0]
        member = session["nodes"][0] if session["nodes"] else None
        return (
            bool(member)
            and member["seq"] == session["head"]
            and member["fingerprint"] == session["fingerprint"]
        )

    eventually(caught_up, what="the hub does not know that the node has all", every=0.1)
    member = status(stack)["sessions"][0]["nodes"][0]
    assert (member["name"], member["connected"], member["lag_changes"]) == ("n1", True, 0)
    assert "following" in stack.run("status")
    verified = json.loads(stack.run("verify", "demo", "--json"))
    assert verified["nodes"] == [{"name": "n1", "verdict": "equal"}]

    copies = json.loads(stack.run("--data-dir", node.data_dir, "status", "--json"))["copies"]
    assert [(copy["name"], copy["fingerprint"]) for copy in copies] == [("demo", verified["fingerprint"])]
    assert "COPY OF" in stack.run("--data-dir", node.data_dir, "status")
    assert node.stop() == 0
    eventually(
        lambda: not status(stack)["sessions"][0]["nodes"][0]["connected"],
        what="it is not seen as away",
        every=0.1,
    )
    assert "away" in stack.run("status")


def test_a_node_without_its_hub_waits_and_ends_cleanly(stack: Stack) -> None:
    stack.base.mkdir(exist_ok=True)
    node = stack.start_node("n1", "demo")
    eventually(lambda: node.log.exists() and b'"ready"' in node.log.read_bytes(), what="it is not ready")
    assert node.stop() == 0


def test_unmounting_several_tries_them_all(stack: Stack, tmp_path: Path) -> None:
    first, last = stack.mount("first"), stack.mount("last")
    done = call(stack, "umount", tmp_path / "a", first, tmp_path / "b", last)
    assert done.returncode == ExitCode.MOUNT
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("ghostfs: ")] == [
        f"ghostfs: {tmp_path / name} is not a mountpoint" for name in ("a", "b")
    ]
    assert not os.path.ismount(first)
    assert not os.path.ismount(last)
    stack.mounts.clear()
