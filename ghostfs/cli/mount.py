"""`ghostfs mount` and `ghostfs umount`."""

from __future__ import annotations

__all__ = ["mount", "umount"]

import contextlib
import os
from pathlib import Path
from typing import Any

import click

from ghostfs.cli import options, output
from ghostfs.errors import ExitCode, GhostError, in_words
from ghostfs.names import display


@click.command()
@options.session_argument
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, readable=False))
@click.option("--create", is_flag=True, help="Make the session if it is not there.")
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground, and log to standard error.")
@click.option("--writeback/--no-writeback", default=None, help="Let the kernel gather writes.")
@click.option("--xattrs/--no-xattrs", default=None, help="Serve extended attributes.")
@click.option("--allow-other/--no-allow-other", default=None, help="Let other users in.")
@click.option("--uid", "mount_uid", type=int, metavar="UID", help="Show all files as this user's.")
@click.option("--gid", "mount_gid", type=int, metavar="GID", help="Show all files as this group's.")
@options.common
def mount(name: str, directory: Path, *, create: bool, foreground: bool, **common: Any) -> None:
    """Mount a session on a directory.

    The directory must be there and empty. The command returns when the mount answers; the mount goes on in
    the background until it is unmounted. Its log is mount.log in the session's state folder, unless log_file
    says otherwise.

    \b
    Examples:
      ghostfs mount demo ~/demo
      ghostfs mount --create demo ~/demo
      ghostfs mount -f --log-level debug demo ~/demo
      ghostfs mount --allow-other --uid 1000 --gid 1000 demo /srv/demo
    """
    from ghostfs.fs.starting import MountProcess

    with contextlib.nullcontext() if foreground else MountProcess(name, _absolute(directory)) as process:
        # Loaded only now: the process of the mount loads meanwhile.
        from ghostfs.fs import lifecycle
        from ghostfs.index import asides

        settings = options.load(daemon=foreground, **common)
        index_db = options.data_dir(settings).session(name).index_db
        before = asides(index_db)
        lifecycle.mount(
            lifecycle.MountOptions(
                session=name,
                mountpoint=_absolute(directory),
                data_dir=settings.data_dir,
                foreground=foreground,
                create=create,
                writeback=settings.writeback,
                xattrs=settings.xattrs,
                allow_other=settings.allow_other,
                uid=settings.mount_uid,
                gid=settings.mount_gid,
                poll_us=settings.poll_us,
                awake_cpus=settings.awake_cpus,
                metrics_listen=settings.metrics_listen,
                log_level=settings.log_level,
                log_format=settings.log_format,
                log_file=settings.log_file,
                mirror=options.mirror_settings(settings),
            ),
            process,
        )
    if foreground:
        return  # its log has said so
    for aside in asides(index_db) - before:
        click.echo(
            f"ghostfs: the index of session {name} was damaged: it is set aside as {display(bytes(aside))}, "
            "and was made anew from the files",
            err=True,
        )


@click.command()
@click.argument(
    "directories",
    metavar="DIR...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, readable=False),
)
@options.common
def umount(directories: tuple[Path, ...], **common: Any) -> None:
    """Unmount a session, after all of it is safe.

    Everything written is hashed and committed first; the command returns when the mount's process has
    ended, and says so if not all could be committed. A directory whose mount was killed is freed. Of several
    directories each is tried; the exit code is that of the first that failed.

    \b
    Example:
      ghostfs umount ~/demo
    """
    options.load(**common)
    failures: list[GhostError | OSError] = []
    for directory in directories:
        try:
            _unmount(_absolute(directory))
        except (GhostError, OSError) as error:
            failures.append(error)
            if len(directories) > 1:
                click.echo(f"ghostfs: {' '.join(in_words(error).split())}", err=True)
    if failures and len(directories) == 1:
        raise failures[0]
    if failures:
        first = failures[0]
        raise click.exceptions.Exit(first.exit_code if isinstance(first, GhostError) else ExitCode.FAILURE)


def _unmount(directory: Path) -> None:
    from ghostfs.fs import lifecycle

    with output.waiting() as show:
        lifecycle.unmount(
            directory, waiting=lambda status: show(f"{directory} is unmounted; {output.unsettled(status)}")
        )


def _absolute(directory: Path) -> Path:
    # Not resolve(): looking at a mountpoint whose process was killed fails.
    return Path(os.path.abspath(directory))
