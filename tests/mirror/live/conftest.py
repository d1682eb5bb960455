"""An owned mirror whose commits are made by hand, a move at a time, so that any order can be forced."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ghostfs.content import BlockList
from ghostfs.index import Delta
from ghostfs.mirror.layout import DataDir, SessionLayout
from ghostfs.mirror.live.capture import Capture
from ghostfs.mirror.live.gathered import Gathered
from ghostfs.mirror.live.mirror import Mirror
from ghostfs.mirror.live.records import FileHandle
from ghostfs.mirror.live.session import OwnedMirror, create_session
from ghostfs.mirror.live.settings import MirrorSettings
from ghostfs.mirror.live.verify import verify
from ghostfs.model import NEVER, ROOT, InodeId, Kind

UID, GID = os.geteuid(), os.getegid()
NOBODY = 65534
RDWR = os.O_RDWR


class Live:
    """A session and its mirror. Commits happen when a test says so, unless `threaded`."""

    def __init__(self, home: Path, *, threaded: bool = False, made: bool = False, **settings: Any) -> None:
        self.home = home
        self.layout: SessionLayout = DataDir(home).session("s")
        self.settings = MirrorSettings(**({"settle_quiet": 1000.0, "settle_max_age": 1000.0} | settings))
        self.threaded = threaded
        self._owned: OwnedMirror | None = None
        self._moments: dict[str, Callable[[], object]] = {}
        if not made:
            create_session(self.layout)

    # --- owning it -----------------------------------------------------------------------------------

    @property
    def owned(self) -> OwnedMirror:
        if self._owned is None:
            self.open()
        assert self._owned is not None
        return self._owned

    @property
    def mirror(self) -> Mirror:
        return self.owned.mirror

    def open(self, **how: Any) -> OwnedMirror:
        start = Capture.start
        if not self.threaded:
            Capture.start = lambda _self: None  # type: ignore[method-assign]
        try:
            self._owned = OwnedMirror.open(self.layout, self.settings, **how)
        finally:
            Capture.start = start  # type: ignore[method-assign]
        return self._owned

    def close(self) -> None:
        """A clean stop."""
        if self._owned is None:
            return
        if not self.threaded:
            self._owned.capture.start()
        assert self._owned.close(timeout=30)
        self._owned = None

    def kill(self) -> None:
        """Lets go of everything as the end of the process would: nothing is settled or committed."""
        owned = self._owned
        if owned is None:
            return
        if self.threaded:
            owned.capture.stop()
        owned.mirror.close()
        for part in (owned._index, owned._lookups, owned._identities, owned._pool, owned._dirty_log):
            part.close()
        owned._lock.release()
        self._owned = None

    # --- committing it -------------------------------------------------------------------------------

    def step(self) -> None:
        """One commit of what is due."""
        self.owned.capture._step()

    def drain(self) -> None:
        """Settles and commits everything, open files too."""
        if self.threaded:
            assert self.owned.capture.drain(30)
            return
        done = threading.Event()
        self.owned.capture._drain_wanted.append(done)
        for _ in range(20):
            self.step()
            if done.is_set():
                return
        raise AssertionError("it never drains")

    def at(self, moment: str, action: Callable[[], object]) -> None:
        """Does something once in the middle of the next commit: before `hash`, `seal`, `commit` or `committed`."""
        capture, gatherer = self.owned.capture, self.owned.capture._gatherer
        owner, name = {
            "hash": (gatherer, "hash_changes"),
            "seal": (gatherer, "seal"),
            "commit": (capture, "_commit"),
            "committed": (gatherer, "committed"),
        }[moment]
        real = getattr(owner, name)

        def first(gathered: Gathered) -> None:
            delattr(owner, name)
            action()
            real(gathered)

        setattr(owner, name, first)

    # --- using it ------------------------------------------------------------------------------------

    def id(self, path: str | bytes) -> InodeId:
        """The inode at a path."""
        inode = ROOT
        for name in os.fsencode(path).split(b"/"):
            if name:
                found = self.mirror.lookup(inode, name)
                assert found is not None, path
                inode = found[0]
        return inode

    def place(self, path: str | bytes) -> tuple[InodeId, bytes]:
        parent, _, name = os.fsencode(path).rpartition(b"/")
        return self.id(parent), name

    def create(self, path: str | bytes, data: bytes = b"", mode: int = 0o644) -> FileHandle:
        """Makes a file and leaves it open."""
        _, _, handle = self.mirror.create(*self.place(path), mode, RDWR | os.O_EXCL, UID, GID)
        if data:
            assert self.mirror.write(handle, 0, data) == len(data)
        return handle

    def write(self, path: str | bytes, data: bytes, offset: int = 0) -> InodeId:
        """Opens, writes, closes; makes the file if it is not there."""
        inode, _, handle = self.mirror.create(*self.place(path), 0o644, RDWR, UID, GID)
        self.mirror.write(handle, offset, data)
        self.mirror.release(handle)
        return inode

    def mkdir(self, path: str | bytes) -> InodeId:
        return self.mirror.mkdir(*self.place(path), 0o755, UID, GID)[0]

    def rename(self, old: str | bytes, new: str | bytes, flags: int = 0) -> InodeId | None:
        return self.mirror.rename(*self.place(old), *self.place(new), flags)

    def unlink(self, path: str | bytes) -> InodeId:
        return self.mirror.unlink(*self.place(path))

    def rmdir(self, path: str | bytes) -> InodeId:
        return self.mirror.rmdir(*self.place(path))

    def names(self, path: str | bytes = b"") -> list[bytes]:
        return [name for name, _ in self.mirror.readdir(self.id(path))]

    # --- judging it ----------------------------------------------------------------------------------

    def indexed(self) -> dict[bytes, tuple[Any, ...]]:
        """What the index says, by path, out of its whole delta."""
        return replayed(self.owned._lookups.delta_since(NEVER))

    def check(self) -> None:
        """The index holds together, and is what the tree is."""
        index = self.owned._lookups
        consistent(index.delta_since(NEVER))
        report = verify(self.layout, workers=1)
        assert report.ok, report
        assert report.changed_meanwhile == 0
        assert self.indexed() == on_disk(self.layout.tree)

    def settled(self) -> None:
        """Drains, and then `check`s; also that a restart would read no file again."""
        self.drain()
        self.check()
        assert self.owned.working.empty
        cells = self.owned._lookups.delta_since(NEVER).inodes
        remembered = {(c.backing.ino, c.backing.ctime_ns) for c in cells if c.kind is Kind.FILE}
        paths = [Path(top) / name for top, _, names in os.walk(self.layout.tree) for name in names]
        stats = [st for path in paths if stat.S_ISREG((st := path.lstat()).st_mode)]
        assert remembered == {(st.st_ino, st.st_ctime_ns) for st in stats}


class AsNobody:
    """Runs something with one session in a process without rights, to which the session belongs."""

    def __init__(self, home: Path, live_class: Callable[..., Any]) -> None:
        self.tree = home / "sessions/s/tree"
        self._home = home
        self._live = live_class

    def __call__(self, history: Callable[[Any], None], **settings: Any) -> None:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                history(self._live(self._home, made=self.tree.is_dir(), **settings))
            except BaseException:
                os.write(writing, traceback.format_exc().encode()[-60_000:])
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as said:
            trouble = said.read()
        os.waitpid(child, 0)
        assert not trouble, trouble


def consistent(delta: Delta) -> None:
    """What followers may rely on in every commit: each cell's parent and inode are there, no directory is in
    two places."""
    rows = {inode.id: inode for inode in delta.inodes}
    links: dict[InodeId, int] = {}
    for dirent in delta.dirents:
        if dirent.inode is None:
            continue
        assert dirent.parent in rows, f"{dirent} is in no directory"
        assert rows[dirent.parent].kind is Kind.DIRECTORY
        assert dirent.inode in rows, f"{dirent} has no inode"
        links[dirent.inode] = links.get(dirent.inode, 0) + 1
        assert links[dirent.inode] == 1 or rows[dirent.inode].kind is not Kind.DIRECTORY, dirent
    assert rows.keys() - links.keys() <= {ROOT}, "inodes without a name"


def replayed(delta: Delta) -> dict[bytes, tuple[Any, ...]]:
    rows = {inode.id: inode for inode in delta.inodes}
    below: dict[InodeId, list[tuple[bytes, InodeId]]] = {}
    for dirent in delta.dirents:
        if dirent.inode is not None:
            below.setdefault(dirent.parent, []).append((dirent.name, dirent.inode))
    found = {}
    pending = [(b"", ROOT)]
    while pending:
        path, inode = pending.pop()
        row = rows[inode]
        size = row.size if row.kind is Kind.FILE else 0
        if row.kind is Kind.FILE:
            assert BlockList.decode(row.size, row.blocks).digest() == row.digest
        found[path] = (row.kind, row.mode, row.uid, row.gid, row.mtime_ns, size, row.target)
        pending += [(path + b"/" + name, child) for name, child in below.get(inode, [])]
    return found


def on_disk(tree: Path) -> dict[bytes, tuple[Any, ...]]:
    found = {}
    pending = [(b"", os.fsencode(tree))]
    while pending:
        path, real = pending.pop()
        st = os.lstat(real)
        kind = Kind(stat.S_IFMT(st.st_mode) >> 12)
        target = os.readlink(real) if kind is Kind.SYMLINK else b""
        size = st.st_size if kind is Kind.FILE else 0
        found[path] = (kind, stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns, size, target)
        if kind is Kind.DIRECTORY:
            pending += [(path + b"/" + name, real + b"/" + name) for name in os.listdir(real)]
    return found


@pytest.fixture(autouse=True, scope="module")
def _no_umask() -> Iterator[None]:
    """The mirror is given modes that a umask was applied to already, as its process has none."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """A new session, its commits made by hand."""
    made = Live(tmp_path)
    yield made
    made.close()


@pytest.fixture
def new_live(tmp_path: Path) -> Iterator[Callable[..., Live]]:
    """A maker of sessions."""
    made: list[Live] = []

    def make(**settings: Any) -> Live:
        made.append(Live(Path(tempfile.mkdtemp(dir=tmp_path)), **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="session")
def live_class() -> type[Live]:
    return Live


@pytest.fixture(scope="session")
def invariants() -> Callable[[Delta], None]:
    return consistent


@pytest.fixture(scope="session")
def tree_of() -> Callable[[Path], dict[bytes, tuple[Any, ...]]]:
    return on_disk


@pytest.fixture
def as_nobody(live_class: Callable[..., Any], tmp_path: Path) -> Iterator[AsNobody]:
    # What is imported when it is first needed may lie where others cannot read.
    first = live_class(tmp_path)
    first.write("file", b"content")
    first.settled()
    first.close()
    home = Path(tempfile.mkdtemp(prefix="ghostfs-test-"))
    os.chown(home, NOBODY, NOBODY)
    yield AsNobody(home, live_class)
    shutil.rmtree(home)
