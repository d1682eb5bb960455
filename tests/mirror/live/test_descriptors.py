"""Descriptors are few, however far the capture thread is behind and however much it takes at once."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ghostfs.content import BLOCK_SIZE
from ghostfs.model import ROOT

KEPT = 16


@pytest.fixture
def few_descriptors() -> Iterator[int]:
    """So many more may be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 128, before[1]))
    yield 128
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def thrifty(live: Any) -> Any:
    """A mirror that keeps the descriptors of few closed files."""
    live.mirror._closed.limit = KEPT
    return live


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.usefixtures("few_descriptors")
def test_files_closed_faster_than_they_are_committed_do_not_use_descriptors_up(live: Any) -> None:
    for number in range(1000):
        live.write(f"file{number}", b"content %d" % number)
    handle = live.create("one more", b"x")
    live.mirror.release(handle)
    live.settled()
    assert len(live.indexed()) == 1002


@pytest.mark.usefixtures("few_descriptors")
def test_nor_do_files_that_must_be_read_back(live: Any) -> None:
    for number in range(300):
        live.write(f"file{number}", b"x" * 1000)
    live.drain()
    for number in range(300):
        live.write(f"file{number}", b"in the middle", 500)
    live.settled()


def unfinished(live: Any, name: str) -> None:
    """A closed file that must be read back."""
    handle = live.create(name, b"a" * 100)
    live.mirror.write(handle, 50, b"in the middle")
    live.mirror.release(handle)


def test_what_was_hashed_as_it_was_written_keeps_no_descriptor(live: Any) -> None:
    live.write("warm", b"opens what is opened once")
    live.drain()
    before = open_descriptors()
    live.write("file", b"x" * BLOCK_SIZE * 2)
    assert open_descriptors() == before
    live.settled()


def test_the_first_files_closed_give_their_descriptors_up(thrifty: Any) -> None:
    thrifty.write("warm", b"opens what is opened once")
    thrifty.drain()
    before = open_descriptors()
    for number in range(100):
        unfinished(thrifty, f"file{number}")
    assert open_descriptors() == before + KEPT
    thrifty.drain()
    assert open_descriptors() == before
    thrifty.settled()


def patched(live: Any, name: str) -> Any:
    """A closed file that must be read back, and whose descriptor is not kept any more."""
    live.write(name, b"a" * (BLOCK_SIZE + 100))
    live.drain()
    live.mirror.forget(live.write(name, b"in the middle", 50))
    for number in range(KEPT + 1):
        unfinished(live, f"later{number}")
    record = live.mirror._records[live.id(name)]
    assert record.settle_fd is None
    return record


def moved(live: Any) -> None:
    live.mkdir("dir")
    live.rename("file", "dir/elsewhere")
    live.write("file", b"another")


def linked(live: Any) -> None:
    live.mirror.link(live.id("file"), ROOT, b"link")
    live.unlink("file")


def replaced(live: Any) -> None:
    live.write("new", b"n" * (BLOCK_SIZE + 100))
    live.rename("new", "file")


def unlinked(live: Any) -> None:
    live.unlink("file")


def unlinked_and_made_again(live: Any) -> None:
    live.unlink("file")
    live.write("file", b"again")


def unlinked_while_open(live: Any) -> None:
    handle = live.mirror.open_file(live.id("file"), os.O_RDWR)
    live.unlink("file")
    live.mirror.write(handle, 0, b"nobody's")
    live.write("file", b"other")
    live.mirror.release(handle)


def written_and_closed_again(live: Any) -> None:
    live.write("file", b"once more", 70)


@pytest.mark.parametrize("moment", ["now", "hash", "seal", "commit", "committed"])
@pytest.mark.parametrize(
    "action",
    [
        moved,
        linked,
        replaced,
        unlinked,
        unlinked_and_made_again,
        unlinked_while_open,
        written_and_closed_again,
    ],
    ids=lambda action: action.__name__,
)
def test_files_without_a_descriptor_are_found_where_they_are(
    thrifty: Any, moment: str, action: Callable[[Any], None]
) -> None:
    patched(thrifty, "file")
    if moment == "now":
        action(thrifty)
    else:
        thrifty.at(moment, lambda: action(thrifty))
    thrifty.step()
    thrifty.settled()


def test_a_descriptor_is_kept_while_the_name_leads_elsewhere(thrifty: Any) -> None:
    """Somebody has put another file there behind the mount: the one that was written is the one that counts."""
    unfinished(thrifty, "file")
    record = thrifty.mirror._records[thrifty.id("file")]
    path = thrifty.layout.tree / "file"
    path.rename(thrifty.layout.tree / "aside")
    for number in range(2 * KEPT):
        unfinished(thrifty, f"later{number}")
    assert record.settle_fd is not None
    (thrifty.layout.tree / "aside").rename(path)
    thrifty.settled()


def test_what_lost_its_name_before_the_kernel_forgot_it_uses_no_descriptors_up(live: Any) -> None:
    live.mirror._nameless.limit = KEPT
    live.write("warm", b"opens what is opened once")
    live.drain()
    before = open_descriptors()
    inodes = [live.write(f"file{number}", b"x") for number in range(100)]
    live.drain()
    for number in range(100):
        live.mirror.lookup(ROOT, b"file%d" % number)
        live.mirror.unlink(ROOT, b"file%d" % number)
    assert open_descriptors() == before + KEPT
    assert live.mirror.getattr(inodes[-1]).st_nlink == 0
    with pytest.raises(FileNotFoundError):
        live.mirror.getattr(inodes[0])
    for inode in inodes:
        live.mirror.forget(inode)
    assert open_descriptors() == before
    live.settled()
