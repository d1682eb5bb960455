"""`ghostfs status --watch` on a real terminal: what it shows, and how the terminal is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import GHOSTFS, Stack
from terminal import Terminal, plain

WATCH = [*GHOSTFS, "status", "--watch", "--interval", "0.1"]
ALTERNATE, BACK = "\x1b[?1049h", "\x1b[?1049l"
CURSOR_BACK = "\x1b[?25h"
HOME = "\x1b[H"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path / "stack") as made:
        yield made


def was_given_back(terminal: Terminal) -> bool:
    """Whether the screen of before and the cursor are shown."""
    return all(
        terminal.shown.rfind(after) > terminal.shown.rfind(before)
        for before, after in ((ALTERNATE, BACK), ("\x1b[?25l", CURSOR_BACK))
    )


def test_a_node_that_falls_behind_is_seen_and_ctrl_c_ends_it(stack: Stack) -> None:
    stack.start_hub()
    mount = stack.mount("work")
    node = stack.start_node("n1", "work")
    (mount / "first").write_bytes(b"1")
    stack.converge("work")
    with Terminal(WATCH, stack.environment, columns=100) as terminal:
        terminal.read_until(re.compile(r"work +n1 +following +0 "))
        node.signal(signal.SIGSTOP)
        for number in range(30):
            (mount / f"file{number}").write_bytes(os.urandom(30_000))
        terminal.read_until(re.compile(r"work +n1 +following +[1-9]\d* +[\d.]+ s "))
        node.signal(signal.SIGCONT)
        terminal.read_until(re.compile(r"work +n1 +following +0 "))
        terminal.type("\x03")
        assert terminal.end() == 0
        assert "Traceback" not in terminal.shown
        assert was_given_back(terminal)


def test_a_termination_gives_the_terminal_back(stack: Stack) -> None:
    stack.run("session", "create", "work")
    with Terminal(WATCH, stack.environment) as terminal:
        terminal.read_until("MOUNTED ON")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 128 + signal.SIGTERM
        assert was_given_back(terminal)


@pytest.mark.parametrize(
    ("columns", "left_out"),
    [
        (44, {"FOR", "RATE", "SENT", "ACK", "HEAD", "ENTRIES", "SIZE"}),
        (65, {"RATE", "SENT", "HEAD", "ENTRIES"}),
        (999, set()),
    ],
)
def test_a_narrow_terminal_shows_fewer_columns_and_whole_numbers(
    stack: Stack, columns: int, left_out: set[str]
) -> None:
    stack.start_hub()
    mount = stack.mount("a-session-with-a-long-name")
    stack.start_node("node-one", "a-session-with-a-long-name")
    for number in range(12):
        (mount / f"file{number}").write_bytes(b"x")
    stack.converge("a-session-with-a-long-name")
    with Terminal(WATCH, stack.environment, columns=columns, rows=99) as terminal:
        terminal.read_until(re.compile(r"following +0"))
        terminal.type("\x03")
        assert terminal.end() == 0
    lines = plain(terminal.shown.replace(HOME, "\n")).replace("\r", "").split("\n")
    assert max(map(len, lines)) <= columns + len("^C")
    titles = set(" ".join(line for line in lines if "SESSION" in line).split())
    assert {"NODE", "STATE", "BEHIND", "MOUNTED"} <= titles
    assert {"FOR", "RATE", "SENT", "ACK", "HEAD", "ENTRIES", "SIZE"} - titles == left_out


def test_a_low_terminal_says_how_much_it_does_not_show(stack: Stack) -> None:
    stack.run("session", "create", *(f"s{number:02}" for number in range(20)))
    with Terminal(WATCH, stack.environment, columns=80, rows=10) as terminal:
        shown = terminal.read_until("more lines")
        terminal.type("\x03")
        assert terminal.end() == 0
    last = re.search(r"(s\d\d)[^s]*… (\d+) more lines", shown)
    assert last
    assert int(last[1][1:]) + 1 + int(last[2]) == 20


def test_elsewhere_it_is_text_without_control_sequences(stack: Stack) -> None:
    stack.run("session", "create", "work")
    watch = subprocess.Popen(WATCH, env=stack.environment, stdout=subprocess.PIPE, text=True)
    assert watch.stdout is not None
    with watch.stdout as out:
        lines = [out.readline() for _ in range(10)]
        watch.send_signal(signal.SIGINT)
        out.read()
    assert watch.wait(30) == 0
    assert "\x1b" not in "".join(lines)
    assert lines[:5] == lines[5:]
    assert lines[2].split("  ")[0] == "SESSION"


def test_a_reader_that_goes_away_ends_it_silently(stack: Stack) -> None:
    stack.run("session", "create", "work")
    watch = subprocess.Popen(
        [*WATCH, "--json"], env=stack.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert watch.stdout is not None
    assert watch.stdout.readline()
    watch.stdout.close()
    assert watch.stderr is not None
    with watch.stderr as said:
        assert said.read() == b""
    assert watch.wait(30) == 1
