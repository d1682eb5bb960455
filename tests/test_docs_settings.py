"""`docs/settings.md` is the one table of settings, and says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from ghostfs.config import Setting, describe

CHECKOUT = Path(__file__).parent.parent
PAGE = CHECKOUT / "docs" / "settings.md"


def row(setting: Setting) -> str:
    allowed = setting.allowed.replace(" | ", ", ")
    default = f"`{setting.default}`" if setting.default else ""
    return f"| `{setting.name}` | {default} | {setting.unit} | {allowed} | {setting.description} |"


def test_the_table_has_every_setting_as_it_is() -> None:
    expected = [row(setting) for setting in describe()]
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert rows == expected, "docs/settings.md should hold:\n" + "\n".join(expected)


def test_every_setting_is_used() -> None:
    """A setting that nothing reads is a promise that is not kept. Read it may be in another unit, too."""
    sources = [
        path.read_text()
        for path in (CHECKOUT / "ghostfs").rglob("*.py")
        if path.name != "config.py" and path.parent.name != "v1"
    ]
    texts = "\n".join(sources)
    unused = [s.name for s in describe() if f"settings.{re.sub('_(mib|kib|ms)$', '', s.name)}" not in texts]
    assert not unused
