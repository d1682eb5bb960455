"""Databases that cannot be used: newer, older, broken, somebody else's."""

from __future__ import annotations

import os
import random
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ghostfs.errors import GhostError, IndexDamaged, IndexTooNew, SessionBusy
from ghostfs.index import Frozen, Index, set_aside
from ghostfs.index.database import Format, create_database, open_database
from ghostfs.index.schema import INDEX_FORMAT
from ghostfs.model import NEVER, ROOT, Inode, InodeId, Seq

MakeFile = Callable[..., Inode]


@pytest.fixture
def filled(index: Index, path: Path, make_file: MakeFile) -> Path:
    """The path of a closed index with some hundred pages."""
    with index.commit() as commit:
        for id_ in range(100, 2100):
            commit.put_inode(make_file(id_), attrs=True, content=True)
            commit.put_dirent(ROOT, b"name%d" % id_, InodeId(id_))
    index.close()
    assert not list(path.parent.glob("*-wal"))
    return path


def use_all(path: Path) -> None:
    """Everything that reads, then everything that looks for damage."""
    with Index.open(path) as index:
        index.counts()
        index.delta_since(NEVER)
        with index.stream_since(NEVER) as stream:
            list(stream.cells())
        list(index.all_inodes(light=False))
        list(index.all_dirents())
        index.freeze(path.with_name("snapshot"))
        with Frozen.open(path.with_name("snapshot")) as frozen:
            frozen.chunk(0, 1 << 30, 1 << 40)
        index.check()


@pytest.mark.parametrize("readonly", [True, False])
def test_a_newer_version_is_refused_and_left_untouched(filled: Path, readonly: bool) -> None:
    with sqlite3.connect(filled) as raw:
        raw.execute("PRAGMA journal_mode=DELETE")
        raw.execute(f"PRAGMA user_version={INDEX_FORMAT.version + 1}")
    raw.close()
    before, listed = filled.read_bytes(), sorted(os.listdir(filled.parent))
    with pytest.raises(IndexTooNew, match=r"upgrade GhostFS; nothing was changed"):
        Index.open(filled, readonly=readonly)
    assert filled.read_bytes() == before
    assert sorted(os.listdir(filled.parent)) == listed


def test_a_newer_version_still_in_the_wal_is_refused_too(filled: Path) -> None:
    raw = sqlite3.connect(filled)
    raw.execute(f"PRAGMA user_version={INDEX_FORMAT.version + 1}")
    with pytest.raises(IndexTooNew):
        Index.open(filled)
    raw.close()


