"""Who may do what: modes, owners, groups, sticky directories, inherited groups, set-id bits; who makes what."""

from __future__ import annotations

import os
import stat
from typing import Any

import pytest
from actors import Actor
from sites import ALICE, BOB, SHARED, Site

CREAT, RO, WO, RW, TRUNC = os.O_CREAT, os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_TRUNC


def mode_of(actor: Actor, path: str) -> int:
    return stat.S_IMODE(actor.do("lstat", path=path).st_mode)


def owner_of(actor: Actor, path: str) -> tuple[int, int]:
    st = actor.do("lstat", path=path)
    return st.st_uid, st.st_gid


@pytest.mark.parametrize(
    ("owner", "group", "mode"),
    [
        (ALICE, BOB, 0o400),
        (ALICE, BOB, 0o077),
        (BOB, SHARED, 0o040),
        (BOB, SHARED, 0o707),
        (BOB, BOB, 0o004),
        (BOB, BOB, 0o770),
        (BOB, ALICE, 0o060),
        (0, 0, 0o002),
    ],
)
def test_only_the_class_that_one_is_in_counts(site: Site, owner: int, group: int, mode: int) -> None:
    root, alice = site.actors["root"], site.actors["alice"]
    root.do("open", slot=0, path="f", flags=CREAT | WO)
    root.do("chown", path="f", uid=owner, gid=group)
    root.do("chmod", path="f", mode=mode)
    bits = mode >> 6 if owner == ALICE else mode >> 3 if group in (ALICE, SHARED) else mode
    for flags, needed in ((RO, 4), (WO, 2), (RW, 6), (RO | TRUNC, 6)):
        allowed = bits & 7 & needed == needed
        assert alice.attempt("open", slot=0, path="f", flags=flags).error == (None if allowed else "EACCES")
    assert alice.do("access", path="f", mode=os.R_OK) == bool(bits & 4)
    assert root.do("access", path="f", mode=os.W_OK)
    assert root.do("access", path="f", mode=os.X_OK) == bool(mode & 0o111)


@pytest.mark.parametrize("mode", range(8))
def test_a_directory_is_listed_searched_and_changed_by_its_own_bits(site: Site, mode: int) -> None:
    root, alice = site.actors["root"], site.actors["alice"]
    root.do("mkdir", path="d", mode=0o777)
    root.do("open", slot=0, path="d/f", flags=CREAT | WO, mode=0o644)
    root.do("chmod", path="d", mode=0o700 | mode)
    read, write, search = bool(mode & 4), bool(mode & 2), bool(mode & 1)
    assert alice.attempt("listdir", path="d").error == (None if read else "EACCES")
    assert alice.attempt("stat", path="d/f").error == (None if search else "EACCES")
    assert alice.attempt("chdir", path="d").error == (None if search else "EACCES")
    alice.do("chdir", path="..") if search else None
    assert alice.attempt("mkdir", path="d/new").error == (None if write and search else "EACCES")
    assert alice.attempt("unlink", path="d/f").error == (None if write and search else "EACCES")


def test_what_is_made_belongs_to_its_maker_with_the_umask_applied(site: Site) -> None:
    root, alice = site.actors["root"], site.actors["alice"]
    alice.do("umask", mask=0o027)
    alice.do("open", slot=0, path="f", flags=CREAT | WO, mode=0o6777)
    alice.do("mkdir", path="d", mode=0o1777)
    alice.do("mkdir", path="d2", mode=0o6777)
    alice.do("mknod", path="p", mode=stat.S_IFIFO | 0o666)
    alice.do("mknod", path="n", mode=stat.S_IFREG | 0o4777)
    alice.do("symlink", target="f", path="s")
    assert [mode_of(root, name) for name in ("f", "d", "d2", "p", "n", "s")] == [
        *(0o6750, 0o1750, 0o750, 0o640, 0o4750, 0o777),
    ]
    assert {owner_of(root, name) for name in ("f", "d", "d2", "p", "n", "s")} == {(ALICE, ALICE)}


