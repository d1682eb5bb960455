"""The life cycle: what is refused and how, every way to end, what is left after a kill."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from ghostfs.errors import MountError, SessionBusy, SessionNotFound
from ghostfs.fs import preflight
from ghostfs.fs.lifecycle import mount, unmount
from ghostfs.fs.mounts import detach, find
from ghostfs.index import Index
from ghostfs.mirror.control import ControlClient
from ghostfs.mirror.live.session import create_session
from ghostfs.v1 import control_pb2 as pb

if TYPE_CHECKING:
    from conftest import Workspace, Workspaces

FOREGROUND = """
import sys
import urllib.request
from pathlib import Path
from ghostfs.fs.lifecycle import MountOptions, mount
mount(MountOptions.from_json(sys.stdin.readline()))
"""


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert message
    assert "\n" not in message
    return message


def wait_for(pid: int) -> None:
    """Returns when a process that is not ours has ended."""
    fd = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    assert poller.poll(30_000)
    os.close(fd)


def end(pid: int, number: int) -> None:
    os.kill(pid, number)
    wait_for(pid)


def is_clean(workspace: Workspace) -> bool:
    with Index.open(workspace.layout.index_db, readonly=True) as index:
        return index.meta("clean") == "1"


def names_in_index(workspace: Workspace) -> set[bytes]:
    with Index.open(workspace.layout.index_db, readonly=True) as index:
        return {name for name, _ in index.children(1)}


def kill(workspace: Workspace) -> None:
    end(workspace.pid(), signal.SIGKILL)


# --- what is refused -------------------------------------------------------------------------------------


def test_a_missing_session_is_said_and_can_be_made(workspaces: Workspaces) -> None:
    workspace = workspaces.make(create=False)
    with pytest.raises(SessionNotFound) as refused:
        workspace.mount()
    assert "--create" in one_line(refused)
    create_session(workspace.layout)
    workspace.mount()


def test_a_missing_mountpoint(workspaces: Workspaces) -> None:
    workspace = workspaces.make()
    workspace.path.rmdir()
    with pytest.raises(MountError) as refused:
        workspace.mount()
    assert "mkdir" in one_line(refused)


def test_a_mountpoint_that_is_a_file(workspaces: Workspaces) -> None:
    workspace = workspaces.make()
    workspace.path.rmdir()
    workspace.path.write_text("")
    with pytest.raises(MountError, match="not a directory"):
        workspace.mount()


def test_a_mountpoint_that_is_not_empty(workspaces: Workspaces) -> None:
    workspace = workspaces.make()
    (workspace.path / "file").write_text("mine")
    with pytest.raises(MountError, match="not empty"):
        workspace.mount()
    assert (workspace.path / "file").read_text() == "mine"


def test_a_mountpoint_inside_the_session(workspaces: Workspaces) -> None:
    workspace = workspaces.make()
    create_session(workspace.layout)
    inside = workspace.layout.tree / "inside"
    inside.mkdir()
    workspace.path.rmdir()
    workspace.path.symlink_to(inside)
    with pytest.raises(MountError, match="inside the data directory"):
        workspace.mount()


def names_below(path: Path) -> list[str]:
    return sorted(str(each.relative_to(path)) for each in path.rglob("*"))


@pytest.mark.parametrize("data", ["mnt", "mnt/data", "mnt/a/b", "link/data"])
def test_a_mountpoint_that_would_hide_the_data_directory(workspaces: Workspaces, data: str) -> None:
    base = workspaces.base / "main"
    workspace = workspaces.make(data_dir=base / data)
    (base / "link").symlink_to(base / "mnt")
    before = names_below(base)
    with pytest.raises(MountError, match="data directory") as refused:
        workspace.mount()
    assert str(workspace.path) in one_line(refused)
    assert names_below(base) == before, "nothing was made"


@pytest.mark.parametrize(
    "part", ["sessions", "sessions/main", "sessions/main/tree", "sessions/main/staging"]
)
def test_a_mountpoint_that_would_hide_a_part_of_the_session(workspaces: Workspaces, part: str) -> None:
    workspace = workspaces.make()
    link = workspace.options.data_dir / part
    link.parent.mkdir(parents=True)
    link.symlink_to(workspace.path)
    with pytest.raises(MountError, match="data directory"):
        workspace.mount()
    assert names_below(workspace.path) == []


@pytest.mark.parametrize("inside", ["sessions/other/tree", "sessions", "mine"])
def test_a_mountpoint_inside_the_data_directory(workspaces: Workspaces, inside: str) -> None:
    data = workspaces.base / "data"
    (data / inside).mkdir(parents=True)
    (workspaces.base / "link").symlink_to(data)
    for name, way in (("straight", data), ("around", workspaces.base / "link")):
        workspace = workspaces.make(name, data_dir=data, mountpoint=way / inside)
        with pytest.raises(MountError, match="inside the data directory"):
            workspace.mount()
    assert names_below(data / inside) == []


def test_python_modules_in_the_current_directory_are_not_run(
    workspaces: Workspaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever mounts may stand anywhere: above a checkout, or among files of somebody else."""
    (tmp_path / "ghostfs").mkdir()
    (tmp_path / "json.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    workspace = workspaces.make()
    workspace.mount()
    assert os.listdir(workspace.path) == [".skills"]
    workspace.unmount()


def test_a_data_directory_with_any_bytes_in_its_name(workspaces: Workspaces) -> None:
    workspace = workspaces.make(data_dir=workspaces.base / os.fsdecode(b"da\xfe \xc3\xa4%"))
    workspace.mount()
    entry = find(workspace.path)
    assert entry is not None
    assert entry.is_ours
    assert entry.state == workspace.layout.state
    (workspace.path / "file").write_text("content")
    workspace.unmount()
    assert names_in_index(workspace) == {b"file"}


def test_mounting_twice(workspace: Workspace, workspaces: Workspaces) -> None:
    with pytest.raises(SessionBusy) as refused:
        workspace.mount()
    assert str(workspace.path) in one_line(refused)
    elsewhere = workspaces.make("other", session="main", data_dir=workspace.options.data_dir)
    with pytest.raises(SessionBusy) as refused:
        elsewhere.mount()
    assert str(workspace.path) in one_line(refused)
    other = workspaces.make("third", mountpoint=workspace.path)
    with pytest.raises(MountError, match="already mounted"):
        other.mount()


def test_a_mountpoint_of_somebody_else(workspaces: Workspaces) -> None:
    workspace = workspaces.make()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(workspace.path)], check=True)
    try:
        (workspace.path / "file").touch()
        with pytest.raises(MountError, match="not empty"):
            workspace.mount()
        with pytest.raises(MountError, match="not GhostFS"):
            unmount(workspace.path)
    finally:
        subprocess.run(["umount", str(workspace.path)], check=True)


