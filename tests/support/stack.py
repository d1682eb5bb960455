"""A hub, mounts and nodes as real processes on this machine, for end-to-end tests and benchmarks.

Everything lies below one directory. Nothing is waited for by sleeping alone: each wait has a condition and
a time limit, and a process that ends early fails the wait with its log.
"""

from __future__ import annotations

__all__ = ["GHOSTFS", "Node", "Process", "Stack", "differences", "eventually", "free_port"]

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from ghostfs.index import Index
from ghostfs.mirror.layout import DataDir, SessionLayout

GHOSTFS = [sys.executable, "-m", "ghostfs"]


def eventually(
    condition: Callable[[], object], *, timeout: float = 60.0, what: str, every: float = 0.02
) -> None:
    """Waits until the condition holds.

    Raises:
        TimeoutError: it did not, within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout:g} s: {what}")
        time.sleep(every)


def free_port() -> int:
    """A TCP port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def differences(expected: Path, actual: Path, *, excluded: tuple[str, ...] = ()) -> str:
    """What rsync would have to change to make `actual` like `expected`: names, types, content (by checksum),
    modes, owners, times, hard links. Empty when they are equal."""
    done = subprocess.run(
        [
            *("rsync", "-aHn", "--checksum", "--delete", "--itemize-changes", "--omit-link-times"),
            *(f"--exclude={pattern}" for pattern in excluded),
            f"{expected}/",
            f"{actual}/",
        ],
        check=True,
        capture_output=True,
        text=True,
        errors="backslashreplace",
    )
    return done.stdout


