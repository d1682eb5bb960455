"""A hub's session made of real files and a real index, and a replica that lives in memory.

`MadeSession.sync` is a mirror's capture in miniature: it looks at the whole tree and commits what changed.
`MemoryReplica` keeps the promises of `Replicating` with dicts, so that what is tested is the mesh alone.
"""

from __future__ import annotations

import asyncio
import gc
import os
import stat
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ghostfs.content import BLOCK_SIZE, BlockList, block_digest, scan
from ghostfs.errors import InvalidCell
from ghostfs.index import Index, set_aside
from ghostfs.index.fingerprint import dirent_term, inode_term
from ghostfs.mirror.layout import DataDir
from ghostfs.mirror.replica.batch import Batch, Position, Published, Want, checked
from ghostfs.model import ROOT, Backing, Cursor, Inode, InodeId, Kind, kind_of_mode

Tree = dict[bytes, tuple[Kind, int, bytes]]
"""Path → kind, mode, and content or target."""


class MadeSession:
    """A session in a hub's data directory, without a mount."""

    def __init__(self, data: DataDir, name: str) -> None:
        self.name = name
        self.layout = data.session(name)
        self.layout.tree.mkdir(parents=True)
        self.tree = self.layout.tree
        self.index = Index.create(self.layout.index_db)
        self._ids: dict[tuple[int, Kind], InodeId] = {}
        self.sync()

    def new_index(self) -> None:
        """As after an index was lost: another file, another epoch, other ids."""
        self.index.close()
        set_aside(self.layout.index_db)
        self.index = Index.create(self.layout.index_db)
        self._ids = {}
        self.sync()

    def sync(self, *, skip: tuple[str, ...] = ()) -> None:
        """Commit what the tree holds now, except the paths `skip`."""
        found: dict[tuple[InodeId, bytes], InodeId] = {}
        inodes: list[Inode] = [self._inode(ROOT, self.tree)]
        folders = [(ROOT, self.tree)]
        for parent, folder in folders:
            for entry in sorted(folder.iterdir()):
                key = _key(entry)
                if key not in self._ids:
                    self._ids[key] = InodeId(self.index.allocate_ids(1)[0])
                inode = self._inode(self._ids[key], entry)
                found[parent, os.fsencode(entry.name)] = inode.id
                if str(entry.relative_to(self.tree)) not in skip:
                    inodes.append(inode)
                if inode.kind is Kind.DIRECTORY:
                    folders.append((inode.id, entry))
        with self.index.commit() as commit:
            for inode in inodes:
                commit.put_inode(inode, attrs=True, content=True)
            known = [(d.parent, d.name) for d in self.index.all_dirents()]
            for parent, name in known:
                if (parent, name) not in found:
                    commit.put_dirent(parent, name, None)
            for (parent, name), child in found.items():
                commit.put_dirent(parent, name, child)
            live = {ROOT, *found.values()}
            for gone in [i.id for i in self.index.all_inodes() if i.id not in live]:
                commit.drop_inode(gone)
                self._ids = {key: id_ for key, id_ in self._ids.items() if id_ != gone}

    def id_of(self, path: str) -> InodeId:
        """The inode id of a path, as committed."""
        return self._ids[_key(self.tree / path)]

    def picture(self) -> Tree:
        """What lies in the tree."""
        seen: Tree = {}
        for folder, names, files in os.walk(os.fsencode(self.tree)):
            for name in (*names, *files):
                path = os.path.join(folder, name)
                status = os.lstat(path)
                kind = kind_of_mode(status.st_mode)
                body = b""
                if kind is Kind.FILE:
                    body = Path(os.fsdecode(path)).read_bytes()
                elif kind is Kind.SYMLINK:
                    body = os.readlink(path)
                relative = os.path.relpath(path, os.fsencode(self.tree))
                seen[relative] = (kind, stat.S_IMODE(status.st_mode), body)
        return seen

    def _inode(self, id_: InodeId, path: Path) -> Inode:
        status = path.lstat()
        kind = kind_of_mode(status.st_mode)
        inode = Inode(
            id_,
            kind,
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            backing=Backing(status.st_ino, status.st_ctime_ns),
        )
        if kind is Kind.SYMLINK:
            return replace(inode, target=os.readlink(os.fsencode(path)))
        if kind is not Kind.FILE:
            return inode
        data = path.read_bytes()
        blocks = scan(lambda offset, length: data[offset : offset + length], len(data), [(0, len(data))])
        return replace(inode, size=len(data), digest=blocks.digest(), blocks=blocks.encode())


def _key(path: Path) -> tuple[int, Kind]:
    """What an object is known by: a number alone may be given again to another kind of object."""
    status = path.lstat()
    return status.st_ino, kind_of_mode(status.st_mode)


