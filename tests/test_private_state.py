"""What GhostFS keeps is its user's alone, whatever the umask; trees and copies have the modes they must."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import Stack

from ghostfs import logs, private
from ghostfs.cli import main
from ghostfs.index import Index, Members


@pytest.fixture(params=[0, 0o022, 0o027], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(folder: Path, *, trees: tuple[Path, ...] = ()) -> list[str]:
    """What below a folder, and the folder itself, others may do anything with; trees apart."""
    found = [folder]
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(here, name) not in trees]
        found += [Path(here, name) for name in (*folders, *files)]
    return [f"{mode(path):o} {path}" for path in found if mode(path) & 0o077]


@pytest.mark.usefixtures("umask")
def test_a_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    private.make_directory(tmp_path / "a/b/c")
    private.make_directory(tmp_path / "a/b/c")
    assert open_to_others(tmp_path / "a") == []
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        private.make_directory(tmp_path / "file")


def test_a_folder_that_answers_as_if_it_were_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """/proc is there, and says ENOENT to whoever makes something in it."""
    with pytest.raises(FileNotFoundError, match="/proc/nope"):
        private.make_directory(Path("/proc/nope/sessions/demo"))
    assert main(["--data-dir", "/proc/nope", "session", "create", "demo"]) == 1
    assert capsys.readouterr().err == "ghostfs: No such file or directory: /proc/nope\n"


def test_a_folder_in_place_of_which_a_link_leads_nowhere(tmp_path: Path) -> None:
    link = tmp_path / "dangling"
    link.symlink_to("nowhere")
    with pytest.raises(FileExistsError, match="a link to nowhere, which is not there") as raised:
        private.make_directory(link / "sessions")
    assert raised.value.filename == str(link)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.usefixtures("umask")
def test_a_new_session_is_private_but_for_the_modes_of_its_tree(tmp_path: Path) -> None:
    data = tmp_path / "x/data"
    assert main(["--data-dir", str(data), "session", "create", "demo"]) == 0
    tree = data / "sessions/demo/tree"
    assert open_to_others(tmp_path / "x", trees=(tree,)) == []
    assert mode(tree) & 0o700 == 0o700


def test_a_data_directory_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o755)
    assert main(["--data-dir", str(data), "session", "create", "demo"]) == 0
    assert mode(data) == 0o755
    assert mode(data / "sessions") == 0o700


@pytest.mark.usefixtures("umask")
def test_databases_and_what_sqlite_lays_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    with Index.create(folder / "index.db") as index, Members.open(folder / "hub.db") as members:
        members.enrol(b"n" * 16, "n1")
        with index.commit() as commit:
            commit.set_meta("some", "thing")
        index.freeze(folder / "frozen.db")
        assert (folder / "index.db-wal").exists()
        assert open_to_others(folder) == []


@pytest.mark.usefixtures("umask")
def test_a_log_file_also_after_it_was_rotated(tmp_path: Path) -> None:
    file = tmp_path / "log/ghostfs.log"
    logs.configure(file=file)
    try:
        file.rename(tmp_path / "rotated")
        import structlog

        structlog.get_logger("test").info("hello")
        assert file.read_text()
        assert open_to_others(tmp_path / "log") == []
    finally:
        logs.configure()


def test_hub_mount_and_node_are_private(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with Stack(tmp_path / "stack") as stack:
            mountpoint = stack.mount("demo")
            (mountpoint / "folder").mkdir()
            (mountpoint / "folder/file").write_bytes(os.urandom(600_000))
            (mountpoint / "folder/tool").write_bytes(b"#!/bin/sh\n")
            (mountpoint / "folder/tool").chmod(0o755)
            stack.start_hub()
            stack.await_hub()
            node = stack.start_node("n1", "demo")
            stack.converge("demo", "n1", timeout=20)
            tree, copy = stack.session("demo").tree, node.copy("demo")
            assert open_to_others(stack.data_dir, trees=(tree,)) == []
            assert open_to_others(node.data_dir) == []
            assert open_to_others(node.root, trees=(copy,)) == [f"755 {node.root}"]
            for name in (".", "folder", "folder/file", "folder/tool"):
                assert mode(copy / name) == mode(tree / name)
    finally:
        os.umask(before)
