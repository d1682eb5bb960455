"""Nothing that is done through a mount is missed: a copy made of the index's deltas alone is the same tree.

`GHOSTFS_TEST_HISTORIES` is how many random histories each way of caching gets.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
from stack import Stack

from ghostfs.errors import Superseded
from ghostfs.index import Frozen, Index
from ghostfs.mesh.blocks import BlockReader, BlockUnavailable
from ghostfs.mesh.indexpool import IndexPool
from ghostfs.mirror.layout import SessionLayout
from ghostfs.mirror.live.verify import verify
from ghostfs.mirror.replica.batch import Batch, SnapshotChunk
from ghostfs.mirror.replica.replica import Replica, ReplicaSettings
from ghostfs.model import NEVER

pytestmark = pytest.mark.timeout(24 * 3600)

HISTORY = Path(__file__).with_name("history.py")
HISTORIES = int(os.environ.get("GHOSTFS_TEST_HISTORIES", "4"))
OPERATIONS = 700


class Hub:
    """Reads a session's index and files as a hub does, and hands them to replicas without a wire."""

    def __init__(self, layout: SessionLayout) -> None:
        self.layout = layout
        self.indexes = IndexPool(layout.index_db, layout.name)
        self.reader = BlockReader(layout, self.indexes)

    def close(self) -> None:
        self.reader.close()
        self.indexes.close()

    def feed(self, replica: Replica) -> int:
        """Brings a replica from where it is to the head, by one delta; how many cells it had."""
        cursor = replica.position().cursor
        assert cursor is not None
        with Index.open(self.layout.index_db, readonly=True) as index:
            delta = index.delta_since(cursor.seq)
        batch = Batch(
            delta.epoch, cursor.seq, delta.head, delta.fingerprint, None, delta.inodes, delta.dirents
        )
        self._apply(replica, batch)
        return len(delta.inodes) + len(delta.dirents)

    def feed_snapshot(self, replica: Replica, path: Path) -> None:
        """Gives it everything anew."""
        with Index.open(self.layout.index_db, readonly=True) as index:
            if not path.exists():
                index.freeze(path)
        with Frozen.open(path) as frozen:
            position, last, state = 0, False, frozen.state
            while not last:
                chunk = frozen.chunk(position, 10, 1 << 30)
                place = SnapshotChunk(frozen.snapshot_id, chunk.position, position == 0, chunk.last)
                batch = Batch(
                    state.epoch, NEVER, state.head, state.fingerprint, place, chunk.inodes, chunk.dirents
                )
                self._apply(replica, batch)
                position, last = chunk.position, chunk.last

    def _apply(self, replica: Replica, batch: Batch) -> None:
        # What lies below a file here is no business of others; the wire leaves it out.
        batch = replace(batch, inodes=[replace(inode, backing=None) for inode in batch.inodes])
        replica.begin(batch)
        deadline = time.monotonic() + 60
        while wants := list(replica.missing()):
            assert time.monotonic() < deadline, f"{wants[0]} is never available"
            for want in wants:
                try:
                    data = self.reader.read(want.inode, want.index, want.digest)
                except BlockUnavailable:
                    continue  # somebody is moving it: asked for again
                except Superseded:
                    replica.supersede(want.inode)
                else:
                    replica.put(want.inode, want.index, data)
        replica.publish()


@dataclass(frozen=True)
class Entry:
    """What a path is; `peers` are all paths of the same inode."""

    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    content: bytes
    device: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    peers: tuple[bytes, ...]


def survey(root: Path, *, xattrs: bool) -> dict[bytes, Entry]:
    """Everything that is in a tree, by path; the root is b""."""
    top = os.fsencode(root)
    paths = [b""]
    for directory, below, files in os.walk(top):
        paths += [os.path.join(directory, name)[len(top) :] for name in (*below, *files)]
    paths = [path for path in paths if not path.startswith(b"/.skills")]
    stats = {path: os.lstat(top + path) for path in paths}
    peers: dict[int, list[bytes]] = {}
    for path in sorted(paths):
        peers.setdefault(stats[path].st_ino, []).append(path)
    return {
        path: Entry(
            st.st_mode,
            (st.st_uid, st.st_gid),
            st.st_mtime_ns,
            content(top + path, st.st_mode),
            st.st_rdev,
            attributes(top + path) if xattrs else (),
            tuple(peers[st.st_ino]),
        )
        for path, st in stats.items()
    }


def content(path: bytes, mode: int) -> bytes:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    return Path(os.fsdecode(path)).read_bytes() if stat.S_ISREG(mode) else b""


