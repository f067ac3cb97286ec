"""One HTML page that shows a run: a verdict, its scores, its pictures, its curves, its settings and what it cost.

The page needs no network and no other file. Every number says its split (score = training images with masks, on which
label quality is measured; val = what the final network is measured on) and its stage.

Reads: photographs, tags, masks, every artifact of a recipe; their metrics and Snakemake's benchmark tables, if any.
Writes: one .html; where --listing says so, what it was made from, which is what the index of all recipes reads.
Cost: inference on at most 200 validation images (evidence.py), of its last network and of its tag classifier; for each
triplet step, features of at most 300 patches.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core import cli, metrics, show, store
from pipeline.core.config import Evaluate, parse_block
from pipeline.core.steps.base import DATA
from pipeline.kinds import classes, masks, photographs, tags
from pipeline.report import charts, embedding, evidence, facts, verdict
from pipeline.report.dataset import Dataset
from pipeline.report.gallery import Album, Maker, Strip, contact_sheet, spread, thumbnail_side
from pipeline.report.ladder import Score, Stage, read_entries, read_stages, scores_of
from pipeline.report.listing import Listing, Verdict
from pipeline.report.render import render

PATCHES = 300  # in an embedding map
PICTURES = {
    "saliency": 1,
    "hypotheses": 1,
    "seeds": 2,
    "labels": 1,
    "soft": 2,
    "model": 2,
}  # of one photograph, by kind


def ladder_chart(scores: Sequence[Score]) -> str:
    rungs = []
    for main in (score for score in scores if score.look == "main" and not score.empty):
        best = [s for s in scores if s.look == "best" and s.stage is main.stage and s.split == main.split]
        marks = [charts.Mark(main.miou, f"mIoU on split {main.split} ({main.what})")]
        marks += [charts.Mark(s.miou, f"mIoU on split {s.split} ({s.what})", "best") for s in best]
        if main.coverage < 0.9995:
            text = f"mIoU of the labelled pixels alone, split {main.split}"
            marks.append(charts.Mark(main.miou_labelled, text, "only"))
        rungs.append(
            charts.Rung(main.stage.name, f"{main.what.split(',')[0]} · {main.coverage:.0%}", main.split, marks)
        )
    return charts.ladder(rungs, {"score": "split score · training images with masks", "val": "split val"})


def threshold_chart(stages: Sequence[Stage]) -> str:
    """mIoU at every threshold of these seeds, which are scored."""
    series = []
    for stage in stages:
        if stage.metrics is not None:
            levels, none = stage.metrics.meta["thresholds"], classes.background(stage.metrics)
            pairs = zip(levels, stage.metrics.read("confusion")[0], strict=True)
            numeric = [(t, metrics.miou(m, background=none)) for t, m in pairs if isinstance(t, int | float)]
            series.append(charts.Line(stage.name, [t for t, _ in numeric], [value for _, value in numeric]))
    return charts.lines(series, "threshold t", percent=True, width=520, height=240) if series else ""


def class_table(scores: Sequence[Score]) -> list[list[float]]:
    """IoU of every class (row) for the main score of every stage (column); NaN where a class is absent."""
    return np.stack([score.iou for score in scores], 1).tolist() if scores else []


# ------------------------------------------------------------------------------------------------------ pictures


def predictor(
    data: Dataset, model: store.Artifact, settings: Evaluate, device: str, precision: str
) -> Callable[..., np.ndarray]:
    """Row → label map of a model as it was scored, at the true mask's size; without a mask at the photograph's.
    plain: at the photograph's size without a CRF, which takes seconds a picture and finds no other classes."""
    from pipeline.networks.door import open_network, predict_labels  # a page without a model need not wait for it

    network = open_network(model, device, precision, settings.scales, settings.flip)

    def predict(i: int, plain: bool = False) -> np.ndarray:
        rgb, truth = photographs.image(data.photographs, i), None if plain else data.truth(i)
        height, width = rgb.shape[:2] if truth is None else truth.shape
        return predict_labels(network, rgb, (height, width), crf=settings.crf and not plain)

    return predict


def choose_images(data: Dataset, stages: Sequence[Stage], split: str, count: int) -> list[int]:
    """Images to show: of this split, with masks if any has one, and covered by the labels if any is."""
    rows = photographs.split(data.photographs, split)
    conditions = [masks.has_mask(data.masks)]
    if split != "val":
        conditions += [stage.artifact.read("covered") for stage in stages if stage.kind in ("labels", "soft")]
    for condition in conditions:
        rows = rows[condition[rows]] if condition[rows].any() else rows
    return spread(tags.tags(data.tags), rows, count)


