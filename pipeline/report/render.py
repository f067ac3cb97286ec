"""Templates of this folder → pages, and how numbers are written there."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

TEMPLATES = Path(__file__).parent


def render(template: str, **content: Any) -> str:
    """A page from a template of this folder. NaN becomes a blank, never a number."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda x, digits=1: "" if x is None or math.isnan(x) else f"{100 * x:.{digits}f}"
    environment.filters["duration"] = duration
    environment.filters["real"] = lambda x, digits=3: "" if x is None or math.isnan(x) else f"{x:.{digits}f}"
    environment.filters["quoted"] = quoted
    return environment.get_template(template).render(**content)


def quoted(text: str) -> Markup:
    """What stands in `backticks`, as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def duration(seconds: float) -> str:
    """Seconds → '12 s', '3:05 min', '2:10 h'."""
    if math.isnan(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"
