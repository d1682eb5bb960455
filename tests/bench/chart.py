"""A grouped bar chart of ratios on a logarithmic scale, as SVG."""

from __future__ import annotations

__all__ = ["Series", "draw"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _LEFT, _RIGHT = 1000, 230, 40
_BAR, _GROUP_GAP = 8, 12
_OURS = ("#0b7a75", "#6fb8b3")
_OTHERS = ("#d1873f", "#8a7fb5", "#c5c13f", "#7d8b99", "#c97b90", "#a0764f")
_INK, _FAINT, _GRID = "#1d2733", "#5b6773", "#dde2e7"


@dataclass(frozen=True, slots=True)
class Series:
    """One ratio a group; None where there is none. Ours are drawn in the stronger colours, with figures."""

    name: str
    ratios: Sequence[float | None]
    ours: bool = False


def draw(*, title: str, subtitle: str, groups: Sequence[str], series: Sequence[Series]) -> str:
    """The SVG document: a group of horizontal bars for each of `groups`, from 1 to the ratio."""
    found = [ratio for one in series for ratio in one.ratios if ratio is not None]
    scale = _Scale(min(found, default=1.0), max(found, default=1.0))
    colours = _colours(series)
    legend = _legend(series, colours, top=72)
    top = 72 + 22 * legend.rows + 26
    pitch = _BAR * len(series) + _GROUP_GAP
    bottom = top + pitch * len(groups)
    parts = [
        _text(24, 34, title, size=20, weight="bold"),
        _text(24, 56, subtitle, size=12, colour=_FAINT),
        *legend.parts,
        *scale.grid(top, bottom),
    ]
    for row, group in enumerate(groups):
        y = top + row * pitch
        if row % 2 == 0:
            parts.insert(0, _box(0, y, _WIDTH, pitch, "#f6f8f9"))
        parts.append(_text(_LEFT - 14, y + pitch / 2 + 4, group, size=13, anchor="end"))
        for place, one in enumerate(series):
            at = y + _GROUP_GAP / 2 + place * _BAR
            parts += _bar(scale, one.ratios[row], at, colours[place], figure=one.ours)
    parts.append(scale.baseline(top, bottom))
    height = bottom + 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" font-family="Helvetica, Arial, DejaVu Sans, sans-serif">\n'
        f"<title>{escape(title)}</title>\n"
        + "\n".join([_box(0, 0, _WIDTH, height, "#ffffff"), *parts])
        + "\n</svg>\n"
    )


class _Scale:
    """From ratios to x; it spans whole steps of 1, 2, 5, 10, …, and has 1 in it."""

    def __init__(self, least: float, most: float) -> None:
        steps = [step * 10.0**power for power in range(-4, 6) for step in (1, 2, 5)]
        low = max((step for step in steps if step <= min(least, 1.0)), default=steps[0])
        high = min((step for step in steps if step >= max(most, 2.0)), default=steps[-1])
        self._ticks = [step for step in steps if low <= step <= high]
        self._low, self._span = math.log(low), math.log(high) - math.log(low)

    def x(self, ratio: float) -> float:
        part = (math.log(ratio) - self._low) / self._span
        return _LEFT + min(max(part, 0.0), 1.0) * (_WIDTH - _LEFT - _RIGHT)

    def grid(self, top: float, bottom: float) -> list[str]:
        parts = []
        for tick in self._ticks:
            x = self.x(tick)
            parts.append(_line(x, top, bottom, _GRID))
            parts += [
                _text(x, y, f"{tick:g}", size=11, colour=_FAINT, anchor="middle")
                for y in (top - 8, bottom + 18)
            ]
        return parts

    def baseline(self, top: float, bottom: float) -> str:
        return _line(self.x(1.0), top, bottom, _INK)


@dataclass(frozen=True, slots=True)
class _Legend:
    parts: list[str]
    rows: int


def _legend(series: Sequence[Series], colours: Sequence[str], top: float) -> _Legend:
    parts, x, row = [], 24.0, 0
    for one, colour in zip(series, colours, strict=True):
        width = 34 + 7.2 * len(one.name)
        if x + width > _WIDTH - 24:
            x, row = 24.0, row + 1
        y = top + 22 * row
        parts.append(_box(x, y, 12, 12, colour))
        parts.append(_text(x + 18, y + 11, one.name, size=13, weight="bold" if one.ours else "normal"))
        x += width
    return _Legend(parts, row + 1)


def _colours(series: Sequence[Series]) -> list[str]:
    ours, others = iter(_OURS * len(series)), iter(_OTHERS * len(series))
    return [next(ours if one.ours else others) for one in series]


def _bar(scale: _Scale, ratio: float | None, y: float, colour: str, *, figure: bool) -> list[str]:
    start = scale.x(1.0)
    if ratio is None:
        return [_text(start + 4, y + _BAR - 1, "failed", size=8, colour=colour)]
    end = scale.x(ratio)
    parts = [_box(min(start, end), y, max(abs(end - start), 1.5), _BAR - 1, colour)]
    if figure:
        at, anchor = (end + 4, "start") if end >= start else (end - 4, "end")
        parts.append(
            _text(at, y + _BAR - 1, _figure(ratio), size=9, colour=colour, weight="bold", anchor=anchor)
        )
    return parts


def _figure(ratio: float) -> str:
    return f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def _line(x: float, top: float, bottom: float, colour: str) -> str:
    return f'<line x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}" stroke="{colour}"/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    colour: str = _INK,
    weight: str = "normal",
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )
