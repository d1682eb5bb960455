"""Places over one disk: mounts, and plain directories. What holds in one holds in all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from actors import Actor
from sites import ROLES, ROOTS, Site

from ghostfs.fs.lifecycle import MountOptions, mount, unmount
from ghostfs.mirror.layout import DataDir


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A directory that everybody can get to, which pytest's own is not."""
    made = Path(tempfile.mkdtemp(prefix="ghostfs-posix-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def sites(place: Path) -> Iterator[dict[str, Site]]:
    """`native`, `mount` (write-through) and `writeback`; and, where all actors are root, `native alone` and `alone`,
    a mount that lets no other user in. Extended attributes are on."""
    found = {}
    for name in ("native", "native alone"):
        found[name] = Site(name, place / name)
        found[name].root.mkdir()
    logs = []
    with ExitStack() as mounts:
        for name in ("mount", "writeback", "alone"):
            mountpoint, data_dir = place / name, place / f"{name}-data"
            mountpoint.mkdir()
            mount(
                MountOptions(
                    session=name,
                    mountpoint=mountpoint,
                    data_dir=data_dir,
                    create=True,
                    writeback=name == "writeback",
                    xattrs=True,
                    allow_other=name != "alone",
                )
            )
            mounts.callback(unmount, mountpoint, timeout=60)
            layout = DataDir(data_dir).session(name)
            found[name] = Site(
                name, mountpoint, pid=int(layout.owner_lock.read_text()), control=layout.control_socket
            )
            logs.append(layout.log_file)
        with ExitStack() as processes:
            for site in found.values():
                roles = ROOTS if site.name.endswith("alone") else ROLES
                for role, (uid, groups) in roles.items():
                    site.actors[role] = processes.enter_context(Actor(uid=uid, groups=groups))
            yield found
    for log in logs:
        events = [json.loads(line) for line in log.read_text().splitlines()]
        assert not [event for event in events if event["level"] in ("error", "critical")]


@pytest.fixture(params=["native", "mount", "writeback"])
def site(request: pytest.FixtureRequest, sites: dict[str, Site]) -> Iterator[Site]:
    """Each of the three in turn; all actors are in a new directory."""
    chosen = sites[request.param]
    chosen.new()
    yield chosen
    chosen.leave()
