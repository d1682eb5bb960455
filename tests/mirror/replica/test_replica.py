"""A replica is fed batches and becomes the hub's tree: kinds, content, attributes, links, renames, deletes."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

import pytest

from ghostfs.content import BLOCK_SIZE
from ghostfs.errors import InvalidCell, SessionBusy
from ghostfs.mirror.replica.replica import Replica
from ghostfs.model import ROOT, Cursor, Kind

BIG = os.urandom(BLOCK_SIZE * 3 + 1000)


def fill(hub: Any) -> dict[str, Any]:
    d = hub.mkdir(ROOT, b"d", 0o750)
    e = hub.mkdir(d, b"e")
    return {
        "d": d,
        "e": e,
        "small": hub.file(ROOT, b"small", b"hello", 0o600),
        "big": hub.file(e, b"big", BIG, 0o755),
        "empty": hub.file(d, b"empty", b""),
        "zeros": hub.file(d, b"zeros", bytes(BLOCK_SIZE * 4)),
        "link": hub.symlink(d, b"link", b"../small"),
        "fifo": hub.special(d, b"fifo", Kind.FIFO),
        "sock": hub.special(d, b"sock", Kind.SOCKET),
        "odd": hub.file(e, b"\xff\xfe\n", b"odd name"),
    }


def test_first_sync_brings_all_kinds(world: Any) -> None:
    fill(world.hub)
    published = world.node.sync(world.hub)
    world.assert_equal()
    assert published.position.cursor == Cursor(world.hub.index.epoch, world.hub.index.head())
    assert published.position.snapshot is None
    assert published.fingerprint == world.hub.index.fingerprint()
    assert published.conflicts == ()
    assert os.listdir(world.node.layout.staging / "new") == []
    assert os.listdir(world.node.layout.staging / "held") == []


def test_holes_stay_holes(world: Any) -> None:
    data = bytes(BLOCK_SIZE * 8) + b"end"
    world.hub.file(ROOT, b"sparse", data)
    world.hub.file(ROOT, b"zeros", bytes(BLOCK_SIZE * 8))
    world.node.sync(world.hub)
    assert world.node.fetched == 1
    assert os.stat(world.node.tree / "zeros").st_blocks == 0
    assert os.stat(world.node.tree / "sparse").st_blocks * 512 <= BLOCK_SIZE
    world.assert_equal()


def test_a_delta_fetches_only_what_changed(world: Any) -> None:
    ids = fill(world.hub)
    world.node.sync(world.hub)
    world.node.fetched = 0
    changed = bytearray(BIG)
    changed[BLOCK_SIZE + 5] ^= 1
    world.hub.write(ids["big"], bytes(changed))
    published = world.node.sync(world.hub)
    assert world.node.fetched == 1
    assert (published.files, published.bytes) == (1, len(BIG))
    world.assert_equal()


def test_a_renamed_directory_is_the_same_directory(world: Any) -> None:
    ids = fill(world.hub)
    world.node.sync(world.hub)
    before = os.stat(world.node.tree / "d" / "e").st_ino, os.stat(world.node.tree / "d/e/big").st_ino
    world.hub.rename(ROOT, b"d", ROOT, b"moved")
    world.hub.rename(ids["d"], b"e", ROOT, b"e")
    published = world.node.sync(world.hub)
    assert (published.files, published.bytes) == (0, 0)
    assert before == (os.stat(world.node.tree / "e").st_ino, os.stat(world.node.tree / "e/big").st_ino)
    world.assert_equal()


def test_hard_links_follow_new_content(world: Any) -> None:
    ids = fill(world.hub)
    world.hub.link(ids["small"], ids["d"], b"other")
    world.node.sync(world.hub)
    world.assert_equal()
    world.hub.write(ids["small"], b"new content")
    world.hub.link(ids["small"], ids["e"], b"third")
    world.node.sync(world.hub)
    world.assert_equal()
    world.hub.remove(ROOT, b"small")
    world.node.sync(world.hub)
    world.assert_equal()


def test_copies_and_moved_content_are_not_fetched(world: Any) -> None:
    ids = fill(world.hub)
    world.node.sync(world.hub)
    world.node.fetched = 0
    world.hub.file(ROOT, b"copy", BIG)
    world.hub.file(ids["d"], b"copy2", BIG + b"x")
    world.node.sync(world.hub)
    assert world.node.fetched == 1  # the last block of copy2
    world.assert_equal()


def test_a_block_that_two_new_files_need_is_wanted_once(world: Any) -> None:
    world.hub.file(ROOT, b"a", BIG)
    world.hub.file(ROOT, b"b", BIG)
    world.node.sync(world.hub)
    assert world.node.fetched == 4
    world.assert_equal()


def test_a_block_of_a_superseded_file_is_wanted_for_the_other(world: Any) -> None:
    a = world.hub.file(ROOT, b"a", BIG)
    world.node.sync(world.hub)
    other = os.urandom(BLOCK_SIZE * 2)
    world.hub.write(a, other)
    world.hub.file(ROOT, b"b", other)
    world.node.sync(world.hub)
    third = os.urandom(BLOCK_SIZE * 2)
    world.hub.write(a, third)
    world.hub.file(ROOT, b"c", third)
    replica = world.node.replica
    replica.begin(world.hub.delta(replica.position().cursor.seq))
    wants = list(replica.missing())
    assert {want.inode for want in wants} == {a}
    replica.supersede(a)
    with pytest.raises(ValueError, match="missing"):
        replica.publish()
    for want in replica.missing():
        replica.put(want.inode, want.index, world.hub.block(want))
    published = replica.publish()
    assert replica.parked() == {a}
    assert published.fingerprint is None
    assert (world.node.tree / "c").read_bytes() == third
    assert (world.node.tree / "a").read_bytes() == other


def test_superseded_new_file_appears_with_its_next_version(world: Any) -> None:
    d = world.hub.mkdir(ROOT, b"d")
    old = world.hub.file(d, b"f", b"old")
    world.node.sync(world.hub)
    new = world.hub.file(d, b"new", b"1")
    world.hub.rename(d, b"new", d, b"f")  # an atomic save: the name means another inode
    since = world.node.replica.position().cursor.seq
    published = world.node.apply(world.hub, world.hub.delta(since, superseded=frozenset({new})))
    assert (world.node.tree / "d/f").read_bytes() == b"old"
    assert published.fingerprint is None
    assert world.node.replica.parked() == {new}
    assert old != new
    world.node.close()
    world.hub.write(new, b"2")
    world.node.sync(world.hub)
    assert world.node.replica.parked() == set()
    world.assert_equal()


@pytest.mark.allows_log("object_refused")
@pytest.mark.parametrize("inline", [0, BLOCK_SIZE])
def test_what_the_disk_refuses_to_hold_waits_and_the_rest_arrives(
    world: Any, monkeypatch: pytest.MonkeyPatch, logged: Any, inline: int
) -> None:
    def refuse(real: Any, code: int, unless: Any) -> Any:
        def call(*args: Any, **how: Any) -> Any:
            if unless(*args):
                return real(*args, **how)
            raise OSError(code, os.strerror(code))

        return call

    big = world.hub.file(ROOT, b"big", b"old")
    world.node.sync(world.hub)
    world.hub.write(big, b"x" * 5000)
    link = world.hub.symlink(ROOT, b"link", b"refused")
    d = world.hub.mkdir(ROOT, b"d")
    world.hub.file(d, b"f", b"arrives")
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", refuse(os.ftruncate, errno.EFBIG, lambda fd, size: size != 5000))
        patch.setattr(os, "symlink", refuse(os.symlink, errno.ENAMETOOLONG, lambda *_: False))
        published = world.node.sync(world.hub, inline=inline)
    assert (world.node.tree / "d/f").read_bytes() == b"arrives"
    assert (world.node.tree / "big").read_bytes() == b"old"
    assert published.fingerprint is None
    assert world.node.replica.parked() == {big, link}
    assert len(logged.named("object_refused")) == 2
    world.hub.write(big, b"fits")
    world.hub.chmod(link, 0o755)
    world.hub.chmod(link, 0o777)
    world.node.sync(world.hub)
    world.assert_equal()


def test_attributes_alone_move_no_content(world: Any) -> None:
    ids = fill(world.hub)
    world.node.sync(world.hub)
    inode = os.stat(world.node.tree / "d/e/big").st_ino
    world.hub.chmod(ids["big"], 0o400)
    world.hub.chmod(ids["d"], 0o711)
    world.hub.chmod(ROOT, 0o700)
    world.node.sync(world.hub)
    assert os.stat(world.node.tree / "d/e/big").st_ino == inode
    world.assert_equal()


def test_kinds_change_places(world: Any) -> None:
    ids = fill(world.hub)
    world.node.sync(world.hub)
    world.hub.exchange((ROOT, b"d"), (ROOT, b"small"))
    world.node.sync(world.hub)
    world.assert_equal()
    world.hub.remove(ids["d"], b"empty")
    world.hub.mkdir(ids["d"], b"empty")
    world.hub.exchange((ids["e"], b"big"), (ids["d"], b"zeros"))
    world.node.sync(world.hub)
    world.assert_equal()


def test_deletes(world: Any) -> None:
    ids = fill(world.hub)
    world.node.sync(world.hub)
    for name in (b"big", b"\xff\xfe\n"):
        world.hub.remove(ids["e"], name)
    world.hub.remove(ids["d"], b"e")
    world.hub.remove(ROOT, b"small")
    world.node.sync(world.hub)
    world.assert_equal()
    assert world.node.replica._index.counts().tombstones == 0


def test_nothing_is_opened_twice(world: Any) -> None:
    world.node.sync(world.hub)
    with pytest.raises(SessionBusy):
        Replica.open(world.node.layout, world.node.settings)


def test_wrong_content_is_refused(world: Any) -> None:
    world.hub.file(ROOT, b"f", BIG)
    batch = world.hub.chunks(100)[0]
    replica = world.node.replica
    replica.begin(batch)
    want = next(replica.missing())
    with pytest.raises(InvalidCell):
        replica.put(want.inode, want.index, bytes(want.length))
    replica.abandon()
    small = world.hub.file(ROOT, b"g", b"good")
    batch = world.hub.chunks(100)[0]
    batch.inline[small] = b"evil"
    with pytest.raises(InvalidCell):
        replica.begin(batch)


def test_half_arrived_files_are_used_again(world: Any) -> None:
    f = world.hub.file(ROOT, b"f", BIG)
    batch = world.hub.chunks(100)[0]
    world.node.replica.begin(batch)
    wants = list(world.node.replica.missing())
    assert len(wants) == 4
    for want in wants[:2]:
        world.node.replica.put(want.inode, want.index, world.hub.block(want))
    world.node.close()
    world.node.replica.begin(batch)
    assert [want.index for want in world.node.replica.missing()] == [2, 3]
    world.node.close()
    # Also for another version of the file.
    changed = bytearray(BIG)
    changed[0] ^= 1
    world.hub.write(f, bytes(changed))
    world.node.sync(world.hub)
    assert world.node.fetched == 3
    world.assert_equal()
    assert os.listdir(world.node.layout.staging / "new") == []


@pytest.mark.allows_log("reserved_name_refused")
def test_the_overlays_name_is_refused(world: Any) -> None:
    d = world.hub.mkdir(ROOT, b"d")
    world.hub.file(ROOT, b".Skills", b"x")
    world.hub.file(d, b".skills", b"fine below the root")
    world.node.sync(world.hub)
    assert sorted(os.listdir(world.node.tree)) == ["d"]
    assert (world.node.tree / "d/.skills").is_file()
    assert world.node.replica.refused_cells == 1


def test_staged_content_is_private_and_attributes_are_right_at_once(world: Any) -> None:
    world.hub.file(ROOT, b"secret", BIG, 0o640)
    seen = []

    def look(step: int) -> None:
        path = world.node.tree / "secret"
        if path.exists():
            st = path.stat()
            seen.append((stat.S_IMODE(st.st_mode), st.st_size, path.read_bytes() == BIG))

    world.node.between = look
    world.node.replica.begin(world.hub.chunks(100)[0])
    for want in world.node.replica.missing():
        world.node.replica.put(want.inode, want.index, world.hub.block(want))
    (part,) = (world.node.layout.staging / "new").iterdir()
    assert stat.S_IMODE(part.stat().st_mode) == 0o600
    world.node.replica.publish()
    assert seen
    assert set(seen) == {(0o640, len(BIG), True)}
