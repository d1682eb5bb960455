"""Where a hub listens and who may share it; what a person is told when it cannot be reached."""

from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ghostfs.config import Settings
from ghostfs.daemon.hub import HubServer
from ghostfs.daemon.hub import run as run_hub
from ghostfs.errors import ConfigError, PeerError, SessionBusy
from ghostfs.mesh.client import hub_status
from ghostfs.mesh.hubservice import HubSettings
from ghostfs.mesh.identity import node_identity
from ghostfs.mesh.transport import check_listen
from ghostfs.mirror.layout import DataDir
from ghostfs.mirror.owner import OwnerLock
from ghostfs.v1 import mesh_pb2 as pb
from ghostfs.v1 import mesh_pb2_grpc as rpc


@pytest.mark.parametrize(
    ("address", "bound"),
    [
        ("127.0.0.1:7447", "127.0.0.1:7447"),
        ("127.1.2.3:0", "127.1.2.3:0"),
        ("[::1]:7447", "[::1]:7447"),
        ("localhost:7447", "127.0.0.1:7447"),
    ],
)
def test_loopback_is_listened_on(address: str, bound: str) -> None:
    assert check_listen(address) == bound


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:7447",
        "[::]:7447",
        "192.168.1.5:7447",
        "example.org:7447",
        "127.0.0.1",
        ":7447",
        "127.0.0.1:99999",
        "",
    ],
)
def test_nothing_else_is(address: str) -> None:
    with pytest.raises(ConfigError, match="listen"):
        check_listen(address)


def test_the_daemon_refuses_before_it_touches_anything(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TLS"):
        run_hub(Settings(data_dir=tmp_path / "hub", listen="0.0.0.0:7447"))
    assert not (tmp_path / "hub").exists()


def test_one_hub_a_data_directory(data: DataDir) -> None:
    with OwnerLock(data.hub_lock, what="hub"), pytest.raises(SessionBusy, match="process"):
        run_hub(Settings(data_dir=data.path, listen="127.0.0.1:0"))


def serve(data: DataDir, run: Any, scenario: Any) -> None:
    async def serving() -> None:
        server = HubServer(data, HubSettings(read_threads=1))
        port = await server.start("127.0.0.1:0")
        try:
            await scenario(f"127.0.0.1:{port}")
        finally:
            await server.stop()

    run(serving())


def test_the_socket_is_private_replaces_a_stale_one_and_goes_away(data: DataDir, run: Any) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(data.hub_socket))
    stale.close()

    async def scenario(_: str) -> None:
        assert stat.S_IMODE(data.hub_socket.stat().st_mode) == 0o600
        status = await asyncio.to_thread(hub_status, data.hub_socket)
        assert len(status.hub_id) == 16

    serve(data, run, scenario)
    assert not data.hub_socket.exists()


def test_a_data_directory_with_a_path_too_long_for_a_socket(tmp_path: Path, run: Any) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    data = DataDir(folder)

    async def scenario(_: str) -> None:
        status = await asyncio.to_thread(hub_status, data.hub_socket)
        assert status.sessions == ()

    serve(data, run, scenario)


