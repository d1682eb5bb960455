"""A hub that would serve a node's data directory, where no sessions are, is refused, and nothing is made."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stack import GHOSTFS, Stack, free_port

from ghostfs import private
from ghostfs.errors import ExitCode
from ghostfs.index import Members
from ghostfs.mesh.identity import node_identity
from ghostfs.mirror.layout import DataDir
from ghostfs.mirror.live.session import create_session
from ghostfs.mirror.owner import OwnerLock


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Its data directory is there, and empty."""
    with Stack(tmp_path / "stack") as made:
        private.make_directory(made.data_dir)
        yield made


def refused(data: DataDir) -> str:
    """Starts a hub, which must be a usage error that leaves all as it was; what it complained of."""
    before = sorted(data.path.rglob("*"))
    code, said = run("--data-dir", data.path, "hub", "--listen", f"127.0.0.1:{free_port()}")
    assert code == ExitCode.USAGE
    assert sorted(data.path.rglob("*")) == before
    (line,) = said.splitlines()
    return line


def run(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [*GHOSTFS, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=30
    )
    return done.returncode, done.stdout + done.stderr


def identity(data: DataDir) -> None:
    node_identity(data.node_id)


def copy(data: DataDir) -> None:
    private.make_directory(data.replicas / "demo")
    (data.replicas / "demo" / "index.db").touch()


def sessions(data: DataDir) -> None:
    create_session(data.session("demo"))


def nodes(data: DataDir) -> None:
    Members.open(data.hub_db).close()


@pytest.mark.parametrize("mark", [identity, copy])
def test_what_a_node_keeps(stack: Stack, mark: Callable[[DataDir], None]) -> None:
    mark(stack.data)
    assert "is a node's" in refused(stack.data)


def test_a_node_that_runs(stack: Stack) -> None:
    sessions(stack.data)
    with OwnerLock(stack.data.node_lock, what="the node").acquire():
        assert "is a node's" in refused(stack.data)
    stack.start_hub()


def test_what_is_left_of_a_node_that_kept_nothing_does_not_count(stack: Stack) -> None:
    private.make_directory(stack.data.replicas / "demo")
    stack.data.node_lock.touch()
    stack.start_hub()


@pytest.mark.parametrize("mark", [sessions, nodes])
def test_a_node_that_was_started_there_by_mistake_shuts_no_hub_out(
    stack: Stack, mark: Callable[[DataDir], None]
) -> None:
    identity(stack.data)
    copy(stack.data)
    mark(stack.data)
    stack.start_hub()


def test_hub_and_node_are_refused_in_the_same_words(stack: Stack, tmp_path: Path) -> None:
    stack.mount("demo")
    stack.start_hub()
    node = stack.start_node("n1", "demo")
    stack.converge("demo")
    copies = DataDir(node.data_dir)
    line = f"ghostfs: the data directory {copies.path} is a node's: give the hub one of its own with --data-dir"
    assert refused(copies) == line
    node.kill()
    assert refused(copies) == line
    more: list[str | Path] = ["node", "--name", "n2", "--root", tmp_path / "root", "demo"]
    line = f"ghostfs: the data directory {stack.data_dir} is a hub's: give the node one of its own with --data-dir"
    assert run("--data-dir", stack.data_dir, *more) == (ExitCode.USAGE, f"{line}\n")
