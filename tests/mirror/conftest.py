"""A hub in miniature for tests of a replica: a real index, contents in memory, batches as the wire brings them."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ghostfs.content import BLOCK_SIZE, scan
from ghostfs.index import Commit, Frozen, Index
from ghostfs.mirror.layout import SessionLayout
from ghostfs.mirror.replica.batch import Batch, Published, SnapshotChunk, Want
from ghostfs.mirror.replica.replica import Replica, ReplicaSettings
from ghostfs.model import NEVER, ROOT, Epoch, Inode, InodeId, Kind, Seq

MTIME = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class Entry:
    """What a path is, for comparing trees."""

    kind: Kind
    mode: int
    mtime_ns: int
    content: bytes
    group: int  # paths of one inode have the same number


class Hub:
    """A session's tree; every method is one change and one commit."""

    def __init__(self, home: Path, name: str = "hub") -> None:
        self.home = home
        self.index = Index.create(home / f"{name}.db")
        self.contents: dict[InodeId, bytes] = {}
        self._clock = MTIME
        with self.index.commit() as commit:
            self._put(commit, Inode(ROOT, Kind.DIRECTORY, 0o755, os.geteuid(), os.getegid(), self._tick()))

    def close(self) -> None:
        self.index.close()

    def _tick(self) -> int:
        self._clock += 1_000_000_007
        return self._clock

    def _put(self, commit: Commit, inode: Inode) -> None:
        commit.put_inode(inode, attrs=True, content=True)

    def _touch(self, commit: Commit, *directories: InodeId) -> None:
        for directory in directories:
            row = self.index.inode(directory)
            assert row is not None
            self._put(commit, replace(row, mtime_ns=self._tick()))

    def _new(self, parent: InodeId, name: bytes, kind: Kind, mode: int, **fields: object) -> InodeId:
        inode = InodeId(self.index.allocate_ids(1)[0])
        with self.index.commit() as commit:
            cell = Inode(inode, kind, mode, os.geteuid(), os.getegid(), self._tick(), **fields)  # type: ignore[arg-type]
            self._put(commit, cell)
            commit.put_dirent(parent, name, inode)
            self._touch(commit, parent)
            commit.drop_orphans()
        return inode

    def mkdir(self, parent: InodeId, name: bytes, mode: int = 0o755) -> InodeId:
        return self._new(parent, name, Kind.DIRECTORY, mode)

    def symlink(self, parent: InodeId, name: bytes, target: bytes) -> InodeId:
        return self._new(parent, name, Kind.SYMLINK, 0o777, target=target)

    def special(self, parent: InodeId, name: bytes, kind: Kind, rdev: int = 0) -> InodeId:
        return self._new(parent, name, kind, 0o640, rdev=rdev)

    def file(self, parent: InodeId, name: bytes, data: bytes, mode: int = 0o644) -> InodeId:
        blocks = _blocks(data)
        fields = {"size": len(data), "digest": blocks.digest(), "blocks": blocks.encode()}
        inode = self._new(parent, name, Kind.FILE, mode, **fields)
        self.contents[inode] = data
        return inode

    def write(self, inode: InodeId, data: bytes) -> None:
        row = self.index.inode(inode)
        assert row is not None
        blocks = _blocks(data)
        with self.index.commit() as commit:
            self._put(
                commit,
                replace(
                    row,
                    size=len(data),
                    digest=blocks.digest(),
                    blocks=blocks.encode(),
                    mtime_ns=self._tick(),
                ),
            )
        self.contents[inode] = data

    def chmod(self, inode: InodeId, mode: int) -> None:
        row = self.index.inode(inode)
        assert row is not None
        with self.index.commit() as commit:
            self._put(commit, replace(row, mode=mode))

    def link(self, inode: InodeId, parent: InodeId, name: bytes) -> None:
        with self.index.commit() as commit:
            commit.put_dirent(parent, name, inode)
            self._touch(commit, parent)

    def rename(self, parent: InodeId, name: bytes, new_parent: InodeId, new_name: bytes) -> None:
        inode = self.index.dirent(parent, name)
        assert inode is not None
        with self.index.commit() as commit:
            commit.put_dirent(parent, name, None)
            commit.put_dirent(new_parent, new_name, inode)
            self._touch(commit, *{parent, new_parent})
            commit.drop_orphans()

    def exchange(self, a: tuple[InodeId, bytes], b: tuple[InodeId, bytes]) -> None:
        inode_a, inode_b = self.index.dirent(*a), self.index.dirent(*b)
        with self.index.commit() as commit:
            commit.put_dirent(*a, inode_b)
            commit.put_dirent(*b, inode_a)
            self._touch(commit, *{a[0], b[0]})

    def remove(self, parent: InodeId, name: bytes) -> None:
        with self.index.commit() as commit:
            commit.put_dirent(parent, name, None)
            self._touch(commit, parent)
            commit.drop_orphans()

    # What goes to a node.

    def delta(
        self, since: Seq, *, inline: int = BLOCK_SIZE, superseded: frozenset[InodeId] = frozenset()
    ) -> Batch:
        """The batch from a cursor to the head; `inline` is the size up to which content is sent along."""
        delta = self.index.delta_since(since)
        return Batch(
            delta.epoch,
            since,
            delta.head,
            delta.fingerprint,
            None,
            delta.inodes,
            delta.dirents,
            self._inline(delta.inodes, inline, superseded),
            superseded,
        )

    def chunks(self, cells: int = 7, *, inline: int = BLOCK_SIZE, fresh: bool = True) -> list[Batch]:
        """A whole snapshot in chunks of so many cells."""
        path = self.home / "frozen.db"
        if fresh or not path.exists():
            self.index.freeze(path)
        batches = []
        with Frozen.open(path) as frozen:
            position, last = 0, False
            while not last:
                chunk = frozen.chunk(position, cells, 1 << 30)
                place = SnapshotChunk(frozen.snapshot_id, chunk.position, position == 0, chunk.last)
                state = frozen.state
                batches.append(
                    Batch(
                        state.epoch,
                        NEVER,
                        state.head,
                        state.fingerprint,
                        place,
                        chunk.inodes,
                        chunk.dirents,
                        self._inline(chunk.inodes, inline, frozenset()),
                    )
                )
                position, last = chunk.position, chunk.last
        return batches

    def _inline(self, inodes: list[Inode], limit: int, without: frozenset[InodeId]) -> dict[InodeId, bytes]:
        return {
            i.id: self.contents[i.id]
            for i in inodes
            if i.kind is Kind.FILE and i.size <= min(limit, BLOCK_SIZE) and i.id not in without and i.size
        }

    def block(self, want: Want) -> bytes:
        start = want.index * BLOCK_SIZE
        return self.contents[want.inode][start : start + want.length]

    def tree(self) -> dict[bytes, Entry]:
        """What the session is, by path; the root is b""."""
        found: dict[bytes, Entry] = {}
        paths: dict[InodeId, bytes] = {ROOT: b""}
        queue = [ROOT]
        groups: dict[InodeId, int] = {}
        while queue:
            directory = queue.pop()
            row = self.index.inode(directory)
            assert row is not None
            if directory == ROOT:
                found[b""] = Entry(row.kind, row.mode, row.mtime_ns, b"", 0)
            for name, inode in self.index.children(directory):
                row = self.index.inode(inode)
                assert row is not None
                path = paths[directory] + b"/" + name
                content = self.contents[inode] if row.kind is Kind.FILE else row.target
                group = groups.setdefault(inode, len(groups) + 1)
                found[path] = Entry(row.kind, row.mode, row.mtime_ns, content, group)
                if row.kind is Kind.DIRECTORY:
                    paths[inode] = path
                    queue.append(inode)
        return _regrouped(found)


