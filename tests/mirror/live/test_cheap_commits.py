"""What commits leave out to be cheap, and that nothing is wrong for it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from ghostfs.index import Index
from ghostfs.mirror.live import capture
from ghostfs.model import ROOT, Seq

# --- a name that was looked for and not found is not looked for again -----------------------------------


@pytest.mark.parametrize("committed", [False, True])
def test_a_name_that_was_absent_is_there_once_it_is_made(live: Any, committed: bool) -> None:
    mirror = live.mirror
    assert mirror.lookup(ROOT, b"name") is None
    made = live.mkdir("name")
    if committed:
        live.drain()
    found = mirror.lookup(ROOT, b"name")
    assert found is not None
    assert found[0] == made
    live.rmdir("name")
    if committed:
        live.drain()
    assert mirror.lookup(ROOT, b"name") is None
    other = live.write("other", b"x")
    mirror.link(other, ROOT, b"name")
    if committed:
        live.drain()
    assert mirror.lookup(ROOT, b"name")[0] == other
    live.settled()


def test_the_answer_is_of_one_directory_only(live: Any) -> None:
    below = live.mkdir("below")
    live.write("below/name", b"x")
    live.drain()
    assert live.mirror.lookup(ROOT, b"name") is None
    assert live.mirror.lookup(below, b"name") is not None


def test_absence_is_asked_of_the_index_once(live: Any) -> None:
    asked: list[bytes] = []
    index = live.mirror._index
    real = index.dirent
    index.dirent = lambda parent, name: (asked.append(name), real(parent, name))[1]
    assert live.mirror.lookup(ROOT, b"file") is None
    live.create("file", b"x")
    assert asked == [b"file"]
    live.settled()


# --- the index's log is carried over when it is quiet ---------------------------------------------------


def head_without_the_log(database: Path, aside: Path) -> Seq:
    """What the database file alone would say."""
    shutil.copy(database, aside)
    with Index.open(aside) as index:
        return index.head()


def test_the_log_is_carried_over_once_it_is_quiet(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_CHECKPOINT_AFTER", 0.05)
    live.threaded = True
    live.write("file", b"x" * 100)
    live.drain()
    head = live.owned._lookups.head()
    deadline = time.monotonic() + 30
    while head_without_the_log(live.layout.index_db, live.home / "aside.db") != head:
        assert time.monotonic() < deadline, "the log is never carried over"
    live.close()


def test_many_commits_in_a_row_are_not_interrupted_by_it(live: Any) -> None:
    live.drain()
    before = head_without_the_log(live.layout.index_db, live.home / "aside.db")
    for turn in range(100):
        for number in range(20):
            live.write(f"{turn}-{number}", b"x" * 1000)
        live.drain()
    log = live.layout.index_db.with_name("index.db-wal")
    assert log.stat().st_size > 1000 * 4096  # where SQLite by itself would have done it
    assert head_without_the_log(live.layout.index_db, live.home / "aside.db") == before
    live.settled()


def test_new_files_are_committed_without_a_system_call_each(
    live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would contend for the interpreter's lock with the thread that answers the kernel."""
    live.mkdir("d")
    live.drain()
    for number in range(50):
        live.write(f"d/file{number}", b"content %d" % number)
    made: list[str] = []
    for name in ("stat", "fstat", "lstat", "listxattr", "open", "close", "readlink", "dup"):
        real = getattr(os, name)

        def call(*arguments: Any, _name: str = name, _real: Any = real, **how: Any) -> Any:
            made.append(_name)
            return _real(*arguments, **how)

        monkeypatch.setattr(os, name, call)
    live.drain()
    monkeypatch.undo()
    assert made.count("stat") == 1  # the directory
    assert len(made) < 10
    live.settled()
