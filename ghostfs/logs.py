"""Structured events: one way out for GhostFS and for the libraries it uses.

Modules call `structlog.get_logger(__name__)` and log snake_case events with key=value. Everything runs
through the standard library's root logger, so libraries' own messages get the same shape. Bytes are
file names: they are shown as text, other bytes as `\\xNN`.
"""

from __future__ import annotations

__all__ = ["LEVELS", "configure"]

import logging
import logging.handlers
import sys
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

import structlog

from ghostfs import private
from ghostfs.errors import ConfigError

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_QUIET_LIBRARIES = ("asyncio", "grpc", "pyfuse3", "trio", "sqlite_utils")


def configure(
    *, level: str = "info", renderer: str = "auto", file: Path | None = None, stream: TextIO | None = None
) -> None:
    """Send every event of at least `level` to `file`, or else to `stream` (standard error by default).

    `renderer` is `console`, `json`, or `auto`: console on a terminal, JSON lines otherwise. Called again, it
    replaces what was configured before. A file is opened for appending and reopened once it has been renamed
    or removed, as log rotation does; libraries speak from WARNING on unless the level is debug.

    Raises:
        ConfigError: the file cannot be opened.
    """
    handler, terminal = _handler(file, stream)
    console = renderer == "console" or (renderer == "auto" and terminal)
    handler.setFormatter(_formatter(console=console, colours=terminal))
    root = logging.getLogger()
    for old in [h for h in root.handlers if getattr(h, "ghostfs", False)]:
        root.removeHandler(old)
        old.close()
    handler.ghostfs = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    threshold = LEVELS[level]
    root.setLevel(threshold)
    for library in _QUIET_LIBRARIES:
        logging.getLogger(library).setLevel(
            max(threshold, logging.WARNING) if threshold > logging.DEBUG else 0
        )
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[*_shared(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


class _LogFile(logging.handlers.WatchedFileHandler):
    """Names of files stand in it, so it is made for its owner alone. It may be on the very disk of whose failure it
    is to tell: what cannot be written is left out, and nobody who logs hears of it."""

    def emit(self, record: logging.LogRecord) -> None:
        # Looking whether it was renamed, and opening it anew, may fail too.
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the library's name)
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def _open(self) -> TextIOWrapper:
        file = open(self.baseFilename, self.mode, encoding=self.encoding, opener=private.opener)  # noqa: SIM115
        assert isinstance(file, TextIOWrapper)
        return file


def _handler(file: Path | None, stream: TextIO | None) -> tuple[logging.Handler, bool]:
    if file is None:
        target = stream or sys.stderr
        return logging.StreamHandler(target), target.isatty()
    try:
        private.make_directory(file.parent)
        return _LogFile(file, encoding="utf-8"), False
    except OSError as error:
        raise ConfigError(f"the log file {file} cannot be opened: {error.strerror}") from None


def _shared() -> list[Any]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _bytes_as_text,
    ]


def _formatter(*, console: bool, colours: bool) -> logging.Formatter:
    last: list[Any]
    if console:
        # Plain tracebacks: rich ones print the values of local variables, file contents among them.
        plain = structlog.dev.plain_traceback
        last = [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_shared(), structlog.stdlib.PositionalArgumentsFormatter()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )


def _bytes_as_text(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    for key, value in event.items():
        if isinstance(value, bytes):
            event[key] = value.decode("utf-8", "backslashreplace")
    return event
