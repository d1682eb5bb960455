"""What is true of an index as a whole, read in one statement and so always consistent."""

from __future__ import annotations

__all__ = ["Counts", "SnapshotPosition", "State"]

from dataclasses import dataclass

from ghostfs.model import Epoch, Seq


@dataclass(frozen=True, slots=True)
class State:
    """A head, and the fingerprint of the tree at that head. `committed_ns` is wall clock, ns since 1970."""

    epoch: Epoch
    head: Seq
    fingerprint: int
    committed_ns: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is. `bytes` is the sum of the sizes of all files, holes included."""

    inodes: int
    dirents: int
    tombstones: int
    bytes: int


@dataclass(frozen=True, slots=True)
class SnapshotPosition:
    """How much of which snapshot a node has durably applied."""

    snapshot_id: bytes
    position: int
