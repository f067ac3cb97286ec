"""Adversarial erasing, second half of a round: what the classifier of erased photographs finds is claimed as well.

Wei et al., CVPR 2017 (AE-PSL, arXiv 1703.08448), section 3.1: class activation maps of the erased photographs,
thresholded, added to each class's region. The union over rounds is the object. Ours, each a setting: a class that the
erased photograph no longer shows is mined no further (`recognised`: maps are scaled to their maximum, so what is
exhausted would be mined all the same), and only cells that no class has claimed count (`elsewhere`; the paper
thresholds the whole map and leaves it to the rules of the pseudo-mask to settle what two classes claim).

Reads: photographs, seeds, classifier (of `erase`). Makes: seeds = found f16 [N,K,g,g] and sure f16 [N,K] (this round's
maps and the probability of each tag), and what follows from them: scores (largest so far), classes, claimed (the
round that claimed a cell). Cost: one CAM pass; image by image. Once erasing has stopped, seeds are passed on at no
cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.core import cli
from pipeline.core.job import Job
from pipeline.core.processes import in_batches
from pipeline.core.steps.seeds import Mine
from pipeline.kinds import classes, photographs, seeds
from pipeline.kinds.pixels import VOID
from pipeline.networks.classifier import activation, load_classifier, tag_probabilities
from pipeline.networks.pictures import batch_size
from pipeline.networks.states import for_inference


def settle(
    before: seeds.Seeds, found: np.ndarray, sure: np.ndarray, number: int, settings: Mine
) -> tuple[np.ndarray, np.ndarray]:
    """Scores f32 and claimed u8 [T,gh,gw] after round `number`.

    before: the seeds of the rounds before. found: this round's maps [T,gh,gw]; sure: how probable each tag still is,
    [T].
    """
    fresh = found.astype(np.float32)
    fresh[sure < settings.recognised] = 0
    if settings.elsewhere:
        # What is erased cannot be found again; a response there comes from the patch's surroundings.
        fresh[:, (before.claimed > 0).any(0)] = 0
    claimed = np.where((before.claimed == 0) & seeds.claim(fresh, settings), number, before.claimed)
    return np.maximum(before.scores, fresh), claimed.astype(np.uint8)


def run(job: Job) -> None:
    settings: Mine = job.settings
    pictures, source, eraser = job.photographs, job.inputs["seeds"], job.inputs["classifier"]
    rounds: list[dict[str, Any]] = [dict(entry) for entry in source.meta["rounds"]]
    entry, number = dict(eraser.meta.get("entry", {})), eraser.meta["round"]
    over = bool(eraser.meta.get("passed") or entry["stop"])
    if over:
        print(f"passed through: erasing has stopped ({entry.get('stop') or rounds[-1]['stop']})", flush=True)
    rows = photographs.split(pictures, "train")
    find = nothing(job) if over else finder(job)

    def decide(i: int, stored: seeds.Found) -> seeds.Found:
        before = seeds.on_grid(source, pictures, i)
        scores, claimed = before.scores, before.claimed
        if not over:
            scores, claimed = settle(before, stored["found"], stored["sure"], number, settings)
        return {"scores": scores, "claimed": claimed}

    def summary(group: Any) -> dict[str, Any]:
        if not eraser.meta.get("passed"):
            rounds.append(entry)
        if not over:
            entry["mined"] = round(newly_claimed(group, pictures, rows, number, source.meta["grid"]), 4)
            if entry["mined"] < settings.stop_mined:  # kept, but no further round
                entry["stop"] = f"the round mined {entry['mined']:.1%} of the image area"
        return {**classes.meta(source), "grid": source.meta["grid"], "rounds": rounds}

    seeds.write(
        job,
        np.asarray(source.read("classes")),
        source.meta["grid"],
        {"found": ("map", np.float16), "sure": ("number", np.float16)},
        find,
        decide,
        summary,
        also=("recognised", "elsewhere", "stop_mined"),
    )


def finder(job: Job) -> Any:
    """rows → this round's maps and probabilities of each, from the erased photographs."""
    settings: Mine = job.settings
    pictures, source = job.photographs, job.inputs["seeds"]
    model = for_inference(load_classifier(job.inputs["classifier"]), job.device)
    fill = photographs.mean_colour(pictures, photographs.split(pictures, "train"))
    on = {"device": job.device, "precision": job.precision}
    slots, grid = np.asarray(source.read("classes")), source.meta["grid"]
    together = batch_size(job.device, pictures["rgb"].shape[1], settings.scales, settings.flip)

    def erased(i: int) -> np.ndarray:
        where = seeds.claimed_pixels(source, pictures, i)
        return np.where(where[..., None], fill, photographs.image(pictures, i))

    def find(rows: list[int]) -> list[seeds.Found]:
        rgb, ids = np.stack([erased(i) for i in rows]), [seeds.on_grid(source, pictures, i).classes for i in rows]
        maps = activation(model, rgb, ids, grid=grid, scales=settings.scales, flip=settings.flip, **on)
        sure = tag_probabilities(model, rgb, ids, **on) if any(map(len, ids)) else [np.zeros(0)] * len(rows)
        return [{"found": found, "sure": each} for found, each in zip(maps, sure, strict=True)]

    def alike(i: int) -> tuple[int, int, bool]:
        return *photographs.size(pictures, i), bool((slots[i] != VOID).any())  # what has no tag needs no network

    return lambda rows: in_batches(find, rows, alike, together, job.images_at_once)


def nothing(job: Job) -> Any:
    def find(rows: list[int]) -> Iterator[seeds.Found]:
        yield from ({"found": np.zeros((0, 0, 0)), "sure": np.zeros(0)} for _ in rows)

    return find


def newly_claimed(group: Any, pictures: Any, rows: np.ndarray, number: int, grid: int) -> float:
    """Share of the photographs' area that round `number` claimed."""
    new, area, claimed = 0, 0, group["claimed"]
    for i in rows.tolist():
        gh, gw = seeds.cells(pictures["size"][i], grid)
        new += int((claimed[i, :, :gh, :gw] == number).any(0).sum())
        area += gh * gw
    return new / max(area, 1)


if __name__ == "__main__":
    cli.main(run, Mine)