def test_nothing_there_is_said_so(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Index.open(path)
    assert not path.exists()


@pytest.mark.parametrize(
    "content", [b"", b"SQLite format 3\0", b"hello" * 1000, b"SQLite format 3\0" + b"\xa5" * 5000]
)
def test_no_database_is_damage(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(IndexDamaged, match=re.escape(str(path))):
        Index.open(path)
    assert path.read_bytes() == content


def test_the_database_of_another_program_is_not_used(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE state (id)")
    raw.close()
    with pytest.raises(IndexDamaged, match="not a GhostFS index"):
        Index.open(path)


@pytest.mark.parametrize("statement", ["DROP TABLE dirent", "DELETE FROM state"])
def test_missing_parts_are_damage(filled: Path, statement: str) -> None:
    with sqlite3.connect(filled) as raw:
        raw.execute(statement)
    raw.close()
    with pytest.raises(IndexDamaged, match="set it aside"):
        Index.open(filled)


@pytest.mark.parametrize("kept", [0.9, 0.5, 0.01])
def test_a_truncated_database_is_damage(filled: Path, kept: float) -> None:
    os.truncate(filled, int(filled.stat().st_size * kept))
    with pytest.raises(IndexDamaged):
        use_all(filled)


@pytest.mark.parametrize("seed", range(12))
def test_random_bytes_in_the_middle_are_damage(filled: Path, seed: int) -> None:
    source = random.Random(seed)
    size = filled.stat().st_size
    with filled.open("r+b") as file:
        file.seek(source.randrange(4096, size - 5000))
        file.write(source.randbytes(4096))
    with pytest.raises(IndexDamaged):
        use_all(filled)


def test_a_changed_cell_does_not_add_up(filled: Path) -> None:
    with sqlite3.connect(filled) as raw:
        raw.execute("UPDATE inode SET mode = 0 WHERE id = 100")
    raw.close()
    with Index.open(filled) as index, pytest.raises(IndexDamaged, match="add up"):
        index.check()


def test_a_changed_block_list_is_not_what_its_digest_says(filled: Path) -> None:
    for blocks in (b"", b"\x05", b"\0\1" + b"x" * 16):
        with sqlite3.connect(filled) as raw:
            raw.execute("UPDATE inode SET blocks = ? WHERE id = 100", (blocks,))
        raw.close()
        with Index.open(filled) as index, pytest.raises(IndexDamaged, match="blocks of inode 64"):
            index.check()


def test_a_kind_that_does_not_exist_is_damage(filled: Path) -> None:
    with sqlite3.connect(filled) as raw:
        raw.execute("UPDATE inode SET kind = 3 WHERE id = 100")
    raw.close()
    with Index.open(filled) as index, pytest.raises(IndexDamaged, match="kind 3"):
        index.inode(InodeId(100))


@pytest.mark.allows_log("index_set_aside")
def test_setting_aside_makes_room_and_keeps_everything(
    index: Index, path: Path, make_file: MakeFile
) -> None:
    with index.commit() as commit:
        commit.put_inode(make_file(100), attrs=True, content=True)
    asides = [set_aside(path)]
    index.close()
    assert not path.exists()
    for _ in range(2):
        Index.create(path).close()
        asides.append(set_aside(path))
    assert len(set(asides)) == 3
    assert all(re.fullmatch(r"index\.db\.damaged-\d{8}T\d{6}Z(-\d+)?", aside.name) for aside in asides)
    Index.create(path).close()
    with Index.open(asides[0]) as old:
        assert old.inode(InodeId(100)) is not None
    with pytest.raises(FileNotFoundError):
        set_aside(path.with_name("nothing"))


def test_a_lock_that_is_kept_is_reported(index: Index, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghostfs.index.database._BUSY_TIMEOUT_MS", 1)
    with Index.open(path) as other, index.commit():
        with pytest.raises(SessionBusy, match="locked by another process"), other.commit():
            pass
        with pytest.raises(SessionBusy):
            other.allocate_ids(1)
        assert other.head() == 1
    with Index.open(path) as other, other.commit() as commit:
        commit.put_dirent(ROOT, b"a", InodeId(5))
    assert index.head() == 2


def test_a_full_disk_is_an_oserror_and_nothing_is_lost(index: Index, make_file: MakeFile) -> None:
    index._connection.execute("PRAGMA max_page_count=40")
    before = index.state()

    def fill() -> None:
        with index.commit() as commit:
            for id_ in range(100, 9999):
                commit.put_inode(make_file(id_), attrs=True, content=True)

    with pytest.raises(OSError, match="No space left"):
        fill()
    assert index.state() == before
    index.check()
    with index.commit() as commit:
        assert commit.put_dirent(ROOT, b"a", InodeId(5)) == Seq(2)


def first(db: Any) -> None:
    db["thing"].create({"id": int, "name": str}, pk="id")


def second(db: Any) -> None:
    db["thing"].add_column("size", int)
    db["thing"].insert({"id": 2, "name": "added", "size": 5})


def broken(db: Any) -> None:
    db["thing"].add_column("more", int)
    raise ZeroDivisionError


def form(*migrations: Callable[[Any], None]) -> Format:
    return Format("thing", 0x1234, frozenset({"thing"}), migrations)


def test_an_older_database_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "things.db"
    create_database(path, form(first), lambda raw: raw.execute("INSERT INTO thing VALUES (1, 'a')"))
    with pytest.raises(GhostError, match="older version"):
        open_database(path, form(first, second), readonly=True)
    with pytest.raises(ZeroDivisionError):
        open_database(path, form(first, second, broken))
    open_database(path, form(first)).close()
    connection = open_database(path, form(first, second))
    rows = connection.execute("SELECT id, name, size FROM thing").fetchall()
    connection.close()
    assert rows == [(1, "a", None), (2, "added", 5)]
    with pytest.raises(IndexTooNew):
        open_database(path, form(first))
    open_database(path, form(first, second), readonly=True).close()


def test_what_was_left_half_made_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "things.db"
    with pytest.raises(ZeroDivisionError):
        create_database(path, form(first, broken), lambda _: None)
    assert not path.exists()
    create_database(path, form(first), lambda _: None)
    assert os.listdir(tmp_path) == ["things.db"]


def test_a_path_that_is_not_utf8_works(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff ?#%41"))
    folder.mkdir()
    Index.create(folder / "index.db").close()
    with Index.open(folder / "index.db") as index:
        index.freeze(folder / "snapshot")
        assert index.delta_since(NEVER).inodes == []
    Frozen.open(folder / "snapshot").close()
    assert sorted(os.listdir(os.fsencode(folder))) == [b"index.db", b"snapshot"]


def test_a_page_of_noise_is_found_wherever_it_is(filled: Path) -> None:
    """Page by page: looking at all pages finds what reading one row would not."""
    sound = filled.read_bytes()
    noise = random.Random(7)
    for page in range(0, len(sound) // 4096, 7):
        filled.write_bytes(sound[: page * 4096] + noise.randbytes(4096) + sound[(page + 1) * 4096 :])
        with pytest.raises(IndexDamaged), Index.open(filled, readonly=True) as index:
            index.check_pages()
    filled.write_bytes(sound)
    with Index.open(filled, readonly=True) as index:
        index.check_pages()
