"""The exceptions GhostFS raises, all in one tree.

Every error that a person can cause or mend is a `GhostError`: its message says what is wrong and what to
do, on one line, and its `exit_code` is what the command line ends with. Foreign errors are translated at
one boundary each: `OSError` to an errno in `ghostfs.fs`, to a status code in `ghostfs.mesh`. Anything
that is not a `GhostError` or an `OSError` is a bug, and keeps its traceback.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "DriftError",
    "ExitCode",
    "GhostError",
    "IndexDamaged",
    "IndexTooNew",
    "InvalidCell",
    "InvalidName",
    "MountError",
    "NameTaken",
    "NodeHalted",
    "NodeNotFound",
    "PeerError",
    "SessionBusy",
    "SessionExists",
    "SessionNotFound",
    "Superseded",
    "in_words",
]

import enum
import os


class ExitCode(enum.IntEnum):
    """What the `ghostfs` command ends with; the table in `docs/operating.md` explains each."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    BUSY = 4
    MOUNT = 5
    DRIFT = 6
    DAMAGED = 7
    UNREACHABLE = 8


class GhostError(Exception):
    """Something a person can cause or mend; the message says what to do."""

    exit_code: ExitCode = ExitCode.FAILURE


class ConfigError(GhostError):
    """A setting has a value that cannot be used."""

    exit_code = ExitCode.USAGE


class InvalidName(GhostError):
    """A session, node or file name that cannot be used."""

    exit_code = ExitCode.USAGE


class NameTaken(InvalidName):
    """A node asks for the name of another one that the hub knows."""


class NodeNotFound(GhostError):
    """The hub knows no such node."""

    exit_code = ExitCode.NOT_FOUND


class SessionNotFound(GhostError):
    """There is no session of that name in the data directory."""

    exit_code = ExitCode.NOT_FOUND


class SessionExists(GhostError):
    """A session of that name is already there."""

    exit_code = ExitCode.BUSY


class SessionBusy(GhostError):
    """Another process owns the mirror."""

    exit_code = ExitCode.BUSY


class MountError(GhostError):
    """A mount could not be made or removed."""

    exit_code = ExitCode.MOUNT


class IndexTooNew(GhostError):
    """The index was written by a newer version of GhostFS; it is left untouched."""

    exit_code = ExitCode.DAMAGED


class IndexDamaged(GhostError):
    """The index cannot be read as a database, or contradicts itself."""

    exit_code = ExitCode.DAMAGED


class DriftError(GhostError):
    """Index and tree, or two mirrors, disagree."""

    exit_code = ExitCode.DRIFT


class InvalidCell(GhostError):
    """A cell, delta or message from the wire breaks a rule; nothing of it was applied."""

    exit_code = ExitCode.DRIFT


class Superseded(GhostError):
    """The content that was asked for is no longer there; a newer version will follow."""


class NodeHalted(GhostError):
    """A node stopped because going on could lose files; the message names the override."""

    exit_code = ExitCode.DRIFT


class PeerError(GhostError):
    """A hub, node or mount could not be reached, or refused."""

    exit_code = ExitCode.UNREACHABLE


def in_words(error: Exception) -> str:
    """What an error says to people, on one line: of an `OSError` the reason and the path, and no number."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    paths = [
        path for path in (error.filename, error.filename2) if isinstance(path, str | bytes | os.PathLike)
    ]
    # Names may be any bytes, which nothing that prints could take.
    shown = " → ".join(os.fsencode(path).decode(errors="backslashreplace") for path in paths)
    return f"{error.strerror}: {shown}" if shown else error.strerror
