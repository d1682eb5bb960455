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


def test_what_cannot_be_reached_the_kernel_is_told_to_drop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = Outside(tmp_path)
    tries: list[bytes] = []
    dropped: list[tuple[int, bool]] = []

    def drop(inode: InodeId, attr_only: bool) -> None:
        dropped.append((inode, attr_only))

    def never_there(*_arguments: Any, told: bytes) -> tuple[int, str]:
        tries.append(told)
        made._closed_by.add(7)
        return 7, " 5"

    monkeypatch.setattr(made, "_ask", never_there)
    monkeypatch.setattr(outside.pyfuse3, "invalidate_inode", drop)
    files = {InodeId(5): b"a/b", InodeId(6): b"c"}
    made.flush(lambda: files)
    assert tries[0] == b"5 a/b\x006 c\x00"
    assert tries[1:] == [b"5 a/b\x00"] * (len(tries) - 1)
    assert dropped == [(5, False)]

    def fails(*_arguments: Any, **_told: Any) -> tuple[int, str]:
        raise OSError(errno.EMFILE, "")

    monkeypatch.setattr(made, "_ask", fails)
    made.flush(lambda: files)
    assert dropped[1:] == [(5, False), (6, False)]
    assert made.finish(wait=False)
    made.flush(lambda: files)
    assert len(dropped) == 3


def test_the_end_waits_for_the_kernel_to_drop(monkeypatch: pytest.MonkeyPatch, asked: Outside) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(asked, "place", lambda: None)
    monkeypatch.setattr(outside.pyfuse3, "invalidate_inode", lambda *_inode, **_how: goes_on.wait(30))
    dropping = threading.Thread(target=asked.flush, args=[lambda: {InodeId(5): b"a"}])
    dropping.start()
    eventually(lambda: asked._dropping, what="nothing is dropped")
    assert not asked.finish(wait=False)
    ending = threading.Thread(target=asked.finish, kwargs={"wait": True})
    ending.start()
    ending.join(0.05)
    assert ending.is_alive()
    goes_on.set()
    for thread in (dropping, ending):
        thread.join(10)
        assert not thread.is_alive()


def test_pages_that_could_not_be_written_are_an_error(
    monkeypatch: pytest.MonkeyPatch, asked: Outside
) -> None:
    def refused(*_arguments: Any, **_told: Any) -> tuple[int, str]:
        asked._closed_by.add(7)
        return 7, " !28"

    monkeypatch.setattr(asked, "_ask", refused)
    with pytest.raises(OSError, match="No space left") as trouble:
        asked.flush(lambda: {InodeId(5): b"a"})
    assert trouble.value.errno == errno.ENOSPC


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


def test_one_that_was_not_found_yet_is_detached_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(outside.mounts, "detach", lambda path, **_how: asked.append(path))
    assert Outside(tmp_path).detach(lazy=True)
    assert asked == [tmp_path]
