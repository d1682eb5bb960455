"""A file of the tree that is gone or cannot be read keeps nothing else back: it alone is parked."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ghostfs.content import BLOCK_SIZE, BlockList
from ghostfs.daemon.hub import HubServer
from ghostfs.errors import Superseded
from ghostfs.index import Index
from ghostfs.mesh.blocks import BlockReader, BlockUnavailable
from ghostfs.mesh.compression import Compressor
from ghostfs.mesh.fetchserver import FetchServer
from ghostfs.mesh.follower import Follower, FollowerSettings
from ghostfs.mesh.hubservice import HubSettings
from ghostfs.mesh.indexpool import IndexPool
from ghostfs.mesh.link import Link
from ghostfs.mesh.workers import Workers
from ghostfs.mirror.layout import DataDir
from ghostfs.mirror.replica.replica import Replica, ReplicaSettings
from ghostfs.model import ROOT, InodeId
from ghostfs.v1 import mesh_pb2 as pb

FAST = FollowerSettings(reconnect_min=0.01, reconnect_max=0.05)
PATIENCE = 0.2
"""Seconds; long enough for a few tries."""


class Disk:
    """Some inodes of it cannot be read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bad: set[int] = set()
        self.tries = 0
        self._pread = os.pread
        monkeypatch.setattr(os, "pread", self._read)

    def _read(self, fd: int, length: int, offset: int) -> bytes:
        if self.bad and os.fstat(fd).st_ino in self.bad:
            self.tries += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._pread(fd, length, offset)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


class Copy:
    """A real copy of the session, and the node that follows it."""

    def __init__(self, folder: Path) -> None:
        self.layout = DataDir(folder / "data").replica("work", folder / "root")
        self.layout.state.mkdir(parents=True)
        (folder / "root").mkdir()
        self.tree = self.layout.tree

    @property
    def seq(self) -> int:
        """How far it is; 0 before anything is complete."""
        with suppress(FileNotFoundError), Index.open(self.layout.index_db, readonly=True) as index:
            cursor = index.cursor()
            return cursor.seq if cursor is not None and index.snapshot() is None else 0
        return 0

    @property
    def parked(self) -> int:
        with Index.open(self.layout.index_db, readonly=True) as index:
            return len(index.parked())

    def names(self) -> list[str]:
        return sorted(path.name for path in self.tree.iterdir())

    @asynccontextmanager
    async def following(self, data: DataDir) -> AsyncIterator[None]:
        """With a hub that is there meanwhile."""
        server = HubServer(data, HubSettings(read_threads=2, patience=PATIENCE))
        port = await server.start("127.0.0.1:0")
        link = Link(f"127.0.0.1:{port}", bytes(range(16)), "n1", reconnect_min=0.01, reconnect_max=0.05)
        settings = ReplicaSettings("n1")
        follower = Follower("work", link, lambda: Replica.open(self.layout, settings), FAST)
        task = asyncio.create_task(follower.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            await link.close()
            await server.stop()


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "node")


def commit_another(session: Any, name: str) -> None:
    """A file more, and not a look at anything else."""
    (session.tree / name).write_bytes(b"later")
    inode = session._inode(InodeId(session.index.allocate_ids(1)[0]), session.tree / name)
    session._ids[inode.backing.ino, inode.kind] = inode.id
    with session.index.commit() as commit:
        commit.put_inode(inode, attrs=True, content=True)
        commit.put_dirent(ROOT, name.encode(), inode.id)


@pytest.mark.allows_log("file_unreadable")
@pytest.mark.parametrize("size", [5, 3 * BLOCK_SIZE], ids=["small", "large"])
@pytest.mark.parametrize("trouble", ["gone", "directory gone", "another in its place", "bad sector"])
def test_one_file_keeps_nothing_else_back(
    data: Any,
    session: Any,
    copy: Copy,
    run: Any,
    until: Any,
    logged: Any,
    disk: Disk,
    trouble: str,
    size: int,
) -> None:
    folder = session.tree / "folder"
    folder.mkdir()
    (session.tree / "a").write_bytes(b"first")
    (folder / "b").write_bytes(os.urandom(size))
    (session.tree / "c").write_bytes(b"last")
    session.sync()
    ino = (folder / "b").stat().st_ino
    if trouble == "bad sector":
        disk.bad.add(ino)
    else:
        (folder / "b").rename(session.layout.state / "out of the tree")
        if trouble == "directory gone":
            folder.rmdir()
        if trouble == "another in its place":
            (folder / "b").write_bytes(b"of which nobody knows")

    async def scenario() -> None:
        async with copy.following(data):
            await until(lambda: copy.seq == session.index.head())
            assert ((copy.tree / "a").read_bytes(), (copy.tree / "c").read_bytes()) == (b"first", b"last")
            assert copy.names() == ["a", "c", "folder"]
            assert copy.parked == 1
            # What comes later comes all the same, and the file when it is written anew.
            commit_another(session, "d")
            await until(lambda: copy.seq == session.index.head())
            assert (copy.tree / "d").read_bytes() == b"later"
            assert copy.parked == 1
            disk.bad.discard(ino)
            folder.mkdir(exist_ok=True)
            (folder / "b").unlink(missing_ok=True)
            (folder / "b").write_bytes(b"anew")
            session.sync()
            await until(lambda: copy.seq == session.index.head())
            assert (copy.tree / "folder" / "b").read_bytes() == b"anew"
            assert copy.parked == 0

    run(scenario())
    reason = "Input/output error" if trouble == "bad sector" else "it is not where the index says"
    said = [(line["path"], line["error"]) for line in logged.named("file_unreadable")]
    assert said == [("folder/b", reason)]


