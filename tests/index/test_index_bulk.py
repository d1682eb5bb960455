"""Many cells with one statement: the same as one after the other, whatever they hold."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostfs.content import BLOCK_SIZE, BlockList
from ghostfs.index import Commit, Index, InodePut, RefusedCell
from ghostfs.index.bulk import BLOB_LIMIT, SLICE, DirentPut
from ghostfs.model import ROOT, Backing, Epoch, Inode, InodeId, Kind, Replica

LEAST, MOST = -(1 << 63), (1 << 63) - 1

ids = st.integers(2, 8).map(InodeId)
names = st.sampled_from([b"a", b"b", b"\xff\xfe", b"'; --", b"\x01" * 255])
backings = st.none() | st.builds(
    Backing, st.sampled_from([1, 7, (1 << 64) - 1]), st.sampled_from([LEAST + 1, -1, 0, MOST])
)


@st.composite
def inode_puts(draw: st.DrawFn) -> InodePut:
    kind = draw(st.sampled_from([Kind.FILE, Kind.SYMLINK, Kind.DIRECTORY]))
    blocks = BlockList(0, {})
    if kind is Kind.FILE:
        blocks = BlockList(draw(st.sampled_from([0, 1, BLOCK_SIZE, 5 * BLOCK_SIZE])), {})
        blocks = replace(
            blocks, digests={n: bytes([n + 1] * 16) for n in range(blocks.count) if draw(st.booleans())}
        )
    inode = Inode(
        id=draw(ids),
        kind=kind,
        mode=draw(st.sampled_from([0, 0o644, 0o7777])),
        uid=draw(st.sampled_from([0, (1 << 32) - 1])),
        gid=0,
        mtime_ns=draw(st.sampled_from([LEAST, -1, 0, MOST])),
        size=blocks.size,
        target=draw(st.sampled_from([b"", b"to\xff"])) if kind is Kind.SYMLINK else b"",
        xattrs=draw(st.sampled_from([b"", b"some"])),
        digest=blocks.digest() if kind is Kind.FILE else b"",
        blocks=blocks.encode(),
        backing=draw(backings),
    )
    return InodePut(inode, attrs=draw(st.booleans()), content=draw(st.booleans()))


dirent_puts = st.tuples(st.sampled_from([ROOT, InodeId(2)]), names, st.none() | ids)
batches = st.tuples(
    st.lists(inode_puts(), max_size=6, unique_by=lambda put: put.inode.id),
    st.lists(dirent_puts, max_size=6, unique_by=lambda put: put[:2]),
)


def everything(index: Index) -> dict[str, Any]:
    """All that the tables hold."""
    tables = {
        name: index._execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall()
        for name in ("inode", "dirent")
    }
    return tables | {"head": index.head(), "sum": index.fingerprint()}


def put_singly(commit: Commit, inodes: list[InodePut], dirents: list[DirentPut]) -> None:
    for put in inodes:
        commit.put_inode(put.inode, attrs=put.attrs, content=put.content)
    for dirent in dirents:
        commit.put_dirent(*dirent)


@settings(max_examples=120)
@given(st.lists(batches, min_size=1, max_size=5))
def test_together_is_as_one_by_one(history: list[tuple[list[InodePut], list[DirentPut]]]) -> None:
    with tempfile.TemporaryDirectory() as home:
        together, singly = (
            Index.create(Path(home) / name, epoch=Epoch(1), replica=Replica(0))
            for name in ("together", "singly")
        )
        with together, singly:
            for inodes, dirents in history:
                with together.commit() as commit:
                    commit.put(inodes, dirents)
                    dropped = commit.drop_orphans()
                with singly.commit() as commit:
                    put_singly(commit, inodes, dirents)
                    assert commit.drop_orphans() == dropped
                assert everything(together) == everything(singly)
                assert together.fingerprint() == together.recomputed_fingerprint()


def make_file(number: int, **fields: Any) -> Inode:
    return Inode(
        InodeId(number), Kind.FILE, 0o644, 0, 0, number, digest=BlockList(0, {}).digest(), **fields
    )


def test_more_than_one_statement_holds(index: Index) -> None:
    count = 2 * SLICE + 7
    inodes = [
        InodePut(make_file(number), attrs=True, content=True, fresh=True) for number in range(2, count + 2)
    ]
    dirents = [(ROOT, b"%d" % put.inode.id, put.inode.id) for put in inodes]
    before = index.head()
    with index.commit() as commit:
        commit.put(inodes, dirents)
        assert commit.drop_orphans() == []
    assert index.head() == before + 2 * count
    assert dict(index.children(ROOT)) == {name: inode for _, name, inode in dirents}
    with index.commit() as commit:
        commit.put([], [(parent, name, None) for parent, name, _ in dirents])
        assert len(commit.drop_orphans()) == count
    assert index.children(ROOT) == []
    assert index.fingerprint() == index.recomputed_fingerprint()


def test_long_block_lists_are_kept_whole(index: Index) -> None:
    count = BLOB_LIMIT // 16 + 1
    blocks = BlockList(count * BLOCK_SIZE, {n: n.to_bytes(16, "big") for n in range(1, count)})
    large = [
        replace(make_file(number), size=blocks.size, blocks=blocks.encode(), digest=blocks.digest())
        for number in (2, 3)
    ]
    with index.commit() as commit:
        commit.put(
            [InodePut(cell, attrs=True, content=True) for cell in (*large, make_file(4))],
            [(ROOT, b"%d" % number, InodeId(number)) for number in (2, 3, 4)],
        )
    for cell in large:
        kept = index.inode(cell.id)
        assert kept is not None
        assert kept.blocks == cell.blocks
    index.check()


def test_the_attributes_of_a_long_file_do_not_touch_its_block_list(index: Index) -> None:
    blocks = BlockList(BLOCK_SIZE, {0: b"d" * 16})
    cell = replace(make_file(2), size=blocks.size, blocks=blocks.encode(), digest=blocks.digest())
    with index.commit() as commit:
        commit.put([InodePut(cell, attrs=True, content=True)], [(ROOT, b"2", InodeId(2))])
    with index.commit() as commit:
        commit.put(
            [
                InodePut(
                    replace(cell, mode=0o600, size=0, blocks=b"", digest=b""), attrs=True, content=False
                )
            ],
            [],
        )
    kept = index.inode(InodeId(2))
    assert kept is not None
    assert (kept.mode, kept.size, kept.blocks, kept.digest) == (
        0o600,
        blocks.size,
        blocks.encode(),
        blocks.digest(),
    )


@pytest.mark.parametrize(
    "broken", [{"mode": 1 << 63}, {"backing": Backing(1, 1 << 63)}, {"backing": Backing(1, LEAST - 1)}]
)
def test_the_refused_one_is_named_and_nothing_is_changed(index: Index, broken: dict[str, Any]) -> None:
    before = everything(index)
    cells = [make_file(2), replace(make_file(3), **broken), make_file(4)]
    with pytest.raises(RefusedCell) as refused, index.commit() as commit:
        commit.put([InodePut(cell, attrs=True, content=True) for cell in cells], [])
    assert refused.value.inode == 3
    assert everything(index) == before
