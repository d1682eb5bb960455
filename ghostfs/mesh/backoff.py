"""How long to wait before trying again: exponential, with full jitter.

Full jitter (a uniform draw below the exponential bound) spreads the return of many nodes after a hub's
restart best; see Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

__all__ = ["Backoff"]

import random


class Backoff:
    """The waits between tries, in seconds. `reset` after a success."""

    def __init__(self, shortest: float, longest: float, draw: random.Random | None = None) -> None:
        self._shortest = shortest
        self._longest = longest
        self._draw = draw or random.Random()  # noqa: S311 - spreads load, guards nothing
        self.failures = 0

    def next(self) -> float:
        """The next wait: uniform between 0 and the bound, which doubles at each call up to the longest."""
        bound = min(self._longest, self._shortest * 2.0 ** min(self.failures, 60))
        self.failures += 1
        return self._draw.uniform(0.0, bound)

    def reset(self) -> None:
        """Begin again with the shortest wait."""
        self.failures = 0
