"""When a changed file settles: the rule, and nothing else. Pure.

A file settles when nobody has it open for writing, when it was fsynced, when it has been quiet for a
while, or when it has been dirty for too long; while it stays open, never twice within `SPACING`.
"""

from __future__ import annotations

__all__ = ["SettleRule"]

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SettleRule:
    """All in seconds. Times are readings of one monotonic clock."""

    quiet: float = 1.0
    """A file that nobody writes to for so long settles, though it is open."""
    max_age: float = 5.0
    """A file that never rests settles so long after its first change."""
    spacing: float = 0.25
    """A file that is fsynced all the time settles this often at most while it stays open."""

    def due_at(self, *, first_dirty_at: float, changed_at: float, settled_at: float, synced: bool) -> float:
        """When a changed file that is open for writing settles, if nothing more happens to it."""
        earliest = settled_at + self.spacing
        if synced:
            return earliest
        return max(earliest, min(changed_at + self.quiet, first_dirty_at + self.max_age))
