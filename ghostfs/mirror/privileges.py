"""What this process may do, and how it sees owners, asked of the kernel once."""

from __future__ import annotations

__all__ = ["id_maps", "in_user_namespace", "may_chown"]

from pathlib import Path

_CAP_CHOWN = 0
_ALL_IDS = "0 0 4294967295"
"""The map of where numbers are what they are: of the namespace that the machine starts with."""


def may_chown() -> bool:
    """Whether files can be given to other users: CAP_CHOWN is among the effective capabilities."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_CHOWN & 1)
    return False


def in_user_namespace() -> bool:
    """Whether users have other numbers here than on the machine, or not all of them have one."""
    return id_maps() != f"{_ALL_IDS}, {_ALL_IDS}"


def id_maps() -> str:
    """How users and groups are numbered here: another text means that the same owners may have other numbers."""
    maps = (Path(f"/proc/self/{name}_map").read_text().split() for name in ("uid", "gid"))
    return ", ".join(map(" ".join, maps))
