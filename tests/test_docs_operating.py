"""`docs/operating.md` and the pages around it say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from ghostfs import __version__, metrics
from ghostfs.errors import ExitCode

CHECKOUT = Path(__file__).parent.parent
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
OPERATING = (CHECKOUT / "docs" / "operating.md").read_text()


def test_exit_codes() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", OPERATING, re.MULTILINE)
    assert [(int(code), name) for code, name in rows] == [(code.value, code.name) for code in ExitCode]


def test_metrics() -> None:
    expected = []
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            name = metric._name + ("_total" if metric._type == "counter" else "")
            labels = ", ".join(metric._labelnames)
            expected.append(f"| `{name}` | {metric._type} | {labels} | {metric._documentation} |")
    rows = [line for line in OPERATING.splitlines() if line.startswith("| `ghostfs_")]
    assert rows == sorted(expected), "docs/operating.md should hold:\n" + "\n".join(sorted(expected))


def test_every_metric_is_used() -> None:
    sources = [p.read_text() for p in (CHECKOUT / "ghostfs").rglob("*.py") if p.name != "metrics.py"]
    names = [name for name, value in vars(metrics).items() if isinstance(value, MetricWrapperBase)]
    unused = [name for name in names if not any(re.search(rf"\b{name}\b", text) for text in sources)]
    assert not unused


def test_the_changelog_begins_with_this_version() -> None:
    newest = re.search(r"^## (\S+)", (CHECKOUT / "docs" / "changelog.md").read_text(), re.MULTILINE)
    assert newest
    assert newest[1] == __version__
    assert f'version = "{__version__}"' in (CHECKOUT / "pyproject.toml").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)", page.read_text()):
        to = (page.parent / target).resolve() if target else page
        assert to.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", to.read_text(), re.MULTILINE)
            assert anchor[1:] in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}, (
                anchor
            )
