"""SQLite with several writers, in every journal mode and with memory maps; the index has what it wrote."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from stack import Stack

from ghostfs.mirror.live.verify import verify

pytestmark = pytest.mark.timeout(600)

WRITERS = 4
TRANSACTIONS = 60
MMAP_SIZE = 1 << 26

WRITER = """
import random, sqlite3, sys
path, me, transactions, mmap_size = sys.argv[1], *map(int, sys.argv[2:])
rng = random.Random(me)
db = sqlite3.connect(path, timeout=120, isolation_level=None)
(size,) = db.execute(f"PRAGMA mmap_size={mmap_size}").fetchone()
assert size == mmap_size
for number in range(transactions):
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE counter SET value = value + 1")
    content = rng.randbytes(rng.choice((10, 1000, 20_000)))
    db.execute("INSERT INTO item VALUES (?, ?, ?)", (me, number, content))
    if number % 3 == 2:
        db.execute("DELETE FROM item WHERE writer = ? AND number = ?", (me, number - 1))
    db.execute("ROLLBACK" if number % 10 == 9 else "COMMIT")
    if number % 20 == 0:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    total, content = db.execute("SELECT count(*), max(length(content)) FROM item").fetchone()
    assert total > 0
db.close()
"""


def check(path: Path) -> tuple[int, int]:
    """SQLite's own check of all pages and indexes; the counter, and how many items there are."""
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA mmap_size={MMAP_SIZE}")
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        counter: int = database.execute("SELECT value FROM counter").fetchone()[0]
        items: int = database.execute("SELECT count(*) FROM item").fetchone()[0]
        return counter, items


@pytest.mark.parametrize("journal", ["wal", "delete", "truncate", "persist"])
def test_concurrent_writers_leave_a_whole_database(
    stack: Stack, mount: Callable[..., Path], journal: str
) -> None:
    here = mount()
    path = here / "database"
    with closing(sqlite3.connect(path)) as database:
        assert database.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
        database.execute("CREATE TABLE item (writer INTEGER, number INTEGER, content BLOB)")
        database.execute("CREATE UNIQUE INDEX place ON item (writer, number)")
        database.execute("CREATE TABLE counter (value INTEGER)")
        database.execute("INSERT INTO counter VALUES (0)")
        database.commit()
        # Stays open: the last connection to be closed would take the WAL away.
        database.execute("SELECT * FROM counter").fetchall()
        numbers = (str(TRANSACTIONS), str(MMAP_SIZE))
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, path, str(writer), *numbers],
                stderr=subprocess.PIPE,
                text=True,
            )
            for writer in range(WRITERS)
        ]
        told = [writer.communicate()[1] for writer in writers]
        assert [writer.returncode for writer in writers] == [0] * WRITERS, told
        done = [n for n in range(TRANSACTIONS) if n % 10 != 9]
        deleted = [n for n in done if n % 3 == 2 and (n - 1) in done]
        expected = (WRITERS * len(done), WRITERS * (len(done) - len(deleted)))
        assert check(path) == expected
        stack.settle("work")
        report = verify(stack.session("work"))
        assert report.ok, report.problems
    assert check(path) == expected
    stack.umount(here)
    report = verify(stack.session("work"))
    assert report.ok, report.problems
    mount()
    assert check(path) == expected