def _blocks(data: bytes) -> object:
    return scan(lambda offset, length: data[offset : offset + length], len(data), [(0, len(data))])


def _regrouped(tree: dict[bytes, Entry]) -> dict[bytes, Entry]:
    """Groups numbered by the first path in order, so that two trees compare."""
    groups: dict[int, int] = {}
    return {
        path: replace(tree[path], group=groups.setdefault(tree[path].group, len(groups)))
        for path in sorted(tree)
    }


def read_tree(root: Path) -> dict[bytes, Entry]:
    """The same of a real directory."""
    found: dict[bytes, Entry] = {}
    top = os.fsencode(root)
    queue = [top]

    def note(path: bytes) -> bool:
        st = os.lstat(path)
        kind = Kind(stat.S_IFMT(st.st_mode) >> 12)
        content = b""
        if kind is Kind.FILE:
            content = Path(os.fsdecode(path)).read_bytes()
        elif kind is Kind.SYMLINK:
            content = os.readlink(path)
        mode = stat.S_IMODE(st.st_mode)
        found[path[len(top) :]] = Entry(kind, mode, st.st_mtime_ns, content, st.st_ino)
        return kind is Kind.DIRECTORY

    note(top)
    while queue:
        directory = queue.pop()
        for name in os.listdir(directory):
            path = directory + b"/" + name
            if note(path):
                queue.append(path)
    return _regrouped(found)


