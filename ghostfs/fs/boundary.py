"""Where exceptions end and errno begins.

`OSError` becomes its errno here and nowhere else. Any other exception is a bug: it is logged with its
traceback, counted, and answered with EIO. pyfuse3 ends the mount at any exception but its own.
"""

from __future__ import annotations

__all__ = ["Counting", "blocking_handler", "handler", "record_bug"]

import errno
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import structlog
from pyfuse3 import FUSEError

log = structlog.get_logger(__name__)

_Handler = Callable[..., Coroutine[Any, Any, Any]]


class Counting(Protocol):
    """What has handlers: it counts requests, and the bugs they ran into."""

    requests: int
    bugs: int


def handler(function: Callable[..., Any]) -> _Handler:
    """A request handler from a method that does not wait. One coroutine a request, and no more."""
    operation = function.__name__

    async def handle(self: Counting, *arguments: Any) -> Any:
        self.requests += 1
        try:
            return function(self, *arguments)
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from None
        except FUSEError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, the mount lives)
            raise FUSEError(record_bug(self, operation, error)) from None

    return handle


def blocking_handler(function: Callable[..., Awaitable[Any]]) -> _Handler:
    """A request handler from a method that waits, and lets others be served meanwhile."""
    operation = function.__name__

    async def handle(self: Counting, *arguments: Any) -> Any:
        self.requests += 1
        try:
            return await function(self, *arguments)
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from None
        except FUSEError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, the mount lives)
            raise FUSEError(record_bug(self, operation, error)) from None

    return handle


def record_bug(self: Counting, operation: str, error: Exception) -> int:
    """Logs and counts an exception that nobody foresaw; the errno to answer with."""
    # Not at the top: it loads an HTTP server, and most mounts never need it.
    from ghostfs.metrics import HANDLER_ERRORS

    self.bugs += 1
    HANDLER_ERRORS.labels(operation).inc()
    log.error("handler_failed", operation=operation, exc_info=error)
    return errno.EIO
