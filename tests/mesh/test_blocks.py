"""Blocks out of a living tree: right content, superseded, or try again, and never anything else."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ghostfs.content import BLOCK_SIZE, BlockList, block_digest
from ghostfs.errors import Superseded
from ghostfs.mesh.blocks import BlockReader, BlockUnavailable
from ghostfs.mesh.indexpool import IndexPool
from ghostfs.mesh.unreadable import Unreadable
from ghostfs.mirror.layout import DataDir
from ghostfs.model import ROOT, Inode, InodeId, Kind

NOBODY = 65534


@pytest.fixture
def reader(session: Any) -> Iterator[BlockReader]:
    pool = IndexPool(session.layout.index_db, session.name)
    with BlockReader(session.layout, pool) as reader:
        yield reader
    pool.close()


def digests(session: Any, path: str) -> BlockList:
    row = session.index.inode(session.id_of(path))
    return BlockList.decode(row.size, row.blocks)


def test_every_block_of_a_file(session: Any, reader: BlockReader) -> None:
    data = os.urandom(2 * BLOCK_SIZE + 5)
    (session.tree / "d" / "e").mkdir(parents=True)
    (session.tree / "d" / "e" / "f").write_bytes(data)
    session.sync()
    for index, digest in digests(session, "d/e/f").data_blocks():
        block = reader.read(session.id_of("d/e/f"), index, digest)
        assert block == data[index * BLOCK_SIZE :][:BLOCK_SIZE]


def test_a_committed_newer_version_is_superseded(session: Any, reader: BlockReader) -> None:
    (session.tree / "f").write_bytes(b"old")
    session.sync()
    old = digests(session, "f").get(0)
    assert reader.read(session.id_of("f"), 0, old) == b"old"
    (session.tree / "f").write_bytes(b"newer")
    session.sync()
    with pytest.raises(Superseded):
        reader.read(session.id_of("f"), 0, old)


def test_an_uncommitted_newer_version_is_superseded(session: Any, reader: BlockReader) -> None:
    (session.tree / "f").write_bytes(b"old")
    session.sync()
    (session.tree / "f").write_bytes(b"newer")
    with pytest.raises(Superseded):
        reader.read(session.id_of("f"), 0, digests(session, "f").get(0))


def test_what_was_appended_does_not_spoil_the_block_before(session: Any, reader: BlockReader) -> None:
    (session.tree / "f").write_bytes(b"old")
    session.sync()
    with (session.tree / "f").open("ab") as file:
        file.write(b" and more")
    assert reader.read(session.id_of("f"), 0, digests(session, "f").get(0)) == b"old"


def test_a_removed_file_is_superseded_once_that_is_committed(session: Any, reader: BlockReader) -> None:
    (session.tree / "f").write_bytes(b"data")
    session.sync()
    inode, digest = session.id_of("f"), digests(session, "f").get(0)
    (session.tree / "f").unlink()
    with pytest.raises(BlockUnavailable):
        reader.read(inode, 0, digest)
    session.sync()
    with pytest.raises(Superseded):
        reader.read(inode, 0, digest)


def test_an_uncommitted_rename_is_not_superseded(session: Any, reader: BlockReader) -> None:
    (session.tree / "d").mkdir()
    (session.tree / "d" / "f").write_bytes(b"data")
    session.sync()
    inode, digest = session.id_of("d/f"), digests(session, "d/f").get(0)
    (session.tree / "d").rename(session.tree / "moved")
    with pytest.raises(BlockUnavailable):
        reader.read(inode, 0, digest)
    session.sync()
    assert reader.read(inode, 0, digest) == b"data"


def test_another_file_at_the_path_proves_nothing(session: Any, reader: BlockReader) -> None:
    (session.tree / "f").write_bytes(b"data")
    session.sync()
    inode, digest = session.id_of("f"), digests(session, "f").get(0)
    (session.tree / "f").rename(session.tree / "g")
    (session.tree / "f").write_bytes(b"else")
    with pytest.raises(BlockUnavailable):
        reader.read(inode, 0, digest)
    session.sync()
    assert reader.read(inode, 0, digest) == b"data"


def test_any_of_several_links_will_do(session: Any, reader: BlockReader) -> None:
    (session.tree / "a").write_bytes(b"data")
    os.link(session.tree / "a", session.tree / "b")
    session.sync()
    inode, digest = session.id_of("a"), digests(session, "a").get(0)
    (session.tree / "a").unlink()
    assert reader.read(inode, 0, digest) == b"data"


def test_the_spool_has_the_version_that_was_hashed(session: Any, reader: BlockReader) -> None:
    (session.tree / "f").write_bytes(b"hashed")
    session.sync()
    session.layout.spool.mkdir()
    (session.layout.spool / block_digest(b"hashed").hex()).write_bytes(b"hashed")
    (session.layout.spool / block_digest(b"spoilt").hex()).write_bytes(b"else")
    (session.tree / "f").write_bytes(b"newer")
    assert reader.read(session.id_of("f"), 0, block_digest(b"hashed")) == b"hashed"
    with pytest.raises(Superseded):
        reader.read(session.id_of("f"), 0, block_digest(b"spoilt"))


def test_symlinks_are_never_followed(session: Any, reader: BlockReader, tmp_path: Any) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "f").write_bytes(b"data")
    (session.tree / "d").mkdir()
    (session.tree / "d" / "f").write_bytes(b"data")
    (session.tree / "g").write_bytes(b"data")
    session.sync()
    inode, other, digest = session.id_of("d/f"), session.id_of("g"), digests(session, "d/f").get(0)
    (session.tree / "d").rename(tmp_path / "away")
    (session.tree / "d").symlink_to(tmp_path / "secret")
    (session.tree / "g").unlink()
    (session.tree / "g").symlink_to(tmp_path / "secret" / "f")
    for id_ in (inode, other):
        with pytest.raises(BlockUnavailable):
            reader.read(id_, 0, digest)


def test_a_fifo_in_the_way_does_not_block(session: Any, reader: BlockReader) -> None:
    (session.tree / "f").write_bytes(b"data")
    session.sync()
    inode, digest = session.id_of("f"), digests(session, "f").get(0)
    (session.tree / "f").unlink()
    os.mkfifo(session.tree / "f")
    with pytest.raises(BlockUnavailable):
        reader.read(inode, 0, digest)


def test_a_tree_deeper_than_any_path(session: Any, reader: BlockReader) -> None:
    name = "n" * 200
    fd = os.open(session.tree, os.O_PATH)
    for _ in range(30):
        os.mkdir(name, dir_fd=fd)
        deeper = os.open(name, os.O_PATH | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    file = os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.write(file, b"deep")
    os.close(file)
    os.close(fd)
    inode = commit_chain(session, name.encode(), 30, b"deep")
    assert reader.read(inode, 0, block_digest(b"deep")) == b"deep"
    subprocess.run(["rm", "-rf", session.tree / name], check=True)


def commit_chain(session: Any, name: bytes, depth: int, data: bytes) -> Any:
    """Cells of a chain of directories with one file at its end, which no path can name."""
    parent = ROOT
    ids = iter(session.index.allocate_ids(depth + 1))
    blocks = BlockList(len(data), {0: block_digest(data)})
    with session.index.commit() as commit:
        for _ in range(depth):
            inode = next(ids)
            commit.put_inode(Inode(inode, Kind.DIRECTORY, 0o755, 0, 0, 0), attrs=True, content=True)
            commit.put_dirent(parent, name, inode)
            parent = inode
        inode = next(ids)
        cell = Inode(
            inode, Kind.FILE, 0o644, 0, 0, 0, size=len(data), digest=blocks.digest(), blocks=blocks.encode()
        )
        commit.put_inode(cell, attrs=True, content=True)
        commit.put_dirent(parent, b"f", inode)
    return inode


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without any rights meanwhile."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def own(session: Any) -> Iterator[Any]:
    """A session at a place that everybody can get to, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="ghostfs-test-") as place:
        Path(place).chmod(0o755)
        made = type(session)(DataDir(Path(place) / "data"), "work")
        yield made
        made.index.close()


