"""What a mount is asked to be, as a value that can be handed to another process."""

from __future__ import annotations

__all__ = ["MountOptions"]

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ghostfs.mirror.layout import DataDir
from ghostfs.mirror.live.settings import MirrorSettings


@dataclass(frozen=True, slots=True)
class MountOptions:
    """One mount. Settings have the names and meanings of `docs/settings.md`, where `uid` and `gid` are
    `mount_uid` and `mount_gid`; paths are absolute.

    `log_file` None: the session's own log file for a mount in the background, standard error otherwise.
    """

    session: str
    mountpoint: Path
    data_dir: Path
    foreground: bool = False
    create: bool = False
    writeback: bool = False
    xattrs: bool = False
    allow_other: bool = False
    uid: int | None = None
    gid: int | None = None
    poll_us: int = 100
    awake_cpus: int = 4
    metrics_listen: str = ""
    log_level: str = "info"
    log_format: str = "auto"
    log_file: Path | None = None
    mirror: MirrorSettings = field(default_factory=MirrorSettings)

    @property
    def where_it_logs(self) -> Path:
        """The log file of a mount in the background."""
        return self.log_file or DataDir(self.data_dir).session(self.session).log_file

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> MountOptions:
        """The inverse of `to_json`."""
        values: dict[str, Any] = json.loads(text)
        values["mirror"] = MirrorSettings(**values["mirror"])
        for name in ("mountpoint", "data_dir", "log_file"):
            values[name] = None if values[name] is None else Path(values[name])
        return cls(**values)
