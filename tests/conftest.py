"""What holds for every test: it leaves nothing behind, it warns of nothing unexpected, it sees no one's settings.

A test fails when it leaves a mount, a process or a thread, and when an event of WARNING or above was logged
that it did not allow with `@pytest.mark.allows_log("event_name", …)`. The `logged` fixture holds all events.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings

from ghostfs import logs

GRACE = float(os.environ.get("PYTEST_GHOSTFS_GRACE", "5"))
"""Seconds that processes and threads of a finished test have to end by themselves."""

RUN = f"{os.getpid()}-{time.time_ns()}"
RUN_VARIABLE = "PYTEST_GHOSTFS_RUN"
"""Inherited by every process that a test starts, also by daemons that have left the process tree."""

HELPER_PROCESSES = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
HELPER_THREADS = ("Trio thread", "pytest_timeout")
"""Trio keeps idle worker threads for a while; they hold nothing."""


# A machine that is busy or slow is no fault of what is tested.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "allows_log(*events): these events may be logged as WARNING or above"
    )


@pytest.fixture(autouse=True, scope="session")
def _no_settings_of_others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The settings and data of whoever runs the tests are out of reach."""
    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith("GHOSTFS_")]:
        patch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    patch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    patch.setenv("XDG_DATA_HOME", str(home / "data"))
    patch.setenv(RUN_VARIABLE, RUN)
    yield
    patch.undo()


@dataclass
class LogRecorder(logging.Handler):
    """Everything that was logged in one test, as (level, event name, fields)."""

    events: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(logging.DEBUG)

    __hash__ = logging.Handler.__hash__

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, dict):
            fields = dict(record.msg)
            self.events.append((record.levelno, str(fields.pop("event", "")), fields))
        else:
            self.events.append((record.levelno, record.getMessage(), {"logger": record.name}))

    def named(self, event: str) -> list[dict[str, Any]]:
        """The fields of every occurrence of an event."""
        return [fields for _, name, fields in self.events if name == event]


@pytest.fixture(autouse=True)
def logged(request: pytest.FixtureRequest) -> Iterator[LogRecorder]:
    """All events of this test; fails it if one of WARNING or above was not allowed."""
    recorder = LogRecorder()
    root = logging.getLogger()
    logs.configure(level="debug", renderer="json", stream=io.StringIO())
    root.addHandler(recorder)
    try:
        yield recorder
    finally:
        root.removeHandler(recorder)
    allowed = {name for mark in request.node.iter_markers("allows_log") for name in mark.args}
    unexpected = [e for e in recorder.events if e[0] >= logging.WARNING and e[1] not in allowed]
    if unexpected:
        lines = "\n".join(
            f"  {logging.getLevelName(level)} {name} {fields}" for level, name, fields in unexpected
        )
        pytest.fail(f"unexpected events were logged:\n{lines}", pytrace=False)


@pytest.fixture(autouse=True)
def _leaves_nothing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    threads = set(threading.enumerate())
    newest, processes = _newest_pid(), _processes()
    base = tmp_path_factory.getbasetemp()
    mounted = set(_mounts_below(base))
    yield
    found = []
    if mounts := [mount for mount in _mounts_below(base) if mount not in mounted]:
        found.append(f"mounts: {', '.join(mounts)}")
        for mount in mounts:
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
    if _newest_pid() != newest:
        left = _wait_until_empty(lambda: {p for p in _processes() - processes if not _is_helper(p)})
        if left:
            found.append("processes: " + "; ".join(f"{pid} {_command(pid)}" for pid in sorted(left)))
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        stray = _wait_until_empty(
            lambda: {
                t for t in set(threading.enumerate()) - threads if not t.name.startswith(HELPER_THREADS)
            }
        )
        if stray:
            found.append(f"threads: {', '.join(sorted(thread.name for thread in stray))}")
    if found:
        pytest.fail("the test left behind " + "; ".join(found), pytrace=False)


def _newest_pid() -> str:
    """The last process or thread id that the kernel gave out: unchanged means that nothing was started."""
    return Path("/proc/loadavg").read_text().split()[-1]


def _processes() -> set[int]:
    """Living processes of this test run: descendants, and daemons that carry its mark."""
    mark = f"{RUN_VARIABLE}={RUN}".encode()
    found = set()
    parents: dict[int, int] = {}
    for process in psutil.process_iter(["pid", "ppid", "status"]):
        if process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        pid = process.info["pid"]
        parents[pid] = process.info["ppid"]
        try:
            if mark in Path(f"/proc/{pid}/environ").read_bytes():
                found.add(pid)
        except OSError:
            continue  # ended meanwhile, or another user's
    me = os.getpid()
    for pid, ancestor in parents.items():
        parent = ancestor
        while parent in parents and parent != me:
            parent = parents[parent]
        if parent == me:
            found.add(pid)
    found.discard(me)
    return found


def _is_helper(pid: int) -> bool:
    return any(helper in _command(pid) for helper in HELPER_PROCESSES)


def _command(pid: int) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode("utf-8", "replace")
            .strip()
        )
    except OSError:
        return "(ended)"


def _mounts_below(directory: Path) -> list[str]:
    """Mountpoints below a directory, innermost first."""
    prefix = f"{directory.resolve()}/"
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    points = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    return [point for point in reversed(points) if point.startswith(prefix)]


def _wait_until_empty(collect: Callable[[], set[Any]]) -> set[Any]:
    deadline = time.monotonic() + GRACE
    while (left := collect()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left
