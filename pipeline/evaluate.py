"""Scores of an artifact against the true masks, at original resolution.

Seeds and labels are scored on split `score` (training images with masks), models on split `val`: the two are never
mixed up, because every number carries its split. Seeds are scored at many thresholds (label = best-scoring tag where
its score exceeds t, else background), erasing rounds also as the mined region itself.

Reads: images and one of seeds, labels, model. Makes: metrics = confusion int64 [splits, thresholds, C, C+1].
Cost: one pass over the split; for a model, its inference.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from pipeline.core import cli, data, recipe, store
from pipeline.core.config import Evaluate
from pipeline.core.densecrf import DeepLabKernels, dense_crf
from pipeline.core.inference import label_map, probabilities
from pipeline.core.metrics import bands, confusion, miou
from pipeline.core.models import for_inference, load_segmenter
from pipeline.core.processes import over_processes

SPLIT = {"seeds": "score", "labels": "score", "model": "val"}
Count = Callable[[int], np.ndarray]  # row → int64 [thresholds, C, C+1]


def thresholds(count: int) -> np.ndarray:
    """Evenly spaced inside (0, 1): 19 → 0.05, 0.10, ... 0.95."""
    return np.round(np.arange(1, count + 1) / (count + 1), 4)


def at_thresholds(
    truth: np.ndarray, best: np.ndarray, score: np.ndarray, levels: np.ndarray, classes: int
) -> np.ndarray:
    """Confusion matrices of 'best where score > t, else background' for every t, from one histogram.

    truth, best: uint8 [h,w]; score: f32 [h,w]; levels ascending. → int64 [T, C, C+1].
    """
    flat_counts = np.zeros(classes * classes * (len(levels) + 1), np.int64)
    for rows in bands(truth):
        valid = truth[rows] != data.VOID
        bins = np.searchsorted(levels, score[rows][valid], side="left")  # how many thresholds the score exceeds
        flat = (truth[rows][valid].astype(np.int64) * classes + best[rows][valid]) * (len(levels) + 1) + bins
        flat_counts += np.bincount(flat, minlength=len(flat_counts))
    counts = flat_counts.reshape(classes, classes, -1)
    out = np.zeros((len(levels), classes, classes + 1), np.int64)
    for t in range(len(levels)):
        out[t, :, :classes] = counts[:, :, t + 1 :].sum(2)
        out[t, :, 0] += counts[:, :, : t + 1].sum((1, 2))
    return out


def seeds_counter(
    images: store.Artifact, seeds: store.Artifact, settings: Evaluate
) -> tuple[Count, list[float | str | None]]:
    levels, classes = thresholds(settings.thresholds), len(data.class_names(images))
    rounds = len(seeds.meta["rounds"])

    def count(i: int) -> np.ndarray:
        truth = data.true_mask(images, i)
        (h, w), ids = images["size"][i], np.asarray(seeds["classes"][i])
        ids = ids[ids != data.VOID]
        if not len(ids):
            ids, scores, first = np.zeros(1, np.uint8), np.zeros((1, h, w), np.float32), np.zeros((1, h, w), np.uint8)
        else:
            scores, first = (
                data.from_grid(seeds[name][i, : len(ids)], seeds.meta["grid"], h, w) for name in ("scores", "first")
            )
        best = data.resize_nearest(ids[scores.argmax(0)], *truth.shape)
        score = data.resize_nearest(scores.max(0), *truth.shape)
        matrices = at_thresholds(truth, best, score, levels, classes)
        if rounds > 1:
            region = np.where(first > 0, scores, -1.0)
            labels = np.where((first > 0).any(0), ids[region.argmax(0)], 0).astype(np.uint8)
            mined = confusion(truth, data.resize_nearest(labels, *truth.shape), classes)
            matrices = np.concatenate([matrices, mined[None]])
        return matrices

    return count, [*levels.tolist(), *(["mined"] if rounds > 1 else [])]


def labels_counter(images: store.Artifact, labels: store.Artifact) -> Count:
    classes = len(data.class_names(images))

    def count(i: int) -> np.ndarray:
        truth = data.true_mask(images, i)
        predicted = data.resize_nearest(data.labels_at(labels, images, i), *truth.shape)
        return confusion(truth, predicted, classes)[None]

    return count


def model_counter(
    images: store.Artifact, model: store.Artifact, settings: Evaluate, device: str, precision: str
) -> Count:
    net, classes = for_inference(load_segmenter(model), device), len(data.class_names(images))

    def count(i: int) -> np.ndarray:
        rgb, truth = data.image(images, i), data.true_mask(images, i)
        scores = probabilities(net, rgb, scales=settings.scales, flip=settings.flip, device=device, precision=precision)
        if settings.crf:
            scores = dense_crf(rgb, scores, DeepLabKernels())
        return confusion(truth, label_map(scores, *truth.shape), classes)[None]

    return count


def total(count: Count, rows: Iterable[int], processes: int) -> np.ndarray:
    """Sum of the images' matrices."""
    return sum(over_processes(count, rows, processes), start=np.zeros((), np.int64))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--of", type=Path, required=True, help="manifest of seeds, labels or a model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--settings", default="{}", help="JSON of the `evaluate:` block of config.yaml")
    cli.add_compute(parser)
    args = parser.parse_args(argv)
    cli.guarded(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    settings = TypeAdapter(Evaluate).validate_json(args.settings)
    images, scored = store.Artifact(args.images, "images"), store.Artifact(args.of)
    if scored.kind not in SPLIT:
        raise cli.InputError(f"{args.of}: {scored.kind} cannot be scored; {', '.join(SPLIT)} can")
    if scored.meta.get("classes") != images.meta["classes"]:
        raise cli.InputError(
            f"{args.of} has classes {scored.meta.get('classes')}, {args.images} {images.meta['classes']}"
        )
    device = cli.pick_device(args.device)
    precision = cli.pick_precision(args.precision, device)
    header = store.Header(
        kind="metrics",
        stage="evaluate",
        settings=settings.model_dump(mode="json"),
        code=recipe.code_digest("evaluate"),
        precision=precision if scored.kind == "model" else None,
        parents={"images": images.digest, scored.kind: scored.digest},
    )
    if store.finished(args.out, header):
        return print(f"{args.out}: complete already", flush=True)
    cli.limit_threads(args.threads)
    split = SPLIT[scored.kind]
    rows = data.split(images, split)
    rows = rows[images.read("has_mask")[rows]]
    levels: list[float | str | None] = [None]
    processes = args.threads
    if scored.kind == "seeds":
        count, levels = seeds_counter(images, scored, settings)
    elif scored.kind == "labels":
        rows = rows[scored.read("covered")[rows]]
        count = labels_counter(images, scored)
    else:
        count = model_counter(images, scored, settings, device, precision)
        processes = cli.images_at_once(device, args.threads)
    classes = len(data.class_names(images))
    matrices = total(count, rows.tolist(), processes) + np.zeros((len(levels), classes, classes + 1), np.int64)
    meta = {"classes": data.class_names(images), "of": scored.kind, "splits": [split], "images": {split: len(rows)}}
    store.write_table(
        args.out,
        header,
        {"confusion": matrices[None]},
        {**meta, "thresholds": levels},
        axes="split, threshold, true, predicted",
    )
    scores = [miou(matrix) for matrix in matrices]
    best = int(np.nanargmax(scores)) if np.isfinite(scores).any() else 0
    print(
        f"{args.out}: {split}, {len(rows)} images, mIoU {100 * scores[best]:.1f} (threshold {levels[best]})", flush=True
    )


if __name__ == "__main__":
    main()
