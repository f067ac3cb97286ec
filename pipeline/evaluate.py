"""Scores of an artifact against the true masks, at original resolution.

Seeds and labels, hard and soft, are scored on split `score` (training images with masks), models on split `val`: the
two are never mixed up, because every number carries its split. Seeds are scored as what they claim, and at many
thresholds (label = best-scoring tag where its score exceeds t, else background; else nothing where the data set has no
background); soft labels as the most probable class. A model that descends (networks/door.py) is scored after several
numbers of steps, its own among them, in one descent: they stand where thresholds do, its own as None.

Reads: photographs, masks, and one of seeds, labels, soft, model. Makes: metrics = confusion int64 [splits, thresholds,
C, C+1]. Cost: one pass over the split; for a model, its inference, in batches of photographs of one size on a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core import cli, store
from pipeline.core.config import Evaluate, parse_block
from pipeline.core.digest import code_digest
from pipeline.core.job import InputError, images_at_once
from pipeline.core.lock import alone
from pipeline.core.metrics import bands, confusion, miou
from pipeline.core.processes import in_batches, over_processes
from pipeline.core.progress import Progress
from pipeline.kinds import classes, labels, masks, photographs, seeds, soft
from pipeline.kinds.pixels import VOID, resize_nearest

SPLIT = {"seeds": "score", "labels": "score", "soft": "score", "model": "val"}
CLAIMED = "claimed"  # in place of a threshold
STEPS = (0, 1, 5, 10, 20)  # of a model that descends
Count = Callable[[int], np.ndarray]  # row → int64 [thresholds, C, C+1]
Passing = Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]
Levels = list[float | str | None]  # what the thresholds are; None: the thing itself


def thresholds(count: int) -> np.ndarray:
    """Evenly spaced inside (0, 1): 19 → 0.05, 0.10, ... 0.95."""
    return np.round(np.arange(1, count + 1) / (count + 1), 4)


def at_thresholds(
    truth: np.ndarray, best: np.ndarray, score: np.ndarray, levels: np.ndarray, count: int, below: int = 0
) -> np.ndarray:
    """Confusion matrices of 'best where score > t, else `below`' for every t, from one histogram.

    truth, best: uint8 [h,w]; score: f32 [h,w]; levels ascending; count: C classes; below: a column, C for 'nothing'.
    → int64 [T, C, C+1].
    """
    flat_counts = np.zeros(count * count * (len(levels) + 1), np.int64)
    for rows in bands(truth):
        valid = truth[rows] != VOID
        bins = np.searchsorted(levels, score[rows][valid], side="left")  # how many thresholds the score exceeds
        flat = (truth[rows][valid].astype(np.int64) * count + best[rows][valid]) * (len(levels) + 1) + bins
        flat_counts += np.bincount(flat, minlength=len(flat_counts))
    counts = flat_counts.reshape(count, count, -1)
    out = np.zeros((len(levels), count, count + 1), np.int64)
    for t in range(len(levels)):
        out[t, :, :count] = counts[:, :, t + 1 :].sum(2)
        out[t, :, below] += counts[:, :, : t + 1].sum((1, 2))
    return out


def seeds_counter(
    pictures: store.Artifact, truths: store.Artifact, source: store.Artifact, settings: Evaluate, *_: str
) -> tuple[Count, Levels]:
    levels, number, background = thresholds(settings.thresholds), len(classes.names(source)), classes.background(source)
    nothing = VOID if background is None else background

    def count(i: int) -> np.ndarray:
        truth = masks.true_mask(truths, i)
        ids, scores, claimed = seeds.at_pixels(source, pictures, i)
        if not len(ids):
            h, w = pictures["size"][i]
            ids, scores = np.zeros(1, np.uint8), np.zeros((1, h, w), np.float32)
            claimed = np.zeros((1, h, w), np.uint8)
        best = resize_nearest(ids[scores.argmax(0)], *truth.shape)
        score = resize_nearest(scores.max(0), *truth.shape)
        matrices = at_thresholds(truth, best, score, levels, number, number if background is None else background)
        region = np.where(claimed > 0, scores, -1.0)
        found = np.where((claimed > 0).any(0), ids[region.argmax(0)], nothing).astype(np.uint8)
        whole = confusion(truth, resize_nearest(found, *truth.shape), number)
        return np.concatenate([matrices, whole[None]])

    return count, [*levels.tolist(), CLAIMED]


def labels_counter(
    pictures: store.Artifact, truths: store.Artifact, source: store.Artifact, *_: object
) -> tuple[Count, Levels]:
    def count(i: int) -> np.ndarray:
        truth = masks.true_mask(truths, i)
        predicted = resize_nearest(labels.labels_at(source, pictures, i), *truth.shape)
        return confusion(truth, predicted, len(classes.names(source)))[None]

    return count, [None]


def soft_counter(
    pictures: store.Artifact, truths: store.Artifact, source: store.Artifact, *_: object
) -> tuple[Count, Levels]:
    def count(i: int) -> np.ndarray:
        truth = masks.true_mask(truths, i)
        found = soft.most_probable(*soft.soft_at(source, pictures, i), soft.labelled_at(source, pictures, i))
        return confusion(truth, resize_nearest(found, *truth.shape), len(classes.names(source)))[None]

    return count, [None]


def model_counter(
    pictures: store.Artifact,
    truths: store.Artifact,
    model: store.Artifact,
    settings: Evaluate,
    device: str,
    precision: str,
) -> tuple[Callable[[list[int]], Iterator[np.ndarray]], Levels]:
    """Unlike the others it counts photographs of one size together."""
    from pipeline.networks.door import Descending, labels_from, open_network  # torch: seeds and labels need not wait

    network = open_network(model, device, precision, settings.scales, settings.flip)
    own = network.steps if isinstance(network, Descending) else None
    steps = [] if own is None else sorted({*STEPS, own})

    def count(rows: list[int]) -> Iterator[np.ndarray]:
        rgb = np.stack([photographs.image(pictures, i) for i in rows])
        known = [masks.true_mask(truths, i) for i in rows]
        sizes = [(truth.shape[0], truth.shape[1]) for truth in known]
        said = network.after(rgb, steps) if isinstance(network, Descending) else [network.probabilities(rgb)]
        found = [labels_from(probabilities, rgb, sizes, crf=settings.crf) for probabilities in said]
        for truth, predicted in zip(known, zip(*found, strict=True), strict=True):
            yield np.stack([confusion(truth, one, len(network.classes)) for one in predicted])

    return count, [None if number == own else number for number in steps] or [None]


# By kind: how labels are scored does not hang on networks.
COUNTERS: dict[str, Callable[..., tuple[Any, Levels]]] = {
    "seeds": seeds_counter,
    "labels": labels_counter,
    "soft": soft_counter,
    "model": model_counter,
}


def total(count: Count, rows: Iterable[int], processes: int, passing: Passing = iter) -> np.ndarray:
    """Sum of the images' matrices, which go through `passing` on their way."""
    return sum(passing(over_processes(count, rows, processes)), start=np.zeros((), np.int64))


