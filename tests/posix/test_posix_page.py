"""`docs/posix.md` lists what a mount does not do as other filesystems do, and says what the tests say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from exclusions import EXCLUSIONS, excluded

CHECKOUT = Path(__file__).parents[2]


def test_the_page_lists_the_exclusions() -> None:
    expected = [f"| {one.name} | {one.what} | {one.cause} |" for one in EXCLUSIONS]
    page = (CHECKOUT / "docs" / "posix.md").read_text()
    section = page.split("\n## What differs\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert rows == expected, "docs/posix.md should hold:\n" + "\n".join(expected)


def test_what_tests_exclude_is_on_the_list() -> None:
    used = set()
    for test in Path(__file__).parent.glob("test_*.py"):
        used |= set(re.findall(r'excluded\("([^"]+)"\)', test.read_text())) - {"no such"}
    assert used <= {one.name for one in EXCLUSIONS}
    with pytest.raises(LookupError):
        excluded("no such")
