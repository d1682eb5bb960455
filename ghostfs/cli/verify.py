"""`ghostfs verify`: the index against the tree, and the fingerprints against the nodes."""

from __future__ import annotations

__all__ = ["compare_node", "verify"]

from typing import TYPE_CHECKING, Any

import click

from ghostfs.cli import options, output
from ghostfs.cli.session import existing
from ghostfs.cli.verifycopy import verify_copy
from ghostfs.errors import DriftError

if TYPE_CHECKING:
    from ghostfs.mesh.status import MemberStatus

_SHOWN = 50
"""Problems that are printed for people; `--json` has all."""


@click.command()
@options.session_argument
@options.JSON
@options.common
def verify(name: str, *, as_json: bool, **common: Any) -> None:
    """Compare a session's index with its files and nodes.

    Every file is read and hashed from scratch. May run while the session is in use: what is being changed
    meanwhile is looked at again. Exit code 6 means that something differs.

    With the data directory of a node, its copy of the session is compared with its index, while the node
    runs or not: what users changed in the copy is named, with what becomes of it.

    \b
    Examples:
      ghostfs verify demo
      ghostfs verify demo --json | jq '.problems[].path'
      ghostfs --data-dir ~/.ghostfs-n1 verify demo
    """
    from ghostfs.cli.overview import hub_of, settle
    from ghostfs.mirror.live.verify import verify as verify_mirror

    settings = options.load(**common)
    data = options.data_dir(settings)
    copy = None if data.session(name).tree.is_dir() else data.replica_state(name)
    if copy is not None:
        verify_copy(name, copy, workers=settings.hash_workers, as_json=as_json)
        return
    layout = existing(data, name)
    with output.waiting() as show:
        settle(layout, lambda status: show(f"session {name}: {output.unsettled(status)}"))
    with output.progress(f"verifying {name}", quiet=as_json) as progress:
        report = verify_mirror(layout, workers=settings.hash_workers, progress=progress)
    hub, hub_problem = hub_of(data)
    members = next((s.members for s in hub.sessions if s.name == name), ()) if hub else ()
    nodes = {member.node_name: compare_node(member, report.head, report.fingerprint) for member in members}
    differing = [node for node, verdict in nodes.items() if verdict == "differs"]
    if as_json:
        output.print_json(
            {
                "session": name,
                "ok": report.ok and not differing,
                "head": report.head,
                "fingerprint": output.hexadecimal(report.fingerprint),
                "recomputed": output.hexadecimal(report.recomputed),
                "inodes": report.inodes,
                "bytes_read": report.bytes_read,
                "changed_meanwhile": report.changed_meanwhile,
                "problems": [{"path": p.path, "what": p.what} for p in report.problems],
                "nodes": [{"name": node, "verdict": verdict} for node, verdict in nodes.items()],
                "hub_problem": hub_problem or None,
            }
        )
    else:
        for problem in report.problems[:_SHOWN]:
            click.echo(f"{problem.path}: {problem.what}")
        if len(report.problems) > _SHOWN:
            click.echo(f"… and {output.count(len(report.problems) - _SHOWN)} more; --json shows all")
        click.echo(f"{name}: {output.count(report.inodes)} inodes, {output.size(report.bytes_read)} read")
        if moving := report.changed_meanwhile:
            click.echo(f"{name}: {output.count(moving)} changed meanwhile, and were not compared")
        for node, verdict in nodes.items():
            click.echo(f"{node}: {verdict}")
    what = []
    if found := len(report.problems):
        what.append(f"{output.count(found)} difference{'s' * (found != 1)} between index and files")
    if report.fingerprint != report.recomputed:
        what.append("the running fingerprint is not that of the index's cells")
    what += [f"{node} differs from the hub at the same change" for node in differing]
    if what:
        raise DriftError(f"session {name}: {'; '.join(what)}")
    if not as_json:
        click.echo(f"{name}: index and files agree, fingerprint {output.hexadecimal(report.fingerprint)}")


def compare_node(member: MemberStatus, head: int, fingerprint: int) -> str:
    """`equal`, `differs`, or why that is not known: `behind`, `unknown`."""
    if member.seq != head:
        return "behind"
    if not member.fingerprint:
        return "unknown"
    return "equal" if int.from_bytes(member.fingerprint, "big") == fingerprint else "differs"
