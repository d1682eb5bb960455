"""`ghostfs session` and `ghostfs settings`, called as a person calls them."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ghostfs.cli import main
from ghostfs.cli.removal import remove_tree
from ghostfs.errors import ExitCode
from ghostfs.index import Members
from ghostfs.mirror.layout import DataDir
from ghostfs.mirror.owner import OwnerLock
from ghostfs.model import Cursor, Epoch, Seq

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call a command that must succeed; what it printed."""

    def run(*arguments: str) -> str:
        code = main(["--data-dir", str(tmp_path / "data"), *arguments])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    return run


def test_create_list_show_remove(run: Run, tmp_path: Path) -> None:
    assert run("session", "create", "demo", "other") == "created demo\ncreated other\n"
    assert [line.split()[0] for line in run("session", "list").splitlines()] == ["SESSION", "demo", "other"]
    listed = json.loads(run("session", "list", "--json"))
    assert [entry["name"] for entry in listed] == ["demo", "other"]
    assert listed[0]["mount"] is None
    shown = run("session", "show", "demo")
    assert str(tmp_path / "data/sessions/demo/tree") in shown
    assert json.loads(run("session", "show", "demo", "--json")) == listed[0]
    assert run("session", "rm", "--yes", "demo") == "removed demo\n"
    assert json.loads(run("session", "list", "--json"))[0]["name"] == "other"
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["sessions"]


