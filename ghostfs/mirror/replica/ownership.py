"""Who owns the files of a replica: as on the hub, one fixed user, or whoever the node runs as.

And whether they may be *privileged*: programs that run as their owner or group (setuid, setgid), and device
nodes. Whoever writes to a session would decide with them what every user of this machine may do, so they
are kept only where the operator has asked for all to be as on the hub, by `preserve`. That a process happens
to be able to (`auto`) is not a decision; and with `mapped` or `ignore` such a program would run as another
user than on the hub.
"""

from __future__ import annotations

__all__ = ["UNPRIVILEGED", "Owner", "Ownership", "check", "choose"]

import os
import stat
from dataclasses import dataclass
from typing import Literal

import structlog

from ghostfs.errors import ConfigError
from ghostfs.mirror.privileges import may_chown
from ghostfs.model import Inode, Kind

log = structlog.get_logger(__name__)

_RUNS_AS_ITS_OWNER = stat.S_ISUID | stat.S_ISGID

Ownership = Literal["auto", "preserve", "mapped", "ignore"]

UNPRIVILEGED = "only where ownership is set to 'preserve', and not chosen by default"
"""Why something is not kept, for the log."""


@dataclass(frozen=True, slots=True)
class Owner:
    """`of` says whom a file is given to: None leaves it to whoever made it.

    `privileged`: whether setuid and setgid programs and devices are kept.
    """

    policy: Literal["preserve", "mapped", "ignore"]
    uid: int = 0
    gid: int = 0
    privileged: bool = False

    def of(self, uid: int, gid: int) -> tuple[int, int] | None:
        """The owner here of a file that `uid` and `gid` own on the hub."""
        if self.policy == "preserve":
            return uid, gid
        if self.policy == "mapped":
            return self.uid, self.gid
        return None

    def mode(self, cell: Inode) -> int:
        """The mode here of an object that has the cell's on the hub.

        The bits of a directory stay: there they are about the group of what is made in it.
        """
        stripped = not self.privileged and cell.kind is not Kind.DIRECTORY
        return cell.mode & ~_RUNS_AS_ITS_OWNER if stripped else cell.mode


def choose(policy: Ownership, uid: int | None, gid: int | None, *, session: str) -> Owner:
    """The owner rule that is asked for, or that this process is able to keep; says which in the log.

    Raises:
        ConfigError: an owner is asked for that this process may not give.
    """
    check(policy, uid, gid)
    privileged = policy == "preserve"
    why = "set"
    if policy == "auto":
        able = may_chown()
        policy = "preserve" if able else "ignore"
        why = "CAP_CHOWN" if able else "no CAP_CHOWN"
    log.info("ownership_chosen", session=session, ownership=policy, because=why, privileged=privileged)
    if policy == "mapped":
        return Owner(policy, *_mapped(uid, gid))
    return Owner(policy, privileged=privileged)


def check(policy: Ownership, uid: int | None, gid: int | None) -> None:
    """That this process is able to keep the owner rule.

    Raises:
        ConfigError: an owner is asked for that it may not give.
    """
    to_uid, to_gid = _mapped(uid, gid)
    foreign = to_uid != os.geteuid() or to_gid not in {os.getegid(), *os.getgroups()}
    if (policy == "preserve" or (policy == "mapped" and foreign)) and not may_chown():
        raise ConfigError(
            f"ownership {policy!r} gives files away, which needs CAP_CHOWN: "
            "run as root, or set ownership to 'ignore'"
        )


def _mapped(uid: int | None, gid: int | None) -> tuple[int, int]:
    return os.geteuid() if uid is None else uid, os.getegid() if gid is None else gid
