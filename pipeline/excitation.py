"""Excitation maps of every training image, for the classes of its tags, and what they claim: seeds beside CAM's.

Contrastive excitation backprop (c-MWP; Zhang et al., ECCV 2016), several scales and mirror images as for CAM; the
mathematics is in networks/excitation.py. CAM stays the default: the authors call the method patent-pending and restrict
their code to non-commercial research. This code is our own, written from the paper's equations; whether its use is free
where you are is yours to find out.

Reads: photographs, tags, classifier. Makes: seeds = scores f16 [N,K,g,g] for the K tag slots of an image, each divided
by its maximum; lost f16 [N,K], the share of the mass lost on the way down (its mean is printed, and stands in
`meta.lost`); classes u8 [N,K]; claimed u8 [N,K,g,g] (1 where a map exceeds the threshold). Cost: a forward pass and
about two more per tag, for each of 2 x sum(scales²) views; in batches of photographs of one size on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np

from pipeline.core import cli
from pipeline.core.job import Job
from pipeline.core.processes import over_processes
from pipeline.core.steps.seeds import Excitation
from pipeline.kinds import classes, photographs, seeds
from pipeline.kinds import tags as said
from pipeline.kinds.pixels import VOID
from pipeline.networks.classifier import load_classifier
from pipeline.networks.excitation import excitation
from pipeline.networks.states import for_inference

PIXELS = 4e6  # of the largest views that a GPU takes at once


def run(job: Job) -> None:
    settings: Excitation = job.settings
    pictures, tags, classifier = job.photographs, job.inputs["tags"], job.inputs["classifier"]
    model = for_inference(load_classifier(classifier), job.device)
    slots = said.slots(tags)

    def find(rows: list[int]) -> list[seeds.Found]:
        maps = excitation(
            model,
            np.stack([photographs.image(pictures, i) for i in rows]),
            [slots[i][slots[i] != VOID] for i in rows],
            at=settings.at,
            contrast=settings.contrast,
            grid=settings.grid,
            scales=settings.scales,
            flip=settings.flip,
            device=job.device,
            precision=job.precision,
        )
        return [{"scores": scores, "lost": lost} for scores, lost in maps]

    def find_all(rows: list[int]) -> Iterator[seeds.Found]:
        """In the order of `rows`."""
        if job.device == "cpu":
            yield from over_processes(lambda i: find([i])[0], rows, job.images_at_once)
            return
        found: dict[int, seeds.Found] = {}
        for batch in batches(rows, np.asarray(pictures["size"]), PIXELS / max(settings.scales) ** 2):
            found.update(zip(batch, find(batch), strict=True))
        yield from (found[i] for i in rows)

    def settle(i: int, stored: seeds.Found) -> seeds.Found:
        return {"claimed": seeds.claim(stored["scores"], settings).astype(np.uint8)}

    first = {"loss": float(classifier["curve_loss"][-1]), "epochs": classifier.manifest["settings"]["epochs"]}

    def summary(group: Any) -> dict[str, Any]:
        shares = group["lost"][:][group["classes"][:] != VOID].astype(np.float64)
        lost = round(float(shares.mean()), 4) if len(shares) else 0.0
        print(f"{lost:.1%} of the mass was lost on the way down", flush=True)
        return {**classes.meta(tags), "grid": settings.grid, "rounds": [first], "lost": lost}

    seeds.write(
        job,
        slots,
        settings.grid,
        {"scores": ("map", np.float16), "lost": ("number", np.float16)},
        find_all,
        settle,
        summary,
    )


def batches(rows: list[int], sizes: np.ndarray, pixels: float) -> Iterator[list[int]]:
    """Rows of photographs of one size, as many at once as have no more pixels than this together, one at least.

    sizes: [N,2], of all photographs.
    """
    for (h, w), same in groupby(sorted(rows, key=lambda i: tuple(sizes[i])), key=lambda i: tuple(sizes[i])):
        alike, most = list(same), max(1, int(pixels / (h * w)))
        yield from (alike[start : start + most] for start in range(0, len(alike), most))


if __name__ == "__main__":
    cli.main(run, Excitation)
