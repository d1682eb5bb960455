"""What this process may do, asked of the kernel once."""

from __future__ import annotations

__all__ = ["may_chown"]

from pathlib import Path

_CAP_CHOWN = 0


def may_chown() -> bool:
    """Whether files can be given to other users: CAP_CHOWN is among the effective capabilities."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_CHOWN & 1)
    return False
