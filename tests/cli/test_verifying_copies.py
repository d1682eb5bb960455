"""`ghostfs verify` on a node's data directory, beside the running node and without it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import GHOSTFS, Node, Stack, eventually
from terminal import Terminal

from ghostfs.errors import ExitCode


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path / "stack") as made:
        yield made


def call(stack: Stack, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GHOSTFS, *map(str, arguments)],
        env=stack.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def filled(stack: Stack) -> tuple[Path, Node]:
    stack.start_hub()
    mount = stack.mount("demo")
    (mount / "d").mkdir()
    (mount / "d/file").write_bytes(b"from the hub")
    (mount / "big").write_bytes(os.urandom(3_000_000))
    node = stack.start_node("n1", "demo")
    stack.converge("demo", "n1")
    return mount, node


def test_a_copy_is_verified_whether_its_node_runs_or_not(stack: Stack) -> None:
    mount, node = filled(stack)
    for _ in range(2):
        done = call(stack, "--data-dir", node.data_dir, "verify", "demo", "--json")
        report = json.loads(done.stdout)
        assert (done.returncode, report["ok"], report["problems"]) == (0, True, [])
        assert report["copy"] == str(node.copy("demo"))
        assert report["bytes_read"] == 3_000_012
        assert report["fingerprint"] == json.loads(stack.run("verify", "demo", "--json"))["fingerprint"]
        assert "index and copy agree" in call(stack, "verify", "demo", "--data-dir", node.data_dir).stdout
        node.kill()
    assert mount.is_mount()


def test_what_differs_is_named_and_made_whole_by_adopting_the_root(stack: Stack) -> None:
    _, node = filled(stack)
    copy = node.copy("demo")
    (copy / "d/file").write_bytes(b"my own words")
    (copy / "big").unlink()
    (copy / os.fsdecode(b"mine\xff")).write_bytes(b"mine")
    found = call(stack, "--data-dir", node.data_dir, "verify", "demo", "--json")
    assert found.returncode == ExitCode.DRIFT
    report = json.loads(found.stdout)
    assert report["ok"] is False
    assert {problem["path"] for problem in report["problems"]} == {"d/file", "big"}
    assert report["untracked"] == ["mine\\xff"]
    told = call(stack, "--data-dir", node.data_dir, "verify", "demo")
    assert told.returncode == ExitCode.DRIFT
    assert "d/file: was changed here: it is kept as a conflict copy" in told.stdout
    assert "big: is missing: it comes back" in told.stdout
    assert "mine\\xff: a file of its user's own" in told.stdout
    assert told.stderr == (
        "ghostfs: the copy of session demo: 2 differences between index and copy: "
        "to make it whole, start its node once with --adopt-root\n"
    )

    assert node.stop() == 0
    node.arguments.append("--adopt-root")
    node.start()
    verify = ("--data-dir", node.data_dir, "verify", "demo", "--json")
    eventually(lambda: call(stack, *verify).returncode == 0, what="the copy does not become whole")
    assert (copy / "d/file").read_bytes() == b"from the hub"
    (kept,) = (copy / "d").glob("file.conflict-n1-*")
    assert kept.read_bytes() == b"my own words"
    report = json.loads(call(stack, *verify).stdout)
    assert report["untracked"] == [f"d/{kept.name}", "mine\\xff"]
    assert report["ok"] is True


def test_no_false_alarm_while_the_node_publishes(stack: Stack) -> None:
    mount, node = filled(stack)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            folder = mount / f"dir{number % 7}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name in range(20):
                (folder / f"{name}").write_bytes(b"%d" % number)
            (mount / "d/file").write_bytes(b"%d" % number)
            os.rename(folder, mount / f"dir{(number + 3) % 7}.{number}")
            shutil.rmtree(mount / f"dir{number % 7}.{number - 3}", ignore_errors=True)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(6):
            done = call(stack, "--data-dir", node.data_dir, "verify", "demo", "--json")
            assert (done.returncode, done.stderr) == (0, ""), done.stdout
            assert json.loads(done.stdout)["untracked"] == []
    finally:
        stop.set()
        writer.join()
    assert not node.ended


def test_a_bar_is_shown_to_people(stack: Stack) -> None:
    _, node = filled(stack)
    command = [*GHOSTFS, "--data-dir", str(node.data_dir), "verify", "demo"]
    with Terminal(command, stack.environment) as terminal:
        shown = terminal.rest()
        assert terminal.end() == 0
    assert "verifying the copy of demo" in shown
    assert "index and copy agree" in shown


def test_a_session_that_the_node_does_not_keep(stack: Stack) -> None:
    _, node = filled(stack)
    missing = call(stack, "--data-dir", node.data_dir, "verify", "other")
    assert missing.returncode == ExitCode.NOT_FOUND
