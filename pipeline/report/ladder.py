"""The stages of a finished run and their scores, each with what must be said beside a number: split, stage, what.

Legend: C classes; a confusion matrix is int64 [C, C+1], its last column 'unlabelled' (core/metrics.py).
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core import cli, metrics, store

WHAT = {"labels": "label map", "model": "prediction"}


@dataclass(frozen=True)
class Stage:
    """One artifact of the recipe. name: its step, numbered where the step occurs several times."""

    name: str
    method: str
    folder: str
    kind: str
    artifact: store.Artifact
    metrics: store.Artifact | None
    cost: dict[str, float] | None

    @property
    def settings(self) -> dict[str, Any]:
        return self.artifact.manifest["settings"]

    def parent(self, kind: str, stages: Sequence[Stage]) -> Stage | None:
        """The stage whose artifact of this kind it was made from.

        Only earlier stages count: an erasing round that passed its seeds on has the digest of the round before.
        """
        digest = self.artifact.manifest["parents"].get(kind)
        place = next(k for k, stage in enumerate(stages) if stage is self)
        earlier = (stage for stage in reversed(stages[:place]) if stage.kind == kind)
        return next((stage for stage in earlier if stage.artifact.digest == digest), None)


@dataclass(frozen=True)
class Score:
    """One confusion matrix with everything that must be said beside its numbers. look: see charts.Mark."""

    stage: Stage
    what: str
    split: str
    images: int
    matrix: np.ndarray
    look: str

    @property
    def empty(self) -> bool:
        return not self.matrix.sum()

    @property
    def miou(self) -> float:
        return metrics.miou(self.matrix)

    @property
    def miou_labelled(self) -> float:
        return metrics.miou(self.matrix, "ignore")

    @property
    def coverage(self) -> float:
        return math.nan if self.empty else metrics.coverage(self.matrix)

    @property
    def precision_recall(self) -> tuple[float, float]:
        return metrics.precision_recall(self.matrix)


# ------------------------------------------------------------------------------------------------------- reading


def read_stages(text: str) -> list[Stage]:
    """Stages from the JSON list that the workflow passes, as text or as a file."""
    try:
        entries = json.loads(text if text.lstrip().startswith("[") else Path(text).read_text())
    except (OSError, ValueError) as error:
        raise cli.InputError(f"--stages: a JSON list, or a file with one, expected ({error})") from None
    steps = [entry["step"] for entry in entries]
    stages = []
    for number, entry in enumerate(entries):
        step = entry["step"]
        name = f"{step} {steps[: number + 1].count(step)}" if steps.count(step) > 1 else step
        scores = store.Artifact(entry["metrics"], "metrics") if entry.get("metrics") else None
        artifact = store.Artifact(entry["manifest"], entry["kind"])
        cost = read_benchmark(entry.get("benchmark"))
        stages.append(Stage(name, entry["method"], entry["folder"], entry["kind"], artifact, scores, cost))
    return stages


def read_benchmark(path: str | None) -> dict[str, float] | None:
    """Snakemake's benchmark table → seconds, peak memory (MB), CPU seconds; None where there is none."""
    if not path or not Path(path).is_file():
        return None
    with Path(path).open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))

    def number(name: str) -> float:
        try:
            return float(rows[-1].get(name) or "nan")
        except ValueError:  # '-' or 'NA' for jobs too short to be measured
            return math.nan

    return {"seconds": number("s"), "memory": number("max_rss"), "cpu": number("cpu_time")} if rows else None


# -------------------------------------------------------------------------------------------------------- scores


def used_threshold(stage: Stage, stages: Sequence[Stage]) -> tuple[float, str] | None:
    """The score threshold at which the next step reads these seeds, and that step; None if it reads mined regions."""
    if stage.kind != "seeds" or len(stage.artifact.meta["rounds"]) > 1:
        return None
    for other in stages:
        if other.parent("seeds", stages) is stage:
            if other.method == "crf":
                return other.settings["foreground"], other.name
            if other.method == "erase" and other.settings["reading"] != "top_pixels":
                t = other.settings["threshold"]
                return t if other.settings["reading"] == "of_max" else 1 - t, other.name
    return None


def scores_of(stage: Stage, stages: Sequence[Stage]) -> list[Score]:
    """The scores of a stage worth showing. Exactly one per split is 'main': what the next step really works with."""
    if stage.metrics is None:
        return []
    meta, confusion = stage.metrics.meta, stage.metrics.read("confusion")
    used = used_threshold(stage, stages)
    found = []
    for matrices, split in zip(confusion, meta["splits"], strict=True):
        for k, what, look in chosen_levels(stage.kind, meta["thresholds"], [metrics.miou(m) for m in matrices], used):
            found.append(Score(stage, what, split, meta["images"][split], matrices[k], look))
    return found


def chosen_levels(
    kind: str, levels: Sequence[float | str | None], mious: Sequence[float], used: tuple[float, str] | None
) -> list[tuple[int, str, str]]:
    """Which entries of the threshold axis to show: (position, what it is, look).

    Entries that are no number stand for the thing itself (a label map, a prediction, the mined region).
    """
    at = {k: float(t) for k, t in enumerate(levels) if isinstance(t, int | float)}
    found = [
        (k, str(t or WHAT.get(kind, kind)).replace("mined", "mined region"), "main")
        for k, t in enumerate(levels)
        if k not in at
    ]
    if at and used and not found:
        near = min(at, key=lambda k: abs(at[k] - used[0]))
        off = "" if math.isclose(at[near], used[0], abs_tol=1e-6) else f" (its threshold is {used[0]:g})"
        found.append((near, f"scores > {at[near]:g}, as {used[1]} reads them{off}", "main"))
    if at:
        best = max(at, key=lambda k: np.nan_to_num(mious[k], nan=-1.0))
        found.append(
            (best, f"scores > {at[best]:g}, the best single threshold on this split", "best" if found else "main")
        )
    return found