def test_a_taken_port(data: DataDir, tmp_path: Path, run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    other = HubServer

    async def scenario(target: str) -> None:
        server = other(DataDir(tmp_path / "other"), HubSettings(read_threads=1))
        with pytest.raises(ConfigError, match=f"^cannot listen on {target}: .* in use; .*--listen") as told:
            await server.start(target)
        assert "grpc" not in str(told.value).lower()
        await server.stop()

    serve(data, run, scenario)
    assert capfd.readouterr().err == ""


def test_an_address_that_is_not_here(data: DataDir, run: Any) -> None:
    async def scenario() -> None:
        server = HubServer(data, HubSettings(read_threads=1))
        with pytest.raises(ConfigError, match=r"^cannot listen on \[::2\]:7447: "):
            await server.start("[::2]:7447")
        await server.stop()

    run(scenario())


def test_a_port_that_is_taken_at_the_last_moment(
    data: DataDir, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ghostfs.daemon.hub.check_free", lambda _: None)

    async def scenario() -> None:
        server = HubServer(data, HubSettings(read_threads=1))
        with (
            socket.create_server(("127.0.0.1", 0)) as taken,
            pytest.raises(ConfigError, match=r"^cannot listen on 127.0.0.1:\d+; .*--listen$"),
        ):
            await server.start(f"127.0.0.1:{taken.getsockname()[1]}")
        await server.stop()

    run(scenario())


def test_health(data: DataDir, run: Any) -> None:
    async def scenario(target: str) -> None:
        async with grpc.aio.insecure_channel(target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in ("", "ghostfs.v1.Mesh"):
                reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))
                assert reply.status == health_pb2.HealthCheckResponse.SERVING

    serve(data, run, scenario)


def test_no_hub_is_one_line_that_says_what_to_do(data: DataDir) -> None:
    with pytest.raises(PeerError, match="ghostfs hub"):
        hub_status(data.hub_socket)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(PeerError, match="ghostfs hub"):
        hub_status(f"127.0.0.1:{port}")


def test_enrolment_is_for_ever(data: DataDir, run: Any) -> None:
    numbers: list[tuple[int, bytes]] = []

    async def enrol(target: str) -> None:
        async with grpc.aio.insecure_channel(target) as channel:
            for node in (bytes(16), b"x" * 16):
                request = pb.EnrolRequest(node_id=node, node_name=f"n{node[0]}")
                reply = await rpc.MeshStub(channel).Enrol(request)
                numbers.append((reply.replica, reply.hub_id))

    for _ in range(2):
        serve(data, run, enrol)
    assert numbers[:2] == numbers[2:]
    assert [number for number, _ in numbers[:2]] == [1, 2]


@pytest.mark.allows_log("request_refused")
def test_requests_that_break_the_rules(data: DataDir, session: Any, run: Any) -> None:
    node, digest = bytes(16), bytes(16)
    good = pb.Want(inode=5, index=0, digest=digest)

    async def scenario(target: str) -> None:
        async with grpc.aio.insecure_channel(target) as channel:
            stub = rpc.MeshStub(channel)
            await stub.Enrol(pb.EnrolRequest(node_id=node, node_name="n"))
            hellos = [
                pb.FollowRequest(ack=pb.Ack()),
                pb.FollowRequest(hello=pb.Hello(session="../etc", node_id=node)),
                pb.FollowRequest(hello=pb.Hello(session="work", node_id=b"short")),
                pb.FollowRequest(hello=pb.Hello(session="work", node_id=node, seq=4)),
                pb.FollowRequest(hello=pb.Hello(session="work", node_id=node, epoch=1 << 63)),
                pb.FollowRequest(
                    hello=pb.Hello(session="work", node_id=node, snapshot=pb.SnapshotPosition(position=3))
                ),
            ]
            calls = [stub.Follow(iter([hello])) for hello in hellos]
            calls += [
                stub.Fetch(pb.FetchRequest(session="work", node_id=node, wants=wants))
                for wants in (
                    [pb.Want(inode=0, digest=digest)],
                    [pb.Want(inode=1, digest=b"x")],
                    [good] * 1025,
                )
            ]
            calls.append(stub.Enrol(pb.EnrolRequest(node_id=b"x", node_name="n")))
            calls.append(stub.Enrol(pb.EnrolRequest(node_id=node, node_name="a b")))
            for call in calls:
                assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT, call
            missing = stub.Follow(iter([pb.FollowRequest(hello=pb.Hello(session="none", node_id=node))]))
            assert await missing.code() is grpc.StatusCode.NOT_FOUND
            wrong = stub.Follow()
            await wrong.write(pb.FollowRequest(hello=pb.Hello(session="work", node_id=node)))
            while not (await wrong.read()).HasField("end"):
                pass
            await wrong.write(pb.FollowRequest(ack=pb.Ack(epoch=1, seq=1)))
            assert await wrong.code() is grpc.StatusCode.INVALID_ARGUMENT

    serve(data, run, scenario)


def test_an_identity_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "node" / "node.id"
    first = node_identity(path)
    assert len(first) == 16
    assert node_identity(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["node.id"]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.write_text("garbage")
    with pytest.raises(ConfigError, match="node id"):
        node_identity(path)
