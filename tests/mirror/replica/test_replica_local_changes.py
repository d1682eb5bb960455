"""What a user does in a replica's tree is never overwritten silently, and never leads outside of it."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ghostfs.content import BLOCK_SIZE
from ghostfs.errors import NodeHalted
from ghostfs.mirror import syscalls
from ghostfs.mirror.replica import executor
from ghostfs.model import ROOT

pytestmark = pytest.mark.allows_log("local_change_kept")

BIG = os.urandom(BLOCK_SIZE * 2 + 10)


@pytest.fixture
def tree(world: Any) -> Path:
    d = world.hub.mkdir(ROOT, b"d")
    world.d = d
    world.f = world.hub.file(d, b"f.txt", b"from the hub")
    world.big = world.hub.file(ROOT, b"big", BIG)
    world.node.sync(world.hub)
    return Path(world.node.tree)


def kept_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if ".conflict-node1-" in path.name)


def assert_kept(world: Any, published: Any, directory: Path, content: bytes) -> None:
    """One conflict copy with that content; apart from it, the hub's tree."""
    (kept,) = kept_in(directory)
    assert kept.read_bytes() == content
    (change,) = published.conflicts
    assert change.kept == bytes(kept.relative_to(world.node.tree))
    kept.unlink()
    mtime = {path: entry.mtime_ns for path, entry in world.hub.tree().items()}
    relative = b"/" + bytes(directory.relative_to(world.node.tree))
    relative = b"" if relative == b"/." else relative
    os.utime(directory, ns=(0, mtime[relative]))
    world.assert_equal()


def test_a_file_changed_in_place(world: Any, tree: Path) -> None:
    (tree / "d/f.txt").write_bytes(b"my own words")
    world.hub.write(world.f, b"newer from the hub")
    published = world.node.sync(world.hub)
    assert published.conflicts[0].path == b"d/f.txt"
    assert_kept(world, published, tree / "d", b"my own words")


def test_a_file_changed_to_the_same_size_and_time(world: Any, tree: Path) -> None:
    path = tree / "d/f.txt"
    before = path.stat()
    path.write_bytes(b"FROM THE HUB")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    world.hub.write(world.f, b"newer from the hub")
    assert_kept(world, world.node.sync(world.hub), tree / "d", b"FROM THE HUB")


def test_a_file_replaced_as_editors_do(world: Any, tree: Path) -> None:
    (tree / "d/new").write_bytes(b"my own words")
    (tree / "d/new").rename(tree / "d/f.txt")
    world.hub.write(world.f, b"newer from the hub")
    assert_kept(world, world.node.sync(world.hub), tree / "d", b"my own words")


def test_what_is_written_after_the_file_was_replaced(world: Any, tree: Path) -> None:
    world.hub.link(world.f, ROOT, b"further")
    world.node.sync(world.hub)
    with (tree / "d/f.txt").open("r+b") as writer:
        world.hub.write(world.f, b"newer from the hub")
        published = world.node.sync(world.hub)
        writer.write(b"my own")
    (kept,) = [tree / os.fsdecode(change.kept) for change in published.conflicts]
    assert kept.read_bytes() == b"my own" + b"from the hub"[6:]
    kept.unlink()
    world.hub.write(world.f, b"newest from the hub")
    assert world.node.sync(world.hub).conflicts == ()


def test_what_is_written_after_the_file_was_removed(world: Any, tree: Path) -> None:
    with (tree / "d/f.txt").open("r+b") as opened:
        writer = mmap.mmap(opened.fileno(), 6)  # is all that stays open
    with writer:
        world.hub.remove(world.d, b"f.txt")
        published = world.node.sync(world.hub)
        writer[:] = b"my own"
    assert [kept.read_bytes()[:6] for kept in kept_in(tree / "d")] == [b"my own"]
    assert len(published.conflicts) == 1


def test_a_file_that_is_read_is_replaced(world: Any, tree: Path) -> None:
    with (tree / "d/f.txt").open("rb"):
        world.hub.write(world.f, b"newer from the hub")
        assert world.node.sync(world.hub).conflicts == ()


