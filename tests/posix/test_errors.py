"""Every errno that POSIX and Linux name for a call and that can be provoked, in a mount and beside it.

`TREE` is made first. Each case is (who, call, arguments, errno).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any

import pytest
from actors import NOW, Actor
from sites import ALICE, BOB, SHARED, Site

LONG = "n" * 255
TOO_LONG = "n" * 256
LONG_PATH = "/".join(["."] * 2048) + "/f"
"""4097 bytes, one more than PATH_MAX has room for with its NUL."""

RO, WO, RW, CREAT, EXCL = os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_EXCL
NONBLOCK, NOFOLLOW, DIRECTORY, TRUNC = os.O_NONBLOCK, os.O_NOFOLLOW, os.O_DIRECTORY, os.O_TRUNC
NOREPLACE, EXCHANGE = 1, 2


def make_tree(root: Actor, alice: Actor, bob: Actor) -> None:
    """f d full/x, links: to f, loop, dangling, to d; closed (0700, root's), readonly (0755), sticky (1777)."""
    for actor in (root, alice, bob):
        actor.do("umask", mask=0)
    for name in ("d", "full", "closed", "readonly", "sticky"):
        root.do("mkdir", path=name, mode=0o777)
    for name in ("f", "g", "full/x", "closed/f", "readonly/f", "sticky/f"):
        root.do("open", slot=0, path=name, flags=CREAT | WO, mode=0o644)
    root.do("mkdir", path="readonly/d", mode=0o777)
    root.do("mkdir", path="sticky/d", mode=0o777)
    root.do("open", slot=0, path="secret", flags=CREAT | WO, mode=0o600)
    for target, name in (
        ("f", "to-f"),
        ("loop", "loop"),
        ("missing", "dangling"),
        ("d", "to-d"),
        ("f/", "to-f-"),
    ):
        root.do("symlink", target=target, path=name)
    root.do("mknod", path="fifo", mode=stat.S_IFIFO | 0o666)
    root.do("mknod", path="socket", mode=stat.S_IFSOCK | 0o666)
    root.do("chmod", path="closed", mode=0o700)
    root.do("chmod", path="readonly", mode=0o755)
    root.do("chmod", path="sticky", mode=0o1777)
    alice.do("open", slot=0, path="sticky/alices", flags=CREAT | WO, mode=0o666)
    alice.do("mkdir", path="sticky/alices-d", mode=0o777)
    bob.do("mkdir", path="bobs", mode=0o1777)
    alice.do("open", slot=0, path="bobs/alices", flags=CREAT | WO, mode=0o666)
    root.do("mkdir", path="untouched", mode=0o1777)
    root.do("open", slot=0, path="untouched/f", flags=CREAT | WO, mode=0o666)


Case = tuple[str, str, dict[str, Any], str]


def paths_that_fail(call: str, name: str = "path", *, follows: bool = True, **rest: Any) -> list[Case]:
    """What holds for every call that takes a path."""
    bad = [
        (TOO_LONG, "ENAMETOOLONG"),
        (f"d/{TOO_LONG}", "ENAMETOOLONG"),
        (LONG_PATH, "ENAMETOOLONG"),
        ("f/x", "ENOTDIR"),
        ("to-f/x", "ENOTDIR"),
        ("missing/x", "ENOENT"),
        ("dangling/x", "ENOENT"),
        ("loop/x", "ELOOP"),
        ("", "ENOENT"),
    ]
    if follows:
        bad += [("missing", "ENOENT"), ("dangling", "ENOENT"), ("loop", "ELOOP")]
    cases: list[Case] = [("root", call, {name: path, **rest}, code) for path, code in bad]
    return [*cases, ("alice", call, {name: "closed/f", **rest}, "EACCES")]


def makers(call: str, name: str = "path", **rest: Any) -> list[Case]:
    """What holds for every call that makes something new."""
    return [
        *paths_that_fail(call, name, follows=False, **rest),
        *(
            ("root", call, {name: path, **rest}, "EEXIST")
            for path in ("f", "d", "to-f", "dangling", "loop", "fifo")
        ),
        ("alice", call, {name: "readonly/new", **rest}, "EACCES"),
        ("alice", call, {name: "readonly/f", **rest}, "EEXIST"),
    ]


CASES: list[Case] = [
    *paths_that_fail("open", flags=RO),
    *paths_that_fail("open", flags=WO | CREAT | EXCL, follows=False),
    *paths_that_fail("truncate", size=0),
    *paths_that_fail("chmod", mode=0o600),
    *paths_that_fail("chown", uid=0, gid=0),
    *paths_that_fail("chown", uid=0, gid=0, follow=False, follows=False),
    *paths_that_fail("utimens", atime=NOW, mtime=1),
    *paths_that_fail("stat"),
    *paths_that_fail("lstat", follows=False),
    *paths_that_fail("readlink", follows=False),
    *paths_that_fail("unlink", follows=False),
    *paths_that_fail("rmdir", follows=False),
    *paths_that_fail("statvfs"),
    *paths_that_fail("chdir"),
    *paths_that_fail("listdir"),
    *paths_that_fail("link", "old", new="new", follows=False),
    *paths_that_fail("rename", "old", new="new", follows=False),
    *paths_that_fail("rename", "new", old="g", follows=False),
    *makers("mkdir", mode=0o755),
    *makers("mknod", mode=stat.S_IFIFO | 0o644),
    *makers("mknod", mode=stat.S_IFREG | 0o644),
    *makers("symlink", target="f"),
    *makers("link", "new", old="untouched/f"),
    # open
    ("root", "open", {"path": "f", "flags": WO | CREAT | EXCL}, "EEXIST"),
    ("root", "open", {"path": "dangling", "flags": WO | CREAT | EXCL}, "EEXIST"),
    ("root", "open", {"path": "d", "flags": WO}, "EISDIR"),
    ("root", "open", {"path": "d", "flags": RO | CREAT}, "EISDIR"),
    ("root", "open", {"path": "d", "flags": RW | TRUNC}, "EISDIR"),
    ("root", "open", {"path": "new/", "flags": WO | CREAT}, "EISDIR"),
    ("root", "open", {"path": "f/", "flags": RO}, "ENOTDIR"),
    ("root", "open", {"path": "f", "flags": RO | DIRECTORY}, "ENOTDIR"),
    ("root", "open", {"path": "new", "flags": RO | DIRECTORY | CREAT}, "EINVAL"),
    ("root", "open", {"path": "to-f", "flags": RO | NOFOLLOW}, "ELOOP"),
    ("root", "open", {"path": "to-d", "flags": RO | NOFOLLOW | DIRECTORY}, "ENOTDIR"),
    ("root", "open", {"path": "fifo", "flags": WO | NONBLOCK}, "ENXIO"),
    ("root", "open", {"path": "socket", "flags": RO}, "ENXIO"),
    ("alice", "open", {"path": "secret", "flags": RO}, "EACCES"),
    ("alice", "open", {"path": "f", "flags": WO}, "EACCES"),
    ("alice", "open", {"path": "f", "flags": RO | TRUNC}, "EACCES"),
    ("alice", "open", {"path": "readonly/new", "flags": WO | CREAT}, "EACCES"),
    ("alice", "open", {"path": "f", "flags": RO | os.O_NOATIME}, "EPERM"),
    # truncate
    ("root", "truncate", {"path": "d", "size": 0}, "EISDIR"),
    ("root", "truncate", {"path": "fifo", "size": 0}, "EINVAL"),
    ("root", "truncate", {"path": "f", "size": -1}, "EINVAL"),
    ("root", "truncate", {"path": "f", "size": 1 << 62}, "EFBIG"),
    ("alice", "truncate", {"path": "f", "size": 0}, "EACCES"),
    ("alice", "truncate", {"path": "secret", "size": 0}, "EACCES"),
    # chmod, chown, utimensat
    ("alice", "chmod", {"path": "f", "mode": 0o600}, "EPERM"),
    ("alice", "chmod", {"path": "d", "mode": 0o600}, "EPERM"),
    ("alice", "chown", {"path": "f", "uid": ALICE, "gid": -1}, "EPERM"),
    ("alice", "chown", {"path": "sticky/alices", "uid": BOB, "gid": -1}, "EPERM"),
    ("alice", "chown", {"path": "sticky/alices", "uid": -1, "gid": BOB}, "EPERM"),
    ("alice", "chown", {"path": "f", "uid": -1, "gid": SHARED}, "EPERM"),
    ("alice", "utimens", {"path": "f", "atime": 1, "mtime": 1}, "EPERM"),
    ("alice", "utimens", {"path": "f", "atime": NOW, "mtime": NOW}, "EACCES"),
    ("alice", "utimens", {"path": "untouched/f", "atime": NOW, "mtime": 1}, "EPERM"),
    ("alice", "touch", {"path": "f"}, "EACCES"),
    # readlink, unlink, rmdir
    ("root", "readlink", {"path": "f"}, "EINVAL"),
    ("root", "readlink", {"path": "d"}, "EINVAL"),
    ("root", "unlink", {"path": "missing"}, "ENOENT"),
    ("root", "unlink", {"path": "d"}, "EISDIR"),
    ("root", "unlink", {"path": "f/"}, "ENOTDIR"),
    ("root", "unlink", {"path": "to-d/"}, "ENOTDIR"),
    ("alice", "unlink", {"path": "readonly/f"}, "EACCES"),
    ("alice", "unlink", {"path": "sticky/f"}, "EPERM"),
    ("bob", "unlink", {"path": "sticky/alices"}, "EPERM"),
    ("alice", "unlink", {"path": "untouched/f"}, "EPERM"),
    ("root", "rmdir", {"path": "missing"}, "ENOENT"),
    ("root", "rmdir", {"path": "f"}, "ENOTDIR"),
    ("root", "rmdir", {"path": "to-d"}, "ENOTDIR"),
    ("root", "rmdir", {"path": "full"}, "ENOTEMPTY"),
    ("root", "rmdir", {"path": "d/."}, "EINVAL"),
    ("root", "rmdir", {"path": "full/.."}, "ENOTEMPTY"),
    ("alice", "rmdir", {"path": "readonly/d"}, "EACCES"),
    ("alice", "rmdir", {"path": "sticky/d"}, "EPERM"),
    ("bob", "rmdir", {"path": "sticky/alices-d"}, "EPERM"),
    # link
    ("root", "link", {"old": "d", "new": "new"}, "EPERM"),
    ("root", "link", {"old": "missing", "new": "new"}, "ENOENT"),
    ("root", "link", {"old": "dangling", "new": "new", "follow": True}, "ENOENT"),
    ("root", "link", {"old": "f", "new": "new/"}, "ENOENT"),
    ("root", "link", {"old": "f/", "new": "new"}, "ENOTDIR"),
    ("root", "link", {"old": "f", "new": "/dev/shm/ghostfs-new"}, "EXDEV"),
    # rename
    ("root", "rename", {"old": "missing", "new": "new"}, "ENOENT"),
    ("root", "rename", {"old": "f", "new": "d"}, "EISDIR"),
    ("root", "rename", {"old": "d", "new": "f"}, "ENOTDIR"),
    ("root", "rename", {"old": "d", "new": "full"}, "ENOTEMPTY"),
    ("root", "rename", {"old": "full", "new": "full/inner"}, "EINVAL"),
    ("root", "rename", {"old": "full/x", "new": "full"}, "ENOTEMPTY"),
    ("root", "rename", {"old": "f", "new": "new/"}, "ENOTDIR"),
    ("root", "rename", {"old": "f/", "new": "new"}, "ENOTDIR"),
    ("root", "rename", {"old": "d/.", "new": "new"}, "EBUSY"),
    ("root", "rename", {"old": "d", "new": "full/.."}, "EBUSY"),
    ("root", "rename", {"old": "f", "new": "g", "flags": NOREPLACE}, "EEXIST"),
    ("root", "rename", {"old": "f", "new": "missing", "flags": EXCHANGE}, "ENOENT"),
    ("root", "rename", {"old": "full", "new": "full/x", "flags": EXCHANGE}, "EINVAL"),
    ("root", "rename", {"old": "f", "new": "g", "flags": NOREPLACE | EXCHANGE}, "EINVAL"),
    ("root", "rename", {"old": "f", "new": "g", "flags": 64}, "EINVAL"),
    ("root", "rename", {"old": "f", "new": "/dev/shm/ghostfs-new"}, "EXDEV"),
    ("alice", "rename", {"old": "readonly/f", "new": "new"}, "EACCES"),
    ("alice", "rename", {"old": "sticky/alices", "new": "readonly/new"}, "EACCES"),
    ("alice", "rename", {"old": "sticky/f", "new": "new"}, "EPERM"),
    ("bob", "rename", {"old": "sticky/alices", "new": "new"}, "EPERM"),
    ("alice", "rename", {"old": "sticky/alices", "new": "sticky/f"}, "EPERM"),
    # mknod
    ("alice", "mknod", {"path": "new", "mode": stat.S_IFCHR | 0o666, "device": 0x103}, "EPERM"),
    ("alice", "mknod", {"path": "new", "mode": stat.S_IFBLK | 0o666, "device": 0x103}, "EPERM"),
    ("root", "mknod", {"path": "new", "mode": stat.S_IFDIR | 0o666}, "EPERM"),
    ("root", "mknod", {"path": "new", "mode": stat.S_IFLNK | 0o666}, "EINVAL"),
    # symlink
    ("root", "symlink", {"target": "", "path": "new"}, "ENOENT"),
    ("root", "symlink", {"target": "t" * 4096, "path": "new"}, "ENAMETOOLONG"),
    # directories
    ("root", "opendir", {"slot": 1, "path": "f"}, "ENOTDIR"),
    ("root", "opendir", {"slot": 1, "path": "missing"}, "ENOENT"),
    ("alice", "opendir", {"slot": 1, "path": "closed"}, "EACCES"),
    ("alice", "chdir", {"path": "closed"}, "EACCES"),
    # extended attributes
    ("root", "getxattr", {"path": "f", "name": "user.none"}, "ENODATA"),
    ("root", "removexattr", {"path": "f", "name": "user.none"}, "ENODATA"),
    ("root", "setxattr", {"path": "f", "name": "user.a", "value": b"x", "flags": 2}, "ENODATA"),
    ("root", "setxattr", {"path": "f", "name": "nothing", "value": b"x"}, "ENOTSUP"),
    ("root", "setxattr", {"path": "f", "name": "user." + "n" * 255, "value": b"x"}, "ERANGE"),
    ("root", "setxattr", {"path": "f", "name": "user.a", "value": b"x" * 65537}, "E2BIG"),
    ("root", "setxattr", {"path": "to-f", "name": "user.a", "value": b"x", "follow": False}, "EPERM"),
    ("root", "setxattr", {"path": "fifo", "name": "user.a", "value": b"x"}, "EPERM"),
    ("alice", "setxattr", {"path": "f", "name": "user.a", "value": b"x"}, "EACCES"),
    ("alice", "setxattr", {"path": "untouched/f", "name": "trusted.a", "value": b"x"}, "EPERM"),
]


def described(case: Case) -> str:
    who, call, arguments, code = case
    short = [
        f"{len(v)}-long" if isinstance(v, (str, bytes)) and len(v) > 60 else str(v)
        for v in arguments.values()
    ]
    return f"{who}-{call}-{','.join(short)}-{code}".replace("/", "_")


@pytest.fixture(scope="module", params=["native", "mount", "writeback"])
def prepared(request: pytest.FixtureRequest, sites: dict[str, Site]) -> Iterator[Site]:
    """A place with the tree in it, which no case changes."""
    site = sites[request.param]
    site.new()
    make_tree(site.actors["root"], site.actors["alice"], site.actors["bob"])
    before = site.actors["root"].do("tree").keys()
    yield site
    assert site.actors["root"].do("tree").keys() == before
    site.leave()


@pytest.mark.parametrize("case", CASES, ids=described)
def test_the_errno_is_the_one_that_posix_names(prepared: Site, case: Case) -> None:
    who, call, arguments, code = case
    given = {"slot": 9, **arguments} if call == "open" else arguments
    assert prepared.actors[who].attempt(call, **given).error == code
