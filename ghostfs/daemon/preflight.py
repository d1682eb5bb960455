"""What must hold before a hub or a node is started. Each failure is one line that says what to do."""

from __future__ import annotations

__all__ = ["check_not_a_hubs", "check_not_a_nodes", "check_root", "is_state"]

import os
from collections.abc import Sequence
from pathlib import Path

from ghostfs.errors import ConfigError
from ghostfs.fs.mounts import mounted
from ghostfs.mirror.layout import DataDir
from ghostfs.mirror.owner import is_held


def check_root(root: Path, data: DataDir, sessions: Sequence[str]) -> None:
    """That a node's copies may lie there, as far as can be seen before anything is made.

    Raises:
        ConfigError: they may not.
    """
    nearest = next(place for place in (root, *root.parents) if os.path.lexists(place))
    if not nearest.is_dir():
        raise ConfigError(f"--root must be a directory, and {nearest} is none: name another one")
    resolved = root.resolve()
    for entry in mounted():
        # A copy inside a mounted session would be part of what is copied, without end.
        if entry.is_ours and (entry.path == resolved or entry.path in resolved.parents):
            raise ConfigError(
                f"--root {root} lies inside the mounted session at {entry.path}: name a directory outside it"
            )
    own = data.path.resolve()
    for place in (resolved, *((resolved / session).resolve() for session in sessions)):
        for above in (place, *place.parents):
            if above == own or is_state(above):
                raise ConfigError(
                    f"--root {root}: {place} lies in GhostFS's own files at {above}: name a directory outside them"
                )
        if place != resolved and place in own.parents:
            raise ConfigError(
                f"the data directory {own} lies inside the copy {place}: choose another --data-dir"
            )


def check_not_a_hubs(data: DataDir) -> None:
    """That a node may be started on the data directory.

    Raises:
        ConfigError: a hub was, or is.
    """
    if data.hub_db.exists() or is_held(data.hub_lock):
        raise _belongs_to(data, "hub", wanted_for="node")


def check_not_a_nodes(data: DataDir) -> None:
    """That a hub may be started on the data directory, which is there.

    Raises:
        ConfigError: it would have nothing to serve, because a node keeps its copies there; or a node is running.
    """
    # What a node left where sessions are made, or were served, does not count: it must not shut out their hub.
    is_nodes = _has_copies(data) and not (data.hub_db.exists() or data.session_names())
    if is_nodes or is_held(data.node_lock):
        raise _belongs_to(data, "node", wanted_for="hub")


def _has_copies(data: DataDir) -> bool:
    return data.node_id.exists() or any(data.replicas.glob("*/index.db"))


def _belongs_to(data: DataDir, whose: str, *, wanted_for: str) -> ConfigError:
    return ConfigError(
        f"the data directory {data.path} is a {whose}'s: give the {wanted_for} one of its own with --data-dir"
    )


def is_state(path: Path) -> bool:
    """Whether a directory is a data directory, or the state of a session; a user's own may have some such names."""
    data = DataDir(path)
    try:
        if (path / "index.db").is_file() and (path / "owner.lock").is_file():
            return True
        if any(mark.is_file() for mark in (data.hub_lock, data.node_lock)):
            return data.hub_db.is_file() or data.node_id.is_file() or data.sessions.is_dir()
        # One whose sessions were made, and perhaps mounted, but never served.
        return any((data.sessions / name / "index.db").is_file() for name in data.session_names())
    except PermissionError:
        return False  # whoever may not look there may not write there either
