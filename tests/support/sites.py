"""A place for tests of system calls, and who acts there."""

from __future__ import annotations

__all__ = ["ALICE", "BOB", "ROLES", "ROOTS", "SHARED", "Site"]

import itertools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from actors import Actor

from ghostfs.mirror.control import ControlClient
from ghostfs.v1 import control_pb2 as pb

ALICE, BOB, SHARED = 1001, 1002, 3000
"""Two users, each with a group of the same number, and a group that both are in."""

ROLES: dict[str, tuple[int, tuple[int, ...]]] = {
    "root": (0, ()),
    "other": (0, ()),
    "alice": (ALICE, (SHARED,)),
    "bob": (BOB, (SHARED,)),
}

ROOTS: dict[str, tuple[int, tuple[int, ...]]] = dict.fromkeys(ROLES, (0, ()))
"""The same actors, where nobody but root is let in."""


@dataclass
class Site:
    """Where tests can make directories of their own, and who acts there."""

    name: str
    root: Path
    actors: dict[str, Actor] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    latest: Path = field(default_factory=Path)
    pid: int = 0
    """The mount process, if there is one."""
    control: Path = field(default_factory=Path)
    """Its control socket."""

    @property
    def mounted(self) -> bool:
        return not self.name.startswith("native")

    @property
    def writeback(self) -> bool:
        return self.name == "writeback"

    def new(self) -> Path:
        """A new directory that everybody may use; all actors are in it, and hold nothing."""
        self.latest = made = self.root / f"d{next(self.numbers)}"
        made.mkdir()
        made.chmod(0o777)
        for actor in self.actors.values():
            actor.do("reset", path=str(made))
        return made

    def open_files(self) -> list[str]:
        """What the mount process has open: paths, as /proc shows them."""
        found = []
        for fd in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                found.append(str(fd.readlink()))
        return found

    def settle(self) -> None:
        """Has the mount commit everything."""
        if self.mounted:
            with ControlClient(self.control, timeout=60.0) as client:
                client.request(pb.ControlRequest(settle=pb.Settle()))

    def leave(self) -> None:
        """Has all actors let go of everything."""
        for actor in self.actors.values():
            actor.do("reset", path="/")
