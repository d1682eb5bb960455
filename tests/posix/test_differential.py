"""Random system calls of several processes, in a mount and beside it: every outcome and the trees are the same.

Compared: the result or errno of each call; of every name and every open file its kind, mode, links, owner,
size, identity, and which of mtime and ctime have moved. Content is compared now and then, and at the end:
reading it each time would hide what the kernel's cache would show.
"""

from __future__ import annotations

import os
import stat
from typing import Any

import pytest
from actors import NOW, OMIT, Outcome
from exclusions import excluded
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sites import ALICE, BOB, SHARED, Site

HISTORIES = int(os.environ.get("GHOSTFS_TEST_HISTORIES", "40"))
"""How many histories; more of them for long runs."""

PATHS = st.sampled_from(
    ["f", "g", "d", "e", "s", "d/f", "d/g", "d/e", "d/s", "e/f", "d/e/f", ".", "d/..", "f/"]
)
WHO = st.sampled_from(["root", "root", "other", "alice", "bob"])
SLOTS = st.integers(0, 3)
MODES = st.sampled_from([0o644, 0o600, 0o666, 0o755, 0o777, 0o400, 0o444, 0o222, 0o000])
ALL_MODES = MODES | st.sampled_from([0o4755, 0o2755, 0o6777, 0o1777, 0o2777, 0o2644, 0o7777])
OFFSETS = st.sampled_from([0, 1, 100, 4095, 4096, 5000, 262143, 262144, 300_000])
LENGTHS = st.sampled_from([0, 1, 60, 4096, 9000, 262145])
IDS = st.sampled_from([-1, 0, ALICE, BOB, SHARED])
TIMES = st.sampled_from([OMIT, NOW, 0, 1, 1_234_567_890_123_456_789, -1_000_000_001])
FLAGS = st.sets(
    st.sampled_from(
        [
            *(os.O_CREAT, os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_DIRECTORY, os.O_NOFOLLOW),
            *(os.O_PATH, os.O_SYNC, os.O_DSYNC, os.O_NOATIME, os.O_NONBLOCK),
        ]
    ),
    max_size=3,
)
ACCESS = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR])
XATTRS = st.sampled_from(["user.a", "user.b", "trusted.c", "bad"])


def pattern(length: int, seed: int) -> bytes:
    return bytes([seed % 255 + 1]) * length


