"""What was asked for on the command line, and what a benchmark hands back."""

from __future__ import annotations

__all__ = ["Options", "Outcome"]

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """The command line. Empty tuples mean all there are."""

    small: bool = False
    rounds: int | None = None
    only: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    svg: Path | None = None

    def rounds_of(self, usual: int) -> int:
        """How many rounds to run: what was asked for, else one when small, else `usual`."""
        return self.rounds or (1 if self.small else usual)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `--json` writes, and what went wrong that must not: it fails the command."""

    document: dict[str, object]
    broken: tuple[str, ...] = field(default=())
