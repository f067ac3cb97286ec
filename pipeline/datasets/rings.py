"""Outlines as annotation tools give them → polygons of datasets/shapes.py: a flat list x, y, x, y, ... of numbers.

No numpy, no torch: Snakemake asks on every dry run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def number(value: Any) -> float | None:
    """A finite number, also one written as text; None for anything else."""
    try:
        found = float(value)
    except (OverflowError, TypeError, ValueError):
        return None
    return found if math.isfinite(found) and not isinstance(value, bool) else None


def numbers(values: Any) -> list[float] | None:
    """A list of finite numbers; None for anything else."""
    try:
        found = [float(value) for value in values] if isinstance(values, list | tuple) else None
    except (OverflowError, TypeError, ValueError):
        return None
    return found if found is not None and all(map(math.isfinite, found)) else None


def ring(points: Any) -> list[float] | None:
    """Pairs [[x, y], ...] → a polygon of however many points; None where a pair is none."""
    if not isinstance(points, list) or not all(isinstance(pair, list) for pair in points):
        return None
    try:
        return numbers([value for x, y in points for value in (x, y)])
    except ValueError:  # of a pair that is none
        return None


def size_of(height: Any, width: Any) -> tuple[int, int] | None:
    """Height and width, both above 0; None where they are not."""
    found = numbers((height, width))
    return None if found is None or min(found) < 1 else (int(found[0]), int(found[1]))


def rectangle(x: float, y: float, u: float, v: float) -> list[float]:
    """Two corners that face each other → polygon."""
    return [x, y, u, y, u, v, x, v]


def ellipse(sizes: Sequence[float], degrees: float = 0) -> list[float]:
    """Centre and the two radii, and how far it is turned clockwise → polygon, nowhere a tenth of a pixel off (ours)."""
    x, y, across, down = sizes
    count = min(1000, max(24, math.ceil(8 * math.sqrt(max(abs(across), abs(down), 1)))))
    turn = math.radians(degrees)
    found = list[float]()
    for step in range(count):
        a, b = (f(2 * math.pi * step / count) for f in (math.cos, math.sin))
        found += [
            round(x + across * a * math.cos(turn) - down * b * math.sin(turn), 3),
            round(y + across * a * math.sin(turn) + down * b * math.cos(turn), 3),
        ]
    return found


def area(polygon: list[float]) -> float:
    """With a sign, in square pixels; of a ring that crosses itself, what is left over."""
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    return sum(x * v - u * y for (x, y), (u, v) in zip(points, [*points[1:], points[0]], strict=True)) / 2
