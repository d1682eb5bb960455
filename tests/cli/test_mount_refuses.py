"""A mount that answers that it cannot: whoever asked says why."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import GHOSTFS, Stack

from ghostfs.errors import ExitCode
from ghostfs.mirror.control import PREFIX, frame
from ghostfs.v1 import control_pb2 as pb


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path / "stack") as made:
        yield made


def answer(server: socket.socket, reply: pb.ControlReply) -> None:
    """One request of one client."""
    client, _ = server.accept()
    with client:
        (length,) = PREFIX.unpack(client.recv(PREFIX.size, socket.MSG_WAITALL))
        assert pb.ControlRequest.FromString(client.recv(length, socket.MSG_WAITALL)).HasField("settle")
        client.sendall(frame(reply))


def test_verify_says_why_the_mount_cannot_settle(stack: Stack) -> None:
    stack.run("session", "create", "demo")
    directory = os.open(stack.session("demo").state, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{directory}/control.sock")
        os.close(directory)
        server.listen()
        mount = threading.Thread(target=answer, args=(server, pb.ControlReply(error="the disk is full")))
        mount.start()
        refused = subprocess.run(
            [*GHOSTFS, "verify", "demo"],
            env=stack.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        mount.join(60)
    assert (refused.returncode, refused.stderr) == (ExitCode.UNREACHABLE, "ghostfs: the disk is full\n")