@dataclass
class Node:
    """A replica that is fed by hand."""

    home: Path
    fetched: int = 0
    between: Callable[[int], None] = lambda step: None
    adopt: bool = False
    settings: ReplicaSettings = field(default_factory=lambda: ReplicaSettings("node1"))
    _replica: Replica | None = None

    @property
    def layout(self) -> SessionLayout:
        return SessionLayout("s", self.home / "state", self.home / "tree", self.home / "staging")

    @property
    def tree(self) -> Path:
        return self.layout.tree

    @property
    def replica(self) -> Replica:
        if self._replica is None:
            self._replica = Replica.open(
                self.layout, self.settings, adopt_root=self.adopt, between=self._between
            )
        return self._replica

    def open(self) -> None:
        """Only opens it, which finishes what a kill left."""
        assert self.replica

    def _between(self, step: int) -> None:
        self.between(step)

    def close(self) -> None:
        if self._replica is not None:
            self._replica.close()
            self._replica = None

    def apply(self, hub: Hub, batch: Batch, *, superseded: frozenset[InodeId] = frozenset()) -> Published:
        replica = self.replica
        replica.begin(batch)
        while wants := list(replica.missing()):
            for want in wants:
                if want.inode in superseded:
                    replica.supersede(want.inode)
                else:
                    replica.put(want.inode, want.index, hub.block(want))
                    self.fetched += 1
        for inode in superseded:
            replica.supersede(inode)
        return replica.publish()

    def sync(self, hub: Hub, **how: object) -> Published:
        """A first sync, or the delta since the cursor."""
        cursor = self.replica.position().cursor
        if cursor is None:
            published = None
            for batch in hub.chunks(**how):  # type: ignore[arg-type]
                published = self.apply(hub, batch)
            assert published is not None
            return published
        return self.apply(hub, hub.delta(cursor.seq, **how))  # type: ignore[arg-type]

    def read(self) -> dict[bytes, Entry]:
        return read_tree(self.tree)


class World:
    """A hub and a node in a folder of their own."""

    def __init__(self, home: Path) -> None:
        (home / "hub").mkdir()
        (home / "node").mkdir()
        self.home = home
        self.hub = Hub(home / "hub")
        self.node = Node(home / "node")

    def new_epoch(self) -> Hub:
        """Another hub for the same session: made again, with an epoch and ids of its own."""
        self.hub.close()
        self.hub = Hub(self.home / "hub", f"hub{Epoch(len(list((self.home / 'hub').iterdir())))}")
        return self.hub

    def assert_equal(self) -> None:
        expected, found = self.hub.tree(), self.node.read()
        assert found == expected
        assert self.node.replica.fingerprint() == self.hub.index.fingerprint()

    def close(self) -> None:
        self.node.close()
        self.hub.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def new_world(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], World]:
    """Worlds for tests that need many; each is to be closed with `discard`."""
    base = tmp_path_factory.mktemp("worlds")

    def make() -> World:
        return World(Path(tempfile.mkdtemp(dir=base)))

    return make


@pytest.fixture(scope="session")
def discard() -> Callable[[World], None]:
    def close(world: World) -> None:
        world.close()
        shutil.rmtree(world.home)

    return close
