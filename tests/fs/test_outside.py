"""Who asks the kernel about the mount: that nobody waits for what cannot come, and that failures have their names."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest
from stack import eventually

from ghostfs.fs import outside
from ghostfs.fs.outside import Outside
from ghostfs.model import ROOT, InodeId


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Outside:
    """One whose outsider, process 7, has nothing to say."""
    made = Outside(tmp_path)
    monkeypatch.setattr(made, "_ask", lambda *_arguments, **_told: (7, ""))
    return made


def flushing(asked: Outside) -> threading.Thread:
    thread = threading.Thread(target=asked.flush, args=[dict])
    thread.start()
    eventually(lambda: asked._waiting, what="nobody waits")
    return thread


def test_a_flush_waits_for_the_news_that_the_outsider_closed_the_root(asked: Outside) -> None:
    thread = flushing(asked)
    for inode, pid in ((ROOT, 8), (InodeId(5), 7)):
        asked.closed(inode, pid)
        thread.join(0.05)
        assert thread.is_alive()
    asked.closed(ROOT, 7)
    thread.join(10)
    assert not thread.is_alive()
    assert not asked._closed_by


def test_no_flush_waits_for_a_loop_that_has_ended(asked: Outside) -> None:
    thread = flushing(asked)
    asked.end()
    thread.join(10)
    assert not thread.is_alive()


def test_what_is_renamed_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = Outside(tmp_path)
    tries: list[bytes] = []

    def never_there(*_arguments: Any, told: bytes) -> tuple[int, str]:
        tries.append(told)
        made._closed_by.add(7)
        return 7, " 5"

    monkeypatch.setattr(made, "_ask", never_there)
    with pytest.raises(OSError, match="again and again") as refused:
        made.flush(lambda: {InodeId(5): b"a/b", InodeId(6): b"c"})
    assert refused.value.errno == errno.EAGAIN
    assert tries[0] == b"5 a/b\x006 c\x00"
    assert tries[1:] == [b"5 a/b\x00"] * (len(tries) - 1)


@pytest.mark.parametrize("source", ["import os; os.kill(os.getpid(), 9)", "raise SystemExit(3)", "1 / 0"])
def test_an_outsider_that_fails_is_not_taken_for_an_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    monkeypatch.setattr(outside, "_SOURCE", source)
    with pytest.raises(OSError, match="ended with") as refused:
        Outside(tmp_path).find()
    assert refused.value.errno == errno.EIO


def test_what_the_kernel_says_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Outside(tmp_path / "nowhere").find()
    inode, entry = Outside(tmp_path).find()
    assert inode == tmp_path.stat().st_ino
    assert entry is None
    with pytest.raises(OSError, match="Stale file handle"):
        Outside(tmp_path).flush(dict)
