"""`ghostfs settings`: every setting, its value, and where that came from."""

from __future__ import annotations

__all__ = ["settings"]

from typing import Any

import click

from ghostfs.cli import options, output
from ghostfs.cli.output import Column


@click.command()
@options.JSON
@options.common
def settings(*, as_json: bool, **common: Any) -> None:
    """Show every setting and where it comes from.

    A flag is stronger than the environment, the environment stronger than the config file, and that
    stronger than the default.

    \b
    Examples:
      ghostfs settings
      GHOSTFS_POLL_US=0 ghostfs settings --json | jq '.[] | select(.source != "default")'
    """
    from ghostfs.config import describe

    current = options.load(**common)
    values = current.model_dump(mode="json")
    described = describe()
    if as_json:
        output.print_json(
            [
                {
                    "name": setting.name,
                    "value": values[setting.name],
                    "unit": setting.unit or None,
                    "source": str(current.source(setting.name)),
                    "variable": setting.variable,
                    "description": setting.description,
                }
                for setting in described
            ]
        )
        return
    columns = [Column("SETTING"), Column("VALUE", right=True), Column("UNIT"), Column("FROM")]
    rows = [
        [setting.name, _show(values[setting.name]), setting.unit, str(current.source(setting.name))]
        for setting in described
    ]
    output.print_table(columns, rows)


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
