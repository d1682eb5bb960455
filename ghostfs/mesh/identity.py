"""The durable identity of a node: 16 random bytes in a file, made once.

The hub keeps a node's replica number and cursors under it. It names a node; it is no secret.
"""

from __future__ import annotations

__all__ = ["NODE_ID_SIZE", "node_identity"]

import os
import secrets
from pathlib import Path

from ghostfs import private
from ghostfs.errors import ConfigError

NODE_ID_SIZE = 16


def node_identity(path: Path) -> bytes:
    """The id kept in the file `path`, which is made durably, mode 0600, if it is not there.

    So are folders above it that are missing, mode 0700. Two processes that make it at the same time end with the same id: the file appears whole, by link(2).

    Raises:
        ConfigError: the file holds something else; the message says what to do.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    private.make_directory(path.parent)
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, secrets.token_bytes(NODE_ID_SIZE).hex().encode() + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    try:
        os.link(made, path)
    except FileExistsError:
        pass
    finally:
        made.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return _read(path)


def _read(path: Path) -> bytes:
    try:
        node_id = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError:
        node_id = b""
    if len(node_id) != NODE_ID_SIZE:
        raise ConfigError(f"{path} does not hold a node id; remove it to enrol this node as a new one")
    return node_id
