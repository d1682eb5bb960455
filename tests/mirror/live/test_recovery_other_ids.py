"""A mirror that was used in another user namespace: all owners are looked at, and nothing is passed over."""

from __future__ import annotations

from typing import Any

import pytest

from ghostfs.index import Index
from ghostfs.mirror.live.session import Ending
from ghostfs.mirror.privileges import id_maps


def somewhere_else(live: Any) -> None:
    """The owners that the index has are those of another numbering."""
    with Index.open(live.layout.index_db) as index, index.commit() as commit:
        assert index.meta("ids") == id_maps()
        commit.set_meta("ids", "0 1000 1, 0 1000 1")
        commit._execute("UPDATE inode SET uid = uid + 1")


@pytest.fixture
def used(live: Any) -> Any:
    live.mkdir("d")
    live.write("d/file", b"content")
    live.write("d/other", b"other")
    live.drain()
    return live


def test_what_was_stopped_in_order_is_looked_through(used: Any) -> None:
    used.close()
    recovery = used.open().recovery
    assert recovery.ending is Ending.CLEAN
    used.close()
    somewhere_else(used)
    recovery = used.open().recovery
    assert recovery.ending is Ending.RESCAN
    assert recovery.looked_at == 4
    used.close()
    assert used.open().recovery.ending is Ending.CLEAN


def test_what_was_being_written_is_read_as_after_any_kill(used: Any) -> None:
    """By its change time alone it may be what the index knows: two changes may be within one tick of the clock."""
    file = used.id("d/file")
    used.owned.working._log.append_inode(file)
    used.kill()
    with Index.open(used.layout.index_db) as index, index.commit() as commit:
        commit.set_meta("ids", "0 1000 1, 0 1000 1")
        commit._execute("UPDATE inode SET digest = zeroblob(16) WHERE id = ?", (file,))
    recovery = used.open().recovery
    assert recovery.ending is Ending.RESCAN
    assert recovery.files_read == 1
    with Index.open(used.layout.index_db, readonly=True) as index:
        found = index.inode(file)
    assert found is not None
    assert found.digest != bytes(16)
