"""One HTML page that shows a run: its scores, its pictures, its curves, its settings and what it cost.

The page needs no network and no other file. Every number says its split (score = training images with masks, on which
label quality is measured; val = what the final network is measured on) and its stage.

Reads: images, every artifact of a recipe, their metrics and Snakemake's benchmark tables where they are there.
Writes: one .html. Cost: inference on a few validation images; for each triplet step, features of at most 300 patches.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from pydantic import TypeAdapter, ValidationError

from pipeline.core import cli, data, metrics, show, store
from pipeline.core.config import ConfigError, Evaluate, explain
from pipeline.core.densecrf import DeepLabKernels, dense_crf
from pipeline.report.gallery import Album, contact_sheet, spread, thumbnail_side
from pipeline.core.inference import probabilities
from pipeline.report.ladder import Score, Stage, read_stages, scores_of, used_threshold
from pipeline.core.models import for_inference, load_backbone, load_segmenter

PATCHES = 300  # in an embedding map
TEMPLATE = Path(__file__).parent / "core" / "report.html.j2"


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
    """mIoU of the seeds at every threshold."""
    series = []
    for stage in stages:
        if stage.kind == "seeds" and stage.metrics is not None:
            levels = stage.metrics.meta["thresholds"]
            pairs = [(t, metrics.miou(m)) for t, m in zip(levels, stage.metrics.read("confusion")[0], strict=True)]
            numeric = [(t, value) for t, value in pairs if isinstance(t, int | float)]
            series.append(charts.Line(stage.name, [t for t, _ in numeric], [value for _, value in numeric]))
    return charts.lines(series, "threshold t", percent=True, width=520, height=240) if series else ""


def class_table(scores: Sequence[Score]) -> list[list[float]]:
    """IoU of every class (row) for the main score of every stage (column); NaN where a class is absent."""
    return np.stack([metrics.per_class_iou(score.matrix) for score in scores], 1).tolist() if scores else []


# ------------------------------------------------------------------------------------------------------ pictures


def predictor(
    images: store.Artifact, stage: Stage, settings: Evaluate, device: str, precision: str
) -> Callable[[int], np.ndarray]:
    """Row → label map of a model, made as its scores were: same scales, mirror images and CRF."""
    model = for_inference(load_segmenter(stage.artifact), device)

    def predict(i: int) -> np.ndarray:
        rgb = data.image(images, i)
        scores = probabilities(
            model, rgb, scales=settings.scales, flip=settings.flip, device=device, precision=precision
        )
        if settings.crf:
            scores = dense_crf(rgb, scores, DeepLabKernels())
        return scores.argmax(0).astype(np.uint8)

    return predict


def choose_images(images: store.Artifact, stages: Sequence[Stage], split: str, count: int) -> list[int]:
    """Images to show: of this split, with masks if any has one, and covered by the labels if any is."""
    rows = data.split(images, split)
    conditions = [images.read("has_mask")]
    if split != "val":
        conditions += [stage.artifact.read("covered") for stage in stages if stage.kind == "labels"]
    for condition in conditions:
        rows = rows[condition[rows]] if condition[rows].any() else rows
    return spread(data.image_tags(images), rows, count)


def galleries(
    images: store.Artifact,
    stages: Sequence[Stage],
    count: int,
    predictors: dict[str, Callable[[int], np.ndarray]],
) -> dict[str, list]:
    """Strips of training images through every stage, and of validation images through every model."""
    per_stage = {"saliency": 1, "seeds": 2, "labels": 1, "model": 2}
    album = Album(images, thumbnail_side(count * (4 + sum(per_stage.get(stage.kind, 0) for stage in stages))))
    makers = []
    for stage in stages:
        if stage.kind == "saliency":
            makers.append(album.saliency(stage.artifact, stage.name))
        elif stage.kind == "seeds":
            used = used_threshold(stage, stages)
            makers.append(album.seeds(stage.artifact, stage.name, used[0] if used else None))
        elif stage.kind == "labels":
            makers.append(album.labels(stage.artifact, stage.name))
    train = choose_images(images, stages, "score" if len(data.split(images, "score")) else "train", count)
    val = choose_images(images, stages, "val", count) if predictors else []
    models = [album.predictions(predict, name) for name, predict in predictors.items()]
    return {
        "train": [album.strip(i, [*makers, album.truth]) for i in train] if makers else [],
        "val": [album.strip(i, [*models, album.truth]) for i in val],
    }


def embedding_maps(
    images: store.Artifact, stages: Sequence[Stage], device: str, precision: str
) -> list[dict[str, Any]]:
    """For every triplet step: bank patches in the feature space before and after it."""
    maps = []
    for after in (stage for stage in stages if stage.method == "triplet"):
        source, before = after.parent("patches", stages), after.parent("weights", stages)
        if source is None or before is None:
            continue
        bank = source.artifact
        rows = embedding.choose_patches(bank, PATCHES)
        classes, sources = bank.read("class")[rows], bank.read("image")[rows]
        patches = embedding.patch_images(images, bank, rows, bank.meta["size"])
        names = [bank.meta["classes"][k] for k in classes]
        colours = [show.css(show.palette()[k]) for k in classes]
        panels = []
        for stage in (before, after):
            net = load_backbone(stage.artifact, after.settings["stride"])
            vectors = embedding.features(net, patches, after.settings["pool"], device, precision)
            points, method = embedding.flatten(vectors)
            panels.append(
                {
                    "name": stage.name,
                    "neighbour": embedding.neighbour_accuracy(vectors, classes, sources),
                    "silhouette": embedding.silhouette(vectors, classes),
                    "chart": charts.scatter(points, colours, names),
                }
            )
        chance = float(max(np.bincount(classes)) / len(classes))
        maps.append({"name": after.name, "patches": len(rows), "method": method, "chance": chance, "panels": panels})
    return maps


# ---------------------------------------------------------------------------------------------------------- page


def run(
    recipe: str,
    seed: int,
    images_path: Path,
    stages_text: str,
    evaluate: Evaluate,
    count: int,
    out: Path,
    device: str = "cpu",
    precision: str = "f32",
) -> None:
    """Gather everything and write the page."""
    images, stages = store.Artifact(images_path, "images"), read_stages(stages_text)
    scores = [score for stage in stages for score in scores_of(stage, stages)]
    main = [score for score in scores if score.look == "main"]
    models = {
        stage.name: predictor(images, stage, evaluate, device, precision) for stage in stages if stage.kind == "model"
    }
    banks = [stage for stage in stages if stage.kind == "patches"]
    page = render(
        recipe=recipe,
        seed=seed,
        stages=stages,
        scored=any(not score.empty for score in scores),
        protocol=facts.protocol(images, stages, seed, evaluate),
        classes=facts.class_legend(images),
        scores=scores,
        final=next((score for score in reversed(main) if score.split == "val" and not score.empty), None),
        quality=next((s for s in reversed(main) if s.stage.kind == "labels" and not s.empty), None),
        ladder=ladder_chart(scores),
        thresholds=threshold_chart(stages),
        class_heads=main,
        class_rows=class_table(main),
        strips=galleries(images, stages, count, models),
        rounds=facts.erasing_rounds(stages),
        banks=[{"name": stage.name, "rows": contact_sheet(images, stage.artifact)} for stage in banks],
        maps=embedding_maps(images, stages, device, precision),
        curves=facts.training_curves(stages),
        settings=[facts.settings_of(stage) for stage in stages],
        costs=facts.costs(stages),
        crf=evaluate.crf,
    )
    store.write_atomic(out, page)
    print(f"{out}: {len(stages)} stages, {len(page.encode()) / 1e6:.1f} MB", flush=True)


def render(**content: Any) -> str:
    """The page. NaN becomes a blank, never a number."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda x, digits=1: "" if x is None or math.isnan(x) else f"{100 * x:.{digits}f}"
    environment.filters["duration"] = duration
    environment.filters["real"] = lambda x, digits=3: "" if x is None or math.isnan(x) else f"{x:.{digits}f}"
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**content)


def duration(seconds: float) -> str:
    """Seconds → '12 s', '3:05 min', '2:10 h'."""
    if math.isnan(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", required=True, help="its name, for the title")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument(
        "--stages", required=True, help="JSON list (or a file): step, method, folder, kind, manifest, …"
    )
    parser.add_argument("--evaluate", default="{}", help="JSON of the `evaluate:` block of config.yaml")
    parser.add_argument("--show", type=int, default=8, help="pictures shown at every stage")
    parser.add_argument("--out", type=Path, required=True, help="page to write, .html")
    cli.add_compute(parser)
    args = parser.parse_args(argv)
    cli.guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    try:
        evaluate = TypeAdapter(Evaluate).validate_json(args.evaluate)
    except ValidationError as error:
        raise ConfigError(explain(error, "--evaluate")) from None
    cli.limit_threads(args.threads)
    device = cli.pick_device(args.device)
    precision = cli.pick_precision(args.precision, device)
    run(args.recipe, args.seed, args.images, args.stages, evaluate, args.show, args.out, device, precision)


if __name__ == "__main__":
    main()
