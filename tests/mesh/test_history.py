"""A session that was restored with an older index: same epoch, another history. Its nodes find their way back."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ghostfs.daemon.hub import HubServer
from ghostfs.errors import InvalidCell
from ghostfs.index import Index
from ghostfs.mesh.follow import HubLimits
from ghostfs.mesh.follower import Follower, FollowerSettings
from ghostfs.mesh.hubservice import HubSettings
from ghostfs.mesh.link import Link
from ghostfs.mirror.layout import DataDir, SessionLayout
from ghostfs.mirror.replica.replica import Replica, ReplicaSettings

SETTINGS = HubSettings(read_threads=2, limits=HubLimits(snapshot_chunk_cells=7, heartbeat_seconds=0.1))
FAST = FollowerSettings(reconnect_min=0.01, reconnect_max=0.05, resync=1.0, parked_patience=0.3)
RESTORED = ("history_taken_back", "node_of_another_history", "hub_away", "batch_refused", "drift_detected")
RESTORED += ("node_drifted", "local_change_kept")


@asynccontextmanager
async def hub(data: Any) -> AsyncIterator[str]:
    server = HubServer(data, SETTINGS)
    bound = await server.start("127.0.0.1:0")
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        await server.stop()


@asynccontextmanager
async def node(
    target: str, open_replica: Any, settings: FollowerSettings = FAST
) -> AsyncIterator[Follower]:
    link = Link(target, bytes(range(16)), "n1", reconnect_min=0.01, reconnect_max=0.05)
    follower = Follower("work", link, open_replica, settings)
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.wait([task])
        await link.close()


class Copy:
    """A real copy of the session."""

    def __init__(self, folder: Path) -> None:
        self.layout: SessionLayout = DataDir(folder / "data").replica("work", folder / "root")
        self.layout.state.mkdir(parents=True)
        (folder / "root").mkdir()
        self.tree = self.layout.tree

    def open(self) -> Replica:
        return Replica.open(self.layout, ReplicaSettings("n1"))

    def is_at(self, session: Any) -> bool:
        with suppress(FileNotFoundError), Index.open(self.layout.index_db, readonly=True) as index:
            return (
                index.cursor() is not None
                and index.snapshot() is None
                and index.head() == session.index.head()
                and index.fingerprint() == session.index.fingerprint()
            )
        return False


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "node")


class Backup:
    """Tree and index of a moment, as somebody keeps them who does not read the manual."""

    def __init__(self, session: Any, folder: Path) -> None:
        self.session = session
        self.folder = folder
        self.ids = dict(session._ids)
        folder.mkdir()
        with (
            closing(sqlite3.connect(session.layout.index_db)) as index,
            closing(sqlite3.connect(folder / "index.db")) as kept,
        ):
            index.backup(kept)
        shutil.copytree(session.tree, folder / "tree", symlinks=True)

    def restore(self) -> None:
        session = self.session
        session.index.close()
        for suffix in ("-wal", "-shm"):
            session.layout.index_db.with_name(f"index.db{suffix}").unlink(missing_ok=True)
        (self.folder / "index.db").replace(session.layout.index_db)
        # What the backup does not have goes; what it has is what it was, in place.
        for path in sorted(session.tree.rglob("*"), reverse=True):
            kept = self.folder / "tree" / path.relative_to(session.tree)
            if not kept.exists():
                path.rmdir() if path.is_dir() else path.unlink()
            elif path.is_file():
                path.write_bytes(kept.read_bytes())
                shutil.copystat(kept, path)
        session.index = Index.open(session.layout.index_db)
        session._ids = self.ids


def pictures(copy: Copy) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(copy.tree)): path.read_bytes() if path.is_file() else None
        for path in sorted(copy.tree.rglob("*"))
    }


def expected(session: Any) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(session.tree)): path.read_bytes() if path.is_file() else None
        for path in sorted(session.tree.rglob("*"))
    }


def first_history(session: Any) -> None:
    for number in range(10):
        (session.tree / f"kept{number}").write_bytes(b"kept" * number)
    session.sync()


def second_history(session: Any) -> None:
    """Ends with ids that are files."""
    for number in range(12):
        (session.tree / f"lost{number}").write_bytes(f"lost {number}".encode())
    (session.tree / "kept1").write_bytes(b"changed, and then lost")
    session.sync()


def third_history(session: Any) -> None:
    """Gives the same ids to directories, and files in them."""
    for number in range(12):
        (session.tree / f"new{number}").mkdir(exist_ok=True)
        (session.tree / f"new{number}" / "file").write_bytes(f"new {number}".encode())
    (session.tree / "kept2").write_bytes(b"changed again")
    session.sync()


@pytest.mark.allows_log(*RESTORED)
@pytest.mark.parametrize("running", [True, False], ids=["under the hub", "between two hubs"])
@pytest.mark.parametrize("further", [0, 1], ids=["at the old head", "beyond it"])
def test_nodes_come_back_from_a_history_that_was_taken_back(
    data: Any, session: Any, copy: Copy, run: Any, until: Any, tmp_path: Path, running: bool, further: int
) -> None:
    first_history(session)
    backup = Backup(session, tmp_path / "backup")
    second_history(session)

    def restore() -> None:
        backup.restore()
        if further:
            third_history(session)
            (session.tree / "late").write_bytes(b"late")
            session.sync()

    async def scenario() -> None:
        async with hub(data) as target, node(target, copy.open):
            await until(lambda: copy.is_at(session))
            # What users of the copy have made of it stays, whatever becomes of the session.
            (copy.tree / "mine").write_bytes(b"mine")
            (copy.tree / "lost3").write_bytes(b"mine too")
            (copy.tree / "kept5").write_bytes(b"and mine")
            if running:
                restore()
                await until(lambda: copy.is_at(session))
        if not running:
            restore()
        async with hub(data) as target, node(target, copy.open):
            await until(lambda: copy.is_at(session))
            third_history(session)
            (session.tree / "kept5").write_bytes(b"the session's")
            session.sync()
            await until(lambda: copy.is_at(session))

    run(scenario())
    shown = pictures(copy)
    # An object that had two names for a moment, one in each history, is kept under both.
    assert {content for name, content in shown.items() if ".conflict-" in name} == {
        b"and mine",
        b"mine too",
    }
    theirs = {name: content for name, content in shown.items() if ".conflict-" not in name}
    assert theirs == expected(session) | {"mine": b"mine"}


@pytest.mark.allows_log(*RESTORED)
def test_a_node_that_cannot_use_a_delta_asks_for_everything(
    data: Any, session: Any, copy: Copy, run: Any, until: Any, tmp_path: Path, logged: Any
) -> None:
    """The other history is past the node's cursor when the node comes, so the hub cannot know."""
    first_history(session)
    backup = Backup(session, tmp_path / "backup")
    second_history(session)

    async def scenario() -> None:
        async with hub(data) as target, node(target, copy.open):
            await until(lambda: copy.is_at(session))
        backup.restore()
        third_history(session)
        async with hub(data) as target, node(target, copy.open):
            await until(lambda: copy.is_at(session))

    run(scenario())
    assert pictures(copy) == expected(session)
    # Whichever it was that did not fit.
    assert any(logged.named(event) for event in ("batch_refused", "drift_detected", "parked_for_long"))


