"""Which nodes a hub knows, and how it forgets them: names are unique, what is gone can be let go."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stack import GHOSTFS, Stack, eventually

from ghostfs.cli import main
from ghostfs.errors import ExitCode
from ghostfs.index import Members
from ghostfs.mirror.layout import DataDir

ONE, TWO, THREE = (bytes([n]) * 16 for n in (1, 2, 3))
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path / "data")
    made.path.mkdir()
    return made


@pytest.fixture
def run(data: DataDir, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call a command: its code, what it printed, what it complained of."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(["--data-dir", str(data.path), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def known(data: DataDir) -> DataDir:
    """Three nodes; two of them have the same name, as an older version let them."""
    with Members.open(data.hub_db) as members:
        for number, node_id in enumerate((ONE, TWO, THREE)):
            members.enrol(node_id, f"n{number + 1}")
        members._execute("UPDATE node SET name = 'n2' WHERE node_id = ?", (THREE,))
        for session in ("demo", "work"):
            members.join(session, ONE)
        members.join("demo", TWO)
    return data


def test_nodes_are_listed(run: Run, known: DataDir) -> None:
    code, out, _ = run("nodes")
    assert code == 0
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["NODE", "ID", "FOLLOWS"],
        ["n1", ONE.hex(), "demo,"],
        ["n2", TWO.hex(), "demo"],
        ["n2", THREE.hex(), "nothing"],
    ]
    listed = json.loads(run("nodes", "--json")[1])
    assert [(node["name"], node["sessions"]) for node in listed] == [
        ("n1", ["demo", "work"]),
        ("n2", ["demo"]),
        ("n2", []),
    ]
    assert {node["connected"] for node in listed} == {None}
    assert {node["id"] for node in listed} == {ONE.hex(), TWO.hex(), THREE.hex()}
    assert all(node["last_seen_unix_ns"] >= node["first_seen_unix_ns"] > 0 for node in listed)


def test_no_hub_has_no_nodes(run: Run, data: DataDir) -> None:
    assert run("nodes", "--json")[:2] == (0, "[]\n")
    code, out, err = run("nodes")
    assert (code, out) == (0, "")
    assert "no node" in err
    assert run("forget", "n1")[0] == ExitCode.NOT_FOUND
    assert list(data.path.iterdir()) == []


def test_a_node_is_forgotten(run: Run, known: DataDir) -> None:
    assert run("forget", "n1") == (0, "forgot n1\n", "")
    with Members.open(known.hub_db, readonly=True) as members:
        assert members.node(ONE) is None
        assert members.members("work") == []
    assert run("forget", "n1")[0] == ExitCode.NOT_FOUND


def test_a_node_can_leave_one_session(run: Run, known: DataDir) -> None:
    assert run("forget", "--session", "demo", "n1") == (0, "forgot n1 in demo\n", "")
    with Members.open(known.hub_db, readonly=True) as members:
        assert members.membership("demo", ONE) is None
        assert members.membership("work", ONE) is not None
    code, _, err = run("forget", "--session", "demo", "n1")
    assert code == ExitCode.NOT_FOUND
    assert err == "ghostfs: node n1 does not follow demo; `ghostfs nodes` shows what is known\n"


def test_nodes_of_one_name_are_told_apart_by_id(run: Run, known: DataDir) -> None:
    code, _, err = run("forget", "n1", "n2")
    assert code == ExitCode.USAGE
    assert TWO.hex() in err
    assert THREE.hex() in err
    with Members.open(known.hub_db, readonly=True) as members:
        assert len(members.nodes()) == 3  # nothing is forgotten if one cannot be
    assert run("forget", THREE.hex()) == (0, "forgot n2\n", "")
    assert run("forget", "n2")[0] == 0


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path / "stack") as made:
        yield made


def call(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GHOSTFS, *arguments],
        env=stack.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_second_node_of_a_name_is_told_what_to_do(stack: Stack) -> None:
    stack.run("session", "create", "demo", "more")
    mountpoint = stack.mount("demo")
    (mountpoint / "file").write_bytes(b"content")
    stack.start_hub()
    first = stack.start_node("n1", "demo", "more")
    stack.converge("demo", "n1")
    assert json.loads(stack.run("nodes", "--json"))[0]["connected"] is True
    assert "following" in stack.run("nodes")
    busy = call(stack, "forget", "n1")
    assert busy.returncode == ExitCode.BUSY
    assert busy.stderr == "ghostfs: node n1 follows demo, more now: stop it first\n"

    other = [*GHOSTFS, "--data-dir", str(stack.base / "other"), "node", "--name", "n1"]
    other += ["--hub", f"127.0.0.1:{stack.port}", "--root", str(stack.base / "copies"), "demo", "more"]
    refused = subprocess.run(
        other, env=stack.environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert refused.returncode == ExitCode.USAGE
    [line] = [line for line in refused.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith("ghostfs: the name n1 ")
    assert "--name" in line
    assert "`ghostfs forget n1`" in line
    assert not [line for line in refused.stderr.splitlines() if "Traceback" in line]

    # The machine is made anew: its name is free once the old one is forgotten.
    assert first.stop() == 0
    shutil.rmtree(first.data_dir)
    shutil.rmtree(first.root)
    first.root.mkdir()
    eventually(lambda: call(stack, "forget", "n1").returncode == 0, what="n1 is not forgotten", every=0.1)
    first.start()
    stack.converge("demo", "n1")
    assert (first.copy("demo") / "file").read_bytes() == b"content"
    assert len(json.loads(stack.run("nodes", "--json"))) == 1
