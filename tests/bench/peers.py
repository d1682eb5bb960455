"""GhostFS and the filesystems that it is measured against, each with the settings its documentation has for speed."""

from __future__ import annotations

__all__ = ["GHOSTFS", "PEERS", "ghostfs", "version_of", "whatever_is_installed"]

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from places import Recipe, clean_environment

_COMMAND = (sys.executable, "-m", "ghostfs")


def ghostfs(
    *options: str,
    name: str = "ghostfs",
    launcher: tuple[str, ...] = _COMMAND,
    told: str = "",
    environment: dict[str, str] | None = None,
) -> Recipe:
    """A mounted session. `launcher` runs the command line; `told` describes the rest to the reader."""

    def command(base: Path) -> list[str]:
        arguments = [
            "mount",
            "-f",
            "--create",
            "--data-dir",
            base / "below",
            *options,
            "bench",
            base / "mnt",
        ]
        return [*launcher, *map(str, arguments)]

    return Recipe(
        name=name,
        program=sys.executable,
        version=(*_COMMAND, "--version"),
        options=told or " ".join(options) or "as it comes",
        command=command,
        environment={"GHOSTFS_LOG_FORMAT": "json"} | (environment or {}),
        ready='"mounted"',
    )


GHOSTFS = (
    ghostfs(),
    ghostfs("--writeback", name="ghostfs-writeback"),
    ghostfs(
        name="ghostfs-asleep",
        environment={"GHOSTFS_AWAKE_CPUS": "0"},
        told="as it comes, but processors may sleep (awake_cpus 0)",
    ),
)
"""All but the first only where they are asked for by name."""


_BINDFS = ("--multithreaded", "-o", "auto_cache,attr_timeout=300,entry_timeout=300,negative_timeout=300")
_MERGERFS = (
    "cache.files=auto-full,cache.writeback=true,cache.attr=300,cache.entry=300,cache.negative_entry=300,"
    "cache.readdir=true,cache.symlinks=true,cache.statfs=300,cache.open=300,xattr=nosys,"
    "security_capability=false,dropcacheonclose=false,category.create=mfs,minfreespace=0"
)
_OVERLAY = "static_nlink,noacl,clone_fd"
_GOCRYPTFS = ("-kernel_cache", "-noprealloc")
_RCLONE = (
    "--vfs-cache-mode=writes",
    "--write-back-cache",
    "--vfs-write-back=1s",
    "--vfs-fast-fingerprint",
    "--attr-timeout=300s",
    "--dir-cache-time=1h",
    "--poll-interval=0",
)


def _bindfs(base: Path) -> list[str]:
    return ["bindfs", "-f", *_BINDFS, str(base / "below"), str(base / "mnt")]


def _mergerfs(base: Path) -> list[str]:
    return ["mergerfs", "-f", "-o", _MERGERFS, str(base / "below"), str(base / "mnt")]


def _overlay(base: Path) -> list[str]:
    layers = f"lowerdir={base / 'lower'},upperdir={base / 'below'},workdir={base / 'work'}"
    return ["fuse-overlayfs", "-f", "-o", f"{layers},{_OVERLAY}", str(base / "mnt")]


def _prepare_overlay(base: Path) -> None:
    for name in ("lower", "work"):
        (base / name).mkdir()


def _gocryptfs(base: Path) -> list[str]:
    passed = ["-passfile", str(base / "password")]
    return [
        "gocryptfs",
        "-fg",
        "-nosyslog",
        "-q",
        *_GOCRYPTFS,
        *passed,
        str(base / "below"),
        str(base / "mnt"),
    ]


def _prepare_gocryptfs(base: Path) -> None:
    (base / "password").write_text("benchmark\n")
    command = [
        "gocryptfs",
        "-init",
        "-q",
        "-scryptn",
        "10",
        "-passfile",
        f"{base}/password",
        f"{base}/below",
    ]
    subprocess.run(command, check=True, capture_output=True, env=clean_environment(base))


def _rclone(base: Path) -> list[str]:
    kept = [
        f"--config={base / 'rclone.conf'}",
        f"--cache-dir={base / 'cache'}",
        f"--temp-dir={base / 'tmp'}",
    ]
    return ["rclone", "mount", *kept, *_RCLONE, str(base / "below"), str(base / "mnt")]


def _prepare_rclone(base: Path) -> None:
    (base / "rclone.conf").touch()


PEERS = (
    Recipe("bindfs", "bindfs", ("bindfs", "--version"), " ".join(_BINDFS), _bindfs),
    Recipe("mergerfs", "mergerfs", ("mergerfs", "--version"), f"-o {_MERGERFS}", _mergerfs),
    Recipe(
        "fuse-overlayfs",
        "fuse-overlayfs",
        ("fuse-overlayfs", "--version"),
        f"-o {_OVERLAY}; writeback, as it comes; an empty lower layer",
        _overlay,
        _prepare_overlay,
    ),
    Recipe(
        "gocryptfs",
        "gocryptfs",
        ("gocryptfs", "-version"),
        f"{' '.join(_GOCRYPTFS)}; it encrypts names and content",
        _gocryptfs,
        _prepare_gocryptfs,
    ),
    Recipe(
        "rclone",
        "rclone",
        ("rclone", "version"),
        f"{' '.join(_RCLONE)}; local backend",
        _rclone,
        _prepare_rclone,
        quiet=1.5,  # it uploads a second after the last close
    ),
)


def whatever_is_installed(names: Sequence[str]) -> tuple[list[Recipe], dict[str, str]]:
    """The peers (those of these names; all without any) that can be run here, and why others cannot."""
    chosen = [recipe for recipe in PEERS if not names or recipe.name in names]
    missing = {
        recipe.name: f"{recipe.program} is not installed"
        for recipe in chosen
        if shutil.which(recipe.program) is None
    }
    return [recipe for recipe in chosen if recipe.name not in missing], missing


def version_of(recipe: Recipe) -> str:
    """What the program says of itself, up to its number."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = clean_environment(Path(scratch))
        done = subprocess.run(
            recipe.version, capture_output=True, text=True, check=False, env=environment, cwd=scratch
        )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if any(map(str.isdigit, line))]
    named = [
        line for line in lines if recipe.name.removesuffix("-writeback").removesuffix("-asleep") in line
    ]
    return next(iter(named or lines), "unknown").partition(";")[0].strip()
