"""`mount` and `unmount`, as the command line calls them."""

from __future__ import annotations

__all__ = ["MountOptions", "mount", "unmount"]

import contextlib
import os
import select
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from ghostfs.errors import GhostError, MountError, PeerError, in_words
from ghostfs.fs import preflight
from ghostfs.fs.mounts import Mounted, detach, find, mounted, users_of
from ghostfs.fs.options import MountOptions
from ghostfs.fs.starting import MountProcess
from ghostfs.index import Index
from ghostfs.mirror.control import ControlClient
from ghostfs.mirror.layout import DataDir
from ghostfs.mirror.live.session import create_session
from ghostfs.mirror.owner import is_held
from ghostfs.v1 import control_pb2 as pb

log = structlog.get_logger(__name__)

Waiting = Callable[[pb.OwnerStatus], None]
"""Told what the mount process still has to do."""

_SILENT_S = 1.0
_LOOK_EVERY_S = 0.5
_ANSWER_TIMEOUT_S = 2.0


def mount(options: MountOptions, process: MountProcess | None = None) -> None:
    """Mounts a session. In the background, returns when the mount answers; in the foreground, when it has ended.

    `process` is that of a mount in the background, if it is loading already.

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
        return
    with contextlib.ExitStack() as ours:
        if process is None:
            process = ours.enter_context(MountProcess(options.session, mountpoint))
        process.mount(options, mountpoint)


def unmount(directory: Path, *, timeout: float | None = None, waiting: Waiting | None = None) -> None:
    """Unmounts, and returns when everything is committed and the mount process has ended. A dead mount is cleared.

    `timeout` is in seconds; None waits for as long as it takes. `waiting` is called twice a second once that
    has taken longer than a second.

    Raises:
        MountError: nothing of ours is mounted there, it is in use, or it took longer than `timeout`; in the
            last case it ends by itself later. Or it is unmounted, but the process could not commit everything.
    """
    path = preflight.resolve(directory)
    entry = _ours(path)
    lock = entry.state / "owner.lock"
    if not is_held(lock):
        detach(path, lazy=True)
        log.warning("stale_mount_cleared", mountpoint=str(path), session=entry.session)
        return
    owner, name = _owner(lock)
    trouble = ""
    try:
        _ask_to_end(entry)
        if owner is not None:
            trouble = _await_end(owner, entry, timeout, waiting)
    finally:
        if owner is not None:
            os.close(owner)
    if name is not None:
        _check_clean(entry, name, trouble)


def _ours(path: Path) -> Mounted:
    entry = find(path)
    if entry is None:
        above = next((m for m in reversed(mounted()) if m.is_ours and m.path in path.parents), None)
        hint = f": it lies inside the mount at {above.path}" if above else ""
        raise MountError(f"{path} is not a mountpoint{hint}")
    if not entry.is_ours:
        raise MountError(f"what is mounted at {path} is not GhostFS but {entry.fstype}: use umount")
    if os.geteuid() not in (0, entry.uid):
        raise MountError(
            f"{path} was mounted by another user, with uid {entry.uid}: only they and root unmount it"
        )
    return entry


def _owner(lock: Path) -> tuple[int | None, str | None]:
    """A descriptor of the owner's process that becomes readable when it ends, and what the lock calls it.

    The first is None if the process has ended already, both are if it may not be known.
    """
    try:
        name = lock.read_text()
        return os.pidfd_open(int(name)), name
    except ProcessLookupError:
        return None, name
    except (OSError, ValueError):
        return None, None


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


def _await_end(owner: int, entry: Mounted, timeout: float | None, waiting: Waiting | None) -> str:
    """Returns, when the process has ended, what kept it from committing when it was last asked; empty if nothing."""
    poller = select.poll()
    poller.register(owner, select.POLLIN)
    deadline = None if timeout is None else time.monotonic() + timeout
    trouble, patience = "", _SILENT_S
    while True:
        left = patience if deadline is None else min(patience, deadline - time.monotonic())
        if poller.poll(max(0.0, left) * 1000):
            return trouble
        if deadline is not None and time.monotonic() >= deadline:
            raise MountError(
                f"{entry.path} is unmounted, but its process still commits after {timeout:g} s: it ends by itself"
            )
        patience = _LOOK_EVERY_S
        status = _status(entry.state)
        if status is not None:
            trouble = status.trouble
            if waiting is not None:
                waiting(status)


def _status(state: Path) -> pb.OwnerStatus | None:
    try:
        with ControlClient(state / "control.sock", timeout=_ANSWER_TIMEOUT_S) as client:
            return client.request(pb.ControlRequest(status=pb.OwnerStatusRequest())).status
    except (OSError, PeerError):
        return None  # it is at its very end


def _check_clean(entry: Mounted, owner: str, trouble: str) -> None:
    """That the process which has ended left an index that is up to date. `owner` is what the lock called it."""
    index_db = entry.state / "index.db"
    if not os.access(index_db, os.R_OK):
        return  # another user's, or removed since
    try:
        with Index.open(index_db, readonly=True) as index:
            if index.meta("clean") == "1":
                return
    except (OSError, GhostError) as error:
        trouble = trouble or in_words(error)
    # Read after the index: if this is still the name, no later mount has changed the mark.
    if (entry.state / "owner.lock").read_text() == owner:
        raise MountError(
            f"{entry.path} is unmounted, but the index of session {entry.session} is not up to date "
            f"({trouble or 'its process ended too early, or its log says why'}): nothing is lost, the next mount brings it up to date"
        )
