"""Random histories: the running sums are right, and a follower that skips any part of them ends up the same."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from ghostfs.content import BLOCK_SIZE, BlockList
from ghostfs.index import Delta, DeltaStream, Index
from ghostfs.model import NEVER, ROOT, Backing, Dirent, Inode, InodeId, Kind, Seq

IDS = st.integers(2, 9).map(InodeId)
NAMES = st.sampled_from([b"a", b"b", b"\xff\xfe", b"dir"])
PARENTS = st.one_of(st.just(ROOT), IDS)


@st.composite
def inodes(draw: st.DrawFn) -> Inode:
    content = draw(st.integers(0, 2))
    blocks = BlockList(BLOCK_SIZE, {0: bytes([content]) * 16})
    return Inode(
        draw(IDS),
        Kind.FILE,
        draw(st.sampled_from([0o644, 0o600])),
        0,
        0,
        draw(st.integers(-1, 1)),
        size=blocks.size,
        digest=blocks.digest(),
        blocks=blocks.encode(),
        backing=draw(st.sampled_from([None, Backing(1, 2), Backing(2, 1)])),
    )


PUTS = st.one_of(
    st.tuples(st.just("inode"), inodes(), st.booleans(), st.booleans()),
    st.tuples(st.just("dirent"), PARENTS, NAMES, st.one_of(st.none(), IDS)),
)
HISTORIES = st.lists(st.tuples(st.lists(PUTS, max_size=6), st.booleans()), max_size=8)


def run(index: Index, puts: Iterable[tuple]) -> None:
    """One commit, with which nothing stays that has no name, and nothing is named that is not there."""
    with index.commit() as commit:
        for kind, *put in puts:
            if kind == "inode":
                inode, attrs, content = put
                commit.put_inode(inode, attrs=attrs, content=content)
            else:
                parent, name, child = put
                if child is None or index.inode_light(child) is not None:
                    commit.put_dirent(parent, name, child)
        commit.drop_orphans()


def follow(node: Index, delta: Delta | DeltaStream) -> None:
    with node.adopt(fingerprint_expected=delta.fingerprint) as adopt:
        for inode in delta.inodes:
            adopt.store_inode(inode)
        for dirent in delta.dirents:
            adopt.store_dirent(dirent)
        adopt.drop_orphans()
        adopt.set_cursor(delta.epoch, delta.head)


def tree(index: Index) -> tuple[list[Inode], list[Dirent]]:
    """All cells; without their backing, which each side knows for itself and no delta carries."""
    return [replace(i, backing=None) for i in index.all_inodes(light=False)], list(index.all_dirents())


@settings(max_examples=80)
@given(HISTORIES)
def test_sums_are_right_and_followers_converge(history: list[tuple[list[tuple], bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        hub = Index.create(Path(folder, "hub.db"))
        always = Index.create(Path(folder, "always.db"))
        sometimes = Index.create(Path(folder, "sometimes.db"), holders=True)
        try:
            run(hub, [("inode", Inode(ROOT, Kind.DIRECTORY, 0o755, 0, 0, 0), True, True)])
            for puts, also in history:
                before = hub.state()
                run(hub, puts)
                after = hub.state()
                assert after.fingerprint == hub.recomputed_fingerprint()
                assert after.head - before.head <= len(puts)
                if after.head == before.head:
                    assert after.fingerprint == before.fingerprint
                follow(always, hub.delta_since(always.head()))
                if also:
                    with hub.stream_since(sometimes.head()) as stream:
                        follow(sometimes, stream)
                    assert tree(sometimes) == tree(hub)
            for node in (always, sometimes):
                follow(node, hub.delta_since(node.head()))
            late = Index.create(Path(folder, "late.db"))
            follow(late, hub.delta_since(NEVER))
            for node in (always, sometimes, late):
                node.check()
                assert tree(node) == tree(hub)
                assert replace(node.state(), committed_ns=0) == replace(hub.state(), committed_ns=0)
            for inode in hub.all_inodes(light=False):
                for number, digest in BlockList.decode(inode.size, inode.blocks).data_blocks():
                    assert (inode.id, number) in sometimes.holders(digest)
            late.close()
        finally:
            for index in (hub, always, sometimes):
                index.close()


@settings(max_examples=60)
@given(HISTORIES, st.integers(0, 40))
def test_a_delta_holds_each_changed_cell_once_in_order(
    history: list[tuple[list[tuple], bool]], since: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, Index.create(Path(folder, "hub.db")) as hub:
        for puts, _ in history:
            run(hub, puts)
        cursor = Seq(min(since, hub.head()))
        delta = hub.delta_since(cursor)
        cells = [*delta.inodes, *delta.dirents]
        assert hub.delta_size(cursor) == len(cells)
        seqs = sorted(cell.seq for cell in cells)
        assert len(set(seqs)) == len(seqs)
        assert all(cursor < seq <= delta.head for seq in seqs)
        with hub.stream_since(cursor) as stream:
            assert list(stream.inodes) == delta.inodes
            assert list(stream.dirents) == delta.dirents
            merged = list(stream.cells())
        assert [cell.seq for cell in merged] == seqs
        unchanged = [i for i in hub.all_inodes(light=False) if i.seq <= cursor]
        assert {i.id for i in unchanged}.isdisjoint(i.id for i in delta.inodes)