def labelled_split(data: Dataset) -> str:
    """The split on which labels are shown: where they are scored, if anywhere."""
    return "score" if len(photographs.split(data.photographs, "score")) else "train"


def makers_of(album: Album) -> dict[str, Callable[[store.Artifact, str], Maker]]:
    """What draws an artifact of a kind, given its title; kinds that no network is needed for."""
    return {
        "saliency": album.saliency,
        "hypotheses": album.hypotheses,
        "seeds": album.seeds,
        "labels": album.labels,
        "soft": album.soft,
    }


def galleries(
    data: Dataset, stages: Sequence[Stage], count: int, predictors: dict[str, Callable[[int], np.ndarray]]
) -> dict[str, list[Strip]]:
    """Strips of training images through every stage, and of validation images through every model."""
    album = Album(data, thumbnail_side(count * (4 + sum(PICTURES.get(stage.kind, 0) for stage in stages))))
    draw = makers_of(album)
    makers = [draw[stage.kind](stage.artifact, stage.name) for stage in stages if stage.kind in draw]
    train = choose_images(data, stages, labelled_split(data), count) if makers else []
    val = choose_images(data, stages, "val", count) if predictors else []
    models = [album.predictions(predict, name) for name, predict in predictors.items()]
    return {"train": album.strips(train, makers), "val": album.strips(val, models)}


def embedding_maps(data: Dataset, stages: Sequence[Stage], device: str, precision: str) -> list[dict[str, Any]]:
    """For every triplet step: bank patches in the feature space before and after it."""
    maps = []
    for after in (stage for stage in stages if stage.method == "triplet"):
        source, before = after.parent("patches", stages), after.parent("weights", stages)
        if source is None or before is None:
            continue
        from pipeline.networks.backbones import load_backbone  # see `predictor`
        from pipeline.report.features import features

        bank = source.artifact
        rows = embedding.choose_patches(bank, PATCHES)
        ids, sources = bank.read("class")[rows], bank.read("image")[rows]
        patches = embedding.patch_images(data.photographs, bank, rows, bank.meta["size"])
        names = [classes.names(bank)[k] for k in ids]
        colours = [show.css(show.palette()[k]) for k in ids]
        panels = []
        for stage in (before, after):
            net = load_backbone(stage.artifact, after.settings["stride"])
            vectors = features(net, patches, after.settings["pool"], device, precision)
            points, method = embedding.flatten(vectors)
            panels.append(
                {
                    "name": stage.name,
                    "neighbour": embedding.neighbour_accuracy(vectors, ids, sources),
                    "silhouette": embedding.silhouette(vectors, ids),
                    "chart": charts.scatter(points, colours, names),
                }
            )
        chance = float(max(np.bincount(ids)) / len(ids))
        maps.append({"name": after.name, "patches": len(rows), "method": method, "chance": chance, "panels": panels})
    return maps


# ---------------------------------------------------------------------------------------------------------- page


def quality(scores: Sequence[Score], stages: Sequence[Stage]) -> Score | None:
    """The score of the labels that the last network learns from; where there is none, of the last labels."""
    models = [stage for stage in stages if stage.kind == "model"]
    source = models[-1].parent("labels", stages) if models else None
    main = [score for score in scores if score.look == "main" and not score.empty]
    found = [score for score in main if score.stage.kind in ("labels", "soft")]
    return next((score for score in reversed(found) if not models or score.stage is source), None)


def unscored(scores: Sequence[Score]) -> list[str]:
    """What was to be scored and could not be, a sentence for each split."""
    names: dict[str, dict[str, None]] = {}
    for score in scores:
        if score.empty:
            names.setdefault(score.split, {})[score.stage.name] = None
    return [
        f"No scores of {', '.join(found)}: no image of split {split} that it could be compared on has a true mask."
        for split, found in names.items()
    ]


def show_truth(strips: Sequence[Strip]) -> bool:
    """Whether any of these photographs is shown with its true mask."""
    return any(cell.title == "true mask" and cell.src for strip in strips for cell in strip.cells)


def final_score(scores: Sequence[Score]) -> Score | None:
    """The score of the last network on val."""
    found = (score for score in reversed(scores) if score.look == "main" and score.split == "val")
    return next((score for score in found if not score.empty), None)