def wanted(session: Any, path: str) -> tuple[InodeId, int, bytes]:
    """Its first block."""
    inode = session.id_of(path)
    row = session.index.inode(inode)
    digest = BlockList.decode(row.size, row.blocks).get(0)
    assert digest is not None
    return inode, 0, digest


@contextmanager
def reading(session: Any, patience: float) -> Iterator[BlockReader]:
    pool = IndexPool(session.layout.index_db, session.name)
    with BlockReader(session.layout, pool, patience=patience) as reader:
        yield reader
    pool.close()


def answers(session: Any, wants: list[tuple[InodeId, int, bytes]], patience: float) -> list[int]:
    """How many blocks of one request are read, and how many superseded; all are answered."""

    async def fetch() -> list[int]:
        request = pb.FetchRequest(
            session="work", wants=[pb.Want(inode=i, index=n, digest=digest) for i, n, digest in wants]
        )
        workers = Workers("test-read", 1)
        pool = IndexPool(session.layout.index_db, session.name)
        reader = BlockReader(session.layout, pool, patience=patience)
        turns = FetchServer(workers).turns(request, reader, Compressor(enabled=False))
        counts = [(turn.blocks, turn.superseded) async for turn in turns]
        pool.close()
        workers.close()
        return [sum(count) for count in zip(*counts, strict=True)]

    return asyncio.run(fetch())


@pytest.mark.allows_log("file_unreadable")
def test_all_that_are_gone_are_waited_for_at_once(session: Any) -> None:
    (session.tree / "d").mkdir()
    for number in range(64):
        (session.tree / "d" / f"f{number}").write_bytes(b"data %d" % number)
    (session.tree / "z").write_bytes(b"data")
    session.sync()
    wants = [wanted(session, f"d/f{number}") for number in range(64)] + [wanted(session, "z")]
    (session.tree / "d").rename(session.layout.state / "out of the tree")
    begun = time.monotonic()
    assert answers(session, wants, 0.5) == [1, 64]
    assert time.monotonic() - begun < 64 * 0.5 / 4


@pytest.mark.allows_log("file_unreadable")
def test_bad_sectors_are_tried_a_few_times(session: Any, disk: Disk) -> None:
    for number in range(20):
        (session.tree / f"f{number}").write_bytes(b"data %d" % number)
    (session.tree / "large").write_bytes(os.urandom(20 * BLOCK_SIZE))
    session.sync()
    row = session.index.inode(session.id_of("large"))
    blocks = BlockList.decode(row.size, row.blocks).data_blocks()
    wants = [wanted(session, f"f{number}") for number in range(20)]
    wants += [(row.id, number, digest) for number, digest in blocks]
    disk.bad.update(path.stat().st_ino for path in session.tree.iterdir() if path.name != "f7")
    assert answers(session, wants, 3600.0) == [1, 39]
    # A drive takes long for each: none of the large file's other blocks is tried.
    assert 40 <= disk.tries <= 20 * 8


def test_tries_are_counted_anew_after_one_that_succeeded(session: Any, disk: Disk) -> None:
    (session.tree / "f").write_bytes(b"data")
    session.sync()
    want = wanted(session, "f")
    ino = (session.tree / "f").stat().st_ino
    with reading(session, 3600.0) as reader:
        for _ in range(3):
            disk.bad.add(ino)
            for _ in range(2):
                with pytest.raises(BlockUnavailable):
                    reader.read(*want)
            disk.bad.discard(ino)
            assert reader.read(*want) == b"data"


def test_a_process_out_of_descriptors_says_nothing_of_its_files(session: Any) -> None:
    (session.tree / "d").mkdir()
    (session.tree / "d" / "f").write_bytes(b"data")
    session.sync()
    want = wanted(session, "d/f")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with reading(session, 0.0) as reader:
        assert reader.read(*want) == b"data"
        reader.close()
        free = os.dup(0)
        os.close(free)
        for more in range(3):
            # No room for the tree itself, for the directory, for the file.
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, hard))
            try:
                with pytest.raises(BlockUnavailable):
                    reader.read(*want)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            reader.close()
        assert reader.read(*want) == b"data"


@pytest.mark.allows_log("file_unreadable")
def test_a_tree_that_is_away_says_nothing_of_its_files(session: Any) -> None:
    (session.tree / "f").write_bytes(b"data")
    session.sync()
    want = wanted(session, "f")
    with reading(session, 0.0) as reader:
        (session.tree / "f").rename(session.tree / "g")
        with pytest.raises(Superseded):
            reader.read(*want)
    (session.tree / "g").rename(session.tree / "f")
    with reading(session, 0.0) as reader:
        assert reader.read(*want) == b"data"
        away = session.tree.rename(session.layout.state / "away")
        reader.close()
        with pytest.raises(BlockUnavailable):
            reader.read(*want)
        away.rename(session.tree)
        assert reader.read(*want) == b"data"
