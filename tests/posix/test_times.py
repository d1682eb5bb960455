"""Which times a call moves and which it leaves, and that those that are set hold to the nanosecond."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any

import pytest
from actors import NOW, OMIT, Actor
from exclusions import excluded
from sites import ALICE, Site

OLD = 1_000_000_000_123_456_789
CREAT, RW = os.O_CREAT, os.O_RDWR

Call = tuple[str, dict[str, Any]]


def times(st: os.stat_result) -> tuple[int, int, int]:
    return st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns


# What is done, and what it moves: m and c of the file, M and C of its directory.
CASES: dict[str, tuple[list[Call], str]] = {
    "create": ([("open", {"slot": 1, "path": "d/new", "flags": CREAT | RW})], "MC"),
    "create what is there": ([("open", {"slot": 1, "path": "d/f", "flags": CREAT | RW})], ""),
    "truncate at open": ([("open", {"slot": 1, "path": "d/f", "flags": RW | os.O_TRUNC})], "mc"),
    "truncate at open for reading": ([("open", {"slot": 1, "path": "d/f", "flags": os.O_TRUNC})], "mc"),
    "write": ([("write", {"slot": 0, "data": b"x"})], "mc"),
    "write nothing": ([("write", {"slot": 0, "data": b""})], ""),
    "pwrite": ([("pwrite", {"slot": 0, "data": b"x", "offset": 3})], "mc"),
    "write through a map": (
        [("mapped", {"slot": 0, "length": 4, "at": 0, "data": b"x", "shared": True})],
        "mc",
    ),
    "write through a private map": (
        [("mapped", {"slot": 0, "length": 4, "at": 0, "data": b"x", "shared": False})],
        "",
    ),
    "truncate": ([("truncate", {"path": "d/f", "size": 2})], "mc"),
    "truncate to the same size": ([("truncate", {"path": "d/f", "size": 4})], "mc"),
    "ftruncate": ([("ftruncate", {"slot": 0, "size": 9})], "mc"),
    "posix_fallocate": ([("posix_fallocate", {"slot": 0, "offset": 0, "size": 9})], "mc"),
    "chmod": ([("chmod", {"path": "d/f", "mode": 0o600})], "c"),
    "fchmod": ([("fchmod", {"slot": 0, "mode": 0o600})], "c"),
    "chmod of the directory": ([("chmod", {"path": "d", "mode": 0o700})], "C"),
    "chown": ([("chown", {"path": "d/f", "uid": ALICE, "gid": ALICE})], "c"),
    "chown to nobody else": ([("chown", {"path": "d/f", "uid": -1, "gid": -1})], "c"),
    "fchown to nobody else": ([("fchown", {"slot": 0, "uid": -1, "gid": -1})], "c"),
    "setxattr": ([("setxattr", {"path": "d/f", "name": "user.a", "value": b"x"})], "c"),
    "removexattr": (
        [
            ("setxattr", {"path": "d/f", "name": "user.a", "value": b"x"}),
            ("removexattr", {"path": "d/f", "name": "user.a"}),
        ],
        "c",
    ),
    "utimens of the modification": ([("utimens", {"path": "d/f", "atime": OMIT, "mtime": 7})], "mc"),
    "utimens of the access": ([("utimens", {"path": "d/f", "atime": 7, "mtime": OMIT})], "c"),
    "utimens of nothing": ([("utimens", {"path": "d/f", "atime": OMIT, "mtime": OMIT})], ""),
    "link": ([("link", {"old": "d/f", "new": "d/l"})], "cMC"),
    "link elsewhere": ([("link", {"old": "d/f", "new": "l"})], "c"),
    "unlink": ([("unlink", {"path": "d/f"})], "cMC"),
    "rename": ([("rename", {"old": "d/f", "new": "d/r"})], "cMC"),
    "rename away": ([("rename", {"old": "d/f", "new": "r"})], "cMC"),
    "rename to itself": ([("rename", {"old": "d/f", "new": "d/f"})], ""),
    "exchange": ([("rename", {"old": "d/f", "new": "other", "flags": 2})], "cMC"),
    "replaced": ([("rename", {"old": "other", "new": "d/f"})], "cMC"),
    "mkdir": ([("mkdir", {"path": "d/new"})], "MC"),
    "rmdir": ([("rmdir", {"path": "d/e"})], "MC"),
    "symlink": ([("symlink", {"target": "x", "path": "d/new"})], "MC"),
    "mknod": ([("mknod", {"path": "d/new", "mode": stat.S_IFIFO | 0o600})], "MC"),
    "refused mkdir": ([("mkdir", {"path": "d/e"})], ""),
    "refused unlink": ([("unlink", {"path": "d/none"})], ""),
    "refused rmdir": ([("rmdir", {"path": "d"})], ""),
    "fsync": ([("fsync", {"slot": 0})], ""),
    "stat": ([("stat", {"path": "d/f"}), ("access", {"path": "d/f", "mode": 4})], ""),
}


@pytest.mark.parametrize("case", CASES)
def test_what_moves(site: Site, case: str) -> None:
    root = site.actors["root"]
    root.do("mkdir", path="d")
    root.do("mkdir", path="d/e")
    root.do("open", slot=0, path="d/f", flags=CREAT | RW)
    root.do("write", slot=0, data=b"four")
    root.do("mknod", path="other", mode=stat.S_IFREG | 0o644)
    root.do("utimens", path="d/f", atime=OLD, mtime=OLD)
    root.do("utimens", path="d", atime=OLD, mtime=OLD)
    calls, expected = CASES[case]
    for call, arguments in calls[:-1]:
        root.do(call, **arguments)
    before = root.do("fstat", slot=0), root.do("stat", path="d")
    root.attempt(calls[-1][0], **calls[-1][1])
    after = root.do("fstat", slot=0), root.do("stat", path="d")
    if site.writeback:
        # The kernel keeps a file's times itself there, by a clock that ticks a few hundred times a second:
        # two changes within a tick have one time.
        expected = expected.replace("c", "")
    moved = ""
    if before[0].st_mtime_ns != after[0].st_mtime_ns:
        moved += "m"
    if before[0].st_ctime_ns != after[0].st_ctime_ns and not site.writeback:
        moved += "c"
    if before[1].st_mtime_ns != after[1].st_mtime_ns:
        moved += "M"
    if before[1].st_ctime_ns != after[1].st_ctime_ns:
        moved += "C"
    if site.writeback and case == "truncate to the same size" and excluded("same size"):
        expected = ""
    assert moved == expected


TIMES = [0, 1, 999_999_999, OLD, -1, -1_000_000_001, (1 << 33) * 10**9 + 5]
"""Also before 1970, and after 2106."""


def test_what_captures_a_symlink_leaves_its_access_time(site: Site) -> None:
    root = site.actors["root"]
    root.do("symlink", target="y", path="x")
    for time in (OLD, OLD + 5):
        root.do("utimens", path="x", atime=time, mtime=time + 1, follow=False)
        site.settle()
        root.do("chown", path="x", uid=ALICE, gid=-1, follow=False)
        assert times(root.do("lstat", path="x"))[:2] == (time, time + 1)
    assert root.do("readlink", path="x") == b"y"


@pytest.mark.parametrize("make", ["mknod", "mkdir", "symlink", "fifo"])
@pytest.mark.parametrize("time", TIMES)
def test_times_that_are_set_hold_to_the_nanosecond(site: Site, make: str, time: int) -> None:
    root = site.actors["root"]
    makers: dict[str, Callable[[Actor], object]] = {
        "mknod": lambda actor: actor.do("mknod", path="x", mode=stat.S_IFREG | 0o644),
        "fifo": lambda actor: actor.do("mknod", path="x", mode=stat.S_IFIFO | 0o644),
        "mkdir": lambda actor: actor.do("mkdir", path="x"),
        "symlink": lambda actor: actor.do("symlink", target="y", path="x"),
    }
    makers[make](root)
    root.do("utimens", path="x", atime=time, mtime=time + 1, follow=False)
    assert times(root.do("lstat", path="x"))[:2] == (time, time + 1)
    root.do("utimens", path="x", atime=OMIT, mtime=OLD, follow=False)
    assert times(root.do("lstat", path="x"))[:2] == (time, OLD)
    root.do("utimens", path="x", atime=OLD + 1, mtime=OMIT, follow=False)
    assert times(root.do("lstat", path="x"))[:2] == (OLD + 1, OLD)


def test_now_is_now(site: Site) -> None:
    alice = site.actors["alice"]
    alice.do("open", slot=0, path="f", flags=CREAT | RW)
    alice.do("utimens", path="f", atime=OLD, mtime=OLD)
    alice.do("utimens", path="f", atime=NOW, mtime=OMIT)
    st = alice.do("stat", path="f")
    assert st.st_atime_ns > OLD
    assert st.st_mtime_ns == OLD
    alice.do("futimens", slot=0, atime=OMIT, mtime=NOW)
    assert alice.do("fstat", slot=0).st_mtime_ns > OLD


@pytest.mark.parametrize("call", ["touch", "utimens"])
def test_who_may_write_may_set_the_times_to_now(site: Site, call: str) -> None:
    root, alice = site.actors["root"], site.actors["alice"]
    root.do("umask", mask=0)
    root.do("open", slot=0, path="f", flags=CREAT | RW, mode=0o666)
    root.do("utimens", path="f", atime=OLD, mtime=OLD)
    arguments = {} if call == "touch" else {"atime": NOW, "mtime": NOW}
    alice.do(call, path="f", **arguments)
    st = root.do("stat", path="f")
    assert min(st.st_atime_ns, st.st_mtime_ns) > OLD
    assert alice.attempt("utimens", path="f", atime=NOW, mtime=OMIT).error == "EPERM"
