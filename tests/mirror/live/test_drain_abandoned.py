"""Waiting for a commit that never succeeds: the end of the capture is the end of the wait."""

from __future__ import annotations

import errno
import threading
from typing import Any

import pytest
from structlog.testing import capture_logs


def test_who_waits_for_a_drain_is_told_when_the_capture_stops(
    live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.write("file", b"never committed")
    capture = live.owned.capture
    failed = threading.Event()

    def full(_gathered: object) -> None:
        failed.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(capture, "_commit", full)
    answers: list[bool] = []
    waiter = threading.Thread(target=lambda: answers.append(capture.drain()), daemon=True)
    with capture_logs():
        capture.start()
        waiter.start()
        assert failed.wait(30)
        capture.stop()
    waiter.join(30)
    assert answers == [False]
    assert not capture.drain(), "and nobody waits for one that has ended"
    live.kill()
