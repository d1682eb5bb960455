"""Owners, modes, user attributes and devices of a replica, with rights and without."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ghostfs.errors import ConfigError
from ghostfs.mirror.replica import ownership
from ghostfs.mirror.replica.replica import ReplicaSettings
from ghostfs.mirror.xattrs import encode_xattrs
from ghostfs.model import ROOT, Kind

NOBODY = 65534


def give(hub: Any, inode: Any, uid: int, gid: int) -> None:
    with hub.index.commit() as commit:
        commit.put_inode(replace(hub.index.inode(inode), uid=uid, gid=gid), attrs=True, content=True)


@pytest.mark.parametrize(
    ("settings", "owner"),
    [
        (ReplicaSettings("n"), (1234, 2345)),
        (ReplicaSettings("n", "preserve"), (1234, 2345)),
        (ReplicaSettings("n", "mapped", 11, 12), (11, 12)),
        (ReplicaSettings("n", "ignore"), (os.geteuid(), os.getegid())),
    ],
)
def test_owners(world: Any, logged: Any, settings: ReplicaSettings, owner: tuple[int, int]) -> None:
    d = world.hub.mkdir(ROOT, b"d")
    ids = [d, world.hub.file(d, b"f", b"x", 0o751), world.hub.symlink(d, b"l", b"nowhere")]
    for inode in ids:
        give(world.hub, inode, 1234, 2345)
    world.node.settings = settings
    world.node.sync(world.hub)
    for name in ("d", "d/f", "d/l"):
        st = os.lstat(world.node.tree / name)
        assert (st.st_uid, st.st_gid) == owner
    world.assert_equal()
    give(world.hub, ids[1], 77, 78)
    world.node.sync(world.hub)
    st = os.lstat(world.node.tree / "d/f")
    assert (st.st_uid, st.st_gid) == ((77, 78) if owner == (1234, 2345) else owner)
    assert stat.S_IMODE(st.st_mode) == 0o751
    assert len(logged.named("ownership_chosen")) == 1


def test_owners_that_may_not_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "may_chown", lambda: False)
    assert ownership.choose("auto", None, None, session="s").of(5, 6) is None
    with pytest.raises(ConfigError, match="CAP_CHOWN"):
        ownership.choose("preserve", None, None, session="s")
    with pytest.raises(ConfigError, match="CAP_CHOWN"):
        ownership.choose("mapped", 11, None, session="s")
    own = ownership.choose("mapped", None, None, session="s")
    assert own.of(5, 6) == (os.geteuid(), os.getegid())


def test_user_attributes(world: Any) -> None:
    f = world.hub.file(ROOT, b"f", b"x")

    def set_to(attributes: dict[bytes, bytes]) -> None:
        with world.hub.index.commit() as commit:
            row = replace(world.hub.index.inode(f), xattrs=encode_xattrs(attributes))
            commit.put_inode(row, attrs=True, content=True)

    set_to({b"user.colour": b"blue", b"user.empty": b""})
    world.node.sync(world.hub)
    path = world.node.tree / "f"
    assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == {
        "user.colour": b"blue",
        "user.empty": b"",
    }
    set_to({b"user.colour": b"red"})
    world.node.sync(world.hub)
    assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == {"user.colour": b"red"}
    world.assert_equal()


def test_devices_and_privileged_programs_where_they_are_permitted(world: Any) -> None:
    world.node.settings = ReplicaSettings("n", "preserve")
    f = world.hub.file(ROOT, b"f", b"x", 0o4755)
    give(world.hub, f, 1234, 2345)
    world.hub.special(ROOT, b"null", Kind.CHAR, os.makedev(1, 3))
    world.node.sync(world.hub)
    assert os.stat(world.node.tree / "null").st_rdev == os.makedev(1, 3)
    world.assert_equal()


@pytest.mark.allows_log("devices_skipped")
def test_devices_where_they_are_not(world: Any, monkeypatch: pytest.MonkeyPatch, logged: Any) -> None:
    world.node.settings = ReplicaSettings("n", "preserve")
    real = os.mknod

    def mknod(path: bytes, mode: int, device: int, **where: Any) -> None:
        if stat.S_ISCHR(mode):
            raise PermissionError(1, "not permitted")
        real(path, mode, device, **where)

    monkeypatch.setattr(os, "mknod", mknod)
    world.hub.special(ROOT, b"null", Kind.CHAR, os.makedev(1, 3))
    world.hub.special(ROOT, b"pipe", Kind.FIFO)
    world.node.sync(world.hub)
    world.hub.special(ROOT, b"zero", Kind.CHAR, os.makedev(1, 5))
    world.hub.file(ROOT, b"f", b"x")
    published = world.node.sync(world.hub)
    assert sorted(os.listdir(world.node.tree)) == ["f", "pipe"]
    assert published.fingerprint is None
    assert len(logged.named("devices_skipped")) == 1
    world.hub.remove(ROOT, b"null")
    world.hub.remove(ROOT, b"zero")
    assert world.node.sync(world.hub).fingerprint == world.hub.index.fingerprint()
    world.assert_equal()


UNASKED = [ReplicaSettings("n"), ReplicaSettings("n", "mapped", 11, 12), ReplicaSettings("n", "ignore")]
"""All but the operator's own word that files from afar may be as privileged here as they are there."""