def run(
    recipe: str,
    seed: int,
    data: Dataset,
    stages: list[Stage],
    evaluate: Evaluate,
    count: int,
    out: Path,
    device: str = "cpu",
    precision: str = "f32",
    threads: int = 1,
) -> Verdict:
    """Gather everything and write the page. Returns its verdict."""
    every = [score for stage in stages for score in scores_of(stage)]
    scores = [score for score in every if not score.empty]
    main = [score for score in scores if score.look == "main"]
    models = {
        stage.name: predictor(data, stage.artifact, evaluate, device, precision)
        for stage in stages
        if stage.kind == "model"
    }
    last = next((models[stage.name] for stage in reversed(stages) if stage.kind == "model"), None)
    plain = partial(last, plain=True) if last else None
    # Before anything else: it forks, and torch must not have computed yet.
    found = evidence.gather(data, stages, plain, device, precision, threads)
    judged = verdict.judge(found)
    strips = galleries(data, stages, count, models)
    seeds = [score.stage for score in scores if score.look == "best"]
    banks = [stage for stage in stages if stage.kind == "patches"]
    page = render(
        "page.html.j2",
        recipe=recipe,
        seed=seed,
        stages=stages,
        verdict=judged,
        verdict_rows=verdict.table(found),
        most=evidence.MOST,
        visible=evidence.VISIBLE,
        unscored=unscored(every),
        measured=bool(every),
        any_mask=bool(masks.has_mask(data.masks).any()),
        protocol=facts.protocol(data, stages, seed, evaluate),
        classes=facts.class_legend(data),
        renumbered=facts.renumbered(data),
        background=data.background is not None,
        scores=scores,
        final=final_score(scores),
        quality=quality(scores, stages),
        ladder=ladder_chart(scores),
        thresholds=threshold_chart(seeds),
        threshold_stages=seeds,
        class_heads=main,
        class_rows=class_table(main),
        strips=strips,
        masked={split: show_truth(found) for split, found in strips.items()},
        rounds=facts.erasing_rounds(stages),
        banks=[{"name": stage.name, "rows": contact_sheet(data.photographs, stage.artifact)} for stage in banks],
        maps=embedding_maps(data, stages, device, precision),
        curves=facts.training_curves(stages),
        settings=[facts.settings_of(stage, stages) for stage in stages],
        costs=facts.costs(stages),
        crf=evaluate.crf,
    )
    store.write_atomic(out, page)
    print(f"{out}: {len(stages)} stages, {len(page.encode()) / 1e6:.1f} MB", flush=True)
    return judged


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", required=True, help="its name, for the title")
    for kind in DATA:
        parser.add_argument(f"--{kind}", type=Path, required=True, help=f"manifest of the data set's {kind}")
    parser.add_argument(
        "--stages", required=True, help="JSON list (or a file): step, method, folder, kind, manifest, inputs, …"
    )
    parser.add_argument("--evaluate", default="{}", help="JSON of the `evaluate:` block of config.yaml")
    parser.add_argument("--show", type=int, default=8, help="pictures shown at every stage")
    parser.add_argument("--out", type=Path, required=True, help="page to write, .html")
    parser.add_argument("--listing", type=Path, help="file to write what it was made from, .json: for the index")
    cli.add_compute(parser)
    args = parser.parse_args(argv)
    cli.guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    evaluate = parse_block(Evaluate, args.evaluate, "--evaluate")
    data, stages = Dataset.open(args.photographs, args.tags, args.masks), read_stages(args.stages)
    # Without a model the job asks the cluster for no GPU (rules/report.smk), so it must not take one.
    network = any(stage.kind == "model" for stage in stages)
    if network or any(stage.method == "triplet" for stage in stages):
        cli.limit_threads(args.threads)
    device, precision = cli.pick_compute(args.device, args.precision) if network else ("cpu", "f32")
    where = args.out, device, precision, args.threads
    judged = run(args.recipe, args.seed, data, stages, evaluate, args.show, *where)
    if args.listing:
        shown = read_entries(args.stages)
        listing = Listing(recipe=args.recipe, seed=args.seed, page=args.out.name, stages=shown, verdict=judged)
        store.write_atomic(args.listing, listing.model_dump_json(indent=1) + "\n")


if __name__ == "__main__":
    main()
