"""The kernel's mount table: which mounts are GhostFS's, whether their process lives, who uses them.

Nothing here touches a mountpoint itself: that of a dead or stopped mount process would fail or hang.
"""

from __future__ import annotations

__all__ = ["FSTYPE", "Mounted", "detach", "find", "mounted", "source_name", "users_of"]

import ctypes
import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from ghostfs.errors import MountError

FSTYPE = "fuse.ghostfs"
_MOUNTINFO = Path("/proc/self/mountinfo")
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_OCTAL = re.compile(rb"\\([0-7]{3})")
_USER_ID = re.compile(rb"\buser_id=(\d+)")


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of the mount table."""

    path: Path
    fstype: str
    source: str
    device: str
    """`major:minor`."""
    uid: int = 0
    """Who mounted it, as FUSE keeps it; 0 for other filesystems."""

    @property
    def st_dev(self) -> int:
        """As stat(2) has it."""
        major, minor = map(int, self.device.split(":"))
        return os.makedev(major, minor)

    @property
    def is_ours(self) -> bool:
        return self.fstype == FSTYPE and self.source.count(":") >= 2

    @property
    def session(self) -> str:
        """The session mounted there; for our mounts only."""
        return self.source.split(":", 2)[1]

    @property
    def state(self) -> Path:
        """The folder of the session's index and control socket; for our mounts only."""
        return Path(os.fsdecode(unquote_to_bytes(self.source.split(":", 2)[2])))


def source_name(session: str, state: Path) -> str:
    """What the mount table shows as the source: enough to find the owner again, in ASCII without commas."""
    return f"ghostfs:{session}:{quote(os.fsencode(state), safe='/')}"


def mounted() -> list[Mounted]:
    """The mount table, in order: of two at one path, the later covers the earlier."""
    found = []
    for line in _MOUNTINFO.read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        fields = before.split(b" ")
        fstype, source, options = after.split(b" ", 2)
        path = Path(os.fsdecode(_unescape(fields[4])))
        uid = _USER_ID.search(options)
        found.append(
            Mounted(
                path,
                fstype.decode(),
                os.fsdecode(_unescape(source)),
                fields[2].decode(),
                int(uid[1]) if uid else 0,
            )
        )
    return found


def find(path: Path) -> Mounted | None:
    """What is mounted at exactly `path` (absolute, links resolved); the topmost if several are."""
    return next((entry for entry in reversed(mounted()) if entry.path == path), None)


def umount2(path: Path, flags: int) -> None:
    """umount2(2).

    Raises:
        OSError: as umount2(2).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fspath(path))


def detach(
    path: Path,
    *,
    lazy: bool,
    umount2: Callable[[Path, int], None] = umount2,
    fusermount: str | None = None,
) -> None:
    """Unmounts what is at `path`; lazily: takes it out of the tree now, whoever uses it.

    `umount2` and `fusermount`, the path of fusermount3, are for callers that may not look for it themselves.

    Raises:
        OSError: EBUSY when it is in use; EINVAL when nothing is mounted there.
        MountError: it cannot be done with the rights or tools there are.
    """
    if os.geteuid() == 0:
        try:
            umount2(path, _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0))
        except PermissionError:
            pass  # in a user namespace, of a mount that is not its own
        else:
            return
    program = fusermount or shutil.which("fusermount3")
    if program is None:
        raise MountError("fusermount3 is not installed: install the system package fuse3")
    arguments = [program, "-u", *(["-z"] if lazy else []), "--", os.fspath(path)]
    done = subprocess.run(arguments, capture_output=True, check=False)
    if done.returncode == 0:
        return
    reason = done.stderr.decode("utf-8", "replace").strip()
    if "busy" in reason.lower():
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), os.fspath(path))
    raise MountError(f"{path} cannot be unmounted: {reason}")


def users_of(path: Path, limit: int = 3) -> list[str]:
    """Some processes that have a file or their working directory below `path`, as `name (pid)`.

    Only those that we may look at; never ourselves.
    """
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        if _uses(process, path):
            try:
                name = (process / "comm").read_text().strip()
            except OSError:
                continue
            found.append(f"{name} ({process.name})")
            if len(found) == limit:
                break
    return found


def _uses(process: Path, path: Path) -> bool:
    below = f"{path}/"
    try:
        links = [process / "cwd", process / "root", *(process / "fd").iterdir()]
    except OSError:
        return False
    for link in links:
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target == str(path) or target.startswith(below):
            return True
    return False


def _unescape(field: bytes) -> bytes:
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field)
