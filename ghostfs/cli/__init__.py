"""The `ghostfs` command: reads argv, calls one function below, prints.

Commands are loaded when they are called: `ghostfs --help` imports click and nothing else, and a mount
loads no gRPC. Whatever goes wrong ends in `main`, which owns the exit codes.
"""

from __future__ import annotations

__all__ = ["main"]

import click

from ghostfs.cli import streams
from ghostfs.cli.failures import plight
from ghostfs.cli.group import root
from ghostfs.errors import ExitCode, GhostError

_INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code. Anything a person can mend is one line on standard error."""
    streams.stand_in_for_closed()
    try:
        result = root.main(args=arguments, prog_name="ghostfs", standalone_mode=False)
    except GhostError as error:
        return _fail(str(error), error.exit_code)
    except click.UsageError as error:
        error.show()
        return ExitCode.USAGE
    except click.ClickException as error:
        return _fail(error.format_message(), ExitCode.FAILURE)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", _INTERRUPTED)
    except OSError as error:
        if streams.failed_to_print(error):
            streams.let_go_of_output()
        return _fail(plight(error), ExitCode.FAILURE)
    return result if isinstance(result, int) else ExitCode.OK


def _fail(message: str, code: int) -> int:
    click.echo(f"ghostfs: {' '.join(message.split())}", err=True)
    return code
