"""Who owns the files of a replica: as on the hub, one fixed user, or whoever the node runs as."""

from __future__ import annotations

__all__ = ["Owner", "Ownership", "choose"]

import os
from dataclasses import dataclass
from typing import Literal

import structlog

from ghostfs.errors import ConfigError
from ghostfs.mirror.privileges import may_chown

log = structlog.get_logger(__name__)

Ownership = Literal["auto", "preserve", "mapped", "ignore"]


@dataclass(frozen=True, slots=True)
class Owner:
    """`of` says whom a file is given to: None leaves it to whoever made it."""

    policy: Literal["preserve", "mapped", "ignore"]
    uid: int = 0
    gid: int = 0

    def of(self, uid: int, gid: int) -> tuple[int, int] | None:
        """The owner here of a file that `uid` and `gid` own on the hub."""
        if self.policy == "preserve":
            return uid, gid
        if self.policy == "mapped":
            return self.uid, self.gid
        return None


def choose(policy: Ownership, uid: int | None, gid: int | None, *, session: str) -> Owner:
    """The owner rule that is asked for, or that this process is able to keep; says which in the log.

    Raises:
        ConfigError: an owner is asked for that this process may not give.
    """
    able = may_chown()
    why = "set"
    if policy == "auto":
        policy = "preserve" if able else "ignore"
        why = "CAP_CHOWN" if able else "no CAP_CHOWN"
    to_uid = os.geteuid() if uid is None else uid
    to_gid = os.getegid() if gid is None else gid
    foreign = policy == "mapped" and (
        to_uid != os.geteuid() or to_gid not in {os.getegid(), *os.getgroups()}
    )
    if not able and (policy == "preserve" or foreign):
        raise ConfigError(
            f"ownership {policy!r} gives files away, which needs CAP_CHOWN: "
            "run as root, or set ownership to 'ignore'"
        )
    log.info("ownership_chosen", session=session, ownership=policy, because=why)
    return Owner(policy, to_uid, to_gid) if policy == "mapped" else Owner(policy)