def read_as_nobody(session: Any, inode: InodeId, digest: Any, unreadable: Unreadable) -> bytes:
    """One block, by a reader of a user who owns the tree and has no rights beside."""
    pool = IndexPool(session.layout.index_db, session.name)
    try:
        with as_nobody(), BlockReader(session.layout, pool, unreadable) as reader:
            return reader.read(inode, 0, digest)
    finally:
        pool.close()


def owned_by_nobody(session: Any) -> None:
    """As far as it is there now."""
    subprocess.run(["chown", "-R", str(NOBODY), session.layout.state], check=True)


def test_access_times_of_ones_own_files_stand_whosever_others_are(
    own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: dict[object, int] = {}
    real_open = os.open

    def noted(path: Any, how: int, *args: Any, **kwargs: Any) -> int:
        fd = real_open(path, how, *args, **kwargs)
        flags[path] = how
        return fd

    for name in ("another's", "own"):
        (own.tree / name).write_bytes(name.encode())
    own.sync()
    owned_by_nobody(own)
    os.chown(own.tree / "another's", 0, 0)
    pool = IndexPool(own.layout.index_db, own.name)
    monkeypatch.setattr(os, "open", noted)
    with as_nobody(), BlockReader(own.layout, pool) as reader:
        for name in ("another's", "own"):
            digest = digests(own, name).get(0)
            assert reader.read(own.id_of(name), 0, digest) == name.encode()
    pool.close()
    assert not flags[b"another's"] & os.O_NOATIME
    assert flags[b"own"] & os.O_NOATIME


@pytest.mark.parametrize("mode", [0, 0o200])
def test_what_may_not_be_read_is_superseded_and_said_once(own: Any, mode: int) -> None:
    (own.tree / "f").write_bytes(b"secret")
    own.sync()
    owned_by_nobody(own)
    (own.tree / "f").chmod(mode)
    inode, digest, unreadable = own.id_of("f"), digests(own, "f").get(0), Unreadable(own.name)
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(Superseded):
                read_as_nobody(own, inode, digest, unreadable)
    assert [(log["event"], log["path"], log["error"]) for log in logs] == [
        ("file_unreadable", "f", "Permission denied")
    ]
    (own.tree / "f").chmod(0o600)
    assert read_as_nobody(own, inode, digest, unreadable) == b"secret"
    (own.tree / "f").chmod(mode)
    with capture_logs() as logs, pytest.raises(Superseded):
        read_as_nobody(own, inode, digest, unreadable)
    assert len(logs) == 1


def test_what_lies_in_a_closed_directory_is_superseded_but_for_another_link(own: Any) -> None:
    (own.tree / "d" / "e").mkdir(parents=True)
    (own.tree / "d" / "e" / "f").write_bytes(b"in")
    (own.tree / "d" / "e" / "g").write_bytes(b"out")
    os.link(own.tree / "d" / "e" / "g", own.tree / "z")
    own.sync()
    owned_by_nobody(own)
    (own.tree / "d").chmod(0)
    unreadable = Unreadable(own.name)
    with capture_logs() as logs, pytest.raises(Superseded):
        read_as_nobody(own, own.id_of("d/e/f"), digests(own, "d/e/f").get(0), unreadable)
    assert [log["path"] for log in logs] == ["d/e/f"]
    assert read_as_nobody(own, own.id_of("z"), digests(own, "z").get(0), unreadable) == b"out"


def test_another_forbidden_thing_in_the_way_proves_nothing(own: Any) -> None:
    (own.tree / "d").mkdir()
    (own.tree / "d" / "f").write_bytes(b"in")
    (own.tree / "g").write_bytes(b"beside")
    own.sync()
    within, beside = own.id_of("d/f"), own.id_of("g")
    wanted = {within: digests(own, "d/f").get(0), beside: digests(own, "g").get(0)}
    (own.tree / "d").rename(own.tree / "moved")
    (own.tree / "g").rename(own.tree / "gone")
    (own.tree / "d").mkdir()
    (own.tree / "g").write_bytes(b"other")
    owned_by_nobody(own)
    for name in ("d", "g"):
        (own.tree / name).chmod(0)
    with capture_logs() as logs:
        for inode, digest in wanted.items():
            with pytest.raises(BlockUnavailable):
                read_as_nobody(own, inode, digest, Unreadable(own.name))
    assert logs == []


def test_the_spool_has_what_may_not_be_read(own: Any) -> None:
    (own.tree / "f").write_bytes(b"hashed")
    own.sync()
    own.layout.spool.mkdir()
    digest = block_digest(b"hashed")
    (own.layout.spool / digest.hex()).write_bytes(b"hashed")
    owned_by_nobody(own)
    (own.tree / "f").chmod(0)
    with capture_logs() as logs:
        assert read_as_nobody(own, own.id_of("f"), digest, Unreadable(own.name)) == b"hashed"
    assert logs == []


def test_a_tree_that_is_out_of_reach_is_no_trouble_of_its_files(own: Any) -> None:
    (own.tree / "f").write_bytes(b"data")
    own.sync()
    inode, digest = own.id_of("f"), digests(own, "f").get(0)
    kept = own.layout.tree.rename(own.layout.state / "kept")
    own.layout.tree.symlink_to(own.layout.state / "shut" / "tree")
    (own.layout.state / "shut").mkdir()
    owned_by_nobody(own)
    kept.rename(own.layout.state / "shut" / "tree")
    (own.layout.state / "shut").chmod(0)
    with capture_logs() as logs, pytest.raises(BlockUnavailable):
        read_as_nobody(own, inode, digest, Unreadable(own.name))
    assert logs == []


def test_a_great_many_are_not_all_named() -> None:
    unreadable = Unreadable("work")
    with capture_logs() as logs:
        for number in range(2, 500):
            unreadable.add(InodeId(number), f"f{number}", "Permission denied")
    assert [log["event"] for log in logs] == ["file_unreadable"] * 100 + ["more_files_unreadable"]