def test_no_device(workspaces: Workspaces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_DEVICE", Path("/dev/no-fuse"))
    with pytest.raises(MountError) as refused:
        workspaces.make().mount()
    assert "modprobe" in one_line(refused)


def test_a_device_that_may_not_be_opened(workspaces: Workspaces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_DEVICE", Path("/proc/self/mem/x").parent.parent / "exe")
    with pytest.raises(MountError, match="cannot be opened"):
        workspaces.make().mount()


def test_no_fusermount_and_no_user_allow_other(
    workspaces: Workspaces, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(preflight.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(preflight, "_FUSE_CONF", tmp_path / "fuse.conf")
    (tmp_path / "fuse.conf").write_text("#user_allow_other\n")
    with pytest.raises(MountError, match="user_allow_other"):
        workspaces.make("a", allow_other=True).mount()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MountError, match="fuse3"):
        workspaces.make("b").mount()


def test_unmounting_what_is_no_mount(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(MountError, match="not a mountpoint"):
        unmount(tmp_path)
    (workspace.path / "d").mkdir()
    with pytest.raises(MountError) as refused:
        unmount(workspace.path / "d")
    assert str(workspace.path) in one_line(refused)


def test_unmounting_what_is_in_use_names_the_user_and_changes_nothing(workspace: Workspace) -> None:
    with (workspace.path / "f").open("w") as file:
        with pytest.raises(MountError) as refused:
            unmount(workspace.path)
        assert f"({os.getpid()})" in one_line(refused)
        file.write("still here")
    assert (workspace.path / "f").read_text() == "still here"
    workspace.unmount()


@pytest.mark.allows_log("mount_failed")
def test_the_reason_of_a_failure_in_the_mount_process_arrives(workspaces: Workspaces) -> None:
    workspace = workspaces.make()
    create_session(workspace.layout)
    workspace.layout.index_db.write_bytes(b"")
    workspace.layout.index_db.unlink()
    workspace.layout.index_db.mkdir()
    with pytest.raises(MountError) as refused:
        workspace.mount()
    assert str(workspace.layout.log_file) in one_line(refused)
    assert "Error(" not in one_line(refused)
    assert find(workspace.path) is None
    workspace.layout.log_file.unlink()  # it holds the error, as it should


# --- every way to end ------------------------------------------------------------------------------------


def by_command(workspace: Workspace) -> None:
    workspace.unmount()


def by_fusermount(workspace: Workspace) -> None:
    pid = workspace.pid()
    subprocess.run(["fusermount3", "-u", str(workspace.path)], check=True)
    wait_for(pid)


def by_umount(workspace: Workspace) -> None:
    pid = workspace.pid()
    subprocess.run(["umount", str(workspace.path)], check=True)
    wait_for(pid)


def by_sigterm(workspace: Workspace) -> None:
    end(workspace.pid(), signal.SIGTERM)


def by_sigint(workspace: Workspace) -> None:
    end(workspace.pid(), signal.SIGINT)


def by_control(workspace: Workspace) -> None:
    pid = workspace.pid()
    with ControlClient(workspace.layout.control_socket) as client:
        assert client.request(pb.ControlRequest(unmount=pb.Unmount())).error == ""
    wait_for(pid)


@pytest.mark.parametrize("way", [by_command, by_fusermount, by_umount, by_sigterm, by_sigint, by_control])
@pytest.mark.parametrize("writeback", [False, True], ids=["writethrough", "writeback"])
def test_every_way_to_end_drains(workspaces: Workspaces, way: Any, writeback: bool) -> None:
    workspace = workspaces.make(writeback=writeback)
    workspace.mount()
    for number in range(50):
        (workspace.path / f"f{number}").write_bytes(os.urandom(5000))
    way(workspace)
    assert find(workspace.path) is None
    assert is_clean(workspace)
    assert names_in_index(workspace) == {f"f{number}".encode() for number in range(50)}
    assert not workspace.layout.control_socket.exists()
    assert workspace.log()[-1]["event"] == "unmounted"
    assert workspace.log()[-1]["clean"] is True


@pytest.mark.parametrize("writeback", [False, True], ids=["writethrough", "writeback"])
def test_a_signal_ends_a_mount_in_use_and_keeps_what_was_written(
    workspaces: Workspaces, writeback: bool
) -> None:
    workspace = workspaces.make(writeback=writeback)
    workspace.mount()
    fd = os.open(workspace.path / "f", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"written before")
    by_sigterm(workspace)
    with contextlib.suppress(OSError):  # the connection is gone; the descriptor is closed all the same
        os.close(fd)
    assert find(workspace.path) is None
    assert (workspace.layout.tree / "f").read_bytes() == b"written before"
    assert is_clean(workspace)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_foreground_ends_with_0(workspaces: Workspaces, number: int) -> None:
    workspace = workspaces.make(foreground=True)
    process = subprocess.Popen([sys.executable, "-c", FOREGROUND], stdin=subprocess.PIPE)
    assert process.stdin is not None
    with process.stdin as stdin:
        stdin.write(workspace.options.to_json().encode() + b"\n")
    wait_until_served(workspace)
    (workspace.path / "f").write_text("x")
    process.send_signal(number)
    assert process.wait(30) == 0
    assert is_clean(workspace)
    assert find(workspace.path) is None


def wait_until_served(workspace: Workspace) -> None:
    """Blocks on the kernel's own notice that the mount table has changed."""
    with Path("/proc/self/mountinfo").open() as table:
        poller = select.poll()
        poller.register(table, select.POLLPRI)
        while find(workspace.path) is None:
            assert poller.poll(30_000)
    os.stat(workspace.path)


# --- kills -----------------------------------------------------------------------------------------------


@pytest.mark.allows_log("stale_mount_cleared")
def test_a_dead_mount_is_cleared_by_mounting_again(workspace: Workspace) -> None:
    (workspace.path / "f").write_text("before the kill")
    inode = (workspace.path / "f").stat().st_ino
    kill(workspace)
    with pytest.raises(OSError, match="not connected"):
        os.listdir(workspace.path)
    mount(workspace.options)
    assert (workspace.path / "f").read_text() == "before the kill"
    assert (workspace.path / "f").stat().st_ino == inode


@pytest.mark.allows_log("stale_mount_cleared")
def test_a_dead_mount_is_cleared_by_unmounting(workspace: Workspace) -> None:
    kill(workspace)
    workspace.unmount()
    assert os.listdir(workspace.path) == []
    with pytest.raises(MountError, match="not a mountpoint"):
        workspace.unmount()


def test_inode_numbers_survive_a_clean_remount(workspace: Workspace) -> None:
    (workspace.path / "d").mkdir()
    (workspace.path / "d" / "f").write_text("x")
    before = [(workspace.path / name).stat().st_ino for name in ("d", "d/f")]
    workspace.unmount()
    workspace.mount()
    assert [(workspace.path / name).stat().st_ino for name in ("d", "d/f")] == before


def test_a_mount_whose_starter_was_killed_is_not_left(workspaces: Workspaces) -> None:
    workspace = workspaces.make()
    create_session(workspace.layout)
    reading, writing = os.pipe()
    os.close(reading)  # the starter is no more
    request = {
        "report": writing,
        "mountpoint": str(workspace.path),
        "options": workspace.options.to_json(),
    }
    alive, held = os.pipe()
    subprocess.run(
        [sys.executable, "-m", "ghostfs.fs"],
        input=json.dumps(request).encode(),
        pass_fds=(writing, held),
        check=True,
    )
    os.close(writing)
    os.close(held)
    assert os.read(alive, 1) == b""  # the mount process, which inherited it, has ended
    os.close(alive)
    events = [event["event"] for event in workspace.log()]
    assert events[-2:] == ["mount_given_up", "unmounted"]
    assert find(workspace.path) is None


def test_without_extended_attributes_the_kernel_asks_once(workspace: Workspace) -> None:
    path = workspace.path / "f"
    path.touch()
    for number in range(3):
        before = workspace.requests()
        for call in (
            lambda: os.setxattr(path, "user.a", b"1"),
            lambda: os.removexattr(path, "user.a"),
            lambda: os.getxattr(path, "user.a"),
            lambda: os.listxattr(path),
        ):
            with pytest.raises(OSError, match="not supported"):
                call()
        assert number == 0 or workspace.requests() == before


# --- the control socket ------------------------------------------------------------------------------------


def test_status_settle_and_heads(workspace: Workspace) -> None:
    with (
        ControlClient(workspace.layout.control_socket) as client,
        ControlClient(workspace.layout.control_socket) as listener,
        (workspace.path / "open").open("wb") as file,
    ):
        heads = listener.subscribe()
        first = next(heads)
        file.write(b"x" * 1000)
        file.flush()
        settled = client.request(pb.ControlRequest(settle=pb.Settle()))
        assert settled.error == ""
        assert settled.head > first.head
        seen = first.head
        while seen < settled.head:
            seen = next(heads).head
        status = client.request(pb.ControlRequest(status=pb.OwnerStatusRequest())).status
        assert status.pid == workspace.pid()
        assert status.mountpoint == str(workspace.path)
        assert status.open_files == 1
        assert status.dirty_inodes == 0
        assert status.requests > 0
    assert b"open" in names_in_index(workspace)


def test_a_broken_client_is_dropped_and_the_next_one_served(workspace: Workspace) -> None:
    directory = os.open(workspace.layout.state, os.O_PATH)
    for message in (b"\xff\xff\xff\xff", b"\0\0\0\x04\xff\xff\xff\xff", b"\0\0"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"/proc/self/fd/{directory}/control.sock")
            client.sendall(message)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b""
    os.close(directory)
    with ControlClient(workspace.layout.control_socket) as client:
        assert client.request(pb.ControlRequest()).error
        assert client.request(pb.ControlRequest(status=pb.OwnerStatusRequest())).status.pid


def test_a_socket_in_a_path_too_long_for_sockets(workspaces: Workspaces) -> None:
    workspace = workspaces.make(data_dir=workspaces.base / ("d" * 120))
    workspace.mount()
    with ControlClient(workspace.layout.control_socket) as client:
        assert client.request(pb.ControlRequest(status=pb.OwnerStatusRequest())).status.pid
    workspace.unmount()


def test_paths_with_odd_characters(workspaces: Workspaces) -> None:
    workspace = workspaces.make(
        "odd", mountpoint=workspaces.base / "m, ü\\t=x", data_dir=workspaces.base / "d ,é"
    )
    workspace.path.mkdir()
    workspace.mount()
    (workspace.path / "f").write_text("x")
    with pytest.raises(SessionBusy):
        workspace.mount()
    workspace.unmount()
    assert find(workspace.path) is None
    assert is_clean(workspace)


def test_detaching_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"\[Errno 22\]"):
        detach(tmp_path, lazy=True)


def test_metrics_are_served_and_a_taken_port_does_not_matter(workspaces: Workspaces) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        first = workspaces.make("first", metrics_listen=f"127.0.0.1:{port}")
        first.mount()
        assert "metrics_not_served" in [event["event"] for event in first.log()]
        first.unmount()
    second = workspaces.make("second", metrics_listen=f"127.0.0.1:{port}")
    second.mount()
    (second.path / "file").write_bytes(b"x" * 1000)
    with ControlClient(second.layout.control_socket) as client:
        client.request(pb.ControlRequest(settle=pb.Settle()))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        shown = answer.read().decode()
    assert "ghostfs_fuse_handler_errors" in shown
    assert 'ghostfs_mount_bytes_hashed_total{session="second"} 1000.0' in shown
    assert 'ghostfs_mount_bytes_reread_total{session="second"} 0.0' in shown
    assert 'ghostfs_mount_dirty_inodes{session="second"} 0.0' in shown


def test_the_kernel_reads_ahead_of_whoever_reads_in_order(workspace: Workspace) -> None:
    entry = find(workspace.path)
    assert entry is not None
    assert Path(f"/sys/class/bdi/{entry.device}/read_ahead_kb").read_text() == "1024\n"


def test_an_idle_mount_sleeps(workspace: Workspace) -> None:
    for number in range(500):
        (workspace.path / f"f{number}").touch()
    with ControlClient(workspace.layout.control_socket) as client:
        client.request(pb.ControlRequest(settle=pb.Settle()))
    process = psutil.Process(workspace.pid())
    before = process.cpu_times()
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["sleep", "60"], timeout=1, check=False)
    after = process.cpu_times()
    assert (after.user + after.system) - (before.user + before.system) < 0.1
