"""Random histories: operations, commits taken apart into their moments, failures, kills, and closes.

The model is a plain directory: every operation is made there too, by path, and must have the same outcome.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ghostfs.mirror.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from ghostfs.model import NEVER

UID, GID = os.geteuid(), os.getegid()
BLOCK = 262144
EXAMPLES = int(os.environ.get("GHOSTFS_TEST_HISTORIES", "60"))
"""How many histories; more of them for long runs."""
NAMES = [b"a", b"b", b"\xff"]
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(b"/".join)
OFFSETS = st.sampled_from([0, 1, 100, BLOCK - 1, BLOCK, BLOCK + 50])
LENGTHS = st.sampled_from([1, 60, BLOCK, BLOCK + 1])


class Histories(RuleBasedStateMachine):
    """One mirror and its model."""

    new_live: Callable[[Path], Any]
    consistent: Callable[[Any], None]

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(dir="/dev/shm"))
        self.live = type(self).new_live(self.home / "data")
        self.model = self.home / "model"
        self.handles: list[tuple[Any, int]] = []
        self.gathered: Any = None
        self.moment = 0

    @initialize()
    def begin(self) -> None:
        self.model.mkdir(mode=0o755)
        self.live.open()

    def teardown(self) -> None:
        try:
            self.abandon()
            self.close_handles()
            self.live.settled()
            self.compare()
            self.live.close()
            self.live.open()
            self.live.check()
            self.live.close()
        finally:
            self.live.kill()
            shutil.rmtree(self.home)

    # --- the same here and there ------------------------------------------------------------------------

    def both(self, here: Callable[[], Any], there: Callable[[], Any]) -> tuple[Any, Any] | None:
        """Does both; the results, or None if both failed in the same way."""
        outcomes = []
        for action in (here, there):
            try:
                outcomes.append(action())
            except OSError as error:
                outcomes.append(("failed", error.errno))
        mine, model = (o[1] if isinstance(o, tuple) and o[:1] == ("failed",) else 0 for o in outcomes)
        assert mine == model, (errno.errorcode.get(mine), errno.errorcode.get(model))
        return None if mine else (outcomes[0], outcomes[1])

    def place(self, path: bytes) -> Any:
        """Parent and name; as the kernel, through directories only."""
        parent, _, name = path.rpartition(b"/")
        return self.inode(parent, directory=True), name

    def inode(self, path: bytes, *, directory: bool = False) -> Any:
        inode = self.live.id(b"")
        stat = self.live.mirror.getattr(inode)
        for name in path.split(b"/"):
            if not name:
                continue
            if stat.st_mode & 0o170000 == 0o120000:
                raise FileNotFoundError(errno.ENOENT, "")  # the model's symlinks lead nowhere
            if stat.st_mode & 0o170000 != 0o040000:
                raise NotADirectoryError(errno.ENOTDIR, "")
            found = self.live.mirror.lookup(inode, name)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, "")
            inode, stat = found
        if directory and stat.st_mode & 0o170000 == 0o120000:
            raise FileNotFoundError(errno.ENOENT, "")
        if directory and stat.st_mode & 0o170000 != 0o040000:
            raise NotADirectoryError(errno.ENOTDIR, "")
        return inode

    def there(self, path: bytes) -> bytes:
        return os.fsencode(self.model) + b"/" + path

    def compare(self) -> None:
        assert contents(self.live.layout.tree) == contents(self.model)

    # --- operations -------------------------------------------------------------------------------------

    @rule(path=PATHS)
    def mkdir(self, path: bytes) -> None:
        self.both(
            lambda: self.live.mirror.mkdir(*self.place(path), 0o755, UID, GID),
            lambda: os.mkdir(self.there(path), 0o755),
        )

    @rule(path=PATHS, to=st.sampled_from([b"x", b"nowhere/at/all"]))
    def symlink(self, path: bytes, to: bytes) -> None:
        self.both(
            lambda: self.live.mirror.symlink(*self.place(path), to, UID, GID),
            lambda: os.symlink(to, self.there(path)),
        )

    @rule(path=PATHS)
    def mkfifo(self, path: bytes) -> None:
        self.both(
            lambda: self.live.mirror.mknod(*self.place(path), 0o10644, 0, UID, GID),
            lambda: os.mkfifo(self.there(path), 0o644),
        )

    @rule(path=PATHS)
    def create(self, path: bytes) -> None:
        self.both(
            lambda: self.live.mirror.release(
                self.live.mirror.create(*self.place(path), 0o644, os.O_RDWR | os.O_EXCL, UID, GID)[2]
            ),
            lambda: os.close(os.open(self.there(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)),
        )

    @rule(path=PATHS, offset=OFFSETS, length=LENGTHS, byte=st.integers(0, 3))
    def write_and_leave_open(self, path: bytes, offset: int, length: int, byte: int) -> None:
        if (path, offset) and not self.is_file_or_nothing(path):
            return
        opened = self.both(
            lambda: self.live.mirror.create(*self.place(path), 0o644, os.O_RDWR, UID, GID)[2],
            lambda: os.open(self.there(path), os.O_RDWR | os.O_CREAT, 0o644),
        )
        if opened is not None:
            self.handles.append(opened)
            self.write_at(len(self.handles) - 1, offset, length, byte)

    def is_file_or_nothing(self, path: bytes) -> bool:
        """Opening other things is the kernel's affair and never reaches a mirror."""
        there = self.there(path)
        return os.path.isfile(there) and not os.path.islink(there) if os.path.lexists(there) else True

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 9), offset=OFFSETS, length=LENGTHS, byte=st.integers(0, 3))
    def write_at(self, which: int, offset: int, length: int, byte: int) -> None:
        handle, fd = self.handles[which % len(self.handles)]
        data = bytes([byte]) * length
        self.both(lambda: self.live.mirror.write(handle, offset, data), lambda: os.pwrite(fd, data, offset))

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 9), size=OFFSETS)
    def truncate_open(self, which: int, size: int) -> None:
        handle, fd = self.handles[which % len(self.handles)]
        self.both(
            lambda: self.live.mirror.setattr(handle.inode, size=size, handle=handle),
            lambda: os.ftruncate(fd, size),
        )

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 9), mode=st.sampled_from([0o600, 0o4755]))
    def chmod_open(self, which: int, mode: int) -> None:
        handle, fd = self.handles[which % len(self.handles)]
        self.both(lambda: self.live.mirror.setattr(handle.inode, mode=mode), lambda: os.fchmod(fd, mode))
        os.fchmod(fd, 0o644)
        self.live.mirror.setattr(handle.inode, mode=0o644)

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 9))
    def fsync(self, which: int) -> None:
        self.live.mirror.fsync(self.handles[which % len(self.handles)][0], datasync=True)

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 9))
    def release(self, which: int) -> None:
        handle, fd = self.handles.pop(which % len(self.handles))
        self.live.mirror.release(handle)
        os.close(fd)

    def close_handles(self) -> None:
        while self.handles:
            self.release(0)

    @rule(path=PATHS, size=OFFSETS)
    def truncate(self, path: bytes, size: int) -> None:
        if self.is_file_or_nothing(path):
            self.both(
                lambda: self.live.mirror.setattr(self.inode(path), size=size),
                lambda: os.truncate(self.there(path), size),
            )

    @rule(path=PATHS, mode=st.sampled_from([0o700, 0o644, 0o555]), mtime=st.integers(0, 10**9))
    def attributes(self, path: bytes, mode: int, mtime: int) -> None:
        if not os.path.islink(self.there(path)):
            self.both(
                lambda: self.live.mirror.setattr(self.inode(path), mode=mode, mtime_ns=mtime),
                lambda: os.chmod(self.there(path), mode),
            )

    @rule(old=PATHS, new=PATHS, flags=st.sampled_from([0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE]))
    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        self.both(
            lambda: self.live.mirror.rename(*self.place(old), *self.place(new), flags),
            lambda: renameat2(-100, self.there(old), -100, self.there(new), flags),
        )

    @rule(old=PATHS, new=PATHS)
    def link(self, old: bytes, new: bytes) -> None:
        def here() -> None:
            inode = self.inode(old)
            self.live.mirror.link(inode, *self.place(new))

        self.both(here, lambda: os.link(self.there(old), self.there(new), follow_symlinks=False))

    @rule(path=PATHS)
    def unlink(self, path: bytes) -> None:
        self.both(lambda: self.live.mirror.unlink(*self.place(path)), lambda: os.unlink(self.there(path)))

    @rule(path=PATHS)
    def rmdir(self, path: bytes) -> None:
        self.both(lambda: self.live.mirror.rmdir(*self.place(path)), lambda: os.rmdir(self.there(path)))

    @rule(path=PATHS)
    def look(self, path: bytes) -> None:
        def here() -> Any:
            inode = self.inode(path)
            stat = self.live.mirror.getattr(inode)
            if stat.st_mode & 0o170000 == 0o040000:
                names = self.live.mirror.readdir(inode)
                assert all(self.live.mirror.lookup(inode, name)[0] == child for name, child in names)
                return sorted(name for name, _ in names)
            return stat.st_size

        def there() -> Any:
            stat = os.lstat(self.there(path))
            return (
                sorted(os.listdir(self.there(path)))
                if stat.st_mode & 0o170000 == 0o040000
                else stat.st_size
            )

        found = self.both(here, there)
        assert found is None or found[0] == found[1]

    @rule(path=PATHS)
    def forget(self, path: bytes) -> None:
        try:
            inode = self.inode(path)
        except OSError:
            return
        self.live.mirror.forget(inode)

    # --- commits, a moment at a time --------------------------------------------------------------------

    @rule(everything=st.booleans())
    def go_on(self, everything: bool) -> None:
        """The next moment of the commit under way, or the first of a new one."""
        capture = self.live.owned.capture
        gatherer = capture._gatherer
        if self.moment == 0:
            self.gathered = gatherer.gather(everything=everything)
        elif self.moment == 1:
            gatherer.hash_changes(self.gathered)
        elif self.moment == 2:
            gatherer.seal(self.gathered)
            assert self.gathered.trouble is None
        elif self.moment == 3:
            capture._commit(self.gathered)
            type(self).consistent(self.live.owned._lookups.delta_since(NEVER))
        else:
            gatherer.committed(self.gathered)
            self.gathered = None
        self.moment = (self.moment + 1) % 5

    @precondition(lambda self: 0 < self.moment < 4)
    @rule()
    def fail(self) -> None:
        self.live.owned.capture._gatherer.give_back(self.gathered)
        self.gathered, self.moment = None, 0

    def abandon(self) -> None:
        while self.moment:
            self.go_on(everything=False)

    @rule()
    def drain(self) -> None:
        self.abandon()
        self.live.settled()

    # --- ends and beginnings ----------------------------------------------------------------------------

    @rule()
    def kill(self) -> None:
        self.forget_handles()
        if self.moment:
            self.live.owned.capture._gatherer._close(self.gathered)
        self.gathered, self.moment = None, 0
        self.live.kill()
        self.live.open()
        self.live.check()

    @rule(rescan=st.booleans())
    def close(self, rescan: bool) -> None:
        self.abandon()
        self.forget_handles()
        self.live.close()
        self.live.open(rescan=rescan)
        self.live.check()

    def forget_handles(self) -> None:
        for _, fd in self.handles:
            os.close(fd)
        self.handles.clear()

    @invariant()
    def listings_are_as_the_index(self) -> None:
        if self.model.exists() and self.moment == 0:
            owned = self.live.owned
            for directory, names in owned.mirror._listings._known.items():
                assert names == dict(owned._lookups.children(directory))

    @invariant()
    def trees_are_equal(self) -> None:
        if self.model.exists() and self.moment == 0:
            self.compare()


def contents(tree: Path) -> dict[bytes, Any]:
    """Everything but modes and times, hard links included; by path."""
    found: dict[bytes, Any] = {}
    groups: dict[int, list[bytes]] = {}
    pending = [b""]
    top = os.fsencode(tree)
    while pending:
        path = pending.pop()
        real = top + path
        for name in sorted(os.listdir(real)):
            below, stat = path + b"/" + name, os.lstat(real + b"/" + name)
            if stat.st_mode & 0o170000 == 0o040000:
                pending.append(below)
                found[below] = "directory"
            elif stat.st_mode & 0o170000 == 0o120000:
                found[below] = os.readlink(top + below)
            elif stat.st_mode & 0o170000 == 0o100000:
                found[below] = Path(os.fsdecode(top + below)).read_bytes()
            else:
                found[below] = stat.st_mode & 0o170000
            groups.setdefault(stat.st_ino, []).append(below)
    found[b"groups"] = sorted(sorted(group) for group in groups.values())
    return found


@pytest.fixture
def machine(live_class: Any, invariants: Any) -> type[Histories]:
    class Machine(Histories):
        new_live = staticmethod(live_class)
        consistent = staticmethod(invariants)

    return Machine


def test_histories(machine: type[Histories]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