@pytest.mark.allows_log("setuid_not_kept")
@pytest.mark.parametrize("settings", UNASKED, ids=lambda settings: settings.ownership)
def test_no_program_from_afar_runs_as_another_user(
    world: Any, logged: Any, settings: ReplicaSettings
) -> None:
    world.node.settings = settings
    d = world.hub.mkdir(ROOT, b"d", 0o3777)
    small = world.hub.file(d, b"small", b"#!", 0o4755)
    world.hub.file(d, b"big", os.urandom(300_000), 0o2755)
    later = world.hub.file(d, b"later", b"#!", 0o755)
    published = world.node.sync(world.hub)
    world.hub.chmod(later, 0o6755)
    world.hub.write(small, b"#! again")
    published = world.node.sync(world.hub)
    modes = {name: entry.mode for name, entry in world.node.read().items()}
    assert [modes[b"/d/" + name] for name in (b"small", b"big", b"later")] == [0o755] * 3
    assert modes[b"/d"] == 0o3777  # of a directory it is about groups, and who may delete
    assert published.fingerprint == world.hub.index.fingerprint()
    assert len(logged.named("setuid_not_kept")) == 1


@pytest.mark.allows_log("setuid_not_kept")
def test_a_mode_that_was_taken_in_before_loses_its_privileges_with_the_next_change(world: Any) -> None:
    world.node.settings = ReplicaSettings("n", "preserve")
    f = world.hub.file(ROOT, b"f", b"#!", 0o4755)
    world.node.sync(world.hub)
    world.assert_equal()
    world.node.close()
    world.node.settings = ReplicaSettings("n", "ignore")
    world.hub.chmod(f, 0o4711)
    world.node.sync(world.hub)
    assert stat.S_IMODE((world.node.tree / "f").stat().st_mode) == 0o711


@pytest.mark.allows_log("devices_skipped")
@pytest.mark.parametrize("settings", UNASKED, ids=lambda settings: settings.ownership)
def test_no_device_comes_from_afar(world: Any, logged: Any, settings: ReplicaSettings) -> None:
    world.node.settings = settings
    world.hub.special(ROOT, b"null", Kind.CHAR, os.makedev(1, 3))
    world.hub.special(ROOT, b"disk", Kind.BLOCK, os.makedev(8, 0))
    world.hub.special(ROOT, b"pipe", Kind.FIFO)
    world.hub.file(ROOT, b"f", b"x")
    assert world.node.sync(world.hub).fingerprint is None
    assert sorted(os.listdir(world.node.tree)) == ["f", "pipe"]
    (said,) = logged.named("devices_skipped")
    assert "preserve" in said["reason"]


@pytest.mark.allows_log("devices_skipped")
def test_a_skipped_device_is_not_waited_for(world: Any) -> None:
    """Nothing that the hub could send again would change it; what lacks content still is waited for."""
    world.node.settings = ReplicaSettings("n", "ignore")
    world.hub.special(ROOT, b"null", Kind.CHAR, os.makedev(1, 3))
    world.node.sync(world.hub)
    assert world.node.replica.parked() == set()
    f = world.hub.file(ROOT, b"f", b"x")
    cursor = world.node.replica.position().cursor
    world.node.apply(world.hub, world.hub.delta(cursor.seq, inline=0), superseded=frozenset({f}))
    assert world.node.replica.parked() == {f}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that a process without rights can reach."""
    path = Path(tempfile.mkdtemp(prefix="ghostfs-test-"))
    path.chmod(0o711)
    (path / "node").mkdir()
    os.chown(path / "node", NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


def test_directories_that_are_closed_to_their_owner(world: Any, open_folder: Path) -> None:
    hub = world.hub
    a = hub.mkdir(ROOT, b"a", 0o555)
    b = hub.mkdir(a, b"b", 0o000)
    f = hub.file(b, b"f", b"x", 0o400)
    first = hub.chunks()
    seq = hub.index.head()
    c = hub.mkdir(b, b"c", 0o500)
    hub.file(c, b"g", b"y", 0o000)
    hub.write(f, b"new content")
    second = hub.delta(seq)
    seq = hub.index.head()
    hub.rename(b, b"c", ROOT, b"c")
    hub.remove(b, b"f")
    hub.remove(a, b"b")
    third = hub.delta(seq)
    world.node.home = open_folder / "node"
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            for batch in (*first, second, third):
                world.node.apply(hub, batch)
            world.node.close()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert world.node.read() == hub.tree()
    assert (world.node.tree / "c/g").stat().st_uid == NOBODY
