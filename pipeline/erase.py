"""One round of adversarial erasing.

Wei et al., CVPR 2017 (AE-PSL, arXiv 1703.08448), section 3.1: train a classifier on the images with everything mined
so far erased, read its class activation maps, threshold them, and add the new regions to each class's mined region.
The first round starts from plain CAM, whose thresholded maps are its mined region. A further round is one more
folder.

Reads: images, seeds (CAM, or the round before), weights (every round starts from them). Makes: seeds = scores
(largest so far), classes, first u8 [N,K,g,g] (the round that first mined a cell; 0 = none), and the round's
statistics in meta. Cost: one classifier and one CAM pass. A round after the stop rule passes its parent on at no
cost, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import zarr

from pipeline.core import cli, data, localize, store, train
from pipeline.core.config import Erase
from pipeline.core.models import Classifier, for_inference
from pipeline.core.processes import over_processes


def mine(scores: np.ndarray, settings: Erase) -> np.ndarray:
    """Scores float [K,h,w] in [0,1] → region bool [K,h,w]. The three readings of the paper's 'top 20 %' (section 4.1).

    When a map would claim more than `largest` of the image, its threshold rises until it does not.
    """
    region = np.zeros(scores.shape, bool)
    for k, score in enumerate(scores.astype(np.float32)):
        top = float(score.max())
        if top <= 0:
            continue
        match settings.reading:
            case "of_max":
                region[k] = score > settings.threshold * top
            case "top_of_max":
                region[k] = score >= (1 - settings.threshold) * top
            case "top_pixels":
                region[k] = (score > 0) & (score > np.quantile(score, 1 - settings.threshold))
        if region[k].mean() > settings.largest:
            region[k] = score > np.quantile(score, 1 - settings.largest)
    return region


def scores_of(seeds: store.Artifact, i: int, size: Sequence[int]) -> np.ndarray:
    """Scores of image i, f32 [K,h,w], cells of the image only."""
    h, w = (-(-int(side) // seeds.meta["grid"]) for side in size)
    return np.asarray(seeds["scores"][i, :, :h, :w]).astype(np.float32)


def first_rounds(seeds: store.Artifact, i: int, size: Sequence[int], settings: Erase) -> np.ndarray:
    """What the seeds claim for image i: the round that mined a cell, 0 for none, u8 [K,h,w].

    Plain CAM counts as round 1: its maps are thresholded here.
    """
    if is_cam(seeds):
        return mine(scores_of(seeds, i, size), settings).astype(np.uint8)
    h, w = (-(-int(side) // seeds.meta["grid"]) for side in size)
    return np.asarray(seeds["first"][i, :, :h, :w])


@torch.no_grad()
def recognised(model: Classifier, rgb: np.ndarray, classes: np.ndarray, settings: Erase, job: cli.Job) -> np.ndarray:
    """Which of the classes the classifier still finds in the erased image, bool [T]: the stop rule, image by image.

    Ours. The maps are scaled to their maximum, so without it a class with nothing left to find is mined all the same.
    """
    if not settings.recognised:
        return np.ones(len(classes), bool)
    with train.autocast(job.device, job.precision):
        scores = model(data.to_tensor(rgb)[None].to(job.device))[0].float().sigmoid().cpu().numpy()
    return np.asarray(scores[classes.astype(np.int64) - 1] >= settings.recognised)


def is_cam(seeds: store.Artifact) -> bool:
    return len(seeds.meta["rounds"]) == 1


def stop_reason(rounds: list[dict[str, Any]], settings: Erase) -> str | None:
    """Why the round just made is one too many, or None.

    The paper (section 3.1) stops when the classification loss no longer falls: what is left holds no object.
    """
    latest = rounds[-1]
    if latest["loss"] > settings.stop_loss * rounds[0]["loss"]:
        return f"loss {latest['loss']:.3f} is over {settings.stop_loss} x round 1's {rounds[0]['loss']:.3f}"
    if latest["recall"] < settings.stop_recall:
        return f"only {latest['recall']:.0%} of the images are still recognised"
    if latest.get("mined", 1.0) < settings.stop_mined:
        return f"the round mined {latest['mined']:.1%} of the image area"
    return None


def run(job: cli.Job) -> None:
    settings: Erase = job.settings
    images, seeds = job.images, job.inputs["seeds"]
    rounds: list[dict[str, Any]] = [dict(entry) for entry in seeds.meta["rounds"]]
    if rounds[-1].get("stop"):
        print(f"passed through: erasing stopped at round {len(rounds)} ({rounds[-1]['stop']})", flush=True)
        return pass_on(job, rounds, {})

    rows, grid, slots = data.split(images, "train"), seeds.meta["grid"], seeds["classes"]
    fill = data.mean_colour(images, rows)

    def first_of(i: int) -> np.ndarray:
        return first_rounds(seeds, i, images["size"][i], settings)

    def pixels(first: np.ndarray, i: int) -> np.ndarray:
        """Everything mined so far in image i, all classes together, bool [h,w]."""
        h, w = images["size"][i]
        return np.repeat(np.repeat(first.any(0), grid, 0), grid, 1)[:h, :w]

    def region(i: int) -> np.ndarray:
        return pixels(first_of(i), i)

    def erased(i: int, first: np.ndarray | None = None) -> np.ndarray:
        where = pixels(first_of(i) if first is None else first, i)
        return np.where(where[..., None], fill, data.image(images, i))

    model, curves, _ = localize.fit_classifier(job, erased=region)
    model = for_inference(model, job.device)
    number = len(rounds) + 1
    sample = rows[:: max(1, len(rows) // 200)]
    entry: dict[str, Any] = {
        "loss": float(curves["curve_loss"][-1]),
        "recall": round(localize.recall(model, erased, images, sample, job), 4),
    }
    rounds.append(entry)
    entry["stop"] = stop_reason(rounds, settings) or ""
    print(f"round {number}: {entry}", flush=True)
    if entry["stop"]:
        return pass_on(job, rounds, curves)

    def mine_image(i: int) -> store.Row:
        first, best = first_of(i), scores_of(seeds, i, images["size"][i])
        classes = np.asarray(slots[i])
        present = classes[classes != data.VOID]
        if len(present):
            rgb = erased(i, first)
            fresh = np.zeros_like(best)
            fresh[: len(present)] = localize.activation(model, rgb, present, settings, grid, job.device, job.precision)
            fresh[: len(present)][~recognised(model, rgb, present, settings, job)] = 0
            # What is erased cannot be mined again; a response there comes from the patch's surroundings.
            fresh[:, first.any(0)] = 0
            first = np.where((first == 0) & mine(fresh, settings), number, first)
            best = np.maximum(best, fresh)
        row = {"classes": classes}
        for name, value in (("scores", best), ("first", first)):
            row[name] = np.zeros(seeds[name].shape[1:], seeds[name].dtype)
            row[name][:, : value.shape[1], : value.shape[2]] = value
        return row

    def statistics(group: zarr.Group) -> dict[str, Any]:
        new, area = 0, 0
        first: Any = group["first"]
        for i in rows:
            h, w = (-(-int(side) // grid) for side in images["size"][int(i)])
            new += int((first[int(i), :, :h, :w] == number).any(0).sum())
            area += h * w
        entry["mined"] = round(new / area, 4)
        entry["stop"] = stop_reason(rounds, settings) or ""  # too little mined: kept, but no further round
        return {"grid": grid, "classes": data.class_names(images), "rounds": rounds}

    write(job, lambda rows: over_processes(mine_image, rows, job.images_at_once), statistics, curves)


def pass_on(job: cli.Job, rounds: list[dict[str, Any]], curves: dict[str, np.ndarray]) -> None:
    """Erasing has stopped: hand the seeds of the round before through, plain CAM with its mined region."""
    seeds = job.inputs["seeds"]

    def copy(indices: list[int]) -> Iterator[store.Row]:
        for i in indices:
            row = {name: np.asarray(seeds[name][i]) for name in ("scores", "classes", "first")}
            first = first_rounds(seeds, i, job.images["size"][i], job.settings)
            row["first"][:, : first.shape[1], : first.shape[2]] = first
            yield row

    meta = {"grid": seeds.meta["grid"], "classes": seeds.meta["classes"], "rounds": rounds}
    write(job, copy, meta, curves)


def write(job: cli.Job, compute: Any, meta: Any, curves: dict[str, np.ndarray]) -> None:
    seeds = job.inputs["seeds"]
    store.write_rows(
        job.out,
        job.header,
        {name: (seeds[name].shape[1:], seeds[name].dtype) for name in ("scores", "classes", "first")},
        # The classifier has seen all images, so a row follows from all of them and not from its own image alone.
        data.only_split(job.images, "train", store.row_keys(job.header, job.inputs, job.header.fingerprint())),
        compute,
        meta,
        axes="image, tag slot, row, column",
        tables=curves,
    )


if __name__ == "__main__":
    cli.main(run, Erase)
