"""The steps that bring a replica's tree to a new state, as values.

A plan is a list of steps, executed strictly in order. Each is one rename, link or unlink of the tree (and
what the executor does to check it), and names directories by inode id, never by path: a step below a
directory that an earlier step moved stays right. *Staging* is the folder beside the tree where new objects
are made complete; `HELD`, the part of it for entries on their way from one place to another, is a directory
like any other to every step.

After a crash, all the steps of a plan can be run again with one rule: **skip what is done.**

| step | it is still to be done while |
| --- | --- |
| `Create`, `Replace` | the new object of `inode` is in staging |
| `LinkAt`, `ReplaceWithLink` | `source` holds `inode`, and `at` is not a link to that same object |
| `Move`, `MoveOver`, `Hold` | `source` holds `inode` |
| `Exchange` | `a` holds `inode_a` |
| `Remove`, `RemoveDirectory` | `at` holds `inode` |
| `SetAttributes` | always: it can be repeated |

"Holds" means the object, not only the id: a file with new content is another object (another backing inode)
than its old version. Within one plan no place ever gets back an inode that a step took from it.
"""

from __future__ import annotations

__all__ = [
    "Create",
    "Exchange",
    "Hold",
    "LinkAt",
    "Move",
    "MoveOver",
    "Place",
    "Remove",
    "RemoveDirectory",
    "Replace",
    "ReplaceWithLink",
    "SetAttributes",
    "Step",
    "held_place",
]

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ghostfs.model import HELD, InodeId


class Place(NamedTuple):
    """A name in a directory; `parent` may be `HELD`."""

    parent: InodeId
    name: bytes


def held_place(inode: InodeId) -> Place:
    """Where an inode waits while it has no place in the tree: one place each."""
    return Place(HELD, b"%x" % inode)


@dataclass(frozen=True, slots=True)
class Create:
    """The staged object of `inode` gets the name `at`, which is free."""

    inode: InodeId
    at: Place


@dataclass(frozen=True, slots=True)
class Replace:
    """The staged object of `inode` takes the name `at` from the non-directory `displaced`.

    `displaced` is `inode` itself when a file gets new content.
    """

    inode: InodeId
    at: Place
    displaced: InodeId


@dataclass(frozen=True, slots=True)
class LinkAt:
    """The non-directory `inode`, at `source`, gets the further name `at`, which is free (and may be held)."""

    inode: InodeId
    source: Place
    at: Place


@dataclass(frozen=True, slots=True)
class ReplaceWithLink:
    """The non-directory `inode`, at `source`, takes the further name `at` from the non-directory `displaced`.

    `displaced` is `inode` itself when `at` still names the version before the one at `source`.
    """

    inode: InodeId
    source: Place
    at: Place
    displaced: InodeId


@dataclass(frozen=True, slots=True)
class Move:
    """`inode`, of any kind, goes from `source` (which may be held) to `at`, which is free."""

    inode: InodeId
    source: Place
    at: Place


@dataclass(frozen=True, slots=True)
class MoveOver:
    """The non-directory `inode` goes from `source` to `at`, where it takes the place of the non-directory
    `displaced`. No step puts `displaced` at `source`: found there, it is what an exchange left behind."""

    inode: InodeId
    source: Place
    at: Place
    displaced: InodeId


@dataclass(frozen=True, slots=True)
class Exchange:
    """`inode_a` at `a` and `inode_b` at `b`, of any kinds, change places at once; both stay in the tree."""

    a: Place
    b: Place
    inode_a: InodeId
    inode_b: InodeId


@dataclass(frozen=True, slots=True)
class Hold:
    """`inode`, of any kind, and all below it, goes from `source` to its held place, which is free."""

    inode: InodeId
    source: Place

    @property
    def at(self) -> Place:
        """Where it waits."""
        return held_place(self.inode)


@dataclass(frozen=True, slots=True)
class Remove:
    """The name `at` of the non-directory `inode` goes; other names of it may remain."""

    inode: InodeId
    at: Place


@dataclass(frozen=True, slots=True)
class RemoveDirectory:
    """The directory `inode` at `at`, empty by now, goes."""

    inode: InodeId
    at: Place


@dataclass(frozen=True, slots=True)
class SetAttributes:
    """Mode, owner, times and xattrs of `inode` become what its cell says.

    `at` is one of its places after all the steps before; `None` for `ROOT`, which has none.
    """

    inode: InodeId
    at: Place | None


Step: TypeAlias = (
    Create
    | Replace
    | LinkAt
    | ReplaceWithLink
    | Move
    | MoveOver
    | Exchange
    | Hold
    | Remove
    | RemoveDirectory
    | SetAttributes
)
