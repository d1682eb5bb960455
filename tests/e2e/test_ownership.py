"""Who owns the files of a copy: for each policy, a node of root's and of another user's."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from stack import Stack, differences

from ghostfs.errors import ExitCode

USER = 4321
"""Who runs a node without rights."""

OWNERS = [(0, 0), (1001, 2001), (1002, 2002), (1003, 0), (0, 2003)]

IN_ATTRIB, IN_MOVED_TO, IN_CREATE, IN_ISDIR = 0x4, 0x80, 0x100, 0x40000000
_EVENT = struct.Struct("iIII")

Owner = tuple[int, int]


@pytest.fixture
def stack() -> Iterator[Stack]:
    """At a place that every user can get to, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="ghostfs-test-") as place:
        Path(place).chmod(0o755)
        with Stack(Path(place) / "stack") as made:
            yield made


def make_every_kind(directory: Path) -> None:
    """Files, directories, links and a fifo of several owners, made by root and then given away."""
    for uid, gid in OWNERS:
        of = directory / f"of-{uid}-{gid}"
        of.mkdir()
        (of / "small").write_bytes(b"content")
        (of / "large").write_bytes(b"x" * 700_000)
        os.symlink("small", of / "link")
        os.mkfifo(of / "fifo")
        (of / "program").write_bytes(b"#!/bin/sh\n")
        for path in (*of.iterdir(), of):
            os.chown(path, uid, gid, follow_symlinks=False)
        (of / "program").chmod(0o6755)


def owners(directory: Path) -> dict[str, Owner]:
    """Of everything in a tree."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if ".skills" not in path.parts:
            st = path.lstat()
            found[str(path.relative_to(directory))] = st.st_uid, st.st_gid
    return found


def write_as(uid: int, gid: int, path: Path) -> None:
    """A file written by a process of that user."""
    subprocess.run(
        [
            "setpriv",
            f"--reuid={uid}",
            f"--regid={gid}",
            "--clear-groups",
            "sh",
            "-c",
            f"echo of {uid} > {path}",
        ],
        check=True,
    )


@pytest.mark.parametrize(
    ("options", "user", "here"),
    [
        ((), 0, lambda uid, gid: (uid, gid)),
        (("--ownership", "preserve"), 0, lambda uid, gid: (uid, gid)),
        (("--ownership", "ignore"), 0, lambda _uid, _gid: (0, 0)),
        (("--ownership", "mapped", "-o", "map_uid=77", "-o", "map_gid=88"), 0, lambda _uid, _gid: (77, 88)),
        (("--ownership", "mapped", "-o", "map_gid=88"), 0, lambda _uid, _gid: (0, 88)),
        ((), USER, lambda _uid, _gid: (USER, USER)),
        (("--ownership", "mapped", "-o", f"map_uid={USER}"), USER, lambda _uid, _gid: (USER, USER)),
    ],
)
def test_the_policy_decides_who_owns_what_arrives(
    stack: Stack, options: tuple[str, ...], user: int, here: Callable[[int, int], Owner]
) -> None:
    stack.start_hub()
    mount = stack.mount("work", "--allow-other")
    make_every_kind(mount)
    node = stack.start_node("n1", "work", options=options, user=user)
    stack.converge("work")
    copy = node.copy("work")

    def expected() -> dict[str, Owner]:
        return {name: here(*owner) for name, owner in owners(mount).items()}

    assert owners(copy) == expected()
    # Written by their users, given away later, replaced by another's: in deltas now.
    shared = mount / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    for uid, gid in OWNERS:
        write_as(uid, gid, shared / f"by{uid}-{gid}")
    stack.converge("work")
    assert owners(mount)["shared/by1001-2001"] == (1001, 2001)
    assert owners(copy) == expected()
    os.chown(shared / "by0-0", 1009, 2009)
    os.chown(shared, 1008, 2008)
    (shared / "by1002-2002").rename(shared / "by1001-2001")
    stack.converge("work")
    assert owners(mount)["shared/by1001-2001"] == (1002, 2002)
    assert owners(copy) == expected()
    # What runs as its owner is kept only where somebody has said that owners are to be trusted.
    program = (copy / "of-1001-2001" / "program").stat()
    assert program.st_mode & 0o7777 == (0o6755 if "preserve" in options else 0o755)
    assert (copy / "of-1001-2001" / "large").stat().st_size == 700_000
    if "preserve" in options:
        assert differences(mount, copy, excluded=("/.skills",)) == ""
    assert "n1: equal" in stack.run("verify", "work")
    assert node.stop() == 0


@pytest.mark.parametrize(
    "options",
    [
        ("--ownership", "preserve"),
        ("--ownership", "mapped", "-o", "map_uid=77"),
        ("--ownership", "mapped", "-o", "map_gid=88"),
    ],
    ids=["preserve", "other user", "other group"],
)
def test_a_node_that_may_not_give_files_away_says_so(stack: Stack, options: tuple[str, ...]) -> None:
    stack.start_hub()
    mount = stack.mount("work")
    (mount / "file").write_bytes(b"content")
    stack.settle("work")
    node = stack.start_node("n1", "work", options=options, user=USER)
    assert node.popen is not None
    assert node.popen.wait(60) == ExitCode.USAGE
    assert "gives files away, which needs CAP_CHOWN" in node.log.read_text().splitlines()[-1]
    assert not node.copy("work").exists() or not any(node.copy("work").iterdir())


@contextmanager
def watching(directory: Path) -> Iterator[Callable[[], list[tuple[int, str]]]]:
    """A callable that returns what happened in a directory since: inotify masks and names."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC)
    assert libc.inotify_add_watch(fd, os.fsencode(directory), IN_ATTRIB | IN_MOVED_TO | IN_CREATE) > 0

    def happened() -> list[tuple[int, str]]:
        events = []
        while select.select([fd], [], [], 0)[0]:
            data = os.read(fd, 1 << 20)
            while data:
                _, mask, _, length = _EVENT.unpack_from(data)
                name = data[_EVENT.size : _EVENT.size + length].rstrip(b"\0")
                events.append((mask, os.fsdecode(name)))
                data = data[_EVENT.size + length :]
        return events

    try:
        yield happened
    finally:
        os.close(fd)


