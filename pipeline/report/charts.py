"""Small SVG charts that live inside an HTML page: they take its colours (light or dark) and its type; no script.

Colours and strokes are CSS classes of the page (report/page.html.j2); every mark says its value in a <title>.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np
from markupsafe import Markup

PALETTE = 6  # line colours s0 … s5


@dataclass(frozen=True)
class Mark:
    """One value (0..1) of a ladder chart. look: 'main', or a hollow mark beside it: 'best', 'only'."""

    value: float
    text: str
    look: str = "main"


@dataclass(frozen=True)
class Rung:
    """One stage of the ladder: its name, a line below it, its split, and its marks."""

    name: str
    note: str
    split: str
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Line:
    name: str
    x: Sequence[float]
    y: Sequence[float]


def nice_top(shares: Sequence[float]) -> float:
    """The end of a percent axis: the next full ten clear of all values, at most 100."""
    return min(100.0, 10 * math.ceil((max(shares, default=0) * 100 + 4) / 10))


def ladder(rungs: Sequence[Rung], headings: Mapping[str, str], width: int = 960, height: int = 330) -> Markup:
    """The stages from left to right with their mIoU; stages of one split are joined, splits stand apart on bands.

    headings: split → what to write above its band.
    """
    values = [mark.value for rung in rungs for mark in rung.marks]
    if not values:
        return Markup("")
    left, top, floor = 44, 46, height - 58
    limit, step = nice_top(values), (width - left - 10) / len(rungs)

    def x_of(number: int) -> float:
        return left + step * (number + 0.5)

    def y_of(share: float) -> float:
        return floor - (floor - top) * 100 * share / limit

    out = [f'<svg class="chart ladder" viewBox="0 0 {width} {height}" role="img" aria-label="mIoU of every stage">']
    bands = _runs([rung.split for rung in rungs])
    for start, end, split in bands:
        x, span = left + step * start, step * (end - start)
        out.append(f'<rect class="band" x="{x + 3:.1f}" y="8" width="{span - 6:.1f}" height="{height - 12}" rx="6"/>')
        out.append(f'<text class="split" x="{x + 14:.1f}" y="28">{escape(headings.get(split, split))}</text>')
    out += _grid(left, width - 7, [(y_of(limit * k / 500), f"{limit * k / 5:g}") for k in range(6)])
    for start, end, _ in bands:
        main = [(k, mark.value) for k in range(start, end) for mark in rungs[k].marks if mark.look == "main"]
        out.append(f'<path class="line" d="{_path([(x_of(k), y_of(share)) for k, share in main])}"/>')
    for number, rung in enumerate(rungs):
        x, shares = x_of(number), [mark.value for mark in rung.marks]
        out.append(f'<g class="in-{escape(rung.split)}">')
        out += [_mark(mark, rung.name, x, y_of(mark.value), _crowded(mark, shares, limit)) for mark in rung.marks]
        out.append("</g>")
        out.append(f'<text class="name" x="{x:.1f}" y="{floor + 22}">{escape(rung.name)}</text>')
        out.append(f'<text class="note" x="{x:.1f}" y="{floor + 39}">{escape(rung.note)}</text>')
    return Markup("".join([*out, "</svg>"]))


def _crowded(mark: Mark, shares: Sequence[float], limit: float) -> bool:
    """True when another mark sits where the value would be printed, above the mark."""
    return any(0 < share - mark.value < 0.0013 * limit for share in shares)


def _mark(mark: Mark, stage: str, x: float, y: float, crowded: bool) -> str:
    tip = f"<title>{escape(f'{stage}: {100 * mark.value:.1f} % {mark.text}')}</title>"
    if mark.look == "best":
        return f'<circle class="best" cx="{x:.1f}" cy="{y:.1f}" r="4.5">{tip}</circle>'
    if mark.look == "only":
        return f'<path class="only" d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z">{tip}</path>'
    value = f'<text class="value" x="{x:.1f}" y="{y + 24 if crowded else y - 13:.1f}">{100 * mark.value:.1f}</text>'
    return f'<circle class="main" cx="{x:.1f}" cy="{y:.1f}" r="6.5">{tip}</circle>{value}'


def lines(series: Sequence[Line], x_name: str, percent: bool = False, width: int = 340, height: int = 190) -> Markup:
    """Line chart; from 0 unless values are negative or vary little. percent: shares, on an axis of percents."""
    factor, unit = (100, " %") if percent else (1, "")
    clean = [[(a, b * factor) for a, b in zip(line.x, line.y, strict=True) if math.isfinite(b)] for line in series]
    every = [point for points in clean for point in points]
    if not every:
        return Markup("")
    first, last = min(a for a, _ in every), max(a for a, _ in every)
    low, high = min(b for _, b in every), max(b for _, b in every)
    if percent:
        low, high = 0.0, nice_top([high / 100])
    elif 0 <= low < 0.6 * high or low == high:
        low, high = min(0.0, low), high * 1.08 if high > 0 else low + 1.0
    left, top, floor = 40, 10, height - 36

    def at(a: float, b: float) -> tuple[float, float]:
        x = left + (width - left - 14) * (a - first) / ((last - first) or 1)
        return x, floor - (floor - top) * (b - low) / (high - low)

    out = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(x_name)}">']
    ticks = [low + (high - low) * k / 4 for k in range(5)]
    out += _grid(left, width - 7, [(at(first, tick)[1], f"{tick:.3g}") for tick in ticks])
    for number, (line, points) in enumerate(zip(series, clean, strict=True)):
        look = f"s{number % PALETTE}"
        out.append(f'<path class="{look}" d="{_path([at(a, b) for a, b in points])}"/>')
        for a, b in points:
            x, y = at(a, b)
            tip = escape(f"{line.name}, {x_name} {a:g}: {b:.4g}{unit}")
            out.append(f'<circle class="dot {look}" cx="{x:.1f}" cy="{y:.1f}" r="2.4"><title>{tip}</title></circle>')
    for value in sorted({first, last}):
        out.append(f'<text class="tick" x="{at(value, 0)[0]:.1f}" y="{floor + 14}">{value:g}</text>')
    out.append(f'<text class="axis" x="{(left + width) / 2:.0f}" y="{height - 8}">{escape(x_name)}</text></svg>')
    return Markup("".join(out))


@dataclass(frozen=True)
class Group:
    """Values (0..1) of one name, one a seed; mean and sd over them (sd NaN where there is one)."""

    name: str
    values: Sequence[float]
    mean: float
    sd: float


def groups(found: Sequence[Group], axis: str, ceiling: Group | None = None, width: int = 640) -> Markup:
    """One line a group: its values, their mean, and a bar of one sd to either side. ceiling: a dashed line there."""
    if not found:
        return Markup("")
    longest = 24  # letters of a name that are shown
    left = 20 + 8.5 * min(longest, max(len(group.name) for group in found))
    right, top, row = width - 52, 12, 27
    floor = top + row * len(found)
    limit = nice_top([value for group in found for value in group.values])

    def x_of(share: float) -> float:
        return left + (right - left) * min(max(100 * share / limit, 0), 1)

    height = floor + 44
    out = [f'<svg class="chart groups" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(axis)}">']
    for k in range(6):
        x = x_of(limit * k / 500)
        out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{floor}"/>')
        out.append(f'<text class="tick" x="{x:.1f}" y="{floor + 16}">{limit * k / 5:g}</text>')
    if ceiling:
        tip = escape(f"{ceiling.name}: {100 * ceiling.mean:.1f} %")
        x = x_of(ceiling.mean)
        out.append(f'<path class="ceiling" d="M{x:.1f} {top}V{floor}"><title>{tip}</title></path>')
    for number, group in enumerate(found):
        y = top + row * (number + 0.5)
        name = group.name if len(group.name) <= longest else group.name[: longest - 1] + "…"
        text, bar = f"{100 * group.mean:.1f}", ""
        if math.isfinite(group.sd):
            text += f" ± {100 * group.sd:.1f}"
            bar = f'<path class="sd" d="M{x_of(group.mean - group.sd):.1f} {y}H{x_of(group.mean + group.sd):.1f}"/>'
        tip = escape(f"{group.name}: {text} %, {len(group.values)} seed{'s' * (len(group.values) > 1)}")
        dots = "".join(f'<circle class="each" cx="{x_of(value):.1f}" cy="{y}" r="3"/>' for value in group.values)
        out.append(f'<g><title>{tip}</title><text class="name" x="{left - 12}" y="{y + 4}">{escape(name)}</text>')
        out.append(f'{bar}{dots}<circle class="main" cx="{x_of(group.mean):.1f}" cy="{y}" r="5.5"/>')
        out.append(f'<text class="value" x="{right + 12}" y="{y + 4}">{100 * group.mean:.1f}</text></g>')
    out.append(f'<text class="axis" x="{(left + right) / 2:.0f}" y="{height - 8}">{escape(axis)}</text></svg>')
    return Markup("".join(out))


def scatter(points: np.ndarray, colours: Sequence[str], titles: Sequence[str], side: int = 400) -> Markup:
    """Points [n,2], stretched to fill a square. colours: CSS colours."""
    low, span = points.min(0), np.maximum(np.ptp(points, 0), 1e-9)
    places = 12 + (points - low) / span * (side - 24)
    out = [f'<svg class="chart scatter" viewBox="0 0 {side} {side}" role="img">']
    for (x, y), colour, title in zip(places, colours, titles, strict=True):
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.2" fill="{colour}"><title>{escape(title)}</title></circle>')
    return Markup("".join([*out, "</svg>"]))


def _runs(items: Sequence[str]) -> list[tuple[int, int, str]]:
    """Stretches of equal items: (start, end, item)."""
    edges = [0, *(k for k in range(1, len(items)) if items[k] != items[k - 1]), len(items)]
    return [(a, b, items[a]) for a, b in pairwise(edges)]


def _grid(left: float, right: float, ticks: Sequence[tuple[float, str]]) -> list[str]:
    """Horizontal lines at these heights, each with its value."""
    out = []
    for y, text in ticks:
        out.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="tick end" x="{left - 6}" y="{y + 3.5:.1f}">{text}</text>')
    return out


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else "M0 0"