@pytest.mark.parametrize("directory_group", [SHARED, 4321], ids=["own", "foreign"])
def test_a_setgid_directory_hands_down_its_group(site: Site, directory_group: int) -> None:
    root, alice = site.actors["root"], site.actors["alice"]
    root.do("mkdir", path="d")
    root.do("chown", path="d", uid=0, gid=directory_group)
    root.do("chmod", path="d", mode=0o2777)
    for maker, uid in ((root, 0), (alice, ALICE)):
        maker.do("umask", mask=0)
        maker.do("open", slot=0, path=f"d/f{uid}", flags=CREAT | WO, mode=0o2775)
        maker.do("open", slot=0, path=f"d/g{uid}", flags=CREAT | WO, mode=0o2664)
        maker.do("mkdir", path=f"d/d{uid}", mode=0o755)
        maker.do("symlink", target="f", path=f"d/s{uid}")
        maker.do("mknod", path=f"d/p{uid}", mode=stat.S_IFIFO | 0o644)
        for name in "fgdsp":
            assert owner_of(root, f"d/{name}{uid}") == (uid, directory_group)
        assert mode_of(root, f"d/d{uid}") == 0o2755
        member = uid == 0 or directory_group == SHARED
        assert mode_of(root, f"d/f{uid}") == (0o2775 if member else 0o775)
        assert mode_of(root, f"d/g{uid}") == 0o2664
    root.do("mkdir", path="d/d0/deeper")
    assert mode_of(root, "d/d0/deeper") == 0o2755


def test_in_a_sticky_directory_only_owners_remove_and_rename(site: Site) -> None:
    root, alice, bob = (site.actors[name] for name in ("root", "alice", "bob"))
    alice.do("mkdir", path="d")
    alice.do("chmod", path="d", mode=0o1777)
    bob.do("open", slot=0, path="d/b", flags=CREAT | WO)
    bob.do("mkdir", path="d/bd")
    root.do("open", slot=0, path="d/r", flags=CREAT | WO)
    assert bob.attempt("unlink", path="d/r").error == "EPERM"
    assert bob.attempt("rename", old="d/b", new="d/r").error == "EPERM"
    assert bob.attempt("rename", old="d/r", new="d/x").error == "EPERM"
    assert bob.attempt("rename", old="d/b", new="d/r", flags=2).error == "EPERM"
    bob.do("rename", old="d/b", new="d/b2")
    bob.do("rmdir", path="d/bd")
    alice.do("unlink", path="d/b2")  # it is her directory
    alice.do("unlink", path="d/r")


def test_a_directory_moves_elsewhere_only_if_it_may_be_written(site: Site) -> None:
    root, alice = site.actors["root"], site.actors["alice"]
    for name in ("from", "to"):
        root.do("mkdir", path=name)
        root.do("chmod", path=name, mode=0o777)
    root.do("mkdir", path="from/d", mode=0o755)
    assert alice.attempt("rename", old="from/d", new="to/d").error == "EACCES"
    alice.do("rename", old="from/d", new="from/e")
    root.do("chmod", path="from/e", mode=0o757)
    alice.do("rename", old="from/e", new="to/d")


def test_an_owner_gives_a_file_only_to_own_groups(site: Site) -> None:
    alice = site.actors["alice"]
    alice.do("open", slot=0, path="f", flags=CREAT | WO)
    alice.do("chown", path="f", uid=-1, gid=SHARED)
    alice.do("chown", path="f", uid=ALICE, gid=ALICE)
    alice.do("fchown", slot=0, uid=-1, gid=SHARED)
    assert alice.attempt("fchown", slot=0, uid=BOB, gid=-1).error == "EPERM"
    assert alice.attempt("fchown", slot=0, uid=-1, gid=BOB).error == "EPERM"
    assert owner_of(alice, "f") == (ALICE, SHARED)


def test_chmod_by_one_who_is_not_in_the_group_takes_setgid_away(site: Site) -> None:
    root, alice = site.actors["root"], site.actors["alice"]
    alice.do("open", slot=0, path="f", flags=CREAT | WO)
    root.do("chown", path="f", uid=-1, gid=4321)
    alice.do("chmod", path="f", mode=0o6755)
    assert mode_of(root, "f") == 0o4755
    root.do("chmod", path="f", mode=0o6755)
    assert mode_of(root, "f") == 0o6755


