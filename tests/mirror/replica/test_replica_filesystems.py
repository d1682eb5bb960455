"""Where a copy cannot be kept: filesystems on which nothing can be published safely."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from ghostfs.errors import NodeHalted
from ghostfs.mirror import syscalls
from ghostfs.model import ROOT

real = syscalls.renameat2


def without(*missing: int, code: int = errno.EINVAL) -> Any:
    """renameat2(2) of a filesystem that does not know these flags; the names are looked up before."""

    def rename(olddir: int, old: bytes, newdir: int, new: bytes, flags: int = 0) -> None:
        os.stat(old, dir_fd=olddir, follow_symlinks=False)
        if flags in missing:
            raise OSError(code, os.strerror(code), old, None, new)
        real(olddir, old, newdir, new, flags)

    return rename


@pytest.mark.parametrize("flag", [syscalls.RENAME_NOREPLACE, syscalls.RENAME_EXCHANGE])
@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_filesystem_without_such_renames_halts_the_replica_before_anything_is_done(
    world: Any, monkeypatch: pytest.MonkeyPatch, flag: int, code: int
) -> None:
    world.hub.file(ROOT, b"f", b"x")
    monkeypatch.setattr(syscalls, "renameat2", without(flag, code=code))
    with pytest.raises(NodeHalted, match="ext4") as refused:
        world.node.sync(world.hub)
    assert str(world.node.tree) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert os.listdir(world.node.tree) == []
    assert os.listdir(world.node.layout.staging / "new") == []
    monkeypatch.undo()
    world.node.sync(world.hub)
    world.assert_equal()


def test_a_plan_that_was_begun_elsewhere_is_not_gone_on_with(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that was moved, plan and all: each of its steps would be refused, one by one."""
    world.node.sync(world.hub)
    world.hub.file(ROOT, b"f", b"x")

    class Killed(BaseException):
        pass

    def stop(step: int) -> None:
        raise Killed

    world.node.between = stop
    with pytest.raises(Killed):
        world.node.sync(world.hub)
    world.node.between = lambda _: None
    world.node.close()
    monkeypatch.setattr(syscalls, "renameat2", without(syscalls.RENAME_NOREPLACE))
    with pytest.raises(NodeHalted):
        world.node.open()
    monkeypatch.undo()
    world.node.open()
    world.assert_equal()


def test_a_full_disk_is_no_answer(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be found out now is found out by the steps; a replica must open on a full disk."""
    real_open = os.open

    def full(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT and dir_fd is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_open(path, flags, mode, dir_fd=dir_fd)

    world.node.sync(world.hub)
    world.node.close()
    monkeypatch.setattr(os, "open", full)
    world.node.open()
    monkeypatch.undo()
    world.assert_equal()


def test_asking_leaves_nothing(world: Any) -> None:
    world.node.open()
    assert os.listdir(world.node.layout.staging / "new") == []
    assert os.listdir(world.node.layout.staging / "held") == []