def test_the_data_directory_is_found_in_all_three_places(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GHOSTFS_DATA_DIR", str(tmp_path / "elsewhere"))
    assert main(["session", "create", "by-environment"]) == 0
    assert main(["session", "create", "--data-dir", str(tmp_path / "third"), "by-flag"]) == 0
    assert (tmp_path / "elsewhere/sessions/by-environment/tree").is_dir()
    assert (tmp_path / "third/sessions/by-flag/tree").is_dir()
    run("session", "create", "by-first-flag")
    assert (tmp_path / "data/sessions/by-first-flag/tree").is_dir()


def test_a_session_is_not_made_twice(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("session", "create", "demo")
    assert main(["--data-dir", str(tmp_path / "data"), "session", "create", "demo"]) == ExitCode.BUSY
    assert "demo" in capsys.readouterr().err


def test_a_session_in_use_is_not_removed(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("session", "create", "demo")
    layout = DataDir(tmp_path / "data").session("demo")
    with OwnerLock(layout.owner_lock, what="session demo"):
        assert main(["--data-dir", str(tmp_path / "data"), "session", "rm", "-y", "demo"]) == ExitCode.BUSY
    assert f"process {os.getpid()}" in capsys.readouterr().err
    assert layout.tree.is_dir()
    run("session", "rm", "-y", "demo")


def test_a_session_that_is_removed_has_no_members(run: Run, tmp_path: Path) -> None:
    run("session", "create", "demo", "other")
    data = DataDir(tmp_path / "data")
    with Members.open(data.hub_db) as members:
        members.enrol(bytes(16), "n1")
        for name in ("demo", "other"):
            members.join(name, bytes(16))
            members.lease(name, bytes(16), Cursor(Epoch(1), Seq(1)))
        run("session", "rm", "-y", "demo")
        assert members.sessions() == ["other"]
        assert (members.leases("demo"), len(members.leases("other"))) == ([], 1)


def test_a_hub_database_that_cannot_be_used_keeps_no_session(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("session", "create", "demo")
    (tmp_path / "data/hub.db").write_bytes(b"no database" * 100)
    assert main(["--data-dir", str(tmp_path / "data"), "session", "rm", "-y", "demo"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "removed demo\n"
    assert "hub.db" in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("answer", "code"), [("y\n", ExitCode.OK), ("n\n", ExitCode.FAILURE), ("", ExitCode.FAILURE)]
)
def test_removal_asks(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    code: int,
) -> None:
    run("session", "create", "demo")
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert main(["--data-dir", str(tmp_path / "data"), "session", "rm", "demo"]) == code
    assert "Remove session demo" in capsys.readouterr().err
    assert (tmp_path / "data/sessions/demo").exists() == (code != ExitCode.OK)


def test_nothing_is_removed_if_one_name_is_wrong(run: Run, tmp_path: Path) -> None:
    run("session", "create", "demo")
    assert (
        main(["--data-dir", str(tmp_path / "data"), "session", "rm", "-y", "demo", "demi"])
        == ExitCode.NOT_FOUND
    )
    assert (tmp_path / "data/sessions/demo/tree").is_dir()


def test_what_an_interrupted_removal_left_goes_with_the_next(run: Run, tmp_path: Path) -> None:
    run("session", "create", "demo")
    (tmp_path / "data/removed/demo/tree/deep").mkdir(parents=True)
    run("session", "rm", "-y", "demo")
    assert not (tmp_path / "data/removed").exists()


def test_a_tree_of_any_depth_is_removed_whatever_modes_it_has(run: Run, tmp_path: Path) -> None:
    run("session", "create", "deep", "other")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    here = os.open(DataDir(tmp_path / "data").session("deep").tree, os.O_RDONLY)
    for depth in range(3000):
        os.symlink(outside, "link", dir_fd=here)
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        if depth % 100 == 0:
            os.fchmod(here, 0o500)
        os.close(here)
        here = below
    os.close(here)
    run("session", "rm", "-y", "deep")
    assert not (tmp_path / "data/removed").exists()
    assert (outside / "file").exists()
    run("session", "rm", "-y", "other")


def test_leftovers_that_cannot_be_removed_do_not_matter(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("session", "create", "demo")
    stuck = tmp_path / "data/removed/stuck"
    stuck.parent.mkdir()
    stuck.write_bytes(b"no folder")
    assert run("session", "rm", "-y", "demo") == "removed demo\n"
    assert not (tmp_path / "data/sessions/demo").exists()
    assert list(stuck.parent.iterdir()) == [stuck]


def test_removing_says_how_far_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(2100):
        (folder / str(number)).touch()
    told: list[int] = []
    remove_tree(folder, told.append)
    assert told == [1000, 2000]


def test_a_damaged_index_is_shown_and_can_be_removed(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("session", "create", "demo")
    DataDir(tmp_path / "data").session("demo").index_db.write_bytes(b"not a database" * 1000)
    entry = json.loads(run("session", "list", "--json"))[0]
    assert entry["problem"]
    assert entry["head"] == 0
    assert entry["problem"] in run("session", "list")
    assert main(["--data-dir", str(tmp_path / "data"), "session", "show", "demo"]) == ExitCode.DAMAGED
    assert entry["problem"] in capsys.readouterr().out
    run("session", "rm", "-y", "demo")


def test_a_data_directory_with_any_name_can_be_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = os.fsdecode(bytes(tmp_path) + b"/caf\xe9")
    assert main(["--data-dir", data, "session", "create", "demo"]) == 0
    capsys.readouterr()
    assert main(["--data-dir", data, "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data_dir"] == f"{tmp_path}/caf\\xe9"
    assert main(["--data-dir", data, "session", "show", "demo"]) == 0
    assert "caf\\xe9/sessions" in capsys.readouterr().out


def test_names_are_completed(run: Run, tmp_path: Path) -> None:
    from click.shell_completion import ShellComplete

    from ghostfs.cli.group import root

    run("session", "create", "demo", "dev", "other")
    complete = ShellComplete(root, {}, "ghostfs", "_GHOSTFS_COMPLETE")
    found = complete.get_completions(["--data-dir", str(tmp_path / "data"), "session", "show"], "de")
    assert [item.value for item in found] == ["demo", "dev"]


def test_settings_say_where_they_come_from(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHOSTFS_SPOOL_MIB", "7")
    found = {entry["name"]: entry for entry in json.loads(run("settings", "--json", "-o", "poll-us=0"))}
    assert (found["spool_mib"]["value"], found["spool_mib"]["source"]) == (7, "environment")
    assert (found["poll_us"]["value"], found["poll_us"]["source"]) == (0, "flag")
    assert found["hub"]["source"] == "default"
    rows = {line.split()[0]: line.split()[1:] for line in run("settings").splitlines()}
    assert rows["spool_mib"] == ["7", "MiB", "environment"]
