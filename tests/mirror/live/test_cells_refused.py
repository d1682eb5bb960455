"""Times that fit no cell, and cells that the index refuses: neither keeps the others of a commit waiting."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from structlog.testing import capture_logs

from ghostfs.index import commit
from ghostfs.mirror.live.verify import verify
from ghostfs.model import ROOT

MOST = (1 << 63) - 1
YEAR_2286 = 10_000_000_000 * 10**9


def test_a_time_beyond_2262_is_committed_as_the_last_one_that_fits(live: Any) -> None:
    far = live.write("far", b"x")
    live.mirror.setattr(far, mtime_ns=YEAR_2286)
    near = live.write("near", b"y")
    live.drain()
    lookups = live.owned._lookups
    assert lookups.inode_light(far).mtime_ns == MOST
    assert lookups.dirent(ROOT, b"near") == near
    assert verify(live.layout, workers=1).ok


def test_a_time_beyond_2262_is_no_change_after_a_kill(live: Any) -> None:
    far = live.write("far", b"x")
    live.mirror.setattr(far, mtime_ns=YEAR_2286)
    live.drain()
    head = live.owned._lookups.head()
    live.kill()
    live.open(rescan=True)
    assert live.owned.recovery.changed == 0
    assert live.owned._lookups.head() == head


@pytest.mark.parametrize("known", [True, False])
def test_a_cell_that_is_refused_is_left_out(
    live: Any, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = live.mkdir("bad")
    if known:
        live.drain()
    live.mirror.setattr(bad, mode=0o700)
    live.write("bad/below", b"below")
    good = live.write("good", b"good")
    real = commit.inode_term

    def refuse(id_: int, *values: Any) -> int:
        if id_ == bad:
            raise struct.error("it does not fit")
        return real(id_, *values)

    monkeypatch.setattr(commit, "inode_term", refuse)
    with capture_logs() as logs:
        live.drain()
    assert [entry["inode"] for entry in logs if entry["event"] == "cell_refused"] == [bad]
    lookups = live.owned._lookups
    assert lookups.dirent(ROOT, b"good") == good
    assert live.owned.capture.stats.refused == 1
    assert live.owned.capture.trouble is None
    assert (lookups.dirent(ROOT, b"bad") == bad) is known
    assert lookups.fingerprint() == lookups.recomputed_fingerprint()
