"""SIGKILL of the mount while git commits: the repository is whole, and has every commit that git reported.

`LONG_RUNS` is how many kills each way of caching gets, as in the end-to-end tests.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from stack import Stack, eventually

from ghostfs.mirror.live.verify import verify

pytestmark = pytest.mark.timeout(3600)

KILLS = int(os.environ.get("LONG_RUNS", "3"))

GIT = [
    *("git", "-c", "user.name=Agent", "-c", "user.email=agent@example.org", "-c", "gc.auto=0"),
    *("-c", "core.fsync=all", "-c", "core.fsyncMethod=fsync"),
]

COMMITTER = """
import random, subprocess, sys
from pathlib import Path
project, diary, seed, *git = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *sys.argv[4:]
rng = random.Random(seed)
with open(diary, "a", buffering=1) as notes:
    while True:
        for _ in range(5):
            path = project / f"dir{rng.randrange(4)}" / f"file{rng.randrange(20)}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(rng.randbytes(rng.choice((100, 5000, 300_000))))
        for command in (["add", "."], ["commit", "-q", "--allow-empty", "-m", "more"]):
            subprocess.run([*git, *command], cwd=project, check=True)
        said = subprocess.run([*git, "rev-parse", "HEAD"], cwd=project, check=True, capture_output=True, text=True)
        notes.write(said.stdout)
        if rng.random() < 0.1:
            subprocess.run([*git, "repack", "-q", "-a", "-d"], cwd=project, check=True)
"""


def git(project: Path, *arguments: str) -> str:
    done = subprocess.run([*GIT, *arguments], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"git {arguments}: {done.stdout}{done.stderr}"
    return done.stdout


def commits(diary: Path) -> list[str]:
    return [line for line in diary.read_text().splitlines() if len(line) == 40] if diary.exists() else []


def await_commits(diary: Path, count: int) -> None:
    eventually(lambda: len(commits(diary)) >= count, what="nothing was committed")


def await_end(pid: int) -> None:
    eventually(lambda: not Path(f"/proc/{pid}").exists(), what="the mount did not end")


def test_every_commit_survives(stack: Stack, mount: Callable[..., Path], tmp_path: Path) -> None:
    rng = random.Random(7)
    diary = tmp_path / "diary"
    here = mount()
    project = here / "project"
    project.mkdir()
    git(project, "init", "-q", "-b", "main", ".")
    for seed in range(KILLS):
        before = len(commits(diary))
        command = [sys.executable, "-c", COMMITTER, str(project), str(diary), str(seed), *GIT]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as committer:
            await_commits(diary, before + 2)
            time.sleep(rng.uniform(0, 0.5))  # not to synchronise: the moment of the kill is to be random
            pid = stack.mount_pid("work")
            os.kill(pid, signal.SIGKILL)
            committer.wait(60)
        await_end(pid)
        stack.mounts.remove(here)
        mount()
        for lock in project.glob(".git/**/*.lock"):
            lock.unlink()  # git was killed, too, as far as it can tell: this is what it asks for then
        assert git(project, "fsck", "--full", "--no-dangling") == ""
        for commit in commits(diary):
            git(project, "merge-base", "--is-ancestor", commit, "HEAD")
        git(project, "rev-list", "--objects", "--quiet", "HEAD")
        git(project, "reset", "-q", "--hard")
        assert git(project, "status", "--porcelain", "--untracked-files=no") == ""
    stack.settle("work")
    report = verify(stack.session("work"))
    assert report.ok, report.problems
