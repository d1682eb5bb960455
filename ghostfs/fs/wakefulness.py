"""Keeping processors awake while a client is busy.

A client and the mount wait for each other by turns, and the processor of the one that waits goes to sleep. Waking it
takes longer than most answers do, above all in a virtual machine, where to sleep is to leave the machine. While a
process holds /dev/cpu_dma_latency at 0, the kernel has idle processors poll instead of sleep
(Documentation/power/pm_qos_interface.rst).

It concerns all processors, and they use power meanwhile. So it is asked for on machines of few of them only, and while
requests follow each other; the kernel itself ends it when the process does, however that ends.
"""

from __future__ import annotations

__all__ = ["Wakefulness"]

import os
import struct
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_DEVICE: Final = Path("/dev/cpu_dma_latency")
_AWAKE: Final = struct.pack("=i", 0)
"""Microseconds that waking up may take."""
_AS_BEFORE: Final = struct.pack("=i", 2_000_000_000)
"""As the kernel's default: no wish."""


class Wakefulness:
    """The wish of one process that no processor sleeps; made and taken back in a few microseconds."""

    def __init__(self, fd: int | None) -> None:
        """`fd` is of the device, open for writing, and becomes this object's; None makes all this do nothing."""
        self._fd = fd
        self.held = False

    @classmethod
    def open(cls, most_cpus: int, device: Path = _DEVICE) -> Wakefulness:
        """One that does nothing on a machine of more processors than these, or if it may not: it is for root."""
        # Of the machine: those that this process may not use are kept awake, too.
        processors = os.cpu_count()
        if processors is None or processors > most_cpus:
            return cls(None)
        try:
            return cls(os.open(device, os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            log.debug("processors_may_sleep", error=str(error))
            return cls(None)

    @property
    def possible(self) -> bool:
        """Whether holding has any effect."""
        return self._fd is not None

    def hold(self) -> None:
        """From now on no processor sleeps."""
        self._wish(_AWAKE)
        self.held = self.possible

    def let_go(self) -> None:
        """They may sleep again."""
        self._wish(_AS_BEFORE)
        self.held = False

    def close(self) -> None:
        """Lets go for good; harmless when called again."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None
        self.held = False

    def _wish(self, latency: bytes) -> None:
        if self._fd is None:
            return
        try:
            os.write(self._fd, latency)
        except OSError as error:
            log.warning("processors_may_sleep", error=str(error))
            self.close()
