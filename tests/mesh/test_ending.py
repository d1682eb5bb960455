"""Ends that are in order say nothing: a hub that is stopped under its nodes, a node that leaves in a call."""

from __future__ import annotations

import asyncio
import gc
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from ghostfs.daemon.hub import HubServer
from ghostfs.index import Frozen
from ghostfs.mesh.calls import translated
from ghostfs.mesh.fetcher import collect
from ghostfs.mesh.hubservice import HubSettings
from ghostfs.mesh.workers import Workers
from ghostfs.v1 import mesh_pb2 as pb
from ghostfs.v1 import mesh_pb2_grpc as rpc

NODE = bytes(16)


class Gate:
    """A method that waits, in its thread, until it is let go."""

    def __init__(self, method: Any) -> None:
        self.reached, self.free, self.left = threading.Event(), threading.Event(), threading.Event()
        self._method = method

    def __get__(self, instance: Any, owner: Any) -> Any:
        def call(*arguments: Any) -> Any:
            self.reached.set()
            assert self.free.wait(20)
            try:
                return self._method(instance, *arguments)
            finally:
                self.left.set()

        return call


@pytest.mark.parametrize("soon", [True, False], ids=["before its end", "after its end"])
def test_a_hub_that_is_stopped_in_the_middle_of_a_snapshot(
    data: Any, session: Any, run: Any, until: Any, monkeypatch: pytest.MonkeyPatch, soon: bool
) -> None:
    gate = Gate(Frozen.chunk)
    monkeypatch.setattr(Frozen, "chunk", gate)
    closed = []
    close = Frozen.close
    monkeypatch.setattr(Frozen, "close", lambda frozen: (closed.append(frozen), close(frozen)))

    async def scenario() -> None:
        server = HubServer(data, HubSettings(read_threads=1))
        port = await server.start("127.0.0.1:0")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = rpc.MeshStub(channel)  # type: ignore[no-untyped-call]
            await stub.Enrol(pb.EnrolRequest(node_id=NODE, node_name="n"))
            call = stub.Follow()
            await call.write(pb.FollowRequest(hello=pb.Hello(session="work", node_id=NODE)))
            await until(gate.reached.is_set)
            before = len(closed)
            stopping = asyncio.create_task(server.stop())
            if soon:
                # The call is told to end; its read goes on in a thread.
                await until(call.done)
                gate.free.set()
            await stopping
            assert len(closed) == before + soon
            gate.free.set()
            await until(gate.left.is_set)
            await until(lambda: not server._service._calls._tasks)

    run(scenario())


def test_work_after_the_end_is_cancelled(run: Any) -> None:
    async def scenario() -> None:
        workers = Workers("test", 1)
        workers.close()
        with pytest.raises(asyncio.CancelledError):
            await workers.run(lambda: None)
        with pytest.raises(asyncio.CancelledError):
            await workers.run_to_end(lambda: None)

    run(scenario())


class Context:
    """A call whose node is gone, before gRPC has told the handler."""

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise grpc.aio.InternalError


@pytest.mark.parametrize("error", [grpc.aio.InternalError(), OSError(28, "full")])
def test_a_call_that_its_node_has_ended_is_no_error(run: Any, error: Exception) -> None:
    async def scenario() -> None:
        with pytest.raises(asyncio.CancelledError):
            async with translated(Context()):
                raise error

    run(scenario())


def test_requests_that_fail_together_are_one_failure(run: Any) -> None:
    async def fail() -> int:
        raise OSError(28, "No space left on device")

    async def scenario() -> None:
        tasks = {asyncio.create_task(fail()) for _ in range(3)}
        await asyncio.wait(tasks)
        with pytest.raises(OSError, match="space"):
            collect(tasks)

    run(scenario())
    gc.collect()


LONG_FREEZE = """
import os, sys, time
from pathlib import Path
from ghostfs import logs
from ghostfs.config import Settings
from ghostfs.daemon.hub import run
from ghostfs.index import Index
def freeze(index, path):
    print("freezing", flush=True)
    time.sleep(30)
Index.freeze = freeze
logs.configure(level="warning", renderer="json")
run(Settings(data_dir=sys.argv[1], listen="127.0.0.1:0"), ready_fd=os.dup(1))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_hub_ends_in_time_in_the_middle_of_a_long_call(
    data: Any, session: Any, run: Any, tmp_path: Path, number: int
) -> None:
    program = [sys.executable, "-c", LONG_FREEZE, str(data.path)]
    with (tmp_path / "errors").open("wb") as errors:
        hub = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=errors)
    assert hub.stdout is not None
    try:
        assert select.select([hub.stdout], [], [], 20)[0]
        target = hub.stdout.readline().decode().split("listen=")[1].split()[0]

        async def begin() -> None:
            async with grpc.aio.insecure_channel(target) as channel:
                stub: Any = rpc.MeshStub(channel)  # type: ignore[no-untyped-call]
                await stub.Enrol(pb.EnrolRequest(node_id=NODE, node_name="n"))
                call = stub.Follow()
                await call.write(pb.FollowRequest(hello=pb.Hello(session="work", node_id=NODE)))
                assert await asyncio.to_thread(hub.stdout.readline) == b"freezing\n"
                begun = time.monotonic()
                hub.send_signal(number)
                assert await asyncio.to_thread(hub.wait, 20) == 0
                assert time.monotonic() - begun < 2.0

        run(begin())
    finally:
        hub.kill()
        hub.wait()
        hub.stdout.close()
    assert (tmp_path / "errors").read_text() == ""
