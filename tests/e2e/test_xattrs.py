"""Extended attributes, from a mount to a node."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from stack import GHOSTFS, Stack, eventually

from ghostfs.errors import ExitCode


def attributes(path: Path) -> dict[str, bytes]:
    """The user attributes of a file or directory."""
    return {name: os.getxattr(path, name) for name in os.listxattr(path) if name.startswith("user.")}


def test_user_attributes_arrive_as_they_are_set_changed_and_removed(stack: Stack) -> None:
    stack.start_hub()
    mount = stack.mount("work", "--xattrs")
    (mount / "first").write_bytes(b"before the node")
    os.setxattr(mount / "first", "user.first", b"\0binary\xff")
    copy = stack.start_node("n1", "work").copy("work")
    stack.converge("work")
    assert attributes(copy / "first") == {"user.first": b"\0binary\xff"}

    (mount / "file").write_bytes(b"content")
    (mount / "directory").mkdir()
    for name in ("file", "directory"):
        os.setxattr(mount / name, "user.kept", b"1")
        os.setxattr(mount / name, "user.changed", b"2")
        os.setxattr(mount / name, "user.empty", b"")
        os.setxattr(mount / name, "user.long", bytes(range(256)) * 8)
    stack.converge("work")
    before = {name: (copy / name).stat().st_ino for name in ("file", "directory")}
    for name in before:
        assert attributes(copy / name) == attributes(stack.session("work").tree / name)
        assert attributes(copy / name) == attributes(mount / name)
        assert len(attributes(copy / name)) == 4
        os.setxattr(mount / name, "user.changed", b"three", os.XATTR_REPLACE)
        os.removexattr(mount / name, "user.long")
    stack.converge("work")
    for name, inode in before.items():
        expected = {"user.kept": b"1", "user.changed": b"three", "user.empty": b""}
        assert attributes(copy / name) == expected
        assert (copy / name).stat().st_ino == inode  # only attributes: nothing was made anew
    assert "n1: equal" in stack.run("verify", "work")


def test_a_copy_that_keeps_attributes_brings_them_along(stack: Stack) -> None:
    stack.start_hub()
    mount = stack.mount("work", "--xattrs")
    copy = stack.start_node("n1", "work").copy("work")
    (mount / "file").write_bytes(b"content")
    os.setxattr(mount / "file", "user.origin", b"here")
    subprocess.run(["cp", "-a", mount / "file", mount / "copied"], check=True)
    (mount / "file").rename(mount / "renamed")
    (mount / "plain").write_bytes(b"content")
    stack.converge("work")
    for name in ("copied", "renamed"):
        assert attributes(copy / name) == {"user.origin": b"here"}
    assert attributes(copy / "plain") == {}


@contextmanager
def no_commits(stack: Stack) -> Iterator[None]:
    """Meanwhile another one writes to the index."""
    with closing(sqlite3.connect(stack.session("work").index_db, isolation_level=None)) as index:
        index.execute("BEGIN IMMEDIATE")
        yield


def kill(stack: Stack, mount: Path) -> None:
    process = Path(f"/proc/{stack.mount_pid('work')}")
    os.kill(stack.mount_pid("work"), signal.SIGKILL)
    eventually(lambda: not process.exists(), what="the mount did not end")
    stack.mounts.remove(mount)


def test_attributes_that_a_killed_mount_had_set_arrive_later(stack: Stack) -> None:
    stack.start_hub()
    mount = stack.mount("work", "--xattrs")
    copy = stack.start_node("n1", "work").copy("work")
    (mount / "file").write_bytes(b"content")
    stack.converge("work")
    with no_commits(stack):
        os.setxattr(mount / "file", "user.late", b"1")
        kill(stack, mount)
    stack.mount("work", "--xattrs")
    stack.converge("work")
    assert attributes(copy / "file") == {"user.late": b"1"}


@pytest.mark.parametrize("set_by", ["tree", "mount"])
def test_a_mount_that_does_not_serve_them_loses_none(stack: Stack, set_by: str) -> None:
    stack.start_hub()
    if set_by == "mount":
        mount = stack.mount("work", "--xattrs")
    else:
        stack.run("session", "create", "work")
        mount = stack.session("work").tree
    (mount / "directory").mkdir()
    for name in ("file", "directory/file"):
        (mount / name).write_bytes(b"content")
        os.setxattr(mount / name, "user.kept", name.encode())
    os.setxattr(mount / "directory", "user.kept", b"directory")
    if set_by == "mount":
        stack.umount(mount)
    mount = stack.mount("work")
    copy = stack.start_node("n1", "work").copy("work")
    stack.converge("work")
    kept = {name: {"user.kept": name.encode()} for name in ("file", "directory", "directory/file")}
    assert {name: attributes(copy / name) for name in kept} == kept

    (mount / "file").write_bytes(b"other content")
    with (mount / "directory/file").open("ab") as file:
        file.write(b" and more")
    (mount / "directory/new").write_bytes(b"new")
    (mount / "file").chmod(0o600)
    stack.converge("work")
    assert (copy / "file").read_bytes() == b"other content"
    assert {name: attributes(copy / name) for name in kept} == kept
    assert attributes(copy / "directory/new") == {}
    assert "n1: equal" in stack.run("verify", "work")


def test_what_a_killed_mount_that_does_not_serve_them_had_changed_keeps_them(stack: Stack) -> None:
    stack.start_hub()
    stack.run("session", "create", "work")
    tree = stack.session("work").tree
    (tree / "file").write_bytes(b"content")
    os.setxattr(tree / "file", "user.kept", b"1")
    mount = stack.mount("work")
    copy = stack.start_node("n1", "work").copy("work")
    stack.converge("work")
    with no_commits(stack):
        (mount / "file").write_bytes(b"other content")
        kill(stack, mount)
    os.setxattr(tree / "file", "user.meanwhile", b"2")
    stack.mount("work")
    stack.converge("work")
    assert (copy / "file").read_bytes() == b"other content"
    assert attributes(copy / "file") == {"user.kept": b"1", "user.meanwhile": b"2"}
    assert "n1: equal" in stack.run("verify", "work")


def differing(stack: Stack, *arguments: str | Path) -> list[str]:
    """What `ghostfs verify` names, which must not be nothing."""
    done = subprocess.run(
        [*GHOSTFS, *map(str, arguments), "verify", "work"],
        env=stack.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == ExitCode.DRIFT, done.stderr
    return [line for line in done.stdout.splitlines() if "extended attributes" in line]


def test_tampering_with_them_is_found_in_the_tree_and_in_the_copy(stack: Stack) -> None:
    stack.start_hub()
    mount = stack.mount("work", "--xattrs")
    node = stack.start_node("n1", "work")
    copy = node.copy("work")
    (mount / "directory").mkdir()
    (mount / "file").write_bytes(b"content")
    for name in ("file", "directory"):
        os.setxattr(mount / name, "user.kept", b"1")
    stack.converge("work")
    stack.run("verify", "work")
    stack.run("--data-dir", node.data_dir, "verify", "work")
    for root in (stack.session("work").tree, copy):
        os.setxattr(root / "file", "user.kept", b"2")
        os.removexattr(root / "directory", "user.kept")
    assert differing(stack) == [
        "directory: differs from the index in extended attributes",
        "file: differs from the index in extended attributes",
    ]
    assert sorted(differing(stack, "--data-dir", node.data_dir)) == [
        "directory: has other extended attributes: set again when its attributes change",
        "file: has other extended attributes: set again when its attributes change",
    ]
    assert node.stop() == 0
    node.arguments.append("--adopt-root")
    node.start()
    eventually(
        lambda: attributes(copy / "file") == {"user.kept": b"1"}, what="the copy does not become whole"
    )
    eventually(lambda: attributes(copy / "directory") == {"user.kept": b"1"}, what="the copy is not whole")


@pytest.mark.parametrize(
    "call",
    [
        lambda path: os.setxattr(path, "user.a", b"1"),
        lambda path: os.getxattr(path, "user.a"),
        os.listxattr,
        lambda path: os.removexattr(path, "user.a"),
        lambda path: os.getxattr(path, "security.capability"),
    ],
    ids=["set", "get", "list", "remove", "capability"],
)
def test_without_them_the_mount_says_that_it_does_not_support_them(
    stack: Stack, call: Callable[[Path], object]
) -> None:
    mount = stack.mount("work")
    (mount / "file").write_bytes(b"content")
    for path in (mount, mount / "file"):
        with pytest.raises(OSError, match=r".") as refused:
            call(path)
        assert refused.value.errno == errno.EOPNOTSUPP


def test_with_them_what_is_not_there_is_no_data(stack: Stack) -> None:
    mount = stack.mount("work", "--xattrs")
    (mount / "file").write_bytes(b"content")
    assert os.listxattr(mount / "file") == []
    for call in (os.getxattr, os.removexattr):
        with pytest.raises(OSError, match="No data available"):
            call(mount / "file", "user.nothing")
