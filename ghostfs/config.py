"""Every setting of GhostFS, and where its value comes from: flags, environment, one file, defaults.

`Settings.load` is the way in. The environment variable of a setting is its name in capitals with
`GHOSTFS_` in front; the file is TOML with the same names as keys. Importing pydantic-settings costs
about a tenth of a second, so only commands that need a setting import this module.
"""

from __future__ import annotations

__all__ = [
    "ENV_PREFIX",
    "Setting",
    "Settings",
    "Source",
    "config_path",
    "describe",
    "unknown_environment",
]

import enum
import os
import tomllib
import typing
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import BaseMetadata, Ge, Le
from platformdirs import user_config_path, user_data_path
from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from ghostfs.errors import ConfigError

ENV_PREFIX = "GHOSTFS_"
_CONFIG_VARIABLE = "GHOSTFS_CONFIG"
_file_values: ContextVar[dict[str, Any]] = ContextVar("_file_values", default={})  # noqa: B039 (never changed)
_MIB = 1 << 20


class Source(enum.StrEnum):
    """Where the value of a setting came from, strongest first."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of `docs/settings.md`. `unit` is empty where there is none; `allowed` says what is valid."""

    name: str
    variable: str
    default: str
    unit: str
    allowed: str
    description: str


def _unit(unit: str) -> dict[str, Any]:
    return {"unit": unit}


