"""What the index has in directories that are in use, so that most names are looked up without asking it.

A directory's listing is known from its beginning, when it is made, since it was listed whole, or once many names were
looked for in it; commits keep it as the index is. The working set comes first: a listing says what a name meant when
it was last committed.
"""

from __future__ import annotations

__all__ = ["SMALL", "Listings"]

from collections.abc import Iterable
from typing import Final

from ghostfs.index import DirentPut
from ghostfs.model import InodeId

_NAMES: Final = 100_000
"""How many are kept, some 15 MB."""
_LARGEST: Final = 20_000
"""Directories of more names than this are left to the index."""
_ASKED_OFTEN: Final = 16
"""Names that the index was asked for one by one before it is asked for all of a directory."""
SMALL: Final = 2_000
"""Names of a directory that are worth asking for at once: the time of some hundred single ones."""


class Listings:
    """Committed names by directory, no more than so many of them: what was learnt first goes first. Guarded by the
    working set's lock."""

    def __init__(self, *, names: int = _NAMES, largest: int = _LARGEST) -> None:
        self._known: dict[InodeId, dict[bytes, InodeId]] = {}
        self._most = names
        self._largest = largest
        self._weight = 0
        self._asked: dict[InodeId, int] = {}
        self.of = self._known.get
        """The committed names of a directory, if they are known: all of them. Not to be changed."""

    def worth_learning(self, directory: InodeId) -> bool:
        """The index is about to be asked for a name in a directory: whether to ask for up to `SMALL` instead."""
        if len(self._asked) > self._most:
            self._asked.clear()
        self._asked[directory] = times = self._asked.get(directory, 0) + 1
        return times == _ASKED_OFTEN

    def learn(self, directory: InodeId, names: dict[bytes, InodeId]) -> None:
        """These are all names that the index has in a directory. The dictionary is kept."""
        self.forget(directory)
        if len(names) > self._largest:
            return
        self._known[directory] = names
        self._weight += 1 + len(names)
        self._make_room()

    def committed(self, dirents: Iterable[DirentPut]) -> None:
        """The index now has these, where it had other ones or none."""
        for parent, name, child in dirents:
            names = self._known.get(parent)
            if names is None:
                continue
            before = len(names)
            if child is None:
                names.pop(name, None)
            else:
                names[name] = child
            self._weight += len(names) - before
            if len(names) > self._largest:
                self.forget(parent)
        self._make_room()

    def forget(self, directory: InodeId) -> None:
        """Its names are the index's affair again."""
        names = self._known.pop(directory, None)
        if names is not None:
            self._weight -= 1 + len(names)

    def _make_room(self) -> None:
        while self._weight > self._most:
            self.forget(next(iter(self._known)))
