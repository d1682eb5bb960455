"""An index on a real file, and cells to put into it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ghostfs.content import BLOCK_SIZE, BlockList
from ghostfs.index import Index
from ghostfs.model import ROOT, Inode, InodeId, Kind

MakeFile = Callable[..., Inode]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.db"


@pytest.fixture
def index(path: Path) -> Iterator[Index]:
    """An index that has a root and nothing else; its head is 1."""
    with Index.create(path) as opened:
        with opened.commit() as commit:
            commit.put_inode(Inode(ROOT, Kind.DIRECTORY, 0o755, 0, 0, 1), attrs=True, content=True)
        yield opened


@pytest.fixture
def make_file() -> MakeFile:
    """A file of some blocks with random digests; keyword arguments are `Inode`'s."""
    source = random.Random(1)

    def make(id_: int, *, blocks: int = 1, **fields: object) -> Inode:
        listed = BlockList(blocks * BLOCK_SIZE, {i: source.randbytes(16) for i in range(blocks)})
        given = {"mode": 0o644, "uid": 1000, "gid": 1000, "mtime_ns": 10**18} | fields
        return Inode(
            InodeId(id_),
            Kind.FILE,
            size=listed.size,
            digest=listed.digest(),
            blocks=listed.encode(),
            **given,  # type: ignore[arg-type]
        )

    return make
