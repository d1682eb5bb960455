"""What the kernel still holds when something is settled, and what it says later, ends in the tree and the index."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from pathlib import Path

from stack import Stack

from ghostfs.content import scan
from ghostfs.index import Index
from ghostfs.mirror.layout import SessionLayout
from ghostfs.model import ROOT

MANY = 24 << 20
"""Bytes: more than the kernel has on its way to a mount at a time."""


def indexed(layout: SessionLayout, name: bytes) -> bytes:
    """The digest that the index has of a file at the root."""
    with Index.open(layout.index_db, readonly=True) as index:
        child = index.dirent(ROOT, name)
        assert child is not None
        row = index.inode(child)
        assert row is not None
        return row.digest


def digest(data: bytes) -> bytes:
    return scan(lambda offset, length: data[offset : offset + length], len(data), [(0, len(data))]).digest()


def test_a_settle_commits_what_was_written_through_a_mapping(
    stack: Stack, mount: Callable[..., Path]
) -> None:
    path = mount() / "file"
    data = os.urandom(1 << 20) * (MANY >> 20)
    with path.open("w+b") as file:
        file.truncate(MANY)
        with mmap.mmap(file.fileno(), MANY) as mapping:
            for step in (0, 1):  # the second time, no page of the mapping is new
                mapping[:] = data[step:] + data[:step]
                stack.settle("work")
                assert indexed(stack.session("work"), b"file") == digest(data[step:] + data[:step])


def test_a_settle_commits_what_was_written_and_is_still_open(
    stack: Stack, mount: Callable[..., Path]
) -> None:
    path = mount() / "file"
    data = os.urandom(1 << 20) * (MANY >> 20)
    with path.open("wb", buffering=0) as file:
        file.write(data)
        stack.settle("work")
        assert indexed(stack.session("work"), b"file") == digest(data)


def test_times_in_the_tree_are_those_that_the_mount_shows(stack: Stack, mount: Callable[..., Path]) -> None:
    path = mount() / "file"
    below = stack.session("work").tree / "file"

    def assert_same(after: str) -> None:
        stack.settle("work")
        assert below.stat().st_mtime_ns == path.stat().st_mtime_ns, after

    path.write_bytes(b"x" * 600_000)
    assert_same("written")
    os.truncate(path, 600_000)
    assert_same("truncated to the size that it has")
    os.truncate(path, 100)
    assert_same("truncated")
    path.write_bytes(b"anew")
    assert_same("written anew")
    with path.open("r+b", buffering=0) as file:
        file.write(b"x" * MANY)
        assert_same("written, and still open")
        with mmap.mmap(file.fileno(), 0) as mapping:
            mapping[5] = 1
            assert_same("written through a mapping")
            mapping[6] = 1
            os.truncate(path, MANY)
            assert_same("written through a mapping, and truncated to the size that it has")
    os.utime(path, ns=(1, 1))
    assert_same("given a time")


def test_what_was_removed_is_no_trouble_for_syncfs(mount: Callable[..., Path]) -> None:
    here = mount()
    libc = ctypes.CDLL(None, use_errno=True)
    (here / "kept").write_bytes(b"old")
    for act in (
        lambda path: path.unlink(),
        (here / "kept").rename,
        lambda path: path.rename(here / "other"),
    ):
        path = here / "file"
        path.write_bytes(b"content")
        act(path)
        top = os.open(here, os.O_RDONLY)
        assert libc.syncfs(top) == 0, os.strerror(ctypes.get_errno())
        os.close(top)
