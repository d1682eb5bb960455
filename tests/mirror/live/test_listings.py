"""Listings of directories in use: as the index, within their bounds, and asked in its place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostfs.mirror.live.listings import SMALL, Listings
from ghostfs.model import ROOT, InodeId

DIRECTORIES = st.integers(1, 4).map(InodeId)
DIRENTS = st.lists(
    st.tuples(DIRECTORIES, st.sampled_from([b"a", b"b", b"c", b"d"]), st.none() | DIRECTORIES), max_size=4
)
ACTIONS = st.lists(
    st.tuples(st.just("committed"), DIRENTS)
    | st.tuples(st.just("learn"), DIRECTORIES)
    | st.tuples(st.just("forget"), DIRECTORIES)
)


@given(ACTIONS, st.integers(1, 8), st.integers(1, 3))
def test_they_are_as_the_index_and_within_bounds(actions: list[Any], names: int, largest: int) -> None:
    listings = Listings(names=names, largest=largest)
    index: dict[InodeId, dict[bytes, InodeId]] = {InodeId(number): {} for number in range(1, 5)}
    for action, what in actions:
        if action == "committed":
            for parent, name, child in what:
                index[parent].pop(name, None)
                if child is not None:
                    index[parent][name] = child
            listings.committed(what)
        elif action == "learn":
            listings.learn(what, dict(index[what]))
        else:
            listings.forget(what)
            assert listings.of(what) is None
        known = listings._known
        assert all(known[each] == index[each] for each in known)
        assert all(len(each) <= largest for each in known.values())
        assert listings._weight == sum(1 + len(each) for each in known.values()) <= names


def asked(live: Any, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Names that the index is asked for, from now on."""
    names: list[bytes] = []
    lookups = live.owned._lookups
    real = lookups.dirent

    def dirent(parent: InodeId, name: bytes) -> InodeId | None:
        names.append(name)
        found: InodeId | None = real(parent, name)
        return found

    monkeypatch.setattr(lookups, "dirent", dirent)
    return names


def test_the_index_is_not_asked_for_names_in_a_directory_that_was_made(
    live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.open()
    made = live.mkdir("d")
    live.settled()
    names = asked(live, monkeypatch)
    for number in range(50):
        live.write(f"d/{number}", b"x")
        if number % 20 == 0:
            live.settled()
    live.settled()
    assert all(live.mirror.lookup(made, b"%d" % number) for number in range(50))
    assert live.mirror.lookup(made, b"none") is None
    live.unlink("d/7")
    live.settled()
    assert live.mirror.lookup(made, b"7") is None
    assert [name for name in names if name != b"d"] == []


@pytest.mark.parametrize(("files", "questions"), [(100, 15), (SMALL + 1, 300)])
def test_after_a_while_it_is_asked_for_a_small_directory_as_a_whole(
    live: Any, monkeypatch: pytest.MonkeyPatch, files: int, questions: int
) -> None:
    live.mkdir("d")
    for number in range(files):
        live.write(f"d/{number}", b"")
    live.settled()
    live.close()
    live.open()
    names = asked(live, monkeypatch)
    directory = live.id("d")
    names.clear()
    for number in range(300):
        assert (live.mirror.lookup(directory, b"%d" % number) is not None) == (number < files)
    assert len(names) == questions


def test_listing_a_directory_teaches_its_names(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    live.write("a", b"")
    live.settled()
    live.close()
    live.open()
    assert live.names() == [b"a"]
    names = asked(live, monkeypatch)
    assert live.mirror.lookup(ROOT, b"a") is not None
    assert live.mirror.lookup(ROOT, b"b") is None
    assert names == []
