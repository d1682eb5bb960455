"""What a workload is.

It prepares what it needs (not measured), runs, and then checks that it did what it should (not measured).
"""

from __future__ import annotations

__all__ = ["Site", "Workload", "expect", "needs"]

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sources import Failed, Sizes, Sources


@dataclass(frozen=True, slots=True)
class Site:
    """Where one workload runs in one round: `folder` in the filesystem, `notes` outside of it."""

    folder: Path
    notes: Path
    sources: Sources

    @property
    def sizes(self) -> Sizes:
        return self.sources.sizes

    def have(self, name: str, make: Callable[[Path], object]) -> Path:
        """`folder / name`, made by `make` unless a workload of this round has left it complete."""
        path = self.folder / name
        if not (self.notes / name).exists():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            make(path)
            self.is_complete(name)
        return path

    def is_complete(self, name: str) -> None:
        """Those that need it may use it."""
        (self.notes / name).touch()

    def is_gone(self, name: str) -> None:
        """Those that need it must make it."""
        (self.notes / name).unlink(missing_ok=True)


class Workload(ABC):
    """One row of the tables. `name` is for the command line, `title` for the reader."""

    name: str
    title: str
    cold = False
    """Runs with nothing cached in the mount."""
    sources: tuple[str, ...] = ()
    """Attributes of `Sources` that it uses: made beforehand, for all."""

    def impossible(self) -> str:
        """Why it cannot run on this machine; empty if it can."""
        return ""

    def prepare(self, site: Site) -> None:  # noqa: B027 (most need nothing)
        """Makes what `run` needs."""

    @abstractmethod
    def run(self, site: Site) -> float | None:
        """The work; seconds, where it measures itself."""

    @abstractmethod
    def check(self, site: Site) -> None:
        """Raises Failed if the work was not done."""


def expect(what: str, found: object, wanted: object) -> None:
    """Raises Failed if what was found is not what was wanted."""
    if found != wanted:
        raise Failed(f"{what}: {found}, not {wanted}")


def needs(program: str) -> str:
    """Why a program cannot be used; empty if it can."""
    return "" if shutil.which(program) else f"{program} is not installed"
