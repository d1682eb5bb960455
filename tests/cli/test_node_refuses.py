"""A node that would keep its copies where they do harm is refused, and nothing is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ghostfs.cli import main
from ghostfs.errors import ExitCode
from ghostfs.index import Members
from ghostfs.mirror.layout import DataDir
from ghostfs.mirror.live.session import create_session
from ghostfs.mirror.owner import OwnerLock

Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Refused:
    """Starts a node, which must be a usage error that leaves all as it was; what it complained of."""

    def call(root: Path, *sessions: str, data: Path = tmp_path / "own") -> str:
        before = sorted(tmp_path.rglob("*"))
        settings = ["--data-dir", str(data), "node", "--name", "n", "--hub", "127.0.0.1:1"]
        assert main([*settings, "--adopt-root", "--root", str(root), *sessions]) == ExitCode.USAGE
        assert sorted(tmp_path.rglob("*")) == before
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return call


@pytest.fixture
def hub(tmp_path: Path) -> DataDir:
    data = DataDir(tmp_path / "hub")
    create_session(data.session("demo"))
    data.session("demo").owner_lock.touch()
    return data


@pytest.mark.parametrize("inside", ["", "sessions", "sessions/demo", "sessions/demo/tree", "mine/copies"])
def test_a_root_in_the_state_of_a_hub(refused: Refused, hub: DataDir, tmp_path: Path, inside: str) -> None:
    assert "own files" in refused(hub.path / inside, "demo")
    (tmp_path / "link").symlink_to(hub.path)
    assert "own files" in refused(tmp_path / "link" / inside, "demo")


def test_a_copy_that_would_be_a_data_directory(refused: Refused, hub: DataDir, tmp_path: Path) -> None:
    assert "own files" in refused(tmp_path, hub.path.name)
    assert "own files" in refused(tmp_path / "own" / "copies", "demo")
    assert "inside the copy" in refused(tmp_path / "root", "demo", data=tmp_path / "root" / "demo" / "data")


def test_the_data_directory_of_a_hub(refused: Refused, hub: DataDir, tmp_path: Path) -> None:
    with OwnerLock(hub.hub_lock, what="the hub").acquire():
        assert "--data-dir" in refused(tmp_path / "root", "demo", data=hub.path)
    Members.open(hub.hub_db).close()
    assert "--data-dir" in refused(tmp_path / "root", "demo", data=hub.path)


def test_a_root_that_is_no_directory(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "must be a directory" in refused(tmp_path / "file", "demo")
    assert "must be a directory" in refused(tmp_path / "file" / "below", "demo")


def test_a_session_that_is_named_twice(refused: Refused, tmp_path: Path) -> None:
    assert "demo" in refused(tmp_path / "root", "demo", "other", "demo")


def test_users_files_with_such_names_do_not_count(refused: Refused, tmp_path: Path) -> None:
    users = tmp_path / "users"
    (users / "sessions" / "a" / "tree").mkdir(parents=True)
    (users / "index.db").touch()
    # It gets as far as the next complaint.
    hub = DataDir(tmp_path / "hub")
    hub.path.mkdir()
    Members.open(hub.hub_db).close()
    assert "is a hub's" in refused(users, "demo", data=hub.path)
