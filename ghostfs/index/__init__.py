"""The index: one SQLite database a session, and the two small stores beside it.

    Index        every inode and dirent of a mirror, the journal by sequence, the fingerprint    store
    Commit       the transaction in which changed cells get the next sequences                   commit
    Adopt        the transaction in which a node stores cells with the hub's sequences           adopt
    Delta        what changed since a cursor, in memory or as a stream                           delta
    Frozen       a snapshot in tree order, in a file of its own                                  frozen
    DirtyLog     what the owner has touched and not yet committed                                dirtylog
    Members      hub.db: the nodes, and how far each is                                          members

Below them: the tables and their columns (schema), the hot statements (rows), many cells with one statement (bulk),
where a block may be found (holders), and looking for damage (check).

The only place with SQL. It knows `ghostfs.content` for decoding block lists, and nothing above itself;
`docs/index-format.md` describes the files.
"""

from __future__ import annotations

__all__ = [
    "Adopt",
    "Chunk",
    "Commit",
    "Counts",
    "CursorTooOld",
    "Delta",
    "DeltaStream",
    "DirentPut",
    "DirtyDirent",
    "DirtyEntries",
    "DirtyLog",
    "Frozen",
    "Index",
    "InodePut",
    "Members",
    "Membership",
    "Node",
    "RefusedCell",
    "SnapshotPosition",
    "State",
    "asides",
    "set_aside",
]

from ghostfs.index.adopt import Adopt
from ghostfs.index.bulk import DirentPut, InodePut, RefusedCell
from ghostfs.index.commit import Commit
from ghostfs.index.damage import asides, set_aside
from ghostfs.index.delta import CursorTooOld, Delta, DeltaStream
from ghostfs.index.dirtylog import DirtyDirent, DirtyEntries, DirtyLog
from ghostfs.index.frozen import Chunk, Frozen
from ghostfs.index.members import Members, Membership, Node
from ghostfs.index.state import Counts, SnapshotPosition, State
from ghostfs.index.store import Index