def attributes(path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    names = map(os.fsencode, os.listxattr(path, follow_symlinks=False))
    return tuple(
        sorted(
            (name, os.getxattr(path, name, follow_symlinks=False)) for name in names if name[:5] == b"user."
        )
    )


def assert_equal(what: str, found: dict[bytes, Entry], expected: dict[bytes, Entry]) -> None:
    wrong = [
        f"{path!r}: {name} is {_shown(has)}, not {_shown(wanted)}"
        for path in sorted(found.keys() & expected.keys())
        for name in (field.name for field in fields(Entry))
        if (has := getattr(found[path], name)) != (wanted := getattr(expected[path], name))
    ]
    wrong += [f"{path!r} is missing" for path in sorted(expected.keys() - found.keys())]
    wrong += [f"{path!r} is too much" for path in sorted(found.keys() - expected.keys())]
    assert not wrong, f"{what}: " + "\n".join(wrong)


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes {value[:8].hex()}… of SHA-1 {hashlib.sha1(value).hexdigest()}"
    return repr(value)


@contextmanager
def replica(home: Path) -> Iterator[Replica]:
    layout = SessionLayout("work", home / "state", home / "tree", home / "staging")
    home.mkdir()
    opened = Replica.open(layout, ReplicaSettings("node", ownership="preserve"))
    try:
        yield opened
    finally:
        opened.close()


class Historian:
    """The history as it happens, in a process of its own."""

    def __init__(self, tree: Path, log: Path, seed: int, *options: str) -> None:
        self.tree, self.log = tree, log
        self.command = [
            sys.executable,
            str(HISTORY),
            ".",
            f"--seed={seed}",
            f"--operations={OPERATIONS}",
            *options,
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                self.command, cwd=self.tree, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def done(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise AssertionError(self.told())
        return self.log.read_bytes().endswith(b"done\n")

    def end(self) -> None:
        assert self.process is not None
        self.process.communicate()
        assert self.process.returncode == 0, self.told()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()

    def told(self) -> str:
        log = self.log.read_text(errors="backslashreplace") if self.log.exists() else ""
        return f"{' '.join(self.command)}\n{log[-40_000:]}"


@pytest.mark.parametrize("xattrs", [False, True], ids=["plain", "xattrs"])
def test_a_copy_of_what_was_captured_is_the_tree(
    stack: Stack, mount: Callable[..., Path], tmp_path: Path, xattrs: bool
) -> None:
    options = ("--xattrs",) if xattrs else ()
    for seed in range(HISTORIES // 2):
        here = mount(*options)
        base = tmp_path / f"seed{seed}"
        base.mkdir()
        historian = Historian(here, base / "log", seed, *options)
        try:
            Rounds(stack, here, base, xattrs=xattrs).run(historian)
        except BaseException:
            sys.stderr.write(historian.told())
            raise
        finally:
            historian.kill()
        stack.umount(here)
        stack.run("session", "rm", "--yes", "work")
        shutil.rmtree(base)  # of a thousand histories, too much to keep


class Rounds:
    """One history and three copies: one follows it as it happens, one gets all of it in one delta, and one is
    made anew of a snapshot."""

    def __init__(self, stack: Stack, here: Path, base: Path, *, xattrs: bool) -> None:
        self.stack = stack
        self.here = here
        self.base = base
        self.xattrs = xattrs
        self.layout = stack.session("work")

    def run(self, historian: Historian) -> None:
        with (
            closing(Hub(self.layout)) as hub,
            replica(self.base / "follower") as follower,
            replica(self.base / "late") as late,
        ):
            hub.feed_snapshot(follower, self.base / "begin.snapshot")
            hub.feed_snapshot(late, self.base / "begin.snapshot")
            historian.begin()
            deltas = 0
            while not historian.done:
                deltas += hub.feed(follower) > 0
            assert deltas > 1, "the follower has seen nothing happen"
            self.check(hub, follower, late, "open")
            historian.end()
            self.check(hub, follower, late, "closed")

    def check(self, hub: Hub, follower: Replica, late: Replica, moment: str) -> None:
        self.stack.settle("work")
        expected = survey(self.here, xattrs=self.xattrs)
        assert_equal("tree", survey(self.layout.tree, xattrs=self.xattrs), expected)
        report = verify(self.layout)
        assert report.ok, report.problems
        snapshot = self.base / f"{moment}.snapshot"
        with replica(self.base / moment) as fresh:
            hub.feed_snapshot(fresh, snapshot)
            hub.feed(late)
            hub.feed(follower)
            if follower.parked():  # content that was there, and went, and came back
                hub.feed_snapshot(follower, snapshot)
            for name, copy in ((moment, fresh), ("late", late), ("follower", follower)):
                assert_equal(
                    f"{name} ({len(copy.parked())} parked)",
                    survey(self.base / name / "tree", xattrs=self.xattrs),
                    expected,
                )
                assert copy.fingerprint() == report.fingerprint, name
