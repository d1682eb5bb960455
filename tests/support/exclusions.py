"""What a mount does not do as ext4 and tmpfs do, and why. `docs/posix.md` holds the same list.

The tests here consult it by name: what is not named must be the same in a mount and beside it.
"""

from __future__ import annotations

__all__ = ["EXCLUSIONS", "Exclusion", "excluded"]

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One difference: `name` for the tests, `what` happens in a mount, and its `cause`."""

    name: str
    what: str
    cause: str


EXCLUSIONS = (
    Exclusion(
        "O_TMPFILE",
        "`open` with `O_TMPFILE` fails with EOPNOTSUPP",
        "pyfuse3 has no handler for FUSE_TMPFILE",
    ),
)


def excluded(name: str) -> bool:
    """Whether a difference is on the list; a name that is not there is a mistake in a test."""
    if name not in {exclusion.name for exclusion in EXCLUSIONS}:
        raise LookupError(name)
    return True