@pytest.mark.parametrize("options", [(), ("--ownership", "mapped", "-o", "map_uid=77", "-o", "map_gid=88")])
def test_nothing_is_seen_with_another_owner_than_it_will_have(
    stack: Stack, options: tuple[str, ...]
) -> None:
    """What is new comes into a directory with its owner and mode: nothing of it is changed after that."""
    stack.start_hub()
    mount = stack.mount("work", "--allow-other")
    mount.chmod(0o777)
    node = stack.start_node("n1", "work", options=options)
    stack.converge("work")
    with watching(node.copy("work")) as happened:
        for number in range(40):
            write_as(1001, 2001, mount / f"file{number}")
        make_every_kind(mount)
        stack.converge("work")
        seen = happened()
        came = {name for mask, name in seen if mask & (IN_MOVED_TO | IN_CREATE)}
        assert came >= {f"file{number}" for number in range(40)} | {"of-1001-2001"}
        changed = {name for mask, name in seen if mask & IN_ATTRIB and not mask & IN_ISDIR}
        assert changed == set()
        # A new version of another owner takes the place of the old one; nothing is changed in place either.
        for number in range(20):
            write_as(1002, 2002, mount / "next")
            (mount / "next").rename(mount / f"file{number}")
        stack.converge("work")
        assert not [name for mask, name in happened() if mask & IN_ATTRIB and not mask & IN_ISDIR]
    expected = (77, 88) if options else (1002, 2002)
    assert owners(node.copy("work"))["file0"] == expected
