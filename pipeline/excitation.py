"""Excitation maps of every training image, for the classes of its tags, and what they claim: seeds beside CAM's.

Contrastive excitation backprop (c-MWP; Zhang et al., ECCV 2016), several scales and mirror images as for CAM; the
mathematics is in networks/excitation.py. CAM stays the default: the authors call the method patent-pending and restrict
their code to non-commercial research. This code is our own, written from the paper's equations; whether its use is free
where you are is yours to find out.

Reads: photographs, tags, classifier. Makes: seeds = scores f16 [N,K,g,g] for the K tag slots of an image, each divided
by its maximum; lost f16 [N,K], the share of the mass lost on the way down (its mean is printed, and stands in
`meta.lost`); classes u8 [N,K]; claimed u8 [N,K,g,g] (1 where a map exceeds the threshold). Cost: three to
four forward passes, some more with many tags, for each of 2 x sum(scales²) views.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.core import cli
from pipeline.core.job import Job
from pipeline.core.processes import in_batches
from pipeline.core.steps.seeds import Excitation
from pipeline.kinds import classes, photographs, seeds
from pipeline.kinds import tags as said
from pipeline.kinds.pixels import VOID
from pipeline.networks.classifier import load_classifier
from pipeline.networks.excitation import excitation
from pipeline.networks.pictures import batch_size
from pipeline.networks.states import for_inference


def run(job: Job) -> None:
    settings: Excitation = job.settings
    pictures, tags, classifier = job.photographs, job.inputs["tags"], job.inputs["classifier"]
    model = for_inference(load_classifier(classifier), job.device)
    slots = said.slots(tags)
    ids = [row[row != VOID] for row in slots]
    together = batch_size(job.device, pictures["rgb"].shape[1], settings.scales, settings.flip)
    together = max(1, together // (6 - settings.at))  # what a pass shows of the layers above `at` is held

    def alike(i: int) -> tuple[int, int]:
        return photographs.size(pictures, i)

    def find(rows: list[int]) -> list[seeds.Found]:
        maps = excitation(
            model,
            np.stack([photographs.image(pictures, i) for i in rows]),
            [ids[i] for i in rows],
            at=settings.at,
            contrast=settings.contrast,
            grid=settings.grid,
            scales=settings.scales,
            flip=settings.flip,
            device=job.device,
            precision=job.precision,
        )
        return [{"scores": scores, "lost": lost} for scores, lost in maps]

    def settle(i: int, stored: seeds.Found) -> seeds.Found:
        return {"claimed": seeds.claim(stored["scores"], settings).astype(np.uint8)}

    def summary(group: Any) -> dict[str, Any]:
        shares = group["lost"][:][group["classes"][:] != VOID].astype(np.float64)
        lost = round(float(shares.mean()), 4) if len(shares) else 0.0
        print(f"{lost:.1%} of the mass was lost on the way down", flush=True)
        return {**classes.meta(tags), "grid": settings.grid, "rounds": [seeds.first_round(classifier)], "lost": lost}

    seeds.write(
        job,
        slots,
        settings.grid,
        {"scores": ("map", np.float16), "lost": ("number", np.float16)},
        lambda rows: in_batches(find, rows, alike, together, job.images_at_once),
        settle,
        summary,
    )


if __name__ == "__main__":
    cli.main(run, Excitation)
