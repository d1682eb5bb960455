"""`ghostfs verify` on a node's data directory: the node's index against the node's copy."""

from __future__ import annotations

__all__ = ["verify_copy"]

from pathlib import Path

import click

from ghostfs.cli import output
from ghostfs.errors import DriftError

_SHOWN = 50
"""Paths of each sort that are printed for people; `--json` has all."""


def verify_copy(name: str, state: Path, *, workers: int, as_json: bool) -> None:
    """Verifies, and prints what was found.

    Raises:
        DriftError: the copy is not what the index says.
    """
    from ghostfs.mirror.replica.verify import verify

    with output.progress(f"verifying the copy of {name}", quiet=as_json) as progress:
        report = verify(name, state, workers=workers, progress=progress)
    if as_json:
        output.print_json(
            {
                "session": name,
                "copy": str(report.tree),
                "ok": report.ok,
                "head": report.head,
                "fingerprint": output.hexadecimal(report.fingerprint),
                "recomputed": output.hexadecimal(report.recomputed),
                "inodes": report.inodes,
                "bytes_read": report.bytes_read,
                "changed_meanwhile": report.changed_meanwhile,
                "waiting": report.waiting,
                "problems": [{"path": d.path, "what": d.what} for d in report.differences],
                "untracked": list(report.untracked),
            }
        )
    else:
        _print([f"{d.path}: {d.what}" for d in report.differences])
        _print([f"{path}: a file of its user's own" for path in report.untracked])
        read = f"{output.count(report.inodes)} inodes, {output.size(report.bytes_read)} read"
        click.echo(f"{report.tree}: {read}")
        if report.waiting:
            click.echo(f"{output.count(report.waiting)} newer versions are not here yet")
        if report.head is None:
            click.echo("a snapshot is half applied: what it has not reached yet is as it was")
    what = []
    if found := len(report.differences):
        what.append(f"{output.count(found)} difference{'s' * (found != 1)} between index and copy")
    if report.fingerprint != report.recomputed:
        what.append("the running fingerprint is not that of the index's cells")
    if what:
        raise DriftError(
            f"the copy of session {name}: {'; '.join(what)}: to make it whole, start its node once with --adopt-root"
        )
    if not as_json:
        click.echo(f"{name}: index and copy agree, fingerprint {output.hexadecimal(report.fingerprint)}")


def _print(lines: list[str]) -> None:
    for line in lines[:_SHOWN]:
        click.echo(line)
    if len(lines) > _SHOWN:
        click.echo(f"… and {output.count(len(lines) - _SHOWN)} more; --json shows all")
