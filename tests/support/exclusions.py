"""What a mount does not do as ext4 and tmpfs do, and why. `docs/posix.md` holds the same list.

The tests here consult it by name: what is not named must be the same in a mount and beside it.
"""

from __future__ import annotations

__all__ = ["EXCLUSIONS", "Exclusion", "excluded"]

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One difference: `name` for the tests, `what` happens in a mount, and its `cause`."""

    name: str
    what: str
    cause: str


EXCLUSIONS = (
    Exclusion(
        "O_TMPFILE",
        "`open` with `O_TMPFILE` fails with EOPNOTSUPP",
        "pyfuse3 has no handler for FUSE_TMPFILE",
    ),
    Exclusion(
        "fallocate",
        "`fallocate` fails with EOPNOTSUPP, so `posix_fallocate` is what the C library makes of it: it writes, "
        "moves the times as writing does, and refuses a descriptor with `O_APPEND`",
        "pyfuse3 has no handler for FUSE_FALLOCATE",
    ),
    Exclusion(
        "holes",
        "`lseek` with `SEEK_DATA` and `SEEK_HOLE` sees one range of data up to the end of the file",
        "pyfuse3 has no handler for FUSE_LSEEK",
    ),
    Exclusion(
        "RENAME_WHITEOUT",
        "`renameat2` with `RENAME_WHITEOUT` fails with EINVAL",
        "a choice: only overlay filesystems ask for it, and a whiteout is a device, which no node could keep",
    ),
    Exclusion(
        "access times",
        "what is read moves the access time only when it is read from the disk, and listing a directory never does; "
        "`O_NOATIME` counts from `open` on, and not where `fcntl` sets it later",
        "the kernel leaves access times to the filesystem, and does not ask it for what it has cached, nor tell it of `fcntl`",
    ),
    Exclusion(
        "O_DIRECT",
        "reads and writes with `O_DIRECT` need no alignment",
        "the kernel does not check it for FUSE",
    ),
    Exclusion(
        "O_TRUNC",
        "`O_RDONLY | O_TRUNC` on a program that runs fails with ETXTBSY, but has truncated it",
        "the kernel asks the filesystem to open and truncate first, and then looks whether the program runs",
    ),
    Exclusion(
        "devices",
        "devices can be made and not opened, and set-user-id has no effect on who a program runs as",
        "FUSE is mounted with nosuid and nodev",
    ),
    Exclusion(
        "capabilities",
        "root keeps set-user-id on what it writes to whatever capabilities it has, and nobody else does",
        "a FUSE request names the user, and not the capabilities",
    ),
    Exclusion(
        "root alone",
        "in a mount by root without `--allow-other`, modes hold nobody back but from running what nobody may run: not "
        "root without CAP_DAC_OVERRIDE, or acting for another user by `setfsuid`",
        "a choice: only root is let in; to check what it may do, the kernel would ask for a directory's attributes anew "
        "after each change in it",
    ),
    Exclusion(
        "sticky files",
        "in such a mount, what takes set-user-id or set-group-id from a file, as `chown` does, takes its sticky bit too",
        "where it does not check modes, the kernel hides that bit from itself, and tells the mode to set without it",
    ),
    Exclusion(
        "blocks",
        "`st_blksize` is 65536; `st_dev` is the mount's own",
        "a choice: programs size their buffers by it, and each write is a request",
    ),
    Exclusion(
        "late errors",
        "with `--writeback`, a write that the disk refuses (full, too large) fails at `fsync` or `close`, once; a file that "
        "grew by it keeps that size until it is truncated or mounted anew, with zeros where nothing was taken",
        "the kernel takes the write before it asks the filesystem, and keeps the size itself",
    ),
    Exclusion(
        "short writes",
        "a write that the disk takes only a part of says so, and the next `fsync` fails, too, unless the rest was written "
        "by then",
        "the kernel does not tell what it writes of a memory map, where a part is no answer, from what a program writes",
    ),
    Exclusion(
        "access control lists",
        "attributes of `system.` (`setfacl`) are refused with EOPNOTSUPP and not listed; lists that files in `tree/` have "
        "hold nobody back",
        "pyfuse3 cannot tell the kernel that a filesystem has them, and then it holds nobody to them",
    ),
    Exclusion(
        "inode flags",
        "`lsattr` and `chattr` fail with ENOTTY",
        "pyfuse3 has no handler for FUSE_IOCTL",
    ),
    Exclusion(
        "birth time",
        "`statx` knows no time of birth",
        "pyfuse3 has no handler for FUSE_STATX",
    ),
    Exclusion(
        "inode numbers",
        "numbers are of 64 bits and never used again; listing a directory shows 4294967295 for `..`, where `stat` is right",
        "a choice: copies know files by them; what is above a directory would have to be looked up for each listing",
    ),
    Exclusion(
        "same size",
        "with `--writeback`, truncating to the size that a file has leaves its times",
        "the kernel keeps times and size itself, and sees no change",
    ),
    Exclusion(
        "kernel clock",
        "with `--writeback`, two changes within a tick of the kernel's clock (some milliseconds) have one time",
        "the kernel keeps the times of FUSE files by its coarse clock",
    ),
    Exclusion(
        "now",
        "`touch` and `UTIME_NOW` set the time of the kernel's coarse clock, which may lie some milliseconds before "
        "that of a change just made",
        "pyfuse3 hands on the kernel's value, and not that it stands for now",
    ),
    Exclusion(
        ".skills",
        "`.skills` at the root of a session, in any case, is read-only: EROFS; whoever is let into the mount may read it, "
        "whatever the modes in the registry; a change is seen within a second, and one that was made in place, to the same "
        "size, by who opens the file anew",
        "a choice: it shows the registry of skills",
    ),
)


def excluded(name: str) -> bool:
    """Whether a difference is on the list; a name that is not there is a mistake in a test."""
    if name not in {exclusion.name for exclusion in EXCLUSIONS}:
        raise LookupError(name)
    return True
