"""What must hold before a mount is tried. Each failure is one line that says what to do."""

from __future__ import annotations

__all__ = ["check", "resolve", "who_may_mount"]

import errno
import os
import shutil
import stat
from pathlib import Path

import structlog

from ghostfs.errors import MountError, SessionBusy, SessionNotFound
from ghostfs.fs.mounts import detach, find, mounted
from ghostfs.mirror.layout import DataDir, SessionLayout
from ghostfs.mirror.owner import is_held
from ghostfs.mirror.privileges import in_user_namespace

log = structlog.get_logger(__name__)

_DEVICE = Path("/dev/fuse")
_FUSE_CONF = Path("/etc/fuse.conf")


def resolve(path: Path) -> Path:
    """Absolute and without links, also where a dead mount is in the way."""
    return Path(os.path.realpath(path))


def check(session: str, mountpoint: Path, data_dir: Path, *, create: bool, allow_other: bool) -> Path:
    """The resolved mountpoint, ready to be mounted on; a dead mount of ours there is cleared first.

    Raises:
        SessionNotFound, SessionBusy, InvalidName, MountError: with what to do.
    """
    layout = DataDir(data_dir).session(session)
    mountpoint = resolve(mountpoint)
    _check_apart(mountpoint, data_dir, layout)
    if not create and not layout.tree.is_dir():
        raise SessionNotFound(
            f"there is no session {session} in {data_dir}: make it with --create, or `ghostfs session create {session}`"
        )
    _check_writable(layout)
    _clear_stale(session, mountpoint, layout)
    _check_mountpoint(mountpoint)
    _check_free(session, layout)
    _check_rights(allow_other=allow_other)
    return mountpoint


def who_may_mount() -> str:
    """What to do about a mount that the kernel does not permit."""
    if in_user_namespace():
        return (
            "in a user namespace, only root of that namespace can mount, and in a mount namespace of its own: "
            "start both with `unshare -Urm`"
        )
    return (
        "start the container with --device /dev/fuse --cap-add SYS_ADMIN, or mount as root of the machine"
    )


def _check_apart(mountpoint: Path, data_dir: Path, layout: SessionLayout) -> None:
    """A mount above its own files would wait for itself, without end; one among them would hide some."""
    # Links may lead elsewhere on the way down, and what is not there yet will be made.
    for path in dict.fromkeys(map(resolve, (data_dir, layout.state, layout.tree, layout.staging))):
        if path == mountpoint or mountpoint in path.parents:
            raise MountError(
                f"{mountpoint} is or holds the data directory, or a part of it ({path}): "
                "mount on a directory outside it, or choose another --data-dir"
            )
        if path in mountpoint.parents:
            raise MountError(
                f"{mountpoint} lies inside the data directory ({path}): mount on a directory outside it"
            )


def _check_writable(layout: SessionLayout) -> None:
    """A mount has its index to write; a tree alone that is read-only can still be shown."""
    place = layout.state
    while not place.exists() and place != place.parent:
        place = place.parent
    if _is_read_only(place):
        raise MountError(
            f"{place} is on a read-only filesystem, and a mount writes its index there: "
            f"remount that filesystem with `mount -o remount,rw`, or choose another --data-dir"
        )
    if layout.tree.is_dir() and _is_read_only(layout.tree):
        log.warning("tree_read_only", session=layout.name, tree=str(layout.tree))


def _is_read_only(place: Path) -> bool:
    return bool(os.statvfs(place).f_flag & os.ST_RDONLY)


def _clear_stale(session: str, mountpoint: Path, layout: SessionLayout) -> None:
    while (entry := find(mountpoint)) is not None:
        if not entry.is_ours:
            if entry.fstype.startswith("fuse") or not _is_plain(mountpoint):
                raise MountError(
                    f"{mountpoint} is a mountpoint already ({entry.fstype}): unmount that, or use another directory"
                )
            return
        if is_held(entry.state / "owner.lock"):
            kind = SessionBusy if entry.state == layout.state else MountError
            raise kind(
                f"session {entry.session} is already mounted at {mountpoint}: "
                + ("use it there" if entry.session == session else "use another directory")
                + f", or `ghostfs umount {mountpoint}` first"
            )
        detach(mountpoint, lazy=True)
        log.warning("stale_mount_cleared", mountpoint=str(mountpoint), session=entry.session)


def _is_plain(mountpoint: Path) -> bool:
    """Whether what is mounted there is an ordinary, empty filesystem, on which one may mount."""
    return mountpoint.is_dir() and os.access(mountpoint, os.R_OK)


def _check_mountpoint(mountpoint: Path) -> None:
    try:
        mode = mountpoint.stat().st_mode
        if not stat.S_ISDIR(mode):
            raise MountError(f"{mountpoint} is not a directory: name an empty directory to mount on")
        with os.scandir(mountpoint) as entries:
            occupied = next(entries, None) is not None
    except FileNotFoundError:
        raise MountError(f"{mountpoint} does not exist: make it with `mkdir -p {mountpoint}`") from None
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise MountError(
                f"{mountpoint} is a dead mount: clear it with `fusermount3 -uz {mountpoint}`"
            ) from None
        raise MountError(f"{mountpoint} cannot be used: {error.strerror}") from None
    if occupied:
        raise MountError(f"{mountpoint} is not empty: mount on an empty directory")
    if os.geteuid() != 0 and not os.access(mountpoint, os.W_OK):
        raise MountError(f"{mountpoint} is not writable by you: mount on a directory of your own")


def _check_free(session: str, layout: SessionLayout) -> None:
    if not is_held(layout.owner_lock):
        return
    for entry in mounted():
        if entry.is_ours and entry.state == layout.state:
            raise SessionBusy(
                f"session {session} is already mounted at {entry.path}: "
                f"use it there, or `ghostfs umount {entry.path}` first"
            )


def _check_rights(*, allow_other: bool) -> None:
    if not _DEVICE.exists():
        raise MountError(
            "there is no /dev/fuse: load the kernel module with `modprobe fuse`, "
            "or start the container with --device /dev/fuse --cap-add SYS_ADMIN"
        )
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        unknown = error.errno in (errno.ENODEV, errno.ENXIO)  # a node that nothing in the kernel is behind
        what = "load the kernel module with `modprobe fuse`" if unknown else "`chmod 666 /dev/fuse`"
        raise MountError(
            f"/dev/fuse cannot be opened ({error.strerror}): as root, {what}, or let the container use the device"
        ) from None
    if os.geteuid() == 0:
        return
    if shutil.which("fusermount3") is None:
        raise MountError("fusermount3 is not installed: as root, `apt install fuse3`")
    if allow_other and not _user_allow_other():
        raise MountError(
            "allow_other is for root only here: as root, put a line `user_allow_other` into /etc/fuse.conf"
        )


def _user_allow_other() -> bool:
    try:
        return any(line.strip() == "user_allow_other" for line in _FUSE_CONF.read_text().splitlines())
    except OSError:
        return False
