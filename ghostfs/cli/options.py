"""What all commands share: the options that lead to settings, and how settings and logs are set up from them."""

from __future__ import annotations

__all__ = ["JSON", "common", "data_dir", "load", "mirror_settings", "session_argument"]

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ghostfs.config import Settings
    from ghostfs.mirror.layout import DataDir
    from ghostfs.mirror.live.settings import MirrorSettings

F = TypeVar("F", bound=Callable[..., Any])

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def common(command: F) -> F:
    """The options that every command takes; they arrive as the keyword `given`-style arguments of `load`."""
    for option in (
        click.option(
            "-o",
            "assignments",
            multiple=True,
            metavar="NAME=VALUE",
            help="Set any setting; may be repeated.",
        ),
        click.option(
            "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What is logged."
        ),
        click.option("--config", type=click.Path(), metavar="FILE", help="The config file to read."),
        click.option(
            "--data-dir", type=click.Path(), metavar="DIR", help="Where GhostFS keeps everything."
        ),
    ):
        command = option(command)
    return command


def load(*, daemon: bool = False, **flags: Any) -> Settings:
    """The settings for the running command, with logs set up.

    `flags` holds what `common` added and any flags that are named as settings; None means not given. Events
    below WARNING are shown by daemons, and by other commands if a log level was asked for.

    Raises:
        ConfigError: a value cannot be used.
        click.UsageError: an `-o` without `=`.
    """
    from ghostfs import logs
    from ghostfs.config import Settings, Source, unknown_environment

    inherited = click.get_current_context().find_root().obj or {}
    config = flags.pop("config", None) or inherited.get("config")
    flags["data_dir"] = flags.get("data_dir") or inherited.get("data_dir")
    values = _assignments(flags.pop("assignments", ()))
    values |= {name: value for name, value in flags.items() if value is not None}
    settings = Settings.load(values, config=None if config is None else Path(config))
    quiet = not daemon and settings.source("log_level") is Source.DEFAULT
    logs.configure(
        level="warning" if quiet else settings.log_level,
        renderer=settings.log_format,
        file=settings.log_file,
    )
    if unknown := unknown_environment(os.environ):
        import structlog

        structlog.get_logger(__name__).warning("unknown_settings_in_environment", names=unknown)
    return settings


def data_dir(settings: Settings) -> DataDir:
    """The data directory in force."""
    from ghostfs.mirror.layout import DataDir

    return DataDir(settings.data_dir)


def mirror_settings(settings: Settings) -> MirrorSettings:
    """What a mirror is told, in its own units."""
    from ghostfs.mirror.live.settings import MirrorSettings

    return MirrorSettings(
        hash_workers=settings.hash_workers,
        settle_quiet=settings.settle_quiet_ms / 1000,
        settle_max_age=settings.settle_max_age_ms / 1000,
        commit_interval=settings.commit_interval_ms / 1000,
        spool_bytes=settings.spool_mib << 20,
        tombstone_retention=settings.tombstone_retention_days * 86400.0,
    )


def session_argument(command: F) -> F:
    """A SESSION argument that shells can complete."""
    return click.argument("name", metavar="SESSION", shell_complete=_complete)(command)


def _complete(ctx: click.Context, _parameter: click.Parameter, typed: str) -> list[str]:
    from ghostfs.config import Settings
    from ghostfs.errors import GhostError
    from ghostfs.mirror.layout import DataDir

    given = ctx.params.get("data_dir") or (ctx.find_root().params.get("data_dir"))
    try:
        names = DataDir(Settings.load({"data_dir": given}).data_dir).session_names()
    except (GhostError, OSError):
        return []
    return [name for name in names if name.startswith(typed)]


def _assignments(texts: tuple[str, ...]) -> dict[str, str]:
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"-o {text}: give NAME=VALUE; `ghostfs settings` lists the names")
        values[name.replace("-", "_")] = value
    return values