CHANGES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "write": [("open", {"slot": 1, "path": "f", "flags": WO}), ("write", {"slot": 1, "data": b"x"})],
    "append": [
        ("open", {"slot": 1, "path": "f", "flags": WO | os.O_APPEND}),
        ("write", {"slot": 1, "data": b"x"}),
    ],
    "direct": [
        ("open", {"slot": 1, "path": "f", "flags": WO | os.O_DIRECT}),
        ("direct_write", {"slot": 1, "data": b"x" * 4096, "offset": 0}),
    ],
    "copy_file_range": [
        ("open", {"slot": 2, "path": "from", "flags": RO}),
        ("open", {"slot": 1, "path": "f", "flags": WO}),
        ("copy_file_range", {"source": 2, "target": 1, "size": 4, "at": 0, "to": 0}),
    ],
    "truncate": [("truncate", {"path": "f", "size": 1})],
    "ftruncate": [("open", {"slot": 1, "path": "f", "flags": WO}), ("ftruncate", {"slot": 1, "size": 1})],
    "open": [("open", {"slot": 1, "path": "f", "flags": WO | TRUNC})],
    "open for reading": [("open", {"slot": 1, "path": "f", "flags": RO | TRUNC})],
    "allocate": [
        ("open", {"slot": 1, "path": "f", "flags": RW}),
        ("posix_fallocate", {"slot": 1, "offset": 0, "size": 9}),
    ],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("mode", "left"), [(0o6777, 0o777), (0o4777, 0o777), (0o2777, 0o777), (0o2767, 0o2767)], ids=oct
)
def test_what_a_user_changes_loses_its_set_id_bits(site: Site, change: str, mode: int, left: int) -> None:
    root, bob = site.actors["root"], site.actors["bob"]
    root.do("open", slot=0, path="from", flags=CREAT | RW)
    root.do("write", slot=0, data=b"four")
    root.do("open", slot=0, path="f", flags=CREAT | RW)
    root.do("chown", path="f", uid=ALICE, gid=SHARED)
    root.do("chmod", path="f", mode=mode)
    for call, arguments in CHANGES[change]:
        bob.do(call, **arguments)
    assert mode_of(root, "f") == left
    assert stat.S_IMODE(bob.do("fstat", slot=1).st_mode if change != "truncate" else left) == left


@pytest.mark.parametrize("change", CHANGES)
def test_what_root_changes_keeps_them(site: Site, change: str) -> None:
    root = site.actors["root"]
    root.do("open", slot=0, path="from", flags=CREAT | RW)
    root.do("write", slot=0, data=b"four")
    root.do("open", slot=0, path="f", flags=CREAT | RW)
    root.do("chmod", path="f", mode=0o6777)
    for call, arguments in CHANGES[change]:
        root.do(call, **arguments)
    assert mode_of(root, "f") == 0o6777


@pytest.mark.parametrize("uid", [-1, BOB])
@pytest.mark.parametrize(("mode", "left"), [(0o6755, 0o755), (0o6745, 0o2745), (0o1755, 0o1755)], ids=oct)
def test_chown_takes_set_id_bits_of_files_away(site: Site, uid: int, mode: int, left: int) -> None:
    root = site.actors["root"]
    root.do("open", slot=0, path="f", flags=CREAT | RW)
    root.do("mkdir", path="d")
    for name in "fd":
        root.do("chmod", path=name, mode=mode)
        root.do("chown", path=name, uid=uid, gid=-1)
    assert mode_of(root, "f") == left
    assert mode_of(root, "d") == mode


def test_nobody_takes_set_user_id_from_what_is_anothers(site: Site) -> None:
    root, alice, bob = (site.actors[name] for name in ("root", "alice", "bob"))
    alice.do("open", slot=0, path="f", flags=CREAT | WO)
    alice.do("close", slot=0)
    root.do("chmod", path="f", mode=0o4755)
    assert bob.attempt("chown", path="f", uid=-1, gid=-1).error == "EPERM"
    assert mode_of(root, "f") == 0o4755
    alice.do("chown", path="f", uid=-1, gid=-1)
    assert mode_of(root, "f") == 0o755
    bob.do("chown", path="f", uid=-1, gid=-1)
