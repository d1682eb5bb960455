"""A session with files that its own hub may not read: mount, hub and node of a user without any rights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from others import Namespace
from stack import GHOSTFS, Node, Process, Stack, eventually

from ghostfs.errors import ExitCode

USER = 1
"""One whom the machine knows, which fusermount3 asks for."""

_BARE = """
import ctypes, difflib, encodings.ascii, encodings.idna, encodings.latin_1, importlib, pkgutil, sys
import ghostfs
for module in pkgutil.walk_packages(ghostfs.__path__, "ghostfs."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
libc = ctypes.CDLL(None)
assert libc.prctl(47, 4, 0, 0, 0) == 0  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL
assert libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()) == 0
from ghostfs.cli import main
sys.exit(main())
"""
"""The command, which gives up the right to look anywhere once it needs the interpreter's files no more."""


def bare(*arguments: str) -> list[str]:
    """A `ghostfs` command line of the user, without any capability."""
    rights = "-all,+dac_read_search"
    who = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    return [
        *("setpriv", *who, f"--inh-caps={rights}", f"--ambient-caps={rights}"),
        *(sys.executable, "-c", _BARE, *arguments),
    ]


class Bare(Process):
    """A daemon of that user."""

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                bare(*self.arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
            )


class BareNode(Bare, Node):
    """A node of that user."""


class Mounted:
    """The session, mounted by that user in a namespace where /dev/fuse is for all."""

    def __init__(self, machine: Namespace, stack: Stack) -> None:
        self._machine = machine
        self._environment = {"GHOSTFS_DATA_DIR": str(stack.data_dir)}
        self._directory = f"{machine.home(USER)}/mnt"

    def __enter__(self) -> Self:
        self._ghostfs("mount", "--create", "demo", self._directory)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ghostfs("umount", self._directory)

    def shell(self, script: str) -> None:
        """A script of that user's in the mount."""
        done = self._machine.run(
            *("setpriv", "--inh-caps=-all", "--ambient-caps=-all"),
            *("sh", "-euc", f"cd {self._directory}; {script}"),
            user=USER,
        )
        assert (done.returncode, done.stderr) == (0, "")

    def _ghostfs(self, *arguments: str) -> None:
        done = self._machine.run(*GHOSTFS, *arguments, user=USER, **self._environment)
        assert (done.returncode, done.stderr) == (0, "")


def run(stack: Stack, *arguments: str, data_dir: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A `ghostfs` command of that user's."""
    return subprocess.run(
        bare(*(["--data-dir", str(data_dir)] if data_dir else []), *arguments),
        env=stack.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def stack() -> Iterator[Stack]:
    """At a place that every user can get to."""
    with tempfile.TemporaryDirectory(prefix="ghostfs-test-") as place:
        Path(place).chmod(0o755)
        with Stack(Path(place) / "stack") as made:
            os.chown(made.base, USER, USER)
            made.environment["XDG_CONFIG_HOME"] = str(made.base)
            yield made


@pytest.fixture
def mount(stack: Stack) -> Iterator[Mounted]:
    with Namespace() as machine, Mounted(machine, stack) as made:
        yield made


def start_node(stack: Stack) -> Node:
    root, data_dir = stack.base / "n1" / "root", stack.base / "n1" / "data"
    for directory in (root, data_dir):
        directory.mkdir(parents=True, mode=0o700)
        os.chown(directory, USER, USER)
    node = BareNode(
        ["node", "--name", "n1", "--hub", f"127.0.0.1:{stack.port}", "--root", str(root), "demo"],
        stack.base / "n1" / "node.log",
        stack.environment | {"GHOSTFS_DATA_DIR": str(data_dir)},
        root=root,
        data_dir=data_dir,
    )
    stack.nodes["n1"] = node
    node.start()
    return node


def start_hub(stack: Stack) -> None:
    arguments = ["hub", "--listen", f"127.0.0.1:{stack.port}"]
    stack.hub = Bare(arguments, stack.base / "hub.log", stack.environment)
    stack.start_hub()


def catch_up(stack: Stack, node: Node) -> None:
    """Waits until the node has acknowledged all that the mount has now."""
    wanted = stack.settle("demo")
    eventually(
        lambda: node.cursor("demo") >= wanted or node.ended,
        what=f"the node is at {node.cursor('demo')}, not {wanted}",
    )
    assert not node.ended, node.log.read_text()


def said(log: Path, event: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


@pytest.mark.parametrize("when", ["before the node comes", "while the node follows"])
def test_what_may_not_be_read_keeps_nothing_else_back(stack: Stack, mount: Mounted, when: str) -> None:
    start_hub(stack)
    mount.shell("echo first > first")
    if when == "while the node follows":
        node = start_node(stack)
        catch_up(stack, node)
    mount.shell(
        # Whatever is committed in between, their content never was to be read.
        "(umask 777; echo small > small); (umask 577; head -c 900000 /dev/urandom > large);"
        "mkdir shut; exec 3> shut/in; chmod 0 shut; echo in >&3; exec 3>&-; echo v1 > known",
    )
    if when == "before the node comes":
        node = start_node(stack)
    catch_up(stack, node)
    copy = node.copy("demo")
    assert (copy / "known").read_text() == "v1\n"

    # A newer version that may not be read, and ordinary files after it.
    mount.shell("chmod 200 known")
    catch_up(stack, node)
    mount.shell("echo v2 > known; head -c 700000 /dev/zero | tr '\\0' x > later")
    catch_up(stack, node)
    mount.shell("echo latest > latest")
    catch_up(stack, node)
    assert (copy / "later").read_bytes() == b"x" * 700_000
    assert (copy / "latest").read_text() == "latest\n"
    assert (copy / "known").read_text() == "v1\n"
    assert not (copy / "large").exists()
    assert not (copy / "small").exists()

    hub = stack.base / "hub.log"
    paths = [line["path"] for line in said(hub, "file_unreadable")]
    assert sorted(map(str, paths)) == ["known", "large", "shut/in", "small"]
    assert node.parked("demo") == 4

    # It is said, and never that all is the same.
    verified = run(stack, "verify", "demo")
    assert verified.returncode == ExitCode.DRIFT
    assert "small: may not be read by this user" in verified.stdout
    assert "n1: equal" not in verified.stdout
    of_copy = run(stack, "verify", "demo", data_dir=node.data_dir)
    assert of_copy.returncode == ExitCode.DRIFT
    assert "known: cannot be read" in of_copy.stdout
    assert "4 newer versions are not here yet" in of_copy.stdout

    mount.shell("chmod 644 small large known")
    catch_up(stack, node)
    tree = stack.session("demo").tree
    for name in ("small", "large", "known"):
        assert (copy / name).read_bytes() == (tree / name).read_bytes(), name
        assert (copy / name).stat().st_mode & 0o777 == 0o644
    assert node.parked("demo") == 1
    assert len(said(hub, "file_unreadable")) == 4
