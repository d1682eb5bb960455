"""How long the capture thread rests after a commit, and what ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from ghostfs.mirror.live.capture import Capture
from ghostfs.model import ROOT

INTERVAL = 0.05
FOREVER = 1000.0


@pytest.fixture
def capture(new_live: Callable[..., Any]) -> Capture:
    """That of a mirror where nothing happens; its thread does not run."""
    capture: Capture = new_live(commit_interval=INTERVAL).owned.capture
    capture._work.clear()
    return capture


@pytest.fixture
def changing(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something changes whenever the thread waits."""
    wait = capture._stopping.wait

    def wait_and_change(timeout: float | None = None) -> bool:
        stopped = wait(timeout)
        capture._work.set()
        return stopped

    monkeypatch.setattr(capture._stopping, "wait", wait_and_change)


def rested(capture: Capture, longest: float) -> float:
    began = time.monotonic()
    capture._rest(longest)
    return time.monotonic() - began


def test_it_rests_until_nothing_changes(capture: Capture) -> None:
    assert INTERVAL <= rested(capture, FOREVER) < FOREVER / 2
    assert not capture._work.is_set()


def test_what_changed_before_it_rests_is_not_forgotten(capture: Capture) -> None:
    capture._work.set()
    assert rested(capture, FOREVER) < FOREVER / 2
    assert capture._work.is_set()


@pytest.mark.usefixtures("changing")
def test_it_rests_no_longer_than_it_may_while_changes_go_on(capture: Capture) -> None:
    assert rested(capture, 6 * INTERVAL) >= 5 * INTERVAL
    assert capture._work.is_set()


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.usefixtures("changing")
def test_a_drain_ends_it(capture: Capture, early: bool) -> None:
    wanted = threading.Event()
    call = threading.Timer(3 * INTERVAL, capture._drain_wanted.append, [wanted])
    if early:
        capture._drain_wanted.append(wanted)
    else:
        call.start()
    assert rested(capture, FOREVER) < FOREVER / 2
    if not early:
        call.join()
    assert capture._drain_wanted == [wanted]


@pytest.mark.usefixtures("changing")
def test_stopping_ends_it(capture: Capture) -> None:
    call = threading.Timer(3 * INTERVAL, capture._stopping.set)
    call.start()
    assert rested(capture, FOREVER) < FOREVER / 2
    call.join()
    capture._stopping.clear()


@pytest.mark.parametrize(
    ("took", "rest"), [(0.0, INTERVAL), (INTERVAL, 8 * INTERVAL), (10 * INTERVAL, 16 * INTERVAL)]
)
def test_the_longer_a_commit_took_the_longer_it_rests(
    capture: Capture, monkeypatch: pytest.MonkeyPatch, took: float, rest: float
) -> None:
    now = [100.0]
    commit = capture._carry

    def carry(gathered: Any) -> int:
        now[0] += took
        return commit(gathered)

    monkeypatch.setattr(capture, "_carry", carry)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    capture._gatherer._working.attrs_changed(capture._gatherer._mirror._records[ROOT])
    assert capture._step() == pytest.approx(rest)


def test_it_does_not_rest_when_there_was_nothing_to_do(capture: Capture) -> None:
    assert capture._step() == 0.0
