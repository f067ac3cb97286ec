"""One HTML page that sets all recipes of a run side by side, over all its seeds.

It needs no network and no other file, and links the pages of single runs, which lie beside it. A number that they show
too is derived by the same function. What a recipe lacks is said, never guessed.

Reads: photographs, tags, masks; the listings that the single pages wrote, and what these name: artifacts, their metrics
and Snakemake's benchmark tables, if any.
Writes: one .html. Cost: inference of the networks of each recipe's first seed on at most 6 validation images.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core import cli, store
from pipeline.core.config import Evaluate, parse_block
from pipeline.core.steps.base import DATA
from pipeline.kinds import masks, photographs
from pipeline.report import charts, facts
from pipeline.report.compare import compare
from pipeline.report.dataset import Dataset
from pipeline.report.ladder import Score
from pipeline.report.page import ladder_chart, predictor, show_truth
from pipeline.report.render import duration, render
from pipeline.report.runs import Pick, Recipes, Run, group, mask_curves, mean_sd, picked, read_runs, warnings

CEILING = "supervised"  # the recipe that learns from all masks, whose share the others reach
# Of the protocol, what holds for all recipes alike.
SHARED = ("data set", "images", "splits", "tags from", "final network at test time", "dense CRF at test time")


@dataclass(frozen=True)
class Cell:
    """One cell of the table. sort: what its rows are ordered by, None: last whatever the order."""

    text: str
    note: str = ""
    sort: float | None = None


@dataclass(frozen=True)
class Column:
    """About a column. first: the order of the first click."""

    title: str
    note: str
    first: str = "descending"


def miou_cell(found: charts.Group | None, runs: Sequence[Run], why: str, note: str = "") -> Cell:
    """'61.3 ± 0.8', with what else must be said below; or why there is nothing."""
    if found is None:
        return Cell("–", why)
    spread = f" ± {100 * found.sd:.1f}" if math.isfinite(found.sd) else ""
    few = f"{len(found.values)} of {len(runs)} seeds" if len(found.values) < len(runs) else ""
    return Cell(f"{100 * found.mean:.1f}{spread}", " · ".join(filter(None, (note, few))), found.mean)


def missing(data: Dataset, runs: Sequence[Run], kinds: Sequence[str], split: str) -> str:
    """Why recipes have no score of these kinds on a split."""
    if not any(stage.kind in kinds for run in runs for stage in run.stages):
        return "makes none"
    if not masks.has_mask(data.masks)[photographs.split(data.photographs, split)].any():
        return "no true masks"
    empty = any(score.empty for run in runs for score in run.scores if score.stage.kind in kinds)
    return "no labelled pixel with a true mask" if empty else "not scored"


def stages_of(scores: Sequence[Score]) -> str:
    return ", ".join(dict.fromkeys(score.stage.name for score in scores))


def labels_note(scores: Sequence[Score], scorable: int) -> str:
    """scorable: how many photographs can be scored. Labels of fewer, as of simple images, must not pass for all."""
    if not scores:
        return ""
    note = f"{stages_of(scores)}, {np.mean([score.coverage for score in scores]):.0%}"
    seen = round(np.mean([score.images for score in scores]))
    return note if seen >= scorable else f"{note} of {seen} of {scorable} photographs"


def best_note(scores: Sequence[Score]) -> str:
    return ", ".join(dict.fromkeys(score.what.split(",")[0].removeprefix("scores ") for score in scores))


def time_cell(runs: Sequence[Run]) -> Cell:
    found = [run.costs for run in runs]
    mean, _ = mean_sd([cost["total"] for cost in found if math.isfinite(cost["total"])])
    if math.isnan(mean):
        return Cell("–", "not measured")
    left_out = sum(cost["missing"] for cost in found)
    note = f"{left_out} job{'s' * (left_out > 1)} not measured" if left_out else ""
    return Cell(duration(mean), note, mean)


def memory_cell(runs: Sequence[Run]) -> Cell:
    peaks = [cost["peak"] for cost in (run.costs for run in runs) if math.isfinite(cost["peak"])]
    return Cell(f"{max(peaks) / 1000:.2f} GB", "", max(peaks)) if peaks else Cell("–", "not measured")


def table(data: Dataset, recipes: Recipes) -> tuple[list[Column], list[dict[str, Any]]]:
    """Columns, and one row a recipe: its name, its cells, its runs."""
    columns = [Column("network", "% mIoU, val")]
    ceiling = group(CEILING, recipes.get(CEILING, ()), lambda run: run.network)
    if ceiling:
        columns.append(Column("share", f"% of {CEILING}"))
    columns += [
        Column("labels", "% mIoU, score"),
        Column("seeds", "% mIoU, score, as claimed"),
        Column("best seeds", "% mIoU, score, one threshold"),
        Column("time", "one seed", "ascending"),
        Column("memory", "largest job", "ascending"),
    ]
    rows, scorable = [], int(masks.has_mask(data.masks)[photographs.split(data.photographs, "score")].sum())
    for recipe, runs in recipes.items():
        network = group(recipe, runs, lambda run: run.network)
        cells = [miou_cell(network, runs, missing(data, runs, ["model"], "val"))]
        if ceiling:
            share = network.mean / ceiling.mean if network and ceiling.mean else None
            cells.append(Cell("–") if share is None else Cell(f"{100 * share:.1f}", "", share))
        for pick, kinds, noted in (
            (lambda run: run.labels, ("labels", "soft"), lambda scores: labels_note(scores, scorable)),
            (lambda run: run.seeds, ("seeds",), stages_of),
            (lambda run: run.best, ("seeds",), best_note),
        ):
            why, note = missing(data, runs, kinds, "score"), noted(picked(runs, pick))
            cells.append(miou_cell(group(recipe, runs, pick), runs, why, note))
        rows.append({"recipe": recipe, "runs": runs, "cells": [*cells, time_cell(runs), memory_cell(runs)]})
    return columns, rows


def class_rows(recipes: Recipes, pick: Pick) -> list[dict[str, Any]]:
    """Per recipe that has the score: its IoU of every class and its mIoU, means over the seeds; NaN: no true pixel."""
    rows = []
    for recipe, runs in recipes.items():
        found = picked(runs, pick)
        if found:
            columns = np.stack([score.iou for score in found], 1)
            iou = [mean_sd(values[np.isfinite(values)])[0] for values in columns]
            rows.append({"recipe": recipe, "iou": iou, "miou": mean_sd([score.miou for score in found])[0]})
    return rows


def chart(recipes: Recipes) -> str:
    """The final networks of all recipes, the best on top."""
    found = [group(recipe, runs, lambda run: run.network) for recipe, runs in recipes.items()]
    ordered = sorted(filter(None, found), key=lambda one: -one.mean)
    return charts.groups(ordered, "mIoU on val, %", next((one for one in ordered if one.name == CEILING), None))


def notes(data: Dataset, recipes: Recipes) -> list[tuple[str, str]]:
    """What a reader would look for in vain, and the command that gets it, if any."""
    found = []
    masked = masks.has_mask(data.masks)
    if not masked.any():
        return [("No scores: the data set has no true masks, so nothing could be measured. All else is shown.", "")]
    for split, what in (("val", "the final networks"), ("score", "seeds and labels")):
        if not masked[photographs.split(data.photographs, split)].any():
            found.append((f"No scores of {what}: no image of split {split} has a true mask.", ""))
    if CEILING not in recipes and masked[photographs.split(data.photographs, "val")].any():
        why = f"The share of {CEILING} is left out, since this run has no recipe of that name. To have it, run with"
        found.append((why, f"--config run='[{', '.join([*recipes, CEILING])}]'"))
    return found


# ----------------------------------------------------------------------------------------------------------- page


def run(
    data: Dataset, recipes: Recipes, evaluate: Evaluate, count: int, out: Path, device: str, precision: str
) -> None:
    """Gather everything and write the page."""
    firsts = [runs[0] for runs in recipes.values()]
    columns, rows = table(data, recipes)
    distinct = {stage.artifact.path: stage for runs in recipes.values() for one in runs for stage in one.stages}
    pictures = compare(
        data,
        {one.recipe: one.stages for one in firsts},
        count,
        lambda model: predictor(data, model, evaluate, device, precision),
    )
    found, walls = warnings(recipes), (("train", pictures.labels), ("val", pictures.predictions))
    sure = [recipe for recipe in found if all(run.verdict and run.verdict.judged for run in recipes[recipe])]
    page = render(
        "index.html.j2",
        title=data.photographs.path.parent.name,
        recipes=recipes,
        seeds=list(dict.fromkeys(one.seed for runs in recipes.values() for one in runs)),
        protocol=[(name, text) for name, text in facts.protocol(data, [], 0, evaluate) if name in SHARED],
        classes=facts.class_legend(data),
        notes=notes(data, recipes),
        warnings=found,
        fine=[recipe for recipe in sure if not found[recipe]],
        unsure=[recipe for recipe, findings in found.items() if not findings and recipe not in sure],
        masked={split: wall is not None and show_truth(wall.strips) for split, wall in walls},
        columns=columns,
        rows=rows,
        chart=chart(recipes),
        mask_curves=mask_curves(recipes),
        per_class=[
            ("final networks, split val", class_rows(recipes, lambda run: run.network)),
            ("labels they learn from, split score", class_rows(recipes, lambda run: run.labels)),
        ],
        ladders={one.recipe: ladder_chart(one.scores) for one in firsts},
        pictures=pictures,
        costs=facts.costs(list(distinct.values())),
        jobs=len(distinct),
        crf=evaluate.crf,
        background=data.background is not None,
    )
    store.write_atomic(out, page)
    print(f"{out}: {len(recipes)} recipes, {len(page.encode()) / 1e6:.1f} MB", flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.report.index",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for kind in DATA:
        parser.add_argument(f"--{kind}", type=Path, required=True, help=f"manifest of the data set's {kind}")
    parser.add_argument(
        "--listings", type=Path, nargs="+", required=True, help="what the single pages wrote with --listing"
    )
    parser.add_argument("--evaluate", default="{}", help="JSON of the `evaluate:` block of config.yaml")
    parser.add_argument("--show", type=int, default=8, help="pictures shown at every stage; 6 at most")
    parser.add_argument("--out", type=Path, required=True, help="page to write, .html, beside the single pages")
    cli.add_compute(parser)
    args = parser.parse_args(argv)
    cli.guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    evaluate = parse_block(Evaluate, args.evaluate, "--evaluate")
    data, recipes = Dataset.open(args.photographs, args.tags, args.masks), read_runs(args.listings)
    device, precision = "cpu", "f32"
    if any(stage.kind == "model" for runs in recipes.values() for stage in runs[0].stages):
        cli.limit_threads(args.threads)
        device, precision = cli.pick_compute(args.device, args.precision)
    run(data, recipes, evaluate, args.show, args.out, device, precision)


if __name__ == "__main__":
    main()