class Differential(RuleBasedStateMachine):
    """One history in a mount and beside it."""

    native: Site
    mount: Site

    def __init__(self) -> None:
        super().__init__()
        self.before: list[dict[Any, os.stat_result]] | None = None
        self.seed = 0
        self.watched = True
        self.now_set = False
        """Since the last comparison, a time was set to now: whether that moved it is left open."""

    @initialize(watched=st.booleans())
    def begin(self, watched: bool) -> None:
        self.watched = watched
        self.native.new()
        self.mount.new()
        self.both("root", "mkdir", path="d", mode=0o777)
        self.both("alice", "mkdir", path="e", mode=0o755)
        self.both("alice", "open", slot=0, path="f", flags=os.O_CREAT | os.O_RDWR, mode=0o666)
        self.both("root", "open", slot=0, path="d/f", flags=os.O_CREAT | os.O_RDWR, mode=0o644)
        self.both("root", "symlink", target="f", path="s")

    def teardown(self) -> None:
        if self.before is not None:
            self.compare()
            self.compare_content()
        self.native.leave()
        self.mount.leave()

    # --- the same here and there -----------------------------------------------------------------------

    def both(self, who: str, call: str, **arguments: Any) -> Outcome:
        """Has both make a call; the outcome, which is the same."""
        self.mount.actors[who].tell(call, **arguments)
        there = self.native.actors[who].attempt(call, **arguments)
        here = self.mount.actors[who].hear()
        assert here == there, f"{who}: {call}({arguments}): {here} in the mount, {there} beside it"
        return here

    def compare(self) -> None:
        """Compares all that stat(2) says, and what has moved since the last time."""
        seen = []
        for site in (self.mount, self.native):
            found: dict[Any, os.stat_result] = {}
            targets = {}
            for path, (st_, target) in site.actors["root"].do("tree").items():
                found[path] = st_
                targets[path] = target
            for role, actor in site.actors.items():
                found |= {(role, slot): st_ for slot, st_ in actor.do("open_stats").items()}
            seen.append((found, targets))
        (here, targets_here), (there, targets_there) = seen
        assert here.keys() == there.keys()
        assert targets_here == targets_there
        for key in there:
            assert (key, self.described(here[key])) == (key, self.described(there[key]))
        assert identities(here) == identities(there)
        by_clock = self.mount.writeback and excluded("kernel clock")
        if self.before is not None and not by_clock:
            names = ("st_ctime_ns",) if self.now_set else ("st_mtime_ns", "st_ctime_ns")
            # A plain directory gives the number of a removed inode to the next one; a mount does not.
            same = lasting(self.before[0], here) & lasting(self.before[1], there)
            assert moved(self.before[0], here, same, names) == moved(self.before[1], there, same, names)
        self.before = [here, there]
        self.now_set = False

    def described(self, st_: os.stat_result) -> tuple[int, ...]:
        """What must be the same here and there."""
        mode = st_.st_mode
        if stat.S_ISREG(mode) and self.mount.name == "alone" and excluded("sticky files"):
            mode &= ~stat.S_ISVTX
        return mode, st_.st_nlink, st_.st_uid, st_.st_gid, st_.st_size, st_.st_rdev

    def compare_content(self) -> None:
        here, there = (site.actors["root"].do("content") for site in (self.mount, self.native))
        assert here == there

    @invariant()
    def the_same(self) -> None:
        if self.watched or self.before is None:
            self.compare()

    # --- what is done ----------------------------------------------------------------------------------

    @rule()
    def look(self) -> None:
        self.compare()
        self.compare_content()

    @rule(who=WHO, slot=SLOTS, path=PATHS, access=ACCESS, flags=FLAGS, mode=ALL_MODES)
    def open(self, who: str, slot: int, path: str, access: int, flags: set[int], mode: int) -> None:
        chosen = access
        for flag in flags:
            chosen |= flag
        self.both(who, "open", slot=slot, path=path, flags=chosen, mode=mode)

    @rule(who=WHO, slot=SLOTS, path=PATHS, mode=ALL_MODES)
    def create(self, who: str, slot: int, path: str, mode: int) -> None:
        self.both(who, "open", slot=slot, path=path, flags=os.O_CREAT | os.O_RDWR, mode=mode)

    @rule(
        who=WHO, slot=SLOTS, other=SLOTS, access=ACCESS, flag=st.sampled_from([0, os.O_TRUNC, os.O_APPEND])
    )
    def reopen(self, who: str, slot: int, other: int, access: int, flag: int) -> None:
        self.both(who, "reopen", slot=slot, other=other, flags=access | flag)

    @rule(who=WHO, slot=SLOTS)
    def close(self, who: str, slot: int) -> None:
        self.both(who, "close", slot=slot)

    @rule(who=WHO, slot=SLOTS, length=LENGTHS)
    def read(self, who: str, slot: int, length: int) -> None:
        self.both(who, "read", slot=slot, size=length)

    @rule(who=WHO, slot=SLOTS, length=LENGTHS)
    def write(self, who: str, slot: int, length: int) -> None:
        self.seed += 1
        self.both(who, "write", slot=slot, data=pattern(length, self.seed))

    @rule(who=WHO, slot=SLOTS, offset=OFFSETS, length=LENGTHS)
    def pread(self, who: str, slot: int, offset: int, length: int) -> None:
        self.both(who, "pread", slot=slot, size=length, offset=offset)

    @rule(who=WHO, slot=SLOTS, offset=OFFSETS, length=LENGTHS)
    def pwrite(self, who: str, slot: int, offset: int, length: int) -> None:
        self.seed += 1
        self.both(who, "pwrite", slot=slot, data=pattern(length, self.seed), offset=offset)

    @rule(
        who=WHO, slot=SLOTS, offset=OFFSETS, whence=st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END])
    )
    def lseek(self, who: str, slot: int, offset: int, whence: int) -> None:
        self.both(who, "lseek", slot=slot, offset=offset, whence=whence)

    @rule(who=WHO, slot=SLOTS, size=OFFSETS)
    def ftruncate(self, who: str, slot: int, size: int) -> None:
        self.both(who, "ftruncate", slot=slot, size=size)

    @rule(who=WHO, path=PATHS, size=OFFSETS)
    def truncate(self, who: str, path: str, size: int) -> None:
        self.both(who, "truncate", path=path, size=size)

    @rule(who=WHO, slot=SLOTS, data=st.booleans())
    def sync(self, who: str, slot: int, data: bool) -> None:
        self.both(who, "fdatasync" if data else "fsync", slot=slot)

    @rule(who=WHO, slot=SLOTS, length=LENGTHS)
    def posix_fallocate(self, who: str, slot: int, length: int) -> None:
        flags = self.native.actors[who].attempt("flags", slot=slot)
        size = self.native.actors[who].attempt("fstat", slot=slot)
        if flags.error or size.error or (flags.value & os.O_APPEND and excluded("fallocate")):
            return
        # Only beyond the end: elsewhere the C library may have nothing to write.
        self.both(who, "posix_fallocate", slot=slot, offset=size.value.st_size, size=length)

    @rule(who=WHO, origin=SLOTS, slot=SLOTS, size=LENGTHS, at=OFFSETS, to=OFFSETS)
    def copy_file_range(self, who: str, origin: int, slot: int, size: int, at: int, to: int) -> None:
        self.both(who, "copy_file_range", source=origin, target=slot, size=size, at=at, to=to)

    @rule(who=WHO, slot=SLOTS, at=st.integers(0, 4000), shared=st.booleans())
    def mapped(self, who: str, slot: int, at: int, shared: bool) -> None:
        size = self.native.actors[who].attempt("fstat", slot=slot)
        if size.error is None and stat.S_ISREG(size.value.st_mode) and size.value.st_size > at + 60:
            self.seed += 1
            data = pattern(60, self.seed)
            self.both(who, "mapped", slot=slot, length=size.value.st_size, at=at, data=data, shared=shared)

    @rule(who=WHO, path=PATHS, page=st.integers(0, 70), pages=st.integers(1, 66))
    def direct(self, who: str, path: str, page: int, pages: int) -> None:
        """O_DIRECT, aligned: more is not asked of a mount."""
        self.seed += 1
        self.both(who, "open", slot=4, path=path, flags=os.O_RDWR | os.O_CREAT | os.O_DIRECT, mode=0o666)
        data = pattern(4096 * pages, self.seed)
        self.both(who, "direct_write", slot=4, data=data, offset=4096 * page)
        self.both(who, "direct_read", slot=4, size=4096 * pages, offset=4096 * (page // 2))
        self.both(who, "close", slot=4)

    @rule(who=WHO, slot=SLOTS, offset=OFFSETS)
    def seek_hole(self, who: str, slot: int, offset: int) -> None:
        """Whether there is an end of a file; where holes begin depends on who can see them. What a directory answers
        differs from filesystem to filesystem."""
        opened = self.native.actors[who].attempt("fstat", slot=slot)
        if opened.error is None and stat.S_ISDIR(opened.value.st_mode):
            return
        outcomes = [
            site.actors[who].attempt("lseek", slot=slot, offset=offset, whence=os.SEEK_HOLE).error
            for site in (self.mount, self.native)
        ]
        assert outcomes[0] == outcomes[1]
        self.both(who, "lseek", slot=slot, offset=0, whence=os.SEEK_SET)

    @rule(who=WHO, slot=SLOTS, path=PATHS)
    def opendir(self, who: str, slot: int, path: str) -> None:
        self.both(who, "opendir", slot=slot, path=path)

    @rule(who=WHO, slot=SLOTS)
    def read_again(self, who: str, slot: int) -> None:
        """Reads an open directory from its beginning, whatever has become of it."""
        if self.both(who, "rewinddir", slot=slot).error is None:
            read = [
                site.actors[who].attempt("readdir", slot=slot, count=100)
                for site in (self.mount, self.native)
            ]
            assert read[0].error == read[1].error
            assert sorted(read[0].value or ()) == sorted(read[1].value or ())
            self.both(who, "fsyncdir", slot=slot)

    @rule(who=WHO, slot=SLOTS)
    def closedir(self, who: str, slot: int) -> None:
        self.both(who, "closedir", slot=slot)

    @rule(who=WHO, path=PATHS, mode=ALL_MODES)
    def mkdir(self, who: str, path: str, mode: int) -> None:
        self.both(who, "mkdir", path=path, mode=mode)

    @rule(who=WHO, path=PATHS)
    def rmdir(self, who: str, path: str) -> None:
        self.both(who, "rmdir", path=path)

    @rule(
        who=WHO, path=PATHS, kind=st.sampled_from([stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK]), mode=MODES
    )
    def mknod(self, who: str, path: str, kind: int, mode: int) -> None:
        self.both(who, "mknod", path=path, mode=kind | mode)

    @rule(who=WHO, path=PATHS, to=PATHS)
    def symlink(self, who: str, path: str, to: str) -> None:
        self.both(who, "symlink", target=to, path=path)

    @rule(who=WHO, path=PATHS)
    def readlink(self, who: str, path: str) -> None:
        self.both(who, "readlink", path=path)

    @rule(who=WHO, old=PATHS, new=PATHS, follow=st.booleans())
    def link(self, who: str, old: str, new: str, follow: bool) -> None:
        self.both(who, "link", old=old, new=new, follow=follow)

    @rule(who=WHO, slot=SLOTS, new=PATHS)
    def link_open(self, who: str, slot: int, new: str) -> None:
        self.both(who, "link_open", slot=slot, new=new)

    @rule(who=WHO, path=PATHS)
    def unlink(self, who: str, path: str) -> None:
        self.both(who, "unlink", path=path)

    @rule(who=WHO, old=PATHS, new=PATHS, flags=st.sampled_from([0, 0, 0, 1, 2, 3, 8]))
    def rename(self, who: str, old: str, new: str, flags: int) -> None:
        self.both(who, "rename", old=old, new=new, flags=flags)

    @rule(who=WHO, path=PATHS, mode=ALL_MODES)
    def chmod(self, who: str, path: str, mode: int) -> None:
        self.both(who, "chmod", path=path, mode=mode)

    @rule(who=WHO, slot=SLOTS, mode=ALL_MODES)
    def fchmod(self, who: str, slot: int, mode: int) -> None:
        self.both(who, "fchmod", slot=slot, mode=mode)

    @rule(who=WHO, path=PATHS, uid=IDS, gid=IDS, follow=st.booleans())
    def chown(self, who: str, path: str, uid: int, gid: int, follow: bool) -> None:
        self.both(who, "chown", path=path, uid=uid, gid=gid, follow=follow)

    @rule(who=WHO, slot=SLOTS, uid=IDS, gid=IDS)
    def fchown(self, who: str, slot: int, uid: int, gid: int) -> None:
        self.both(who, "fchown", slot=slot, uid=uid, gid=gid)

    @rule(who=WHO, path=PATHS, atime=TIMES, mtime=TIMES, follow=st.booleans())
    def utimens(self, who: str, path: str, atime: int | str, mtime: int | str, follow: bool) -> None:
        self.now_set |= mtime == NOW and excluded("now")
        done = self.both(who, "utimens", path=path, atime=atime, mtime=mtime, follow=follow)
        if done.error is None:
            self.check_times(who, "stat" if follow else "lstat", path, atime, mtime)

    def check_times(self, who: str, call: str, path: str, atime: int | str, mtime: int | str) -> None:
        for site in (self.mount, self.native):
            seen = site.actors[who].attempt(call, path=path)
            if seen.error is None and isinstance(atime, int):
                assert seen.value.st_atime_ns == atime
            if seen.error is None and isinstance(mtime, int):
                assert seen.value.st_mtime_ns == mtime

    @rule(who=WHO, path=PATHS)
    def touch(self, who: str, path: str) -> None:
        self.now_set = excluded("now")
        self.both(who, "touch", path=path)

    @rule(who=WHO, slot=SLOTS, atime=TIMES, mtime=TIMES)
    def futimens(self, who: str, slot: int, atime: int | str, mtime: int | str) -> None:
        self.now_set |= mtime == NOW and excluded("now")
        self.both(who, "futimens", slot=slot, atime=atime, mtime=mtime)

    @rule(who=WHO, path=PATHS, mode=st.sampled_from([os.F_OK, os.R_OK, os.W_OK, os.X_OK]))
    def access(self, who: str, path: str, mode: int) -> None:
        self.both(who, "access", path=path, mode=mode)

    @rule(who=WHO, path=PATHS)
    def statvfs(self, who: str, path: str) -> None:
        self.both(who, "statvfs", path=path)

    @rule(who=WHO, path=PATHS)
    def listdir(self, who: str, path: str) -> None:
        self.both(who, "listdir", path=path)

    @rule(who=WHO, mask=st.sampled_from([0, 0o022, 0o077]))
    def umask(self, who: str, mask: int) -> None:
        self.both(who, "umask", mask=mask)

    @rule(who=WHO, path=PATHS)
    def chdir(self, who: str, path: str) -> None:
        if who != "root":  # who looks at the tree
            self.both(who, "chdir", path=path)

    @rule(who=WHO, path=PATHS, name=XATTRS, length=st.sampled_from([0, 1, 300]), flags=st.integers(0, 2))
    def setxattr(self, who: str, path: str, name: str, length: int, flags: int) -> None:
        self.both(who, "setxattr", path=path, name=name, value=pattern(length, self.seed), flags=flags)

    @rule(who=WHO, path=PATHS, name=XATTRS, follow=st.booleans())
    def getxattr(self, who: str, path: str, name: str, follow: bool) -> None:
        self.both(who, "getxattr", path=path, name=name, follow=follow)
        self.both(who, "listxattr", path=path, follow=follow)

    @rule(who=WHO, path=PATHS, name=XATTRS)
    def removexattr(self, who: str, path: str, name: str) -> None:
        self.both(who, "removexattr", path=path, name=name)


def identities(found: dict[Any, os.stat_result]) -> set[frozenset[Any]]:
    """Which keys are one inode."""
    same: dict[int, set[Any]] = {}
    for key, st_ in found.items():
        same.setdefault(st_.st_ino, set()).add(key)
    return {frozenset(keys) for keys in same.values()}


def lasting(before: dict[Any, os.stat_result], after: dict[Any, os.stat_result]) -> set[Any]:
    """Which keys are still the same inode, as far as its number tells."""
    return {key for key in after if key in before and before[key].st_ino == after[key].st_ino}


def moved(
    before: dict[Any, os.stat_result],
    after: dict[Any, os.stat_result],
    keys: set[Any],
    names: tuple[str, ...],
) -> set[tuple[Any, str]]:
    """Which times have moved."""
    return {
        (key, name)
        for key in keys
        for name in names
        if getattr(before[key], name) != getattr(after[key], name)
    }


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("name", "beside"), [("mount", "native"), ("writeback", "native"), ("alone", "native alone")]
)
def test_a_mount_does_what_a_plain_directory_does(sites: dict[str, Site], name: str, beside: str) -> None:
    chosen = {"native": sites[beside], "mount": sites[name]}
    machine = type("Chosen", (Differential,), chosen)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=HISTORIES,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
