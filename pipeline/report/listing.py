"""What the page of one run writes for others to read: what it was made from, and its verdict.

No numpy here, and nothing else that is heavy: the end of a run (ending.py) reads it inside Snakemake.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field

from pipeline.core.steps.base import Settings


class Entry(Settings):
    """What the workflow says of one stage. inputs: role → manifest."""

    step: str
    method: str
    folder: str
    kind: str
    manifest: Path
    inputs: dict[str, Path] = Field(default_factory=dict)
    metrics: Path | None = None
    benchmark: Path | None = None


class Finding(Settings):
    """One thing that is wrong with a run, in sentences. kind: which (verdict.py). classes: those that it names."""

    kind: str
    found: str
    means: str
    next: str
    classes: tuple[str, ...] = ()


class Verdict(Settings):
    """summary: what the run does, in one sentence. judged: whether there was enough to judge its network by. unjudged:
    what could not be judged, and why."""

    summary: str
    judged: bool = True
    findings: tuple[Finding, ...] = ()
    unjudged: tuple[str, ...] = ()


class Listing(Settings):
    """What one page was made from. page: its file's name."""

    recipe: str
    seed: int
    page: str
    stages: list[Entry]
    verdict: Verdict | None = None


def over_seeds(verdicts: Iterable[tuple[int, Verdict | None]]) -> list[tuple[Finding, list[int]]]:
    """Each kind of finding once, as its first seed has it, and the seeds that have it."""
    first: dict[str, Finding] = {}
    seeds: dict[str, list[int]] = {}
    for seed, verdict in verdicts:
        for finding in verdict.findings if verdict else ():
            first.setdefault(finding.kind, finding)
            seeds.setdefault(finding.kind, []).append(seed)
    return [(finding, seeds[kind]) for kind, finding in first.items()]


def few(words: Sequence[str], most: int = 6) -> str:
    """'cat, dog and 3 more'."""
    left = len(words) - most
    return ", ".join(words[:most]) + (f" and {left} more" if left > 0 else "")


def percent(share: float) -> str:
    """'12 %'; what is not quite nothing, or all, is not rounded to it."""
    if 0 < share < 0.005 or 0.995 < share < 1:
        return "under 1 %" if share < 0.5 else "over 99 %"
    return f"{100 * share:.0f} %"
