"""How a live mirror is to work."""

from __future__ import annotations

__all__ = ["MirrorSettings"]

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MirrorSettings:
    """Seconds and bytes; `docs/settings.md` explains each."""

    hash_workers: int = 0
    settle_quiet: float = 1.0
    settle_max_age: float = 5.0
    commit_interval: float = 0.002
    spool_bytes: int = 256 << 20
    tombstone_retention: float = 7 * 86400.0
