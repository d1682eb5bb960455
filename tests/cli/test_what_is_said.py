"""What people are told when something about their machine is wrong, and not with GhostFS: one line, and what to do."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from others import GHOSTFS, Namespace
from stack import Stack

from ghostfs.cli import main
from ghostfs.errors import ExitCode


def shell(tmp_path: Path, script: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A script in which `$G` is the command, with a session in its data directory."""
    environment = os.environ | {"GHOSTFS_DATA_DIR": str(tmp_path / "data"), "G": " ".join(GHOSTFS)} | more
    assert main(["--data-dir", str(tmp_path / "data"), "session", "create", "demo"]) == 0
    return subprocess.run(
        ["sh", "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("command", ["status", "session list --json", "--help"])
@pytest.mark.parametrize(
    ("where", "why"), [(">/dev/full", "No space left on device"), (">&-", "it is closed")]
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written(
    tmp_path: Path, command: str, where: str, why: str, unbuffered: str
) -> None:
    done = shell(tmp_path, f"$G {command} {where}", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (1, f"ghostfs: standard output could not be written: {why}\n")


def test_closed_outputs_are_no_trouble_to_who_says_nothing(tmp_path: Path) -> None:
    done = shell(tmp_path, "$G session show nothing >&-")
    assert done.returncode == ExitCode.NOT_FOUND
    assert done.stderr.startswith("ghostfs: there is no session nothing")
    done = shell(tmp_path / "two", "$G status --json 2>&-")
    assert done.returncode == 0
    assert json.loads(done.stdout)["sessions"][0]["name"] == "demo"


def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    done = shell(
        tmp_path, f"mkdir {tmp_path}/w; cd {tmp_path}/w; rmdir {tmp_path}/w; $G --data-dir d session list"
    )
    assert done.returncode == 1
    assert done.stderr == "ghostfs: the current directory has been removed: change to one that is there\n"


def test_a_data_directory_that_is_a_link_to_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").symlink_to("nowhere")
    assert main(["--data-dir", str(tmp_path / "data"), "session", "create", "demo"]) == 1
    assert capsys.readouterr().err == (
        "ghostfs: Here is a link to nowhere, which is not there: make that directory, or remove the link: "
        f"{tmp_path}/data\n"
    )


def test_the_data_directory_of_somebody_else() -> None:
    with Namespace() as machine:
        home, _ = machine.home(1), machine.home(2)
        assert machine.ghostfs("session", "create", "a", user=1).returncode == 0
        done = machine.run(*GHOSTFS, "session", "create", "b", user=2, GHOSTFS_DATA_DIR=f"{home}/data")
        whose = machine.run("id", "-un", "1").stdout.strip()
    assert done.returncode == 1
    assert done.stderr == (
        f"ghostfs: Permission denied: {home}/data/sessions/b ({home}/data/sessions belongs to {whose}: "
        "be that user, or use a data directory of your own, with --data-dir)\n"
    )


def said(stack: Stack, *arguments: str | Path) -> str:
    """All that a command prints."""
    return subprocess.run(
        [*GHOSTFS, *map(str, arguments)],
        env=stack.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    ).stdout


def newer(index_db: Path) -> None:
    with index_db.open("r+b") as file:
        file.seek(60)
        file.write((99).to_bytes(4, "big"))


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (newer, ExitCode.DAMAGED),
        (lambda index_db: index_db.write_bytes(b"no database" * 1000), ExitCode.DAMAGED),
        (lambda index_db: index_db.unlink(), ExitCode.OK),
    ],
    ids=["newer", "damaged", "none"],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_an_index_that_cannot_be_read_has_no_facts(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[Path], object],
    code: ExitCode,
    as_json: bool,
) -> None:
    data = ["--data-dir", str(tmp_path)]
    assert main([*data, "session", "create", "demo"]) == 0
    harm(tmp_path / "sessions/demo/index.db")
    capsys.readouterr()
    assert main([*data, "session", "show", "demo", *["--json"] * as_json]) == code
    shown = capsys.readouterr().out
    if as_json:
        assert json.loads(shown)["problem"]
        return
    assert [line.split(":")[0] for line in shown.splitlines()] == [
        "session",
        "problem",
        "mounted on",
        "tree",
        "state",
    ]


def test_a_mount_that_made_an_index_anew_says_so(tmp_path: Path) -> None:
    with Stack(tmp_path / "stack") as stack:
        mountpoint = stack.mount("demo")
        (mountpoint / "file").write_bytes(b"content")
        stack.umount(mountpoint)
        index_db = stack.session("demo").index_db
        index_db.write_bytes(index_db.read_bytes()[:4096] + b"\xa5" * 65536)
        assert "the next `ghostfs mount` of the session" in said(stack, "session", "show", "demo")
        told = said(stack, "mount", "demo", mountpoint)
        stack.run("umount", mountpoint)
        again = said(stack, "mount", "demo", mountpoint)
        stack.run("umount", mountpoint)
        (aside,) = index_db.parent.glob("index.db.damaged-*Z")
    assert told == (
        f"ghostfs: the index of session demo was damaged: it is set aside as {aside}, and was made anew from the "
        "files\n"
    )
    assert again == ""
