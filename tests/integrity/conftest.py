"""Fixtures of the integrity tests: real mounts, in both ways of caching."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stack import Stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A data directory with nothing in it; whatever the test starts of it is ended."""
    with Stack(tmp_path / "stack") as made:
        yield made


@pytest.fixture(params=["writethrough", "writeback"])
def mount(request: pytest.FixtureRequest, stack: Stack) -> Callable[..., Path]:
    """Mounts the session `work`, and files that never rest are committed several times a second."""
    caching = "--writeback" if request.param == "writeback" else "--no-writeback"
    restless = ("-o", "settle_quiet_ms=30", "-o", "settle_max_age_ms=100")

    def make(*options: str) -> Path:
        return stack.mount("work", caching, *restless, *options)

    return make
