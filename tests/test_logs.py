"""Logs: where events go, in which shape, and that rotation and reconfiguration lose none."""

from __future__ import annotations

import errno
import io
import json
import logging
from pathlib import Path

import pytest
import structlog
from failing import FailingDisk

from ghostfs import logs
from ghostfs.errors import ConfigError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream)
    structlog.get_logger("ghostfs.x").info("block_hashed", name=b"caf\xc3\xa9\xff", count=3)
    event = json.loads(stream.getvalue())
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "block_hashed",
        "logger": "ghostfs.x",
        "level": "info",
        "name": "café\\xff",
        "count": 3,
    }


def test_console_on_a_terminal() -> None:
    stream = Terminal()
    logs.configure(stream=stream)
    structlog.get_logger().info("block_hashed", count=3)
    assert "block_hashed" in stream.getvalue()
    assert "\x1b[" in stream.getvalue()


@pytest.mark.parametrize("renderer", ["console", "json"])
@pytest.mark.allows_log("it_broke")
def test_tracebacks_are_kept_and_show_no_local_variables(renderer: str) -> None:
    stream = Terminal()
    logs.configure(stream=stream, renderer=renderer)
    content = "-".join(["file", "content"])
    try:
        raise ValueError(len(content))
    except ValueError:
        structlog.get_logger().exception("it_broke")
    assert "Traceback" in stream.getvalue()
    assert content not in stream.getvalue()


def test_levels_hold_for_us_and_for_libraries() -> None:
    stream = io.StringIO()
    logs.configure(level="info", stream=stream)
    structlog.get_logger().debug("detail")
    logging.getLogger("grpc").info("chatter")
    logging.getLogger("elsewhere").info("said")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["said"]
    logs.configure(level="debug", stream=stream)
    structlog.get_logger().debug("detail")
    logging.getLogger("grpc").info("chatter %d", 2)
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()[1:]] == [
        "detail",
        "chatter 2",
    ]


def test_a_rotated_file_is_reopened_and_a_second_configuration_replaces_the_first(tmp_path: Path) -> None:
    file = tmp_path / "new" / "ghostfs.log"
    stream = io.StringIO()
    logs.configure(stream=stream)
    logs.configure(file=file)
    log = structlog.get_logger()
    log.info("one")
    file.rename(tmp_path / "old.log")
    log.info("two")
    assert '"one"' in (tmp_path / "old.log").read_text()
    assert '"two"' in file.read_text()
    assert stream.getvalue() == ""


def test_a_file_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened: Is a directory"):
        logs.configure(file=tmp_path)


@pytest.mark.parametrize("failing", ["getattr", "write", "open"])
def test_a_disk_that_fails_ends_nothing_and_is_written_to_again(
    tmp_path: Path, failing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("below", "disk"):
        (tmp_path / name).mkdir()
    with FailingDisk(tmp_path / "below", tmp_path / "disk") as disk:
        file = tmp_path / "disk" / "log"
        logs.configure(renderer="json", file=file)
        logger = structlog.get_logger()
        logger.info("before")
        if failing == "open":
            file.rename(file.with_suffix(".1"))
            disk.fail(errno.EROFS, "create", "open_to_write")
        else:
            disk.fail(errno.EIO, failing)
        for _ in range(3):
            logger.info("meanwhile")
        disk.mend()
        logger.info("after")
        assert json.loads(file.read_text().splitlines()[-1])["event"] == "after"
        logs.configure(stream=io.StringIO())
    assert capsys.readouterr().err == ""