class Settings(BaseSettings):
    """All settings; immutable. The fields are the table in `docs/settings.md`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    data_dir: Path = Field(
        default_factory=lambda: user_data_path("ghostfs"),
        description="Where sessions, their indexes and the hub's database are kept; a hub and each node on one machine have one each.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least severe events that are logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto",
        description="How events are written: auto is console on a terminal and JSON lines elsewhere.",
    )
    log_file: Path | None = Field(
        None,
        description="File that events are appended to instead of standard error; reopened after a rotation.",
    )
    metrics_listen: str = Field(
        "",
        description="Loopback HOST:PORT that serves Prometheus metrics over HTTP; empty is off, port 0 is any.",
    )

    hash_workers: Annotated[int, Ge(0), Le(256)] = Field(
        0,
        description="Threads that hash files at recovery and in verify; 0 is one a core, at most 8. On NFS, where reads wait for the server, use 16.",
        json_schema_extra=_unit("threads"),
    )
    settle_quiet_ms: Annotated[int, Ge(1), Le(3_600_000)] = Field(
        1000,
        description="A file that is open for writing and has not been written to for this long is hashed and committed.",
        json_schema_extra=_unit("ms"),
    )
    settle_max_age_ms: Annotated[int, Ge(1), Le(3_600_000)] = Field(
        5000,
        description="A file that never rests is hashed and committed when its oldest uncommitted change is this old.",
        json_schema_extra=_unit("ms"),
    )
    commit_interval_ms: Annotated[int, Ge(0), Le(10_000)] = Field(
        2,
        description="After a commit, the next one starts once nothing has changed for so long; while changes go on, it waits up to 16 times as long, and takes them all into one transaction.",
        json_schema_extra=_unit("ms"),
    )
    spool_mib: Annotated[int, Ge(0), Le(1 << 20)] = Field(
        256,
        description="Most that changed blocks of files which never rest may take while they wait to be sent.",
        json_schema_extra=_unit("MiB"),
    )

    tombstone_retention_days: Annotated[int, Ge(0), Le(36_500)] = Field(
        7,
        description="How long deleted names are remembered for nodes that have not been heard of; later they sync by a snapshot.",
        json_schema_extra=_unit("days"),
    )

    writeback: bool = Field(
        False,
        description="Let the kernel gather writes before they reach the mount: faster small writes, but a killed mount loses what was not yet written back.",
    )
    xattrs: bool = Field(
        False, description="Serve extended attributes; every write then costs the kernel one more request."
    )
    allow_other: bool = Field(
        False,
        description="Let other users into a mount; for a mounter who is not root it needs user_allow_other in /etc/fuse.conf.",
    )
    mount_uid: Annotated[int, Ge(0), Le(0xFFFF_FFFE)] | None = Field(
        None,
        description="Owner that a mount shows of all files, and by which it lets users do things, whoever owns them in the tree; not set: the one in the tree.",
    )
    mount_gid: Annotated[int, Ge(0), Le(0xFFFF_FFFE)] | None = Field(
        None,
        description="Group that a mount shows of all files, likewise; not set: the one in the tree.",
    )
    poll_us: Annotated[int, Ge(0), Le(1000)] = Field(
        100,
        description="How long a busy mount polls for the next request before it sleeps; 0 is off.",
        json_schema_extra=_unit("µs"),
    )
    awake_cpus: Annotated[int, Ge(0), Le(4096)] = Field(
        4,
        description="On a machine of at most so many processors, root's mounts keep idle ones from sleeping while a client is busy, by /dev/cpu_dma_latency: faster, and uses more power; 0 is never.",
    )

    listen: str = Field("127.0.0.1:7447", description="Loopback HOST:PORT where the hub listens for nodes.")
    hub: str = Field("127.0.0.1:7447", description="HOST:PORT of the hub that a node follows.")
    compression: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Compress blocks with zstd where that makes them smaller; auto is off on loopback.",
    )
    fetch_window_mib: Annotated[int, Ge(1), Le(4096)] = Field(
        16,
        description="Most bytes of blocks that a node has asked for and not yet received.",
        json_schema_extra=_unit("MiB"),
    )
    inline_max_kib: Annotated[int, Ge(0), Le(256)] = Field(
        256,
        description="Content up to this size travels inside the delta; larger files are fetched by block.",
        json_schema_extra=_unit("KiB"),
    )
    snapshot_chunk_cells: Annotated[int, Ge(1), Le(1_000_000)] = Field(
        2000,
        description="Cells in one chunk of a snapshot; each chunk is applied and acknowledged by itself.",
        json_schema_extra=_unit("cells"),
    )
    delta_max_cells: Annotated[int, Ge(1), Le(100_000_000)] = Field(
        100_000,
        description="A node that is further behind than this is brought up by a snapshot instead of a delta.",
        json_schema_extra=_unit("cells"),
    )
    reconnect_min_ms: Annotated[int, Ge(1), Le(3_600_000)] = Field(
        100,
        description="A node's first wait before it tries to reach the hub again; doubled at each failure, with jitter.",
        json_schema_extra=_unit("ms"),
    )
    reconnect_max_ms: Annotated[int, Ge(1), Le(3_600_000)] = Field(
        10_000, description="A node's longest wait between two tries.", json_schema_extra=_unit("ms")
    )
    ownership: Literal["auto", "preserve", "mapped", "ignore"] = Field(
        "auto",
        description="Who owns the files of a node's copy: the same user and group as on the hub, those of map_uid and map_gid, or whoever runs the node; auto is preserve with the right to chown, else ignore; only preserve itself keeps setuid programs and devices.",
    )
    map_uid: Annotated[int, Ge(0), Le(0xFFFF_FFFE)] | None = Field(
        None,
        description="Owner of every file when ownership is mapped; not set: the user that runs the node.",
    )
    map_gid: Annotated[int, Ge(0), Le(0xFFFF_FFFE)] | None = Field(
        None,
        description="Group of every file when ownership is mapped; not set: the group that runs the node.",
    )

    _sources: dict[str, Source] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the file that `load` has read; nothing else."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, InitSettingsSource(settings_cls, _file_values.get())

    @classmethod
    def load(cls, flags: Mapping[str, Any] | None = None, *, config: Path | None = None) -> Settings:
        """The settings in force. A flag of None was not given; `config` overrides where the file is.

        Raises:
            ConfigError: a value is not valid, a name is unknown, or the file cannot be read; the message
                says where the value came from.
        """
        given = {name: value for name, value in (flags or {}).items() if value is not None}
        path, required = config_path(config)
        from_file = _read_file(path, required=required)
        environment = {
            name for name in cls.model_fields if os.environ.get(f"{ENV_PREFIX}{name.upper()}", "") != ""
        }
        sources = dict.fromkeys(from_file, Source.FILE)
        sources |= dict.fromkeys(environment, Source.ENVIRONMENT)
        sources |= dict.fromkeys(given, Source.FLAG)
        try:
            token = _file_values.set(from_file)
            try:
                settings = cls(**given)
            finally:
                _file_values.reset(token)
        except ValidationError as error:
            raise ConfigError(_explain(error, sources, path)) from None
        settings._sources.update(sources)
        return settings

    def source(self, name: str) -> Source:
        """Where the value of the setting `name` came from."""
        return self._sources.get(name, Source.DEFAULT)

    @property
    def fetch_window_bytes(self) -> int:
        """`fetch_window_mib` in bytes."""
        return self.fetch_window_mib * _MIB

    @property
    def hash_threads(self) -> int:
        """`hash_workers`, or the count that 0 stands for on this machine."""
        return self.hash_workers or min(8, len(os.sched_getaffinity(0)))

    @field_validator("data_dir", "log_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        # Daemons change their working directory, so a relative path is pinned when it is read.
        return None if value is None else Path(os.path.abspath(value.expanduser()))

    @field_validator("listen", "hub", "metrics_listen")
    @classmethod
    def _address(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        if value and not (host and colon and port.isascii() and port.isdigit() and int(port) < 1 << 16):
            raise ValueError("must be HOST:PORT, such as 127.0.0.1:7447 or [::1]:7447")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Settings:
        if self.settle_max_age_ms < self.settle_quiet_ms:
            raise ValueError("settle_max_age_ms must not be less than settle_quiet_ms")
        if self.reconnect_max_ms < self.reconnect_min_ms:
            raise ValueError("reconnect_max_ms must not be less than reconnect_min_ms")
        return self


def config_path(explicit: Path | None = None) -> tuple[Path, bool]:
    """Where the config file is, and whether it must exist: it must if somebody named it."""
    if explicit is not None:
        return explicit, True
    if named := os.environ.get(_CONFIG_VARIABLE):
        return Path(named), True
    return user_config_path("ghostfs") / "config.toml", False


def unknown_environment(environ: Mapping[str, str]) -> list[str]:
    """Variables that look like settings of GhostFS and are none: most likely a misspelling."""
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields} | {_CONFIG_VARIABLE}
    return sorted(name for name in environ if name.startswith(ENV_PREFIX) and name not in known)


def describe() -> list[Setting]:
    """All settings in the order of the table in `docs/settings.md`."""
    return [
        Setting(
            name=name,
            variable=f"{ENV_PREFIX}{name.upper()}",
            default=_show(field.get_default() if field.default_factory is None else None),
            unit=_unit_of(field.json_schema_extra),
            allowed=_allowed(field.annotation, field.metadata),
            description=field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def _unit_of(extra: object) -> str:
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _allowed(annotation: Any, metadata: list[Any]) -> str:
    if typing.get_origin(annotation) is Literal:
        return " | ".join(typing.get_args(annotation))
    if annotation is bool:
        return "true | false"
    bounds: list[BaseMetadata] = list(metadata)
    for part in typing.get_args(annotation):
        bounds += [m for m in getattr(part, "__metadata__", ()) if isinstance(m, BaseMetadata)]
    low = next((bound.ge for bound in bounds if isinstance(bound, Ge)), None)
    high = next((bound.le for bound in bounds if isinstance(bound, Le)), None)
    return "" if low is None else f"{low} to {high}"


def _read_file(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        if required:
            raise ConfigError(f"the config file {path} does not exist") from None
        return {}
    except OSError as error:
        raise ConfigError(f"the config file {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config file {path} is not valid TOML: {error}") from None


def _explain(error: ValidationError, sources: Mapping[str, Source], path: Path) -> str:
    problems = []
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        what = problem["msg"].removeprefix("Value error, ")
        match sources.get(name, Source.DEFAULT):
            case Source.ENVIRONMENT:
                where = f" (from {ENV_PREFIX}{name.upper()})"
            case Source.FILE:
                where = f" (from {path})"
            case _:
                where = ""
        if problem["type"] == "extra_forbidden":
            problems.append(f"there is no setting {name}{where}; docs/settings.md lists them all")
        elif name:
            problems.append(f"{name}={problem['input']!s}{where}: {what[:1].lower()}{what[1:]}")
        else:
            problems.append(what)
    return "; ".join(problems)