def total_of_model(
    count: Callable[[list[int]], Iterable[np.ndarray]],
    rows: Iterable[int],
    pictures: store.Artifact,
    settings: Evaluate,
    device: str,
    threads: int,
    passing: Passing = iter,
) -> np.ndarray:
    """The same, in batches of photographs of one size."""
    from pipeline.networks.pictures import batch_size  # torch, see `model_counter`

    together = batch_size(device, pictures["rgb"].shape[1], settings.scales, settings.flip)
    processes = images_at_once(device, threads)
    found = in_batches(count, rows, lambda i: photographs.size(pictures, i), together, processes)
    return sum(passing(found), start=np.zeros((), np.int64))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--masks", type=Path, required=True)
    parser.add_argument("--of", type=Path, required=True, help="manifest of seeds, labels, soft labels or a model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--settings", default="{}", help="JSON of the `evaluate:` block of config.yaml")
    cli.add_compute(parser)
    args = parser.parse_args(argv)

    def work() -> None:
        with alone(args.out):
            run(args)

    cli.guarded(work)


def run(args: argparse.Namespace) -> None:
    settings = parse_block(Evaluate, args.settings, "--settings")
    pictures, truths = store.Artifact(args.photographs, "photographs"), store.Artifact(args.masks, "masks")
    scored = store.Artifact(args.of)
    if scored.kind not in COUNTERS:
        raise InputError(f"{args.of}: {scored.kind} cannot be scored; {', '.join(SPLIT)} can")
    if classes.meta(scored) != classes.meta(truths):
        raise InputError(f"{args.of} has {classes.meta(scored)}, {args.masks} {classes.meta(truths)}")
    network = scored.kind == "model"
    device, precision = cli.pick_compute(args.device, args.precision) if network else ("cpu", "f32")
    picked = sorted({*cli.chosen(settings, [scored]), scored.kind})
    header = store.Header(
        kind="metrics",
        stage="evaluate",
        settings=settings.model_dump(mode="json"),
        code=code_digest("evaluate", picked),
        precision=precision if network else None,
        parents={"photographs": pictures.digest, "masks": truths.digest, scored.kind: scored.digest},
        choices=picked,
    )
    if store.finished(args.out, header):
        return print(f"{args.out}: complete already", flush=True)
    split = SPLIT[scored.kind]
    rows = photographs.split(pictures, split)
    rows = rows[masks.has_mask(truths)[rows]]
    if scored.kind in ("labels", "soft"):
        rows = rows[scored.read("covered")[rows]]
    if network:
        cli.limit_threads(args.threads)
    count, levels = COUNTERS[scored.kind](pictures, truths, scored, settings, device, precision)
    number, background = len(classes.names(scored)), classes.background(scored)
    matrices = np.zeros((len(levels), number, number + 1), np.int64)
    passing = Progress(store.part_of(args.out), len(rows), "photographs").count
    if network:
        matrices += total_of_model(count, rows.tolist(), pictures, settings, device, args.threads, passing)
    else:
        matrices += total(count, rows.tolist(), args.threads, passing)
    meta = {**classes.meta(scored), "of": scored.kind, "splits": [split], "images": {split: len(rows)}}
    if len(levels) > 1 and network:
        meta["steps"] = [scored.meta["steps"] if level is None else level for level in levels]
    store.write_table(
        args.out,
        header,
        {"confusion": matrices[None]},
        {**meta, "thresholds": levels},
        axes="split, threshold, true, predicted",
    )
    scores = [miou(matrix, background=background) for matrix in matrices]
    if not np.isfinite(scores).any():
        why = f"no image of split {split} that it could be compared on has a true mask"
        return print(f"{args.out}: no scores, since {why}", flush=True)
    best = int(np.nanargmax(scores))
    best = levels.index(None) if None in levels else best
    print(
        f"{args.out}: {split}, {len(rows)} images, mIoU {100 * scores[best]:.1f} (threshold {levels[best]})", flush=True
    )


if __name__ == "__main__":
    main()
