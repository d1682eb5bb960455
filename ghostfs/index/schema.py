"""The tables of a session's index, each column explained, and the migrations that lead to them.

The comments are inside the statements, so that `sqlite3 index.db .schema` shows them too.
`PRAGMA user_version` holds the number of migrations that a database has been through.
"""

from __future__ import annotations

__all__ = ["INDEX_FORMAT"]

from typing import Any

from ghostfs.index.database import Format

_STATE = """
CREATE TABLE state (
  -- Exactly one row: what is true of the index as a whole, changed in the same transaction as the cells.
  id INTEGER PRIMARY KEY CHECK (id = 1),
  epoch INTEGER NOT NULL,        -- random, 63 bits, never 0; sequences of two epochs do not compare
  replica INTEGER NOT NULL,      -- 16 bits; whose ids next_id counts; 0 = hub
  head INTEGER NOT NULL,         -- the last sequence given (hub) or applied (node); 0 = none yet
  fingerprint BLOB NOT NULL,     -- 16 bytes, big-endian: the sum over all live cells
  committed_ns INTEGER NOT NULL, -- wall clock at the commit that made this head, ns since 1970; 0 = none yet
  floor INTEGER NOT NULL,        -- highest sequence of a collected tombstone: cursors from 1 to floor - 1 are too old
  next_id INTEGER NOT NULL,      -- the next id to hand out, without the replica bits; only grows
  generation INTEGER NOT NULL,   -- node: grows at every mark_stale; dirents of lower ones are stale
  cursor_epoch INTEGER,          -- node: the hub's epoch of the durable cursor; NULL = no usable cursor
  cursor_seq INTEGER,            -- node: the durable cursor; NULL exactly when cursor_epoch is
  snapshot_id BLOB,              -- node: 16 bytes, the snapshot that is half applied; NULL = none
  snapshot_position INTEGER      -- node: chunks up to here are applied; NULL exactly when snapshot_id is
)"""

_META = """
CREATE TABLE meta (
  -- Small facts of the layers above: boot id, clean-stop mark, the root's filesystem. Texts.
  key TEXT PRIMARY KEY,
  value TEXT NOT NULL
) WITHOUT ROWID"""

_INODE = """
CREATE TABLE inode (
  -- Inode cells. A row goes with its last dirent: there are no tombstones for inodes.
  id INTEGER PRIMARY KEY,        -- 63 bits: the replica that made the file, and its count; 1 = the root
  kind INTEGER NOT NULL,         -- file type: st_mode >> 12
  size INTEGER NOT NULL,         -- bytes; 0 for anything but a regular file
  rdev INTEGER NOT NULL,         -- device number; 0 for anything but a device
  target BLOB NOT NULL,          -- where a symlink points; empty for anything else
  digest BLOB NOT NULL,          -- 16 bytes over size and block list; empty for anything but a regular file
  mode INTEGER NOT NULL,         -- permission bits, 0 to 0o7777
  uid INTEGER NOT NULL,          -- owner, as on the machine that made the change
  gid INTEGER NOT NULL,          -- group, likewise
  mtime_ns INTEGER NOT NULL,     -- modification time, ns since 1970, signed
  xattrs BLOB NOT NULL,          -- user attributes, encoded; empty = none
  attr_seq INTEGER NOT NULL,     -- sequence of the last change of mode, uid, gid, mtime_ns or xattrs
  content_seq INTEGER NOT NULL,  -- sequence of the last change of kind, size, rdev, target or digest
  seq INTEGER NOT NULL,          -- the greater of the two: this cell's place in the journal
  origin INTEGER NOT NULL,       -- the replica that made the last change
  backing_ino INTEGER,           -- st_ino of the backing file, as signed 64 bits; NULL = not materialised here
  backing_ctime_ns INTEGER,      -- its st_ctime_ns; with size, the key of the hash cache; NULL with backing_ino
  held INTEGER NOT NULL,         -- node: 1 = only linked from staging/held, and so not in the fingerprint
  blocks BLOB NOT NULL           -- BlockList encoding; last, so that reading the others skips its pages
)"""

_DIRENT = """
CREATE TABLE dirent (
  -- Dirent cells: what a name means, or that it means nothing any more.
  parent INTEGER NOT NULL,       -- inode id of the directory; node: 0 = waiting in staging/held
  name BLOB NOT NULL,            -- bytes, not necessarily UTF-8
  inode INTEGER,                 -- what the name means; NULL = a tombstone
  seq INTEGER NOT NULL,          -- sequence of the last change
  origin INTEGER NOT NULL,       -- the replica that made it
  generation INTEGER NOT NULL,   -- node: state.generation when this cell was last stored; 0 on a hub
  PRIMARY KEY (parent, name)
) WITHOUT ROWID"""

_PARKED = """
CREATE TABLE parked (
  -- Node: inodes whose newest content could not be had; the old version is kept until a delta brings another.
  inode INTEGER PRIMARY KEY,
  seq INTEGER NOT NULL           -- sequence of the version that could not be had
)"""

_BLOCK_AT = """
CREATE TABLE block_at (
  -- Node: which file holds a block, so that it need not be fetched. Kept only if opened with holders.
  digest BLOB NOT NULL,
  inode INTEGER NOT NULL,
  idx INTEGER NOT NULL,          -- block number within the file
  PRIMARY KEY (digest, inode, idx)
) WITHOUT ROWID"""

_INDEXES = (
    # The journal: a delta is a range of these two.
    "CREATE INDEX inode_by_seq ON inode (seq)",
    "CREATE INDEX dirent_by_seq ON dirent (seq)",
    # From a file found in the tree to what is known of it.
    "CREATE INDEX inode_by_backing ON inode (backing_ino) WHERE backing_ino IS NOT NULL",
    # From an inode to its names.
    "CREATE INDEX dirent_by_inode ON dirent (inode) WHERE inode IS NOT NULL",
    # Collection of tombstones looks at nothing else.
    "CREATE INDEX dirent_tombstone ON dirent (seq) WHERE inode IS NULL",
)


def _first_tables(db: Any) -> None:
    for statement in (_STATE, _META, _INODE, _DIRENT, _PARKED, _BLOCK_AT, *_INDEXES):
        db.execute(statement)


INDEX_FORMAT = Format(
    what="index",
    application_id=0x47465349,  # "GFSI"
    tables=frozenset({"state", "meta", "inode", "dirent", "parked", "block_at"}),
    migrations=(_first_tables,),
)
"""The format of `index.db`."""