@pytest.mark.allows_log("batch_refused")
def test_refusals_are_few_and_told_once(
    data: Any, session: Any, replica: Any, run: Any, until: Any, logged: Any
) -> None:
    begun: list[Any] = []
    begin = replica.begin
    refuse = False

    def picky(batch: Any) -> None:
        begun.append(batch)
        if refuse:
            raise InvalidCell("that cannot be")
        begin(batch)

    replica.begin = picky

    async def scenario() -> None:
        nonlocal refuse
        settings = replace(FAST, resync=300.0)
        async with hub(data) as target, node(target, lambda: replica, settings):
            await until(lambda: replica.cursor is not None)
            refuse = True
            (session.tree / "a").write_bytes(os.urandom(10))
            session.sync()
            begun.clear()
            await until(lambda: len(begun) > 8)
            refuse = False
            await until(lambda: replica.cursor.seq == session.index.head())

    run(scenario())
    # The first refusal is answered with a snapshot; the next may be asked for after some minutes only.
    kinds = [batch.snapshot is not None for batch in begun]
    assert kinds[:2] == [False, True]
    told = logged.named("batch_refused")
    assert [(each["level"], each["error"]) for each in told] == [("warning", "that cannot be")]


@pytest.mark.allows_log("batch_refused")
def test_resyncs_come_ever_later_and_soon_again_after_a_success(
    data: Any, session: Any, replica: Any, run: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = FollowerSettings(resync=8.0)
    follower = Follower("work", Link, lambda: replica, settings)  # type: ignore[arg-type]
    now = 0.0
    monkeypatch.setattr("ghostfs.mesh.follower.time.monotonic", lambda: now)
    wanted = []
    for second in range(1000):
        now = float(second)
        if follower._want_resync():
            wanted.append(second)
    assert wanted[:4] == [0, 8, 24, 56]
    waits = [later - earlier for earlier, later in pairwise(wanted)]
    assert max(waits) == 8 * 12
    follower._agreed()
    now += 96
    assert follower._want_resync()
    now += 8
    assert follower._want_resync()
    follower._thread.close()
