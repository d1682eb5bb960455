"""Changes that fail, or fail halfway: what there is of them is in the index afterwards."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from ghostfs.content import BLOCK_SIZE
from ghostfs.index import DirtyLog
from ghostfs.mirror.live.verify import verify


def failing(real: Callable[..., Any], *, first: bool) -> Callable[..., Any]:
    """The call fails with EIO, after it was made or `first`."""

    def call(*arguments: Any, **how: Any) -> Any:
        if not first:
            real(*arguments, **how)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    return call


@pytest.mark.parametrize("first", [True, False], ids=["at once", "halfway"])
@pytest.mark.parametrize("offset", [10, BLOCK_SIZE + 5, 3 * BLOCK_SIZE])
def test_a_write_that_fails(live: Any, monkeypatch: pytest.MonkeyPatch, first: bool, offset: int) -> None:
    live.write("file", b"a" * (2 * BLOCK_SIZE))
    live.drain()
    handle = live.mirror.open_file(live.id("file"), os.O_RDWR)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing(os.pwrite, first=first))
        with pytest.raises(OSError, match="Input/output"):
            live.mirror.write(handle, offset, b"written")
    live.mirror.release(handle)
    live.settled()


@pytest.mark.parametrize("first", [True, False], ids=["at once", "halfway"])
@pytest.mark.parametrize("size", [0, 10, 5 * BLOCK_SIZE])
def test_a_truncation_that_fails(
    live: Any, monkeypatch: pytest.MonkeyPatch, first: bool, size: int
) -> None:
    inode = live.write("file", b"a" * (2 * BLOCK_SIZE))
    live.drain()
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", failing(os.ftruncate, first=first))
        with pytest.raises(OSError, match="Input/output"):
            live.mirror.setattr(inode, size=size)
    live.settled()


def test_a_write_whose_time_cannot_be_put_back_is_a_write(
    live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.write("file", b"content")
    live.drain()
    live.mirror.kernel_keeps_times = True
    handle = live.mirror.open_file(live.id("file"), os.O_RDWR)
    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", failing(os.utime, first=True))
        assert live.mirror.write(handle, 0, b"CONTENT") == 7
    live.mirror.release(handle)
    live.settled()
    assert (live.layout.tree / "file").read_bytes() == b"CONTENT"


def test_what_was_announced_and_failed_is_not_excused_when_verified(
    live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode = live.write("file", b"content")
    live.drain()
    with monkeypatch.context() as patch:
        patch.setattr(os, "setxattr", failing(os.setxattr, first=True))
        with pytest.raises(OSError, match="Input/output"):
            live.mirror.setxattr(inode, b"user.name", b"x")
    assert DirtyLog.entries(live.layout.dirty_log)
    live.drain()
    assert not DirtyLog.entries(live.layout.dirty_log)
    (live.layout.tree / "file").write_bytes(b"CONTENT")
    assert [problem.path for problem in verify(live.layout).problems] == ["file"]