class MemoryReplica:
    """A replica in dicts. What is "durable" is what `publish` left; a restart keeps the object."""

    def __init__(self) -> None:
        self.inodes: dict[InodeId, Inode] = {}
        self.dirents: dict[tuple[InodeId, bytes], InodeId] = {}
        self.contents: dict[InodeId, bytes] = {}
        self.cursor: Cursor | None = None
        self.snapshot: tuple[bytes, int] | None = None
        self.waiting: set[InodeId] = set()
        self.batches: list[Batch] = []
        self.fetched: list[Want] = []
        self.inlined = 0
        self.before_publish: Callable[[], None] = lambda: None
        self.drift = 0
        self.closed = 0
        self._batch: Batch | None = None
        self._staged: dict[InodeId, tuple[BlockList, bytearray, set[int]]] = {}
        self._superseded: set[InodeId] = set()
        self._stale: set[tuple[InodeId, bytes]] = set()

    @property
    def has_content(self) -> bool:
        return bool(self.inodes)

    def position(self) -> Position:
        return Position(self.cursor, self.snapshot)

    def begin(self, batch: Batch) -> None:
        result = checked(batch)
        self._batch = batch
        self._superseded = set(batch.superseded)
        for id_, blocks in result.blocks.items():
            old = self.inodes.get(id_)
            if old is not None and old.digest == result.inodes[id_].digest and id_ not in self.waiting:
                continue
            have: set[int] = set()
            data = bytearray(blocks.size)
            if id_ in batch.inline:
                data[:] = batch.inline[id_]
                assert block_digest(data) == blocks.get(0)
                self.inlined += 1
                have.add(0)
            before = self.contents.get(id_, b"")
            for index, digest in blocks.data_blocks():
                piece = before[index * BLOCK_SIZE :][: blocks.length_of(index)]
                if index not in have and block_digest(piece) == digest:
                    data[index * BLOCK_SIZE : index * BLOCK_SIZE + len(piece)] = piece
                    have.add(index)
            self._staged[id_] = (blocks, data, have)

    def missing(self) -> Iterator[Want]:
        for id_, (blocks, _, have) in list(self._staged.items()):
            for index, digest in blocks.data_blocks():
                if index not in have and id_ not in self._superseded:
                    want = Want(id_, index, digest, blocks.length_of(index))
                    self.fetched.append(want)
                    yield want

    def put(self, inode: InodeId, index: int, data: bytes) -> None:
        blocks, buffer, have = self._staged[inode]
        if block_digest(data) != blocks.get(index):
            raise InvalidCell(f"block {index} of {inode} is not what its digest says")
        buffer[index * BLOCK_SIZE : index * BLOCK_SIZE + len(data)] = data
        have.add(index)

    def supersede(self, inode: InodeId) -> None:
        self._superseded.add(inode)

    def publish(self) -> Published:
        self.before_publish()
        batch = self._batch
        assert batch is not None
        chunk = batch.snapshot
        if chunk is not None and chunk.first:
            self._stale = set(self.dirents)
        for inode in batch.inodes:
            self.inodes[inode.id] = inode
        for id_, (blocks, data, have) in self._staged.items():
            if id_ in self._superseded:
                self.waiting.add(id_)
                continue
            assert have == {index for index, _ in blocks.data_blocks()}
            self.contents[id_] = bytes(data)
            self.waiting.discard(id_)
        for dirent in batch.dirents:
            place = (dirent.parent, dirent.name)
            self._stale.discard(place)
            if dirent.inode is None:
                self.dirents.pop(place, None)
            else:
                self.dirents[place] = dirent.inode
        if chunk is None or chunk.last:
            for place in self._stale:
                self.dirents.pop(place, None)
            self._stale = set()
            self._collect()
            self.cursor, self.snapshot = Cursor(batch.epoch, batch.head), None
        else:
            self.cursor, self.snapshot = None, (chunk.snapshot_id, chunk.position)
        self.batches.append(batch)
        self.abandon()
        return Published(self.position(), 0, 0, (), self.fingerprint())

    def abandon(self) -> None:
        self._batch = None
        self._staged = {}

    def close(self) -> None:
        self.closed += 1

    def fingerprint(self) -> int | None:
        if self.cursor is None or self.snapshot is not None or self.waiting:
            return None
        total = self.drift
        for inode in self.inodes.values():
            total += inode_term(*_fixed(inode))
        for (parent, name), child in self.dirents.items():
            total += dirent_term(parent, name, child)
        return total % (1 << 128)

    def picture(self) -> Tree:
        """As `MadeSession.picture`."""
        seen: Tree = {}
        folders: list[tuple[InodeId, bytes]] = [(ROOT, b"")]
        for folder, prefix in folders:
            for (parent, name), child in self.dirents.items():
                if parent != folder:
                    continue
                inode = self.inodes[child]
                body = self.contents[child] if inode.kind is Kind.FILE else inode.target
                seen[prefix + name] = (inode.kind, inode.mode, body)
                if inode.kind is Kind.DIRECTORY:
                    folders.append((child, prefix + name + b"/"))
        return seen

    def _collect(self) -> None:
        live = set(self.dirents.values()) | {ROOT}
        for gone in [id_ for id_ in self.inodes if id_ not in live]:
            del self.inodes[gone]
            self.contents.pop(gone, None)
            self.waiting.discard(gone)


def _fixed(inode: Inode) -> tuple[Any, ...]:
    return (
        inode.id,
        int(inode.kind),
        inode.size,
        inode.rdev,
        inode.target,
        inode.digest,
        inode.mode,
        inode.uid,
        inode.gid,
        inode.mtime_ns,
        inode.xattrs,
    )


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    """A hub's data directory."""
    folder = tmp_path / "hub"
    folder.mkdir()
    return DataDir(folder)


@pytest.fixture
def make_session(data: DataDir) -> Iterator[Callable[..., MadeSession]]:
    """Makes sessions in `data`."""
    made: list[MadeSession] = []

    def make(name: str = "work") -> MadeSession:
        made.append(MadeSession(data, name))
        return made[-1]

    yield make
    for session in made:
        session.index.close()


@pytest.fixture
def session(make_session: Callable[..., MadeSession]) -> MadeSession:
    """One session, called work."""
    return make_session()


@pytest.fixture
def replica() -> MemoryReplica:
    """A replica that has nothing."""
    return MemoryReplica()


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine in a loop of its own, for at most 30 s."""

    def run_it(coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(30):
                return await coroutine

        try:
            return asyncio.run(bounded())
        finally:
            # gRPC's polling thread ends with the last of its objects.
            gc.collect()

    return run_it


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Waits in a loop until a condition holds."""

    async def wait(condition: Callable[[], bool], seconds: float = 15.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.005)

    return wait
