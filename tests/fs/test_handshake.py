"""The first request of a mount: passed on whole, answered with one flag less, and nothing in its way afterwards."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from ghostfs.fs.handshake import amend
from ghostfs.fs.polling import PollingTrio

if TYPE_CHECKING:
    from conftest import Workspaces

AUTO_INVAL_DATA = 1 << 12


def answer(*, error: int = 0, major: int = 7, flags: int = 0xFFFF_FFFF, rest: bytes = b"rest") -> bytes:
    body = struct.pack("=IiQIIII", 32 + len(rest), error, 7, major, 31, 1 << 17, flags)
    return body + rest


@given(st.integers(0, 2**32 - 1), st.binary(max_size=64))
def test_the_answer_loses_one_flag_and_nothing_else(flags: int, rest: bytes) -> None:
    assert amend(answer(flags=flags, rest=rest)) == answer(flags=flags & ~AUTO_INVAL_DATA, rest=rest)


@pytest.mark.parametrize("said", [answer(error=-errno.EPROTO), answer(major=8), answer()[:31], b""])
def test_an_answer_that_agrees_to_nothing_stays_as_it_is(said: bytes) -> None:
    assert amend(said) == said


@pytest.fixture
def kernel() -> Iterator[tuple[socket.socket, int]]:
    """A kernel, as far as it greets; and the descriptor of it that libfuse has."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = theirs.detach()
    with ours:
        yield ours, fd
    os.close(fd)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_libfuse_is_greeted_and_then_has_its_descriptor_again(kernel: tuple[socket.socket, int]) -> None:
    there, fd = kernel
    adapter = PollingTrio(30, greets=True)

    async def serve() -> None:
        await adapter.wait_readable(fd)
        assert os.read(fd, 100) == b"a greeting"
        os.write(fd, answer())
        await adapter.wait_readable(fd)
        assert os.read(fd, 100) == b"the next request"

    before, place = descriptors(), os.fstat(fd)
    there.send(b"a greeting")
    there.send(b"the next request")
    trio.run(serve)
    assert there.recv(100) == amend(answer())
    assert descriptors() == before
    assert (os.fstat(fd).st_dev, os.fstat(fd).st_ino) == (place.st_dev, place.st_ino)
    assert not os.get_inheritable(fd)


def test_a_mount_that_ends_before_the_answer_leaves_nothing_open(kernel: tuple[socket.socket, int]) -> None:
    there, fd = kernel
    adapter = PollingTrio(30, greets=True)

    async def serve() -> None:
        await adapter.wait_readable(fd)
        adapter.notify_closing(fd)

    before = descriptors()
    there.send(b"a greeting")
    trio.run(serve)
    assert descriptors() == before
    there.send(b"the next request")
    assert os.read(fd, 100) == b"the next request"


def test_a_mount_that_has_gone_is_left_to_libfuse_to_find(kernel: tuple[socket.socket, int]) -> None:
    there, _ = kernel
    gone = os.open("/proc/self", os.O_RDONLY)  # reads fail at once: it is a directory
    adapter = PollingTrio(30, greets=True)

    async def serve() -> None:
        original = trio.lowlevel.wait_readable

        async def ready(_: int) -> None:
            await trio.lowlevel.checkpoint()

        trio.lowlevel.wait_readable = ready
        try:
            await adapter.wait_readable(gone)
        finally:
            trio.lowlevel.wait_readable = original

    try:
        trio.run(serve)
        with pytest.raises(IsADirectoryError):
            os.read(gone, 1)
    finally:
        os.close(gone)
    there.close()


def test_no_answer_is_no_silent_hang(kernel: tuple[socket.socket, int]) -> None:
    there, fd = kernel
    adapter = PollingTrio(30, greets=True)

    async def serve() -> None:
        await adapter.wait_readable(fd)
        await adapter.wait_readable(fd)

    there.send(b"a greeting")
    with pytest.raises(BlockingIOError):
        trio.run(serve)


@pytest.mark.parametrize("poll_us", [0, 30])
def test_what_was_written_stays_in_the_kernel_though_it_looks_again(
    workspaces: Workspaces, poll_us: int
) -> None:
    """Looking at the file shows another time of modification than the kernel knew. Without the handshake it drops
    256 pages of this file then, and asks for each when they are read out of order."""
    workspace = workspaces.make(poll_us=poll_us)
    workspace.mount()
    path = workspace.path / "f"
    content = os.urandom(1 << 20)
    with path.open("wb", buffering=0) as file:
        for at in range(0, len(content), 4096):
            file.write(content[at : at + 4096])
    before = workspace.requests()
    assert path.stat().st_size == len(content)
    with path.open("rb", buffering=0) as file:
        for at in reversed(range(0, len(content), 4096)):
            assert os.pread(file.fileno(), 4096, at) == content[at : at + 4096]
    assert workspace.requests() - before < 10
