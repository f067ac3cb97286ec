"""The stages of a finished run and their scores, each with what must be said beside a number: split, stage, what.

Legend: C classes; a confusion matrix is int64 [C, C+1], its last column 'unlabelled' (core/metrics.py).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from pipeline.core import metrics, store
from pipeline.core.config import ConfigError, explain
from pipeline.core.job import InputError
from pipeline.kinds import classes
from pipeline.report.listing import Entry, Listing

WHAT = {"labels": "label map", "soft": "most probable class", "model": "prediction"}


@dataclass(frozen=True)
class Stage:
    """One artifact of the recipe. name: its step, numbered where the step occurs several times."""

    name: str
    method: str
    folder: str
    kind: str
    artifact: store.Artifact
    inputs: dict[str, Path]
    metrics: store.Artifact | None
    cost: dict[str, float] | None

    @property
    def settings(self) -> dict[str, Any]:
        return self.artifact.manifest["settings"]

    def parent(self, role: str, stages: Sequence[Stage]) -> Stage | None:
        """The stage that plays this role for it; None where nothing does, or the data set itself."""
        path = self.inputs.get(role)
        return next((stage for stage in stages if stage.artifact.path == path), None)


@dataclass(frozen=True)
class Score:
    """One confusion matrix with everything that must be said beside its numbers. look: see charts.Mark."""

    stage: Stage
    what: str
    split: str
    images: int
    matrix: np.ndarray
    background: int | None
    look: str

    @property
    def empty(self) -> bool:
        return not self.matrix.sum()

    @property
    def iou(self) -> np.ndarray:
        return metrics.per_class_iou(self.matrix, background=self.background)

    @property
    def miou(self) -> float:
        return metrics.miou(self.matrix, background=self.background)

    @property
    def miou_labelled(self) -> float:
        return metrics.miou(self.matrix, "ignore", self.background)

    @property
    def coverage(self) -> float:
        return math.nan if self.empty else metrics.coverage(self.matrix)

    @property
    def precision_recall(self) -> tuple[float, float]:
        return metrics.precision_recall(self.matrix)


# ------------------------------------------------------------------------------------------------------- reading


def read_entries(text: str) -> list[Entry]:
    """The JSON list of stages that the workflow passes, as text or as a file."""
    try:
        written = text if text.lstrip().startswith("[") else Path(text).read_text()
    except OSError as error:
        raise InputError(f"--stages: a JSON list, or a file with one, expected ({error})") from None
    try:
        return TypeAdapter(list[Entry]).validate_json(written)
    except ValidationError as error:
        raise ConfigError(explain(error, "--stages", Entry)) from None


def read_stages(text: str) -> list[Stage]:
    return open_stages(read_entries(text))


def read_listing(path: Path) -> Listing:
    """What a page was made from, as it wrote it."""
    try:
        return Listing.model_validate_json(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: a page's listing expected; run snakemake again ({error})") from None
    except ValidationError as error:
        raise ConfigError(explain(error, str(path), Listing)) from None


def open_stages(entries: Sequence[Entry]) -> list[Stage]:
    """Raises ArtifactError where one of them is missing, or is not what the workflow says."""
    steps = [entry.step for entry in entries]
    stages = []
    for number, entry in enumerate(entries):
        step = entry.step
        name = f"{step} {steps[: number + 1].count(step)}" if steps.count(step) > 1 else step
        scores = store.Artifact(entry.metrics, "metrics") if entry.metrics else None
        artifact = store.Artifact(entry.manifest, entry.kind)
        cost = read_benchmark(entry.benchmark)
        stages.append(Stage(name, entry.method, entry.folder, entry.kind, artifact, entry.inputs, scores, cost))
    return stages


def read_benchmark(path: Path | None) -> dict[str, float] | None:
    """Snakemake's benchmark table → seconds, peak memory (MB), CPU seconds; None where there is none."""
    if not path or not path.is_file():
        return None
    with path.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))

    def number(name: str) -> float:
        try:
            return float(rows[-1].get(name) or "nan")
        except ValueError:  # '-' or 'NA' for jobs too short to be measured
            return math.nan

    return {"seconds": number("s"), "memory": number("max_rss"), "cpu": number("cpu_time")} if rows else None


# -------------------------------------------------------------------------------------------------------- scores


def scores_of(stage: Stage) -> list[Score]:
    """The scores of a stage worth showing. Exactly one per split is 'main': what the next step works with."""
    if stage.metrics is None:
        return []
    meta, background = stage.metrics.meta, classes.background(stage.metrics)
    found = []
    for matrices, split in zip(stage.metrics.read("confusion"), meta["splits"], strict=True):
        mious = [metrics.miou(matrix, background=background) for matrix in matrices]
        for k, what, look in chosen_levels(stage.kind, meta["thresholds"], mious):
            found.append(Score(stage, what, split, meta["images"][split], matrices[k], background, look))
    return found


def chosen_levels(
    kind: str, levels: Sequence[float | str | None], mious: Sequence[float]
) -> list[tuple[int, str, str]]:
    """Which entries of the threshold axis to show: (position, what it is, look).

    Entries that are no number stand for the thing itself: a label map, a prediction, the region that seeds claim.
    Numbers are thresholds; a model's are steps of a descent, of which only its own number is shown.
    """
    numbers = {k: float(t) for k, t in enumerate(levels) if isinstance(t, int | float)}
    found = [
        (k, f"{t} region" if t else WHAT.get(kind, kind), "main") for k, t in enumerate(levels) if k not in numbers
    ]
    scored = [k for k in numbers if math.isfinite(mious[k])]  # none: no scored image has a true mask
    if scored and kind != "model":
        best = max(scored, key=lambda k: mious[k])
        found.append((best, f"scores > {numbers[best]:g}, the best single threshold on this split", "best"))
    return found
