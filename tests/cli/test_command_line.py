"""The command line as such: help, laziness, errors on one line, exit codes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ghostfs import __version__
from ghostfs.cli import main
from ghostfs.cli.group import COMMANDS, root
from ghostfs.errors import ExitCode, GhostError, in_words

CHECKOUT = Path(__file__).parents[2]
HEAVY = (
    "grpc",
    "pydantic",
    "structlog",
    "rich",
    "pyfuse3",
    "trio",
    "sqlite3",
    "google.protobuf",
    "prometheus_client",
)


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that can be called, with its full name."""
    context = click.Context(root)
    for name in COMMANDS:
        command = root.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", command.commands[sub]) for sub in command.commands)
        else:
            yield name, command


def examples() -> Iterator[str]:
    """Every `ghostfs …` line in help texts, in the README and in docs/."""
    texts = [command.help or "" for _, command in commands()] + [root.help or ""]
    texts += [
        path.read_text() for path in (CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md")))
    ]
    for text in texts:
        for line in text.splitlines():
            found = re.match(r"\s*(?:[A-Z_]+=\S+ )?(ghostfs [a-z-].*)", line)
            if found and "…" not in line and not re.match(r"\s*ghostfs (is|gives|has|COMMAND)\b", line):
                yield found[1].strip()


def loaded_by(*arguments: str) -> set[str]:
    """Which heavy modules a command line loads."""
    code = f"import sys\nfrom ghostfs.cli import main\nmain({list(arguments)!r})\n"
    code += f"print(*[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"Examples?:\n +\S*.*ghostfs ", shown), shown
    assert "--data-dir" in shown


def test_the_list_of_commands_says_what_the_commands_say() -> None:
    context = click.Context(root)
    for name, lazy in COMMANDS.items():
        command = root.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str(limit=200) == lazy.short_help


@pytest.mark.parametrize("example", sorted(set(examples())))
def test_every_example_parses(example: str) -> None:
    words = shlex.split(example.split(" | ", maxsplit=1)[0].removesuffix("&"), comments=True)[1:]
    context = root.make_context("ghostfs", words)
    name, command, rest = root.resolve_command(context, [*context._protected_args, *context.args])
    while isinstance(command, click.Group):
        context = command.make_context(name, rest, parent=context)
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    assert command is not None
    command.make_context(name, rest, parent=context)


def test_help_and_version_load_nothing_heavy() -> None:
    assert loaded_by("--help") == set()
    assert loaded_by("--version") == set()
    assert loaded_by("mount", "--help") == set()


def test_listing_sessions_loads_no_grpc(tmp_path: Path) -> None:
    data = str(tmp_path)
    assert main(["--data-dir", data, "session", "create", "demo"]) == 0
    assert not {"grpc", "pyfuse3", "trio"} & loaded_by("--data-dir", data, "status")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"ghostfs, version {__version__}"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["session", "show", "nothing"], ExitCode.NOT_FOUND, "ghostfs: there is no session nothing in "),
        (["session", "show", "../x"], ExitCode.USAGE, "ghostfs: session name '../x' is not allowed"),
        (["session", "create", "a", "b/c"], ExitCode.USAGE, "ghostfs: session name 'b/c' is not allowed"),
        (["status", "-o", "poll_us=many"], ExitCode.USAGE, "ghostfs: poll_us=many: input should be"),
        (["status", "-o", "polling=1"], ExitCode.USAGE, "ghostfs: there is no setting polling"),
        (
            ["status", "--config", "/nothing"],
            ExitCode.USAGE,
            "ghostfs: the config file /nothing does not exist",
        ),
        (["mount", "nothing", "/nowhere"], ExitCode.NOT_FOUND, "ghostfs: there is no session nothing"),
        (["mount", "--create", "a", "/nowhere"], ExitCode.MOUNT, "ghostfs: /nowhere does not exist"),
        (["umount", "/"], ExitCode.MOUNT, "ghostfs: "),
        (["verify", "nothing"], ExitCode.NOT_FOUND, "ghostfs: there is no session nothing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_is_one_line_and_a_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: ExitCode, message: str
) -> None:
    assert main(["--data-dir", str(tmp_path), *arguments]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments", [["--nothing"], ["nothing"], ["session", "list", "-o", "x"], ["umount"]]
)
def test_wrong_usage_is_code_2_and_shows_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == ExitCode.USAGE
    assert "Usage: ghostfs" in capsys.readouterr().err


def test_a_full_disk_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["--data-dir", str(tmp_path / "file"), "session", "create", "demo"]) == ExitCode.FAILURE
    assert "Not a directory" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from ghostfs.cli import main; sys.exit(main(sys.argv[1:]))",
    ]
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as gone:  # noqa: PTH123 (a descriptor)
        done = subprocess.run(
            [*command, "--data-dir", str(tmp_path), "settings"],
            stdout=gone,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.allows_log("unknown_settings_in_environment")
def test_a_misspelt_variable_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GHOSTFS_POL_US", "1")
    assert main(["--data-dir", str(tmp_path), "session", "list"]) == 0
    assert "GHOSTFS_POL_US" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(28, "No space left on device", b"/a\xff"), "No space left on device: /a\\xff"),
        (OSError(18, "Invalid cross-device link", "/a", None, "/b"), "Invalid cross-device link: /a → /b"),
        (OSError(9, "Bad file descriptor", 7), "Bad file descriptor"),
        (OSError("somebody moves it"), "somebody moves it"),
        (GhostError("do this"), "do this"),
    ],
)
def test_errors_are_said_in_words(error: Exception, words: str) -> None:
    assert in_words(error) == words


def test_an_index_that_may_not_be_read_is_said_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object, **_more: object) -> None:
        raise OSError(28, "No space left on device", "index.db")

    assert main(["--data-dir", str(tmp_path), "session", "create", "demo"]) == 0
    monkeypatch.setattr("ghostfs.index.Index.open", full)
    assert main(["--data-dir", str(tmp_path), "session", "show", "demo"]) == ExitCode.FAILURE
    assert "No space left on device: index.db" in (shown := capsys.readouterr().out)
    assert "Errno" not in shown
