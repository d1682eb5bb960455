"""Mounts for tests: real ones, each gone when its test ends."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ghostfs.errors import GhostError
from ghostfs.fs.lifecycle import MountOptions, mount, unmount
from ghostfs.fs.mounts import detach, find, mounted
from ghostfs.mirror.control import ControlClient
from ghostfs.mirror.layout import DataDir, SessionLayout
from ghostfs.mirror.live.session import create_session
from ghostfs.v1 import control_pb2 as pb

NOBODY = 65534


@dataclass
class Workspace:
    """A data directory, a session in it, and where it is mounted."""

    base: Path
    options: MountOptions
    layout: SessionLayout

    @property
    def path(self) -> Path:
        return self.options.mountpoint

    def mount(self) -> None:
        mount(self.options)

    def unmount(self) -> None:
        unmount(self.path)

    def pid(self) -> int:
        """The mount process."""
        return int(self.layout.owner_lock.read_text())

    def requests(self) -> int:
        """How many requests the kernel has made."""
        with ControlClient(self.layout.control_socket) as client:
            return client.request(pb.ControlRequest(status=pb.OwnerStatusRequest())).status.requests

    def log(self) -> list[dict[str, Any]]:
        """What the mount process logged."""
        return [json.loads(line) for line in self.layout.log_file.read_text().splitlines()]


@dataclass
class Workspaces:
    """Makes workspaces, and takes down what is left of them."""

    base: Path
    made: list[Workspace] = field(default_factory=list)

    def make(self, name: str = "main", **options: Any) -> Workspace:
        base = self.base / name
        mountpoint = base / "mnt"
        mountpoint.mkdir(parents=True)
        chosen = {"session": name, "mountpoint": mountpoint, "data_dir": base / "data", "create": True}
        asked = MountOptions(**(chosen | options))
        made = Workspace(base, asked, DataDir(asked.data_dir).session(asked.session))
        self.made.append(made)
        return made

    def clear(self) -> list[str]:
        """Takes all down; the errors that mount processes logged."""
        problems = []
        for workspace in self.made:
            while (entry := find(workspace.path)) is not None:
                try:
                    unmount(workspace.path, timeout=20)
                except GhostError as error:
                    problems.append(str(error))
                    detach(entry.path, lazy=True)
            if workspace.layout.log_file.exists():
                problems += [str(e) for e in workspace.log() if e["level"] in ("error", "critical")]
        return problems


@pytest.fixture
def workspaces(tmp_path: Path) -> Iterator[Workspaces]:
    """A maker of workspaces. Fails the test if a mount process logged an error."""
    made = Workspaces(tmp_path)
    yield made
    problems = made.clear()
    assert not problems


@pytest.fixture
def workspace(workspaces: Workspaces) -> Workspace:
    """A mounted session with the default settings."""
    made = workspaces.make()
    made.mount()
    return made


@pytest.fixture(scope="module", params=[False, True], ids=["writethrough", "writeback"])
def shared_mount(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The root of a mounted session that the tests of a module share, once for each way of caching."""
    made = Workspaces(tmp_path_factory.mktemp("shared"))
    workspace = made.make(writeback=request.param, xattrs=True, allow_other=True)
    workspace.mount()
    yield workspace.path
    problems = made.clear()
    assert not problems


@pytest.fixture(scope="module")
def overlay_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A mounted session with a registry, whose tree held the overlay's name before it was ever mounted."""
    made = Workspaces(tmp_path_factory.mktemp("overlay"))
    workspace = made.make(xattrs=True, allow_other=True)
    create_session(workspace.layout)
    for name in (".skills", ".SKILLS"):
        (workspace.layout.tree / name).mkdir()
        (workspace.layout.tree / name / "shadow").write_text("not for anyone")
    skill = workspace.options.data_dir / "skills" / "pdf" / "v1"
    skill.mkdir(parents=True)
    (skill / "SKILL.md").write_text("how to read a PDF\n")
    (skill / "run").write_text("#!/bin/sh\necho ran\n")
    (skill / "run").chmod(0o555)
    (skill.parent / "latest").symlink_to("v1")
    (skill.parent.parent / "empty").mkdir()
    workspace.mount()
    (workspace.path / "file").write_text("a file")
    (workspace.path / "own").mkdir()
    yield workspace.path
    problems = made.clear()
    assert not problems


@pytest.fixture
def here(shared_mount: Path, request: pytest.FixtureRequest) -> Path:
    """A directory of the test's own in the shared mount."""
    made = shared_mount / f"test-{request.node.originalname}-{len(os.listdir(shared_mount))}"
    made.mkdir()
    return made


@pytest.fixture
def fuse_for_all() -> Iterator[None]:
    """/dev/fuse as every distribution has it: open to all users."""
    device = Path("/dev/fuse")
    before = stat.S_IMODE(device.stat().st_mode)
    device.chmod(0o666)
    yield
    device.chmod(before)


@pytest.fixture
def shared_place(fuse_for_all: None) -> Iterator[Path]:
    """A directory that belongs to nobody and that everybody can get to, which pytest's own is not."""
    place = Path(tempfile.mkdtemp(prefix="ghostfs-test-"))
    place.chmod(0o755)
    os.chown(place, NOBODY, NOBODY)
    yield place
    for entry in mounted():
        if place in entry.path.parents:
            detach(entry.path, lazy=True)
    shutil.rmtree(place)
