"""Connections of one process must not take the locks of each other away: a file's locks go with any close(2)."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from ghostfs.index import Index

WRITE = """
import sys
from pathlib import Path
from ghostfs.index import Index
with Index.open(Path(sys.argv[1])) as index, index.commit() as commit:
    commit.set_meta("clean", sys.argv[2])
"""


def write_elsewhere(path: Path, value: str) -> None:
    """What a mount does: opens the index, commits, and closes it, in a process of its own."""
    subprocess.run([sys.executable, "-c", WRITE, str(path), value], check=True)


def test_a_reader_sees_what_a_later_writer_commits_after_another_reader_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    Index.create(path).close()
    with Index.open(path, readonly=True) as first:
        first.state()
        with Index.open(path, readonly=True) as second:
            second.state()
            for value in ("0", "1", "0"):
                # SQLite takes the log away at the last close; it must not think that this is the last.
                write_elsewhere(path, value)
                assert (first.meta("clean"), second.meta("clean")) == (value, value)


def test_readers_that_open_at_once_keep_their_locks(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    Index.create(path).close()
    for round_ in range(5):
        start = threading.Barrier(8)
        opened: list[Index] = []

        def open_one(start: threading.Barrier = start, opened: list[Index] = opened) -> None:
            start.wait()
            index = Index.open(path, readonly=True)
            index.state()
            opened.append(index)

        threads = [threading.Thread(target=open_one) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        write_elsewhere(path, str(round_))
        assert {index.meta("clean") for index in opened} == {str(round_)}
        for index in opened:
            index.close()
