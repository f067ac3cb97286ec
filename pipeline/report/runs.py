"""The runs that the index sets side by side: what their pages were made from, and numbers over seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.report import charts, facts
from pipeline.report.ladder import Score, Stage, open_stages, read_listing, scores_of
from pipeline.report.listing import Finding, Verdict, over_seeds
from pipeline.report.page import final_score, quality


@dataclass(frozen=True)
class Run:
    """One recipe with one seed. labels: what the last network learns from, as its page says it; seeds: the last ones'
    claimed region, best: at their best threshold. None where there is no such score."""

    recipe: str
    seed: int
    page: str
    stages: list[Stage]
    scores: list[Score]
    verdict: Verdict | None = None

    @property
    def network(self) -> Score | None:
        return final_score(self.scores)

    @property
    def labels(self) -> Score | None:
        return quality(self.scores, self.stages)

    @property
    def seeds(self) -> Score | None:
        return self._of_seeds("main")

    @property
    def best(self) -> Score | None:
        return self._of_seeds("best")

    def _of_seeds(self, look: str) -> Score | None:
        found = (score for score in reversed(self.scores) if score.stage.kind == "seeds" and score.look == look)
        return next((score for score in found if not score.empty), None)

    @property
    def costs(self) -> dict[str, Any]:
        return facts.costs(self.stages)


Pick = Callable[[Run], Score | None]
Recipes = dict[str, list[Run]]  # by name, in the run's order; one Run a seed


def read_runs(listings: Sequence[Path]) -> Recipes:
    found: Recipes = {}
    for path in listings:
        listing = read_listing(path)
        stages = open_stages(listing.stages)
        scores = [score for stage in stages for score in scores_of(stage)]
        run = Run(listing.recipe, listing.seed, listing.page, stages, scores, listing.verdict)
        found.setdefault(listing.recipe, []).append(run)
    return found


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation of these values; NaN where there are too few."""
    mean = float(np.mean(values)) if len(values) else math.nan
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def picked(runs: Sequence[Run], pick: Pick) -> list[Score]:
    return [score for run in runs if (score := pick(run))]


def group(recipe: str, runs: Sequence[Run], pick: Pick) -> charts.Group | None:
    """A recipe's mIoU over its seeds; None where none of them has the score."""
    values = [score.miou for score in picked(runs, pick)]
    return charts.Group(recipe, values, *mean_sd(values)) if values else None


def warnings(recipes: Recipes) -> dict[str, list[tuple[Finding, list[int]]]]:
    """Recipe → what its runs' verdicts found, each once, with the seeds that it was found for; only recipes that were
    judged."""
    judged = {recipe: [run for run in runs if run.verdict] for recipe, runs in recipes.items()}
    return {recipe: over_seeds((run.seed, run.verdict) for run in runs) for recipe, runs in judged.items() if runs}


def masks_used(run: Run) -> tuple[int, str] | None:
    """How many photographs' masks a run learns from, and the asked share of all in percent as a name has it ('5',
    '2.5'); None where it learns from all of them, or none."""
    for stage in run.stages:
        if stage.method == "masks" and stage.settings["fraction"] < 1:
            return int(stage.artifact.read("covered").sum()), f"{100 * stage.settings['fraction']:g}"
    return None


def mask_curves(recipes: Recipes) -> tuple[str, list[str]]:
    """mIoU of the networks over the number of masks, and the names of its lines.

    A line: recipes whose names differ only in the percentage of masks they learn from: contrast-2, contrast-20.
    """
    found: dict[str, dict[int, float]] = {}
    for recipe, runs in recipes.items():
        used, network = masks_used(runs[0]), group(recipe, runs, lambda run: run.network)
        if used and network:
            family, replaced = re.subn(rf"-{re.escape(used[1])}(?=-|$)", "", recipe)
            if replaced:
                found.setdefault(family, {})[used[0]] = network.mean
    lines = [
        charts.Line(family, sorted(points), [points[count] for count in sorted(points)])
        for family, points in found.items()
        if len(points) > 1
    ]
    drawn = charts.lines(lines, "photographs with masks", percent=True, width=560, height=300) if lines else ""
    return drawn, [line.name for line in lines]
