"""Bytes that cross the wire, counted in between: with compression where it pays, and as they are on loopback."""

from __future__ import annotations

import os
import select
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from stack import Stack, differences

SIZE = 3_000_000
"""Bytes that each step writes: half of them small files, inside deltas, half in one file, fetched by block."""


class CountingProxy:
    """Hands the connections to a port of loopback on, and counts what comes back. A context manager."""

    def __init__(self, port: int) -> None:
        self.received = 0
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._ended, self._end = os.pipe()
        self._thread = threading.Thread(target=self._run, name="proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._end)
        self._thread.join()
        os.close(self._ended)

    def _run(self) -> None:
        peers: dict[socket.socket, socket.socket] = {}
        from_hub: set[socket.socket] = set()
        with self._listener:
            while True:
                ready, _, _ = select.select([self._ended, self._listener, *peers], [], [])
                if self._ended in ready:
                    break
                for one in ready:
                    if one is self._listener:
                        node, hub = one.accept()[0], socket.create_connection(("127.0.0.1", self._to))
                        peers |= {node: hub, hub: node}
                        from_hub.add(hub)
                    elif one in peers and not self._pass(one, peers[one], count=one in from_hub):
                        for gone in (one, peers.pop(one)):
                            peers.pop(gone, None)
                            gone.close()
        for left in peers:
            left.close()

    def _pass(self, giver: socket.socket, taker: socket.socket, *, count: bool) -> bool:
        try:
            data = giver.recv(1 << 16)
            taker.sendall(data)
        except OSError:
            return False
        self.received += len(data) * count
        return bool(data)


def write(directory: Path, content: bytes) -> None:
    directory.mkdir()
    half = len(content) // 2
    (directory / "large").write_bytes(content[:half])
    for begin in range(half, len(content), 50_000):
        (directory / f"small{begin}").write_bytes(content[begin : begin + 50_000])


def text(seed: int) -> bytes:
    lines = (b"%d of %d: what programs write is mostly like this\n" % (n, seed) for n in range(SIZE // 50))
    return b"".join(lines).ljust(SIZE, b".")[:SIZE]


@pytest.mark.parametrize(
    ("options", "compresses"),
    [((), False), (("--compression", "off"), False), (("--compression", "on"), True)],
    ids=["by default", "off", "on"],
)
def test_what_compresses_is_compressed_if_asked(
    stack: Stack, options: tuple[str, ...], *, compresses: bool
) -> None:
    stack.start_hub(*options)
    mount = stack.mount("work")
    write(mount / "before", text(1))
    stack.settle("work")
    with CountingProxy(stack.port) as proxy:
        node = stack.start_node("n1", "work", options=("--hub", proxy.address))
        counted = []
        for step, content in (("before", None), ("later", text(2)), ("noise", os.urandom(SIZE))):
            before = proxy.received
            if content:
                write(mount / step, content)
            stack.converge("work")
            assert differences(mount, node.copy("work"), excluded=("/.skills",)) == ""
            counted.append(proxy.received - before)
        first_sync, delta, noise = counted
        for received in (first_sync, delta):
            if compresses:
                assert received < 0.3 * SIZE
            else:
                assert SIZE <= received < 1.05 * SIZE
        assert SIZE <= noise < 1.05 * SIZE  # trying made nothing larger
        node.stop()
