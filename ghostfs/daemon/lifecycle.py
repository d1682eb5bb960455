"""What a daemon does beside its work: end on a signal, say that it is ready, show metrics, leave in time."""

from __future__ import annotations

__all__ = ["Daemon", "finish"]

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from types import TracebackType
from typing import Self

import structlog

from ghostfs import metrics

log = structlog.get_logger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Daemon:
    """An async context manager around a daemon's life; `stopping` is set by SIGTERM, SIGINT or `stop`.

    What is made meanwhile is nobody else's to read, unless its mode is set.
    """

    def __init__(self, what: str, *, metrics_listen: str = "", ready_fd: int | None = None) -> None:
        """`ready_fd`, if given, gets one line when the daemon is ready, and is then closed."""
        self.stopping = asyncio.Event()
        self._what = what
        self._metrics_listen = metrics_listen
        self._ready_fd = ready_fd
        self._umask = 0o077
        self._endpoint: metrics.Endpoint | None = None

    async def __aenter__(self) -> Self:
        self._umask = os.umask(0o077)
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        if self._metrics_listen:
            self._endpoint = metrics.serve(self._metrics_listen)
            log.info("metrics_listening", address=f"{self._endpoint.host}:{self._endpoint.port}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
        self._close_ready_fd()
        if self._endpoint is not None:
            await asyncio.to_thread(self._endpoint.close)
        os.umask(self._umask)
        log.info("stopped", what=self._what)

    def ready(self, **details: object) -> None:
        """Say so in the log, and on the descriptor of whoever waits: `ready key=value ...`."""
        log.info("ready", what=self._what, pid=os.getpid(), **details)
        if self._ready_fd is not None:
            line = " ".join(["ready", *(f"{key}={value}" for key, value in details.items())])
            with suppress(BrokenPipeError):  # whoever waited is gone; that is no reason to stop
                os.write(self._ready_fd, f"{line}\n".encode())
            self._close_ready_fd()

    def stop(self) -> None:
        """End as after SIGTERM."""
        self.stopping.set()

    def _signalled(self, number: signal.Signals) -> None:
        log.info("stopping", what=self._what, signal=number.name)
        self.stop()

    def _close_ready_fd(self) -> None:
        if self._ready_fd is not None:
            os.close(self._ready_fd)
            self._ready_fd = None


def finish(*, threads_done: bool) -> None:
    """End the process now, with code 0, if some threads would keep it from ending by itself for long.

    Everything durable is so at any moment (a batch that was cut off is resumed), so leaving in the middle
    of a long read or publish loses nothing; only an orderly end in time is owed.
    """
    if not threads_done:
        log.info("left_in_the_middle")
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(0)
