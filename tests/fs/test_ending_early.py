"""A mount that is asked to end while it still starts: the order is forced inside the mount process."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ghostfs.fs.mounts import find
from ghostfs.index import Index

if TYPE_CHECKING:
    from conftest import Workspace, Workspaces

SERVE = """
import os, signal, sys, time
import pyfuse3
from ghostfs.fs import serve
from ghostfs.fs.lifecycle import MountOptions, mount
from ghostfs.fs.mounts import find

options = MountOptions.from_json(sys.stdin.readline())
"""

BEFORE_ANYBODY_LISTENS = """
init = pyfuse3.init
def init_and_signal(*arguments):
    init(*arguments)
    os.kill(os.getpid(), signal.SIGTERM)
pyfuse3.init = init_and_signal
"""

BEFORE_IT_HAS_ANSWERED = """
prove_alive = serve._Mount._prove_alive
def prove_alive_late(self):
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + 30
    while find(options.mountpoint) is not None and time.monotonic() < deadline:
        os.sched_yield()
    prove_alive(self)
serve._Mount._prove_alive = prove_alive_late
"""


def serve_in_the_foreground(workspace: Workspace, change: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SERVE + change + "mount(options)\n"],
        input=workspace.options.to_json() + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "moment", [BEFORE_ANYBODY_LISTENS, BEFORE_IT_HAS_ANSWERED], ids=["unheard", "unproven"]
)
def test_a_signal_at_the_start_ends_it_cleanly(workspaces: Workspaces, moment: str) -> None:
    workspace = workspaces.make(foreground=True)
    ended = serve_in_the_foreground(workspace, moment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert find(workspace.path) is None
    with Index.open(workspace.layout.index_db, readonly=True) as index:
        assert index.meta("clean") == "1"
