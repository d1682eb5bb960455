"""Where everything lies: the data directory of a machine and the state of one mirror.

The picture is in `docs/architecture.md`. A mirror's tree and its staging folder must be on one
filesystem, because publishing is a rename; its state may be anywhere.
"""

from __future__ import annotations

__all__ = ["DataDir", "SessionLayout"]

from dataclasses import dataclass
from pathlib import Path

from ghostfs.names import check_label


@dataclass(frozen=True, slots=True)
class SessionLayout:
    """The files of one mirror: `state` holds the index and what belongs to it, `tree` the user's files."""

    name: str
    state: Path
    tree: Path
    staging: Path

    @property
    def index_db(self) -> Path:
        return self.state / "index.db"

    @property
    def dirty_log(self) -> Path:
        return self.state / "dirty.log"

    @property
    def lent_modes(self) -> Path:
        """What has another mode for a moment, so that its owner can read it; there only meanwhile."""
        return self.state / "modes.lent"

    @property
    def owner_lock(self) -> Path:
        return self.state / "owner.lock"

    @property
    def control_socket(self) -> Path:
        return self.state / "control.sock"

    @property
    def spool(self) -> Path:
        """Blocks of hot files, put aside under their digests so that a hashed version can be sent."""
        return self.state / "spool"

    @property
    def log_file(self) -> Path:
        """Where a mount in the background writes its log."""
        return self.state / "mount.log"


@dataclass(frozen=True, slots=True)
class DataDir:
    """`$GHOSTFS_DATA_DIR`: everything that GhostFS keeps on this machine for one hub or one node."""

    path: Path

    @property
    def hub_db(self) -> Path:
        return self.path / "hub.db"

    @property
    def hub_socket(self) -> Path:
        return self.path / "hub.sock"

    @property
    def hub_lock(self) -> Path:
        return self.path / "hub.lock"

    @property
    def skills(self) -> Path:
        return self.path / "skills"

    @property
    def snapshots(self) -> Path:
        """Frozen indexes that first syncs are being served from."""
        return self.path / "snapshots"

    @property
    def sessions(self) -> Path:
        return self.path / "sessions"

    @property
    def replicas(self) -> Path:
        """State of the mirrors that this machine's node keeps; their trees lie below the node's root."""
        return self.path / "replicas"

    @property
    def node_id(self) -> Path:
        return self.path / "node.id"

    @property
    def node_lock(self) -> Path:
        return self.path / "node.lock"

    def session(self, name: str) -> SessionLayout:
        """The layout of a session whose authority is this machine.

        Raises:
            InvalidName: the name cannot be a session's.
        """
        state = self.sessions / check_label("session", name)
        return SessionLayout(name, state, state / "tree", state / "staging")

    def replica(self, name: str, root: Path) -> SessionLayout:
        """The layout of a node's copy at `root/name`; its staging is beside it, on the same filesystem.

        Raises:
            InvalidName: the name cannot be a session's.
        """
        state = self.replicas / check_label("session", name)
        return SessionLayout(name, state, root / name, root / ".ghostfs" / name)

    def replica_state(self, name: str) -> Path | None:
        """The state of a copy that this machine's node keeps; its index knows where the copy is.

        Raises:
            InvalidName: the name cannot be a session's.
        """
        state = self.replicas / check_label("session", name)
        return state if (state / "index.db").exists() else None

    def session_names(self) -> list[str]:
        """The sessions that exist here, sorted."""
        if not self.sessions.is_dir():
            return []
        return sorted(entry.name for entry in self.sessions.iterdir() if (entry / "tree").is_dir())
