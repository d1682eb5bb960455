"""Readers beside a writer, and a writer that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from ghostfs.index import Index
from ghostfs.index.fingerprint import dirent_term, inode_term
from ghostfs.index.rows import inode_values
from ghostfs.model import NEVER, ROOT, Dirent, Inode, InodeId

MakeFile = Callable[..., Inode]


def test_a_reader_always_sees_a_whole_state(index: Index, path: Path, make_file: MakeFile) -> None:
    stop = threading.Event()
    seen: list[int] = []
    failures: list[BaseException] = []

    def read() -> None:
        try:
            with Index.open(path, readonly=True) as reader:
                while not stop.is_set() or len(seen) < 2:
                    state, delta = reader.state(), reader.delta_since(NEVER)
                    assert state.head <= delta.head
                    total = sum(inode_term(*inode_values(inode)) for inode in delta.inodes)
                    total += sum(dirent_term(d.parent, d.name, d.inode) for d in delta.dirents if d.inode)
                    assert total % (1 << 128) == delta.fingerprint
                    assert max(c.seq for c in (*delta.inodes, *delta.dirents)) == delta.head
                    if not stop.is_set():
                        assert reader.recomputed_fingerprint() is not None
                    seen.append(delta.head)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for number in range(300):
            id_ = 100 + number % 40
            with index.commit() as commit:
                commit.put_inode(make_file(id_), attrs=True, content=True)
                commit.put_dirent(ROOT, b"%d" % id_, InodeId(id_))
                commit.put_dirent(ROOT, b"%d" % (100 + (number * 7) % 40), None)
                commit.drop_orphans()
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert seen == sorted(seen)
    index.check()


WRITER = """
import sys
from pathlib import Path
from ghostfs.content import EMPTY
from ghostfs.index import Index
from ghostfs.model import ROOT, Inode, InodeId, Kind, Seq

index = Index.open(Path(sys.argv[1]))
number = 0
while True:
    with index.commit() as commit:
        for _ in range(20):
            number += 1
            inode = InodeId(1000 + number % 500)
            commit.put_inode(Inode(inode, Kind.FILE, 0o644, 0, 0, number, digest=EMPTY.digest()), attrs=True, content=True)
            commit.put_dirent(ROOT, b"%d" % (number % 700), inode)
            commit.put_dirent(ROOT, b"%d" % (number * 7 % 700), None)
        commit.drop_orphans()
        if number % 200 == 0:
            commit.collect_tombstones(Seq(commit.head - 50))
        # Still inside the transaction: this is where many of the kills come.
        print(commit.head, flush=True)
"""


def test_a_killed_writer_leaves_whole_commits(index: Index, path: Path) -> None:
    for attempt in range(12):
        before = index.head()
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert writer.stdout is not None
        with writer.stdout as lines:
            for _ in range(1 + attempt * 5):
                said = int(lines.readline())
            os.kill(writer.pid, signal.SIGKILL)
            said = max([said, *(int(line) for line in lines if line.endswith(b"\n"))])
            writer.wait()
        index.check()
        # The commit whose head was announced may have been lost, and no more than that one.
        assert before <= index.head() <= said
        cells = [*index.all_inodes(), *(c for c in index.all_dirents() if isinstance(c, Dirent))]
        assert max(cell.seq for cell in cells) <= index.head()
    assert index.head() > 100


def test_a_killed_snapshot_or_creation_leaves_room_for_another(index: Index, tmp_path: Path) -> None:
    for name in ("snapshot.partial", "snapshot.partial.new", "second.db.new"):
        (tmp_path / name).write_bytes(b"half")
    index.freeze(tmp_path / "snapshot")
    Index.create(tmp_path / "second.db").close()
    assert not list(tmp_path.glob("*.partial*"))
    assert not list(tmp_path.glob("*.new"))
