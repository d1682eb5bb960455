"""`mount` and `unmount`, as the command line calls them."""

from __future__ import annotations

__all__ = ["MountOptions", "mount", "unmount"]

import os
import select
from pathlib import Path

import structlog

from ghostfs.errors import MountError, PeerError
from ghostfs.fs import preflight, process
from ghostfs.fs.mounts import Mounted, detach, find, mounted, users_of
from ghostfs.fs.options import MountOptions
from ghostfs.mirror.control import ControlClient
from ghostfs.mirror.layout import DataDir
from ghostfs.mirror.live.session import create_session
from ghostfs.mirror.owner import is_held
from ghostfs.v1 import control_pb2 as pb

log = structlog.get_logger(__name__)


def mount(options: MountOptions) -> None:
    """Mounts a session. In the background, returns when the mount answers; in the foreground, when it has ended.

    Raises:
        SessionNotFound, SessionBusy, MountError, GhostError: with what to do, on one line; then nothing of a
            mount is left.
    """
    mountpoint = preflight.check(
        options.session,
        options.mountpoint,
        options.data_dir,
        create=options.create,
        allow_other=options.allow_other,
    )
    layout = DataDir(options.data_dir).session(options.session)
    if options.create and not layout.tree.is_dir():
        create_session(layout)
    if options.foreground:
        # Loaded here: a command that only starts a mount needs no trio and no pyfuse3.
        from ghostfs.fs.serve import serve

        serve(options, mountpoint, lambda: None)
    else:
        process.start(options, mountpoint)


def unmount(directory: Path, *, timeout: float | None = None) -> None:
    """Unmounts, and returns when everything is committed and the mount process has ended. A dead mount is cleared.

    `timeout` is in seconds; None waits for as long as it takes.

    Raises:
        MountError: nothing of ours is mounted there, it is in use, or it took longer than `timeout`; in the
            last case it ends by itself later.
    """
    path = preflight.resolve(directory)
    entry = _ours(path)
    lock = entry.state / "owner.lock"
    if not is_held(lock):
        detach(path, lazy=True)
        log.warning("stale_mount_cleared", mountpoint=str(path), session=entry.session)
        return
    owner = _owner(lock)
    try:
        _ask_to_end(entry)
        if owner is not None:
            _await_end(owner, path, timeout)
    finally:
        if owner is not None:
            os.close(owner)


def _ours(path: Path) -> Mounted:
    entry = find(path)
    if entry is None:
        above = next((m for m in reversed(mounted()) if m.is_ours and m.path in path.parents), None)
        hint = f": it lies inside the mount at {above.path}" if above else ""
        raise MountError(f"{path} is not a mountpoint{hint}")
    if not entry.is_ours:
        raise MountError(f"what is mounted at {path} is not GhostFS but {entry.fstype}: use umount")
    return entry


def _owner(lock: Path) -> int | None:
    """A descriptor of the owner's process, that becomes readable when it ends; None if it may not be known."""
    try:
        return os.pidfd_open(int(lock.read_text()))
    except (OSError, ValueError):
        return None


def _ask_to_end(entry: Mounted) -> None:
    try:
        with ControlClient(entry.state / "control.sock") as client:
            reply = client.request(pb.ControlRequest(unmount=pb.Unmount()))
    except (OSError, PeerError):
        _unmount_by_hand(entry.path)
        return
    if reply.error:
        raise MountError(reply.error)


def _unmount_by_hand(path: Path) -> None:
    """The owner does not answer: the kernel tells it."""
    if find(path) is None:
        return  # it was about to end when we asked
    try:
        detach(path, lazy=False)
    except OSError as error:
        users = users_of(path)
        by = f" (by {', '.join(users)})" if users else ""
        raise MountError(f"{path} cannot be unmounted: {error.strerror}{by}") from None


def _await_end(owner: int, path: Path, timeout: float | None) -> None:
    poller = select.poll()
    poller.register(owner, select.POLLIN)
    if not poller.poll(None if timeout is None else timeout * 1000):
        raise MountError(
            f"{path} is unmounted, but its process still commits after {timeout:g} s: it ends by itself"
        )