@pytest.mark.allows_log("step_refused")
@pytest.mark.parametrize("change", ["write", "rename", "remove"])
def test_an_immutable_file_stops_no_other(world: Any, tree: Path, change: str, logged: Any) -> None:
    subprocess.run(["chattr", "+i", tree / "d/f.txt"], check=True)
    try:
        match change:
            case "write":
                world.hub.write(world.f, b"newer from the hub")
            case "rename":
                world.hub.rename(world.d, b"f.txt", ROOT, b"moved")
            case "remove":
                world.hub.remove(world.d, b"f.txt")
        world.hub.file(ROOT, b"unrelated", b"arrives")
        world.node.sync(world.hub)
        assert (tree / "unrelated").read_bytes() == b"arrives"
        assert (tree / "d/f.txt").read_bytes() == b"from the hub"
        assert logged.named("step_refused")
    finally:
        subprocess.run(["chattr", "-i", tree / "d/f.txt"], check=True)
    if change == "remove":
        (tree / "d/f.txt").unlink()
        os.utime(tree / "d", ns=(0, world.hub.tree()[b"/d"].mtime_ns))
    elif change == "write":
        world.hub.write(world.f, b"newest from the hub")
    else:
        world.hub.file(ROOT, b"another", b"")
    assert world.node.sync(world.hub).conflicts == ()
    world.assert_equal()


@pytest.mark.allows_log("step_refused", "owner_not_kept")
def test_a_directory_that_takes_nothing_in(world: Any, tree: Path) -> None:
    subprocess.run(["chattr", "+i", tree / "d"], check=True)
    try:
        new = world.hub.mkdir(world.d, b"new")
        world.hub.file(new, b"below", b"1")
        world.hub.rename(ROOT, b"big", new, b"big")
        world.hub.file(ROOT, b"unrelated", b"arrives")
        world.node.sync(world.hub)
        assert (tree / "unrelated").read_bytes() == b"arrives"
        assert (tree / "big").read_bytes() == BIG
        world.node.close()
    finally:
        subprocess.run(["chattr", "-i", tree / "d"], check=True)
    for batch in world.hub.chunks():
        published = world.node.apply(world.hub, batch)
    assert published.conflicts == ()
    world.assert_equal()


def test_a_touched_file_is_no_change(world: Any, tree: Path) -> None:
    (tree / "d/f.txt").touch()
    world.hub.write(world.f, b"newer from the hub")
    assert world.node.sync(world.hub).conflicts == ()
    world.assert_equal()


def test_the_same_change_on_both_sides_is_no_conflict(world: Any, tree: Path) -> None:
    (tree / "d/f.txt").write_bytes(b"newer from the hub")
    (tree / "new").write_bytes(b"also the same")
    world.hub.write(world.f, b"newer from the hub")
    world.hub.file(ROOT, b"new", b"also the same")
    assert world.node.sync(world.hub).conflicts == ()
    world.assert_equal()


