"""What libfuse itself has to say, among our own log.

Left alone, it writes to standard error, where a mount in the foreground has a person's terminal, and one in
the background has `mount.log`, of which each line is to be a structured one.
"""

from __future__ import annotations

__all__ = ["log_through"]

import ctypes
import errno
import os
import syslog
from typing import Any

import structlog

log = structlog.get_logger(__name__)

_TEXT_MAX = 1024
_SINK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
"""`fuse_log_func_t`: a level as syslog(3) has them, a format, and a va_list, which is passed by its address."""

_libc = ctypes.CDLL(None)
_kept: list[Any] = []
"""libfuse goes on calling what it was given."""


def log_through() -> None:
    """From now on libfuse's messages are events of our log. A libfuse that cannot (before 3.7) writes as before."""
    try:
        library = ctypes.CDLL("libfuse3.so.3")
        register = library.fuse_set_log_func
    except (OSError, AttributeError):
        return
    sink = _SINK(_say)
    _kept.append(sink)
    register.argtypes = [_SINK]
    register.restype = None
    register(sink)


def _say(level: int, template: bytes, arguments: int) -> None:
    text = ctypes.create_string_buffer(_TEXT_MAX)
    _libc.vsnprintf(text, ctypes.c_size_t(_TEXT_MAX), template, ctypes.c_void_p(arguments))
    message = text.value.decode(errors="backslashreplace").strip()
    if message.endswith(os.strerror(errno.ECONNABORTED)):
        # The mount was taken away while a request was being read. How it ended is said elsewhere.
        log.debug("libfuse", message=message)
    elif level <= syslog.LOG_ERR:
        log.error("libfuse", message=message)
    elif level == syslog.LOG_WARNING:
        log.warning("libfuse", message=message)
    else:
        log.info("libfuse", message=message)
