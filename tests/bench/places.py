"""Where workloads run: a plain folder, or a filesystem that is mounted over one for as long as it is measured.

Every filesystem runs in the foreground as a child in a session of its own: its pid is known, a Ctrl-C does
not reach it before it is unmounted, and what it keeps (log, cache, home) lies in its own folder.
"""

from __future__ import annotations

__all__ = ["Broken", "Mounted", "Place", "Plain", "Recipe", "clean_environment"]

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from stack import eventually

from ghostfs.errors import MountError
from ghostfs.fs.mounts import detach, find

_MOUNT_TIMEOUT = 60.0
_BUSY_TIMEOUT = 20.0
"""Seconds that an unmount may be refused before it is done lazily."""
_END_TIMEOUT = 300.0
"""Seconds that a filesystem may take to end after it was unmounted: it may have much to write."""
_SETTLE_TIMEOUT = 120.0
_CPUCLOCK_SCHED = 2
_FOREIGN = ("GHOSTFS_", "RCLONE_", "XDG_", "GIT_", "PIP_", "npm_", "NPM_", "PYTHON")
"""Variables of the caller's that would change what is measured, or where something is kept."""


class Broken(Exception):
    """A filesystem could not be mounted, or ended by itself; the message says why."""


def clean_environment(base: Path) -> dict[str, str]:
    """The caller's variables without what steers the tools measured here, and with a home below `base`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    for name in ("home", "tmp"):
        (base / name).mkdir(parents=True, exist_ok=True)
    return kept | {"HOME": str(base / "home"), "TMPDIR": str(base / "tmp"), "LC_ALL": "C.UTF-8"}


class Place(Protocol):
    """What a workload's folder is made in."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> Path: ...

    def check(self) -> None:
        """Raises Broken if what is at `path` is not what it should be."""

    def settle(self) -> None:
        """Returns when nothing goes on in the background that the next one measured would feel."""

    def remount(self) -> None:
        """Empties what the mount itself has cached."""

    def revive(self) -> None:
        """Makes it work again after a workload failed or hung there."""


@dataclass(frozen=True, slots=True)
class Plain:
    """A folder of the filesystem below."""

    name: str
    path: Path

    def check(self) -> None:
        """It is always there."""

    def settle(self) -> None:
        """Nothing goes on."""

    def remount(self) -> None:
        """It has no mount of its own."""

    def revive(self) -> None:
        """It does not break."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to run a filesystem over a folder of its own. `command` gets that folder, and mounts at its `mnt`."""

    name: str
    program: str
    """What has to be installed."""
    version: tuple[str, ...]
    """A command that says which version it is."""
    options: str
    """What it was told, for the reader."""
    command: Callable[[Path], list[str]]
    prepare: Callable[[Path], None] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    ready: str = ""
    """What its log says when it is ready; empty: a mount is there."""
    quiet: float = 0.2
    """Seconds without using a processor after which it has nothing left to do."""


class Mounted:
    """A filesystem that runs while this context is open."""

    def __init__(self, recipe: Recipe, base: Path, *, name: str = "") -> None:
        """`base` is made, and belongs to it alone."""
        self.recipe = recipe
        self.name = name or recipe.name
        self.base = base
        self.path = base / "mnt"
        self._log = base / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True)
        (self.base / "below").mkdir()
        if self.recipe.prepare is not None:
            self.recipe.prepare(self.base)
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when the mount answers.

        Raises:
            Broken: it did not.
        """
        environment = clean_environment(self.base) | self.recipe.environment
        with self._log.open("wb") as log:
            self._process = process = subprocess.Popen(
                self.recipe.command(self.base),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.base,
                start_new_session=True,
            )

        def mounted() -> bool:
            if process.poll() is not None:
                raise Broken(f"{self.name} ended with {process.returncode}: {self._last_words()}")
            said = self.recipe.ready
            return find(self.path) is not None and (
                not said or said in self._log.read_text("utf-8", "replace")
            )

        try:
            eventually(mounted, timeout=_MOUNT_TIMEOUT, what="it did not mount", every=0.01)
        except TimeoutError as error:
            raise Broken(f"{self.name}: {error}; {self._last_words()}") from None

    def stop(self) -> None:
        """Unmounts it and waits for its end; ends it by its pid if it does not by itself."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            self._unmount(patience=_BUSY_TIMEOUT if process.poll() is None else 0.0)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_TIMEOUT)
        finally:
            for end in (process.terminate, process.kill):
                if process.poll() is None:
                    end()
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(10)
            self._unmount(patience=0.0)

    def check(self) -> None:
        """Raises Broken if it has ended or is not mounted any more: the folder below would be measured."""
        if self._process is None or self._process.poll() is not None or find(self.path) is None:
            raise Broken(f"{self.name} has ended: {self._last_words()}")

    def settle(self, quiet: float | None = None) -> None:
        """Waits until the process has used no processor for `quiet` seconds, else as long as its recipe says."""
        deadline = time.monotonic() + _SETTLE_TIMEOUT
        before, since = self.cpu_seconds(), time.monotonic()
        while time.monotonic() - since < (quiet or self.recipe.quiet) and time.monotonic() < deadline:
            time.sleep(0.02)
            used = self.cpu_seconds()
            # Less than one percent is a timer, not work.
            if used - before > 0.01 * (time.monotonic() - since) + 0.0005:
                before, since = used, time.monotonic()

    def remount(self) -> None:
        """Unmounts and mounts again.

        Raises:
            Broken: it did not come back.
        """
        self.stop()
        self.start()

    def revive(self) -> None:
        """Ends it, whatever state it is in, and starts it again.

        Raises:
            Broken: it did not come back.
        """
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.remount()

    def cpu_seconds(self) -> float:
        """Processor time that it has used so far, threads that have ended included; 0 if it has ended itself."""
        if self._process is None:
            return 0.0
        # The clock of another process, as clock_getcpuclockid(3) makes it: to the nanosecond, /proc has 10 ms.
        with suppress(OSError):
            return time.clock_gettime((~self._process.pid << 3) | _CPUCLOCK_SCHED)
        return 0.0

    def _unmount(self, *, patience: float) -> None:
        deadline = time.monotonic() + patience
        while find(self.path) is not None:
            lazy = time.monotonic() >= deadline
            try:
                detach(self.path, lazy=lazy)
            except (OSError, MountError):
                if lazy:
                    return  # it went by itself meanwhile; what is left would be seen by whoever looks
                time.sleep(0.05)

    def _last_words(self) -> str:
        lines = self._log.read_text("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