def test_a_file_that_changes_while_it_is_exchanged(
    world: Any, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(olddir: int, old: bytes, newdir: int, new: bytes, flags: int = 0) -> None:
        if flags == syscalls.RENAME_EXCHANGE:
            (tree / "d/f.txt").write_bytes(b"written at the last moment")
        syscalls.renameat2(olddir, old, newdir, new, flags)

    monkeypatch.setattr(executor, "renameat2", rename)
    world.hub.write(world.f, b"newer from the hub")
    assert_kept(world, world.node.sync(world.hub), tree / "d", b"written at the last moment")


def test_a_changed_file_that_the_hub_removes(world: Any, tree: Path) -> None:
    (tree / "d/f.txt").write_bytes(b"my own words")
    world.hub.remove(world.d, b"f.txt")
    assert_kept(world, world.node.sync(world.hub), tree / "d", b"my own words")


def test_a_changed_file_that_another_one_takes_the_name_of(world: Any, tree: Path) -> None:
    (tree / "d/f.txt").write_bytes(b"my own words")
    world.hub.rename(ROOT, b"big", world.d, b"f.txt")
    assert_kept(world, world.node.sync(world.hub), tree / "d", b"my own words")


def test_a_changed_file_moves_along(world: Any, tree: Path) -> None:
    (tree / "d/f.txt").write_bytes(b"my own words")
    world.hub.rename(world.d, b"f.txt", ROOT, b"g.txt")
    world.hub.chmod(world.f, 0o600)
    assert world.node.sync(world.hub).conflicts == ()
    assert (tree / "g.txt").read_bytes() == b"my own words"
    world.hub.write(world.f, b"newer from the hub")
    assert_kept(world, world.node.sync(world.hub), tree, b"my own words")


@pytest.mark.parametrize("content", [b"small", BIG])
def test_an_untracked_file_where_a_new_one_goes(world: Any, tree: Path, content: bytes) -> None:
    (tree / "d/new").write_bytes(b"untracked")
    world.hub.file(world.d, b"new", content)
    assert_kept(world, world.node.sync(world.hub), tree / "d", b"untracked")


def test_an_untracked_file_where_one_is_moved(world: Any, tree: Path) -> None:
    (tree / "moved").write_bytes(b"untracked")
    world.hub.rename(world.d, b"f.txt", ROOT, b"moved")
    assert_kept(world, world.node.sync(world.hub), tree, b"untracked")


def test_an_untracked_file_where_a_directory_goes(world: Any, tree: Path) -> None:
    (tree / "sub").write_bytes(b"untracked")
    sub = world.hub.mkdir(ROOT, b"sub")
    world.hub.file(sub, b"x", b"x")
    assert_kept(world, world.node.sync(world.hub), tree, b"untracked")


def test_an_untracked_directory_is_merged_with_a_new_one(world: Any, tree: Path) -> None:
    (tree / "sub").mkdir()
    (tree / "sub/mine").write_bytes(b"mine")
    sub = world.hub.mkdir(ROOT, b"sub", 0o750)
    world.hub.file(sub, b"x", b"x")
    assert world.node.sync(world.hub).conflicts == ()
    assert (tree / "sub/mine").read_bytes() == b"mine"
    world.hub.write(world.hub.index.dirent(sub, b"x"), b"y")
    world.node.sync(world.hub)
    (tree / "sub/mine").unlink()
    world.hub.mkdir(sub, b"z")
    world.node.sync(world.hub)
    world.assert_equal()


def test_an_untracked_directory_where_a_file_goes(world: Any, tree: Path) -> None:
    (tree / "new").mkdir()
    (tree / "new/mine").write_bytes(b"mine")
    world.hub.file(ROOT, b"new", b"x")
    (change,) = world.node.sync(world.hub).conflicts
    assert (tree / os.fsdecode(change.kept) / "mine").read_bytes() == b"mine"
    shutil.rmtree(tree / os.fsdecode(change.kept))
    os.utime(tree, ns=(0, world.hub.tree()[b""].mtime_ns))
    world.assert_equal()


def test_a_removed_directory_with_untracked_files(world: Any, tree: Path) -> None:
    (tree / "d/mine").write_bytes(b"mine")
    world.hub.remove(world.d, b"f.txt")
    world.hub.remove(ROOT, b"d")
    (change,) = world.node.sync(world.hub).conflicts
    assert change.path == b"d"
    assert sorted(os.listdir(tree)) == sorted(["big", os.fsdecode(change.kept)])
    assert os.listdir(tree / os.fsdecode(change.kept)) == ["mine"]


def test_a_removed_directory_with_a_changed_file(world: Any, tree: Path) -> None:
    (tree / "d/f.txt").write_bytes(b"my own words")
    world.hub.remove(world.d, b"f.txt")
    world.hub.remove(ROOT, b"d")
    changes = world.node.sync(world.hub).conflicts
    assert [change.path for change in changes] == [b"d/f.txt", b"d"]
    (kept,) = (tree / os.fsdecode(changes[1].kept)).iterdir()
    assert kept.read_bytes() == b"my own words"


def test_a_deleted_file_comes_back_with_its_next_version(world: Any, tree: Path) -> None:
    (tree / "d/f.txt").unlink()
    (tree / "big").unlink()
    world.hub.chmod(world.f, 0o600)
    world.hub.chmod(world.big, 0o600)
    assert world.node.sync(world.hub).conflicts == ()
    assert not (tree / "d/f.txt").exists()
    world.hub.write(world.f, b"newer")
    world.hub.write(world.big, BIG + b"x")
    world.node.sync(world.hub)
    world.assert_equal()


def test_a_deleted_file_that_the_hub_moves_or_removes(world: Any, tree: Path) -> None:
    (tree / "d/f.txt").unlink()
    (tree / "big").unlink()
    world.hub.rename(world.d, b"f.txt", ROOT, b"g")
    world.hub.link(world.f, ROOT, b"h")
    world.hub.remove(ROOT, b"big")
    assert world.node.sync(world.hub).conflicts == ()
    world.hub.write(world.f, b"newer")
    world.node.sync(world.hub)
    world.assert_equal()


def test_a_deleted_directory_comes_back_with_what_is_put_in_it(world: Any, tree: Path) -> None:
    sub = world.hub.mkdir(world.d, b"sub")
    world.node.sync(world.hub)
    shutil.rmtree(tree / "d")
    world.hub.file(sub, b"x", b"x")
    world.hub.write(world.f, b"newer")
    world.node.sync(world.hub)
    world.assert_equal()
    world.hub.rename(world.d, b"sub", ROOT, b"sub")
    world.hub.remove(world.d, b"f.txt")
    world.hub.remove(ROOT, b"d")
    world.node.sync(world.hub)
    world.assert_equal()


def test_a_symlink_in_the_place_of_a_directory_is_not_followed(
    world: Any, tree: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f.txt").write_bytes(b"not yours")
    (outside / "f.txt").chmod(0o600)
    before = (outside / "f.txt").stat(), outside.stat()
    shutil.rmtree(tree / "d")
    (tree / "d").symlink_to(outside)
    world.hub.write(world.f, b"newer")
    world.hub.file(world.d, b"g", b"g")
    (change,) = world.node.sync(world.hub).conflicts
    assert (tree / os.fsdecode(change.kept)).readlink() == outside
    assert before == ((outside / "f.txt").stat(), outside.stat())
    assert os.listdir(outside) == ["f.txt"]
    (tree / os.fsdecode(change.kept)).unlink()
    os.utime(tree, ns=(0, world.hub.tree()[b""].mtime_ns))
    world.assert_equal()


def test_a_deep_tree_that_was_deleted_comes_back(world: Any, tree: Path) -> None:
    directory = world.d
    for _ in range(1100):
        directory = world.hub.mkdir(directory, b"d")
    deep = world.hub.file(directory, b"f", b"1")
    world.node.sync(world.hub)
    subprocess.run(["rm", "-r", tree / "d/d"], check=True)
    world.hub.write(deep, b"2")
    world.node.sync(world.hub)
    assert world.node.replica.fingerprint() == world.hub.index.fingerprint()
    found = subprocess.run(["find", tree / "d/d", "-name", "f"], check=True, capture_output=True)
    assert found.stdout.count(b"/d") == 1101
    subprocess.run(["rm", "-r", tree / "d/d"], check=True)


@pytest.mark.parametrize("change", ["chmod", "write", "remove", "rename"])
def test_a_symlink_in_the_place_of_a_file_is_not_followed(
    world: Any, tree: Path, tmp_path: Path, change: str
) -> None:
    outside = tmp_path / "precious"
    outside.write_bytes(b"from the hub")  # even the same content
    outside.chmod(0o644)
    before = outside.stat()
    (tree / "d/f.txt").unlink()
    (tree / "d/f.txt").symlink_to(outside)
    match change:
        case "chmod":
            world.hub.chmod(world.f, 0o777)
        case "write":
            world.hub.write(world.f, b"newer")
        case "remove":
            world.hub.remove(world.d, b"f.txt")
        case _:
            world.hub.rename(world.d, b"f.txt", ROOT, b"g")
    world.node.sync(world.hub)
    assert outside.read_bytes() == b"from the hub"
    after = outside.stat()
    assert (before.st_ino, before.st_mode, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_ino,
        after.st_mode,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )
    links = [path for path in [*tree.iterdir(), *(tree / "d").iterdir()] if path.is_symlink()]
    assert [link.readlink() for link in links] == [outside]


def test_a_changed_old_version_is_no_donor(world: Any, tree: Path) -> None:
    changed = bytearray(BIG)
    changed[0] ^= 1
    before = (tree / "big").stat()
    mine = bytearray(BIG)
    mine[BLOCK_SIZE] ^= 1
    (tree / "big").write_bytes(mine)
    os.utime(tree / "big", ns=(before.st_atime_ns, before.st_mtime_ns))
    world.node.fetched = 0
    world.hub.write(world.big, bytes(changed))
    published = world.node.sync(world.hub)
    assert world.node.fetched == 2
    assert_kept(world, published, tree, bytes(mine))


def test_a_root_that_vanished_or_was_emptied_or_exchanged(world: Any, tree: Path) -> None:
    world.hub.write(world.f, b"newer")
    batch = world.hub.delta(world.node.replica.position().cursor.seq)
    aside = tree.with_name("aside")
    tree.rename(aside)
    with pytest.raises(NodeHalted, match="vanished"):
        world.node.replica.begin(batch)
    tree.mkdir()
    with pytest.raises(NodeHalted, match="another directory"):
        world.node.replica.begin(batch)
    world.node.close()
    with pytest.raises(NodeHalted, match="--adopt-root"):
        world.node.sync(world.hub)
    tree.rmdir()
    with pytest.raises(NodeHalted, match="vanished"):
        world.node.sync(world.hub)
    aside.rename(tree)
    world.node.sync(world.hub)
    world.assert_equal()
    for path in tree.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    world.hub.write(world.f, b"newest")
    with pytest.raises(NodeHalted, match="emptied"):
        world.node.sync(world.hub)
    world.node.close()
    with pytest.raises(NodeHalted, match="emptied"):
        world.node.sync(world.hub)


@pytest.mark.allows_log("root_adopted", "index_set_aside")
def test_an_emptied_root_is_filled_again_when_told_so(world: Any, tree: Path) -> None:
    world.node.close()
    for path in tree.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    world.node.adopt = True
    world.node.sync(world.hub)
    world.assert_equal()


def test_a_directory_with_files_is_refused_unless_adopted(world: Any) -> None:
    d = world.hub.mkdir(ROOT, b"d")
    sub = world.hub.mkdir(d, b"sub")
    world.hub.file(sub, b"same", BIG)
    world.hub.file(d, b"other", b"the hub's")
    tree = world.node.tree
    (tree / "d/sub").mkdir(parents=True)
    (tree / "d/sub/same").write_bytes(BIG)
    (tree / "d/other").write_bytes(b"mine")
    (tree / "own").write_bytes(b"own")
    with pytest.raises(NodeHalted, match="--adopt-root"):
        world.node.sync(world.hub)
    world.node.adopt = True
    published = world.node.sync(world.hub)
    assert world.node.fetched == 0
    assert (tree / "own").read_bytes() == b"own"
    (tree / "own").unlink()
    os.utime(tree, ns=(0, world.hub.tree()[b""].mtime_ns))
    (kept,) = kept_in(tree / "d")
    assert kept.read_bytes() == b"mine"
    assert published.position.cursor is not None
    kept.unlink()
    os.utime(tree / "d", ns=(0, world.hub.tree()[b"/d"].mtime_ns))
    world.assert_equal()