@dataclass
class Process:
    """A daemon of ours, its log in a file."""

    arguments: list[str]
    log: Path
    environment: dict[str, str]
    popen: subprocess.Popen[bytes] | None = None
    user: int = 0
    """Who runs it. Others than root have no right of root's but to look anywhere: else the interpreter itself
    might be out of reach."""

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                [*self._as_user(), *GHOSTFS, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
            )

    def _as_user(self) -> list[str]:
        if not self.user:
            return []
        rights = "-all,+dac_read_search"
        who = [f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"]
        return ["setpriv", *who, f"--inh-caps={rights}", f"--ambient-caps={rights}"]

    @property
    def pid(self) -> int:
        assert self.popen is not None
        return self.popen.pid

    @property
    def ended(self) -> bool:
        return self.popen is None or self.popen.poll() is not None

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        if self.popen is not None:
            self.popen.kill()
            self.popen.wait()
            self.popen = None

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM, and the exit code."""
        assert self.popen is not None
        self.popen.terminate()
        code = self.popen.wait(timeout)
        self.popen = None
        return code

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


@dataclass
class Node(Process):
    """A mesh node."""

    root: Path = field(default_factory=Path)
    data_dir: Path = field(default_factory=Path)

    def copy(self, session: str) -> Path:
        return self.root / session

    def layout(self, session: str) -> SessionLayout:
        return DataDir(self.data_dir).replica(session, self.root)

    def cursor(self, session: str) -> tuple[int, int]:
        """(epoch, sequence) that the node has durably applied; zeros when it has nothing."""
        with suppress(FileNotFoundError), Index.open(self.layout(session).index_db, readonly=True) as index:
            cursor = index.cursor()
            if cursor is not None and index.snapshot() is None:
                return cursor.epoch, cursor.seq
        return 0, 0

    def parked(self, session: str) -> int:
        with Index.open(self.layout(session).index_db, readonly=True) as index:
            return len(index.parked())


class Stack:
    """One hub and what belongs to it. A context manager: at its end nothing is left."""

    def __init__(self, base: Path, **settings: object) -> None:
        """`settings` are GhostFS settings for all processes, by name."""
        self.base = base
        self.data_dir = base / "hub"
        self.data = DataDir(self.data_dir)
        self.port = free_port()
        self.environment = os.environ | {
            f"GHOSTFS_{name.upper()}": str(value) for name, value in settings.items()
        }
        self.environment |= {"GHOSTFS_LOG_FORMAT": "json", "GHOSTFS_DATA_DIR": str(self.data_dir)}
        self.hub: Process | None = None
        self.nodes: dict[str, Node] = {}
        self.mounts: list[Path] = []

    def __enter__(self) -> Self:
        self.base.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for mountpoint in list(self.mounts):
            with suppress(subprocess.SubprocessError):
                self.umount(mountpoint)
        for process in [*self.nodes.values(), *([self.hub] if self.hub else [])]:
            if not process.ended:
                process.signal(signal.SIGCONT)
                process.kill()

    def run(self, *arguments: str | Path, timeout: float = 300.0) -> str:
        """A `ghostfs` command that must succeed; its standard output."""
        done = subprocess.run(
            [*GHOSTFS, *map(str, arguments)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise AssertionError(f"ghostfs {arguments} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def session(self, name: str) -> SessionLayout:
        return self.data.session(name)

    def mount(self, session: str, *options: str) -> Path:
        """Mounts a session (making it if need be) at `<base>/mnt/<session>`."""
        mountpoint = self.base / "mnt" / session
        mountpoint.parent.mkdir(exist_ok=True)
        with suppress(FileExistsError):  # one that was killed is there, and can hardly be looked at
            os.mkdir(mountpoint)
        self.run("mount", "--create", *options, session, mountpoint)
        self.mounts.append(mountpoint)
        return mountpoint

    def umount(self, mountpoint: Path) -> None:
        self.mounts.remove(mountpoint)
        self.run("umount", mountpoint)

    def mount_pid(self, session: str) -> int:
        """The process that owns a mounted session."""
        return int(self.session(session).owner_lock.read_text())

    def start_hub(self, *options: str) -> Process:
        """Starts (again) the hub, and waits until it listens."""
        if self.hub is None:
            arguments = ["hub", "--listen", f"127.0.0.1:{self.port}", *options]
            self.hub = Process(arguments, self.base / "hub.log", self.environment)
        self.hub.start()
        self.await_hub()
        return self.hub

    def await_hub(self) -> None:
        hub = self.hub
        assert hub is not None

        def listens() -> bool:
            if hub.ended:
                raise AssertionError(f"the hub ended: {hub.log.read_text()[-2000:]}")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        eventually(listens, timeout=30, what="the hub does not listen", every=0.005)

    def start_node(self, name: str, *sessions: str, options: tuple[str, ...] = (), user: int = 0) -> Node:
        """Starts (again) a node that follows the sessions, run by a user."""
        node = self.nodes.get(name)
        if node is None:
            root, data_dir = self.base / name / "root", self.base / name / "data"
            root.mkdir(parents=True)
            data_dir.mkdir(mode=0o700)
            for directory in (root, data_dir):
                os.chown(directory, user, user)
            arguments = ["node", "--name", name, "--hub", f"127.0.0.1:{self.port}", "--root", str(root)]
            environment = self.environment | {"GHOSTFS_DATA_DIR": str(data_dir)}
            node = Node(
                [*arguments, *options, *sessions],
                self.base / name / "node.log",
                environment,
                root=root,
                data_dir=data_dir,
                user=user,
            )
            self.nodes[name] = node
        node.start()
        return node

    def settle(self, session: str) -> tuple[int, int]:
        """Commits everything that the mount holds; (epoch, head)."""
        from ghostfs.mirror.control import ControlClient
        from ghostfs.v1 import control_pb2 as pb

        socket_path = self.session(session).control_socket
        if socket_path.exists():
            with ControlClient(socket_path, timeout=300.0) as client:
                client.request(pb.ControlRequest(settle=pb.Settle()))
        with Index.open(self.session(session).index_db, readonly=True) as index:
            return index.epoch, index.head()

    def converge(self, session: str, *nodes: str, timeout: float = 120.0) -> None:
        """Waits until the nodes have all that the mount has now."""
        epoch, head = self.settle(session)
        for name in nodes or tuple(self.nodes):
            node = self.nodes[name]

            def arrived(node: Node = node) -> bool:
                if node.ended:
                    raise AssertionError(f"node ended: {node.log.read_text()[-2000:]}")
                at = node.cursor(session)
                return at[0] == epoch and at[1] >= head and not node.parked(session)

            eventually(
                arrived, timeout=timeout, what=f"{name} is at {node.cursor(session)}, not {(epoch, head)}"
            )
