"""Adversarial erasing, first half of a round: a classifier that never sees what is claimed already.

Wei et al., CVPR 2017 (AE-PSL, arXiv 1703.08448), section 3.1: train a classifier on the images with everything claimed
so far erased. Its class activation maps then find other parts (`mine`, the second half). Every round starts from the
same weights, so that rounds can be recomputed alone (ours; the paper does not say).

The paper stops when the classification loss no longer falls: what is left holds no object. Rounds and the first
classifier should train equally long, or the ratio of their losses says nothing (a warning is printed where they don't).

Reads: photographs, tags, seeds (any maker's), weights. Makes: classifier, with the round's loss, recall and the reason
to stop in meta. Cost: one classifier; nothing in a round after the stop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipeline.core import cli, store, train
from pipeline.core.job import Job
from pipeline.core.steps.seeds import Erase
from pipeline.kinds import classes, photographs
from pipeline.kinds import tags as said
from pipeline.kinds.crops import Crops
from pipeline.kinds.seeds import claimed_pixels
from pipeline.networks.classifier import classifier_meta, classifier_step, new_classifier, recall
from pipeline.networks.pictures import batch_size
from pipeline.networks.states import for_inference, packed

SAMPLE = 200  # images on which recall is measured


def stop_reason(entry: dict[str, Any], first: dict[str, Any], settings: Erase) -> str:
    """Why the round just trained is one too many, or ''. entry: this round's; first: the first round's, which has no
    loss where its maker trained nothing."""
    if "loss" in first and entry["loss"] > settings.stop_loss * first["loss"]:
        return f"loss {entry['loss']:.3f} is over {settings.stop_loss} x round 1's {first['loss']:.3f}"
    if entry["recall"] < settings.stop_recall:
        return f"only {entry['recall']:.0%} of the images are still recognised"
    return ""


def run(job: Job) -> None:
    settings: Erase = job.settings
    pictures, tags, seeds, weights = (job.inputs[role] for role in ("photographs", "tags", "seeds", "weights"))
    rounds = seeds.meta["rounds"]
    if stop := rounds[-1].get("stop"):
        print(f"nothing to train: erasing stopped at round {len(rounds)} ({stop})", flush=True)
        meta = {**classes.meta(tags), "round": len(rounds) + 1, "passed": True}
        return store.write_table(job.out, job.header, {}, meta)
    if settings.epochs != rounds[0].get("epochs", settings.epochs):
        print(
            f"warning: this round trains for {settings.epochs:g} epochs, the first classifier for "
            f"{rounds[0]['epochs']:g}; stop_loss compares losses that are not comparable",
            flush=True,
        )

    rows = photographs.split(pictures, "train")
    fill = photographs.mean_colour(pictures, rows)
    torch.manual_seed(job.seed)
    model = new_classifier(weights, tags, settings.stride)
    cut = Crops(
        pictures,
        settings.crop,
        settings.scale,
        settings.jitter,
        fill=fill,
        tags=said.tags(tags),
        erase=lambda i: claimed_pixels(seeds, pictures, i),
    )
    step = classifier_step(classes.foreground(tags))
    curves = train.fit(model, rows, cut, step, job, heads=lambda net: list(net.score.parameters()))  # type: ignore[union-attr,arg-type]
    arrays, index = packed(model.state_dict())
    meta = {**classifier_meta(model, tags, settings.stride), "index": index}

    def erased(i: int) -> np.ndarray:
        return np.where(claimed_pixels(seeds, pictures, i)[..., None], fill, photographs.image(pictures, i))

    some = rows[:: max(1, len(rows) // SAMPLE)]
    still = recall(
        for_inference(model, job.device),
        erased,
        said.tags(tags),
        some,
        device=job.device,
        precision=job.precision,
        batch=batch_size(job.device, pictures["rgb"].shape[1]),
    )
    entry: dict[str, Any] = {
        "loss": float(curves["curve_loss"][-1]),
        "recall": round(still, 4),
        "epochs": settings.epochs,
    }
    entry["stop"] = stop_reason(entry, rounds[0], settings)
    print(f"round {len(rounds) + 1}: {entry}", flush=True)
    meta |= {"round": len(rounds) + 1, "entry": entry}
    store.write_table(job.out, job.header, {**arrays, **curves}, meta)


if __name__ == "__main__":
    cli.main(run, Erase)
