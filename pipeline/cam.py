"""Class activation maps of every training image, for the classes of its tags, and what they claim.

Zhou et al. 2016; several scales and mirror images as in Ahn & Kwak 2018 (PSA) and Ahn et al. 2019 (IRN); the maps
themselves are computed by networks/classifier.py (`activation`), which erasing uses as well.

Reads: photographs, tags, classifier. Makes: seeds = scores f16 [N,K,g,g] for the K tag slots of an image, each divided
by its maximum; classes u8 [N,K]; claimed u8 [N,K,g,g] (1 where a map exceeds the threshold). Cost: 2 x sum(scales²)
forward passes an image; in batches of photographs of one size on a GPU.
"""

from __future__ import annotations

import numpy as np

from pipeline.core import cli
from pipeline.core.job import Job
from pipeline.core.processes import in_batches
from pipeline.core.steps.seeds import Cam
from pipeline.kinds import classes, photographs, seeds
from pipeline.kinds import tags as said
from pipeline.kinds.pixels import VOID
from pipeline.networks.classifier import activation, load_classifier
from pipeline.networks.pictures import batch_size
from pipeline.networks.states import for_inference


def run(job: Job) -> None:
    settings: Cam = job.settings
    pictures, tags, classifier = job.photographs, job.inputs["tags"], job.inputs["classifier"]
    model = for_inference(load_classifier(classifier), job.device)
    slots = said.slots(tags)
    ids = [row[row != VOID] for row in slots]
    together = batch_size(job.device, pictures["rgb"].shape[1], settings.scales, settings.flip)

    def alike(i: int) -> tuple[int, int, bool]:
        return *photographs.size(pictures, i), len(ids[i]) > 0  # what has no tag needs no network

    def find(rows: list[int]) -> list[seeds.Found]:
        maps = activation(
            model,
            np.stack([photographs.image(pictures, i) for i in rows]),
            [ids[i] for i in rows],
            grid=settings.grid,
            scales=settings.scales,
            flip=settings.flip,
            device=job.device,
            precision=job.precision,
        )
        return [{"scores": found} for found in maps]

    def settle(i: int, stored: seeds.Found) -> seeds.Found:
        return {"claimed": seeds.claim(stored["scores"], settings).astype(np.uint8)}

    seeds.write(
        job,
        slots,
        settings.grid,
        {"scores": ("map", np.float16)},
        lambda rows: in_batches(find, rows, alike, together, job.images_at_once),
        settle,
        {**classes.meta(tags), "grid": settings.grid, "rounds": [seeds.first_round(classifier)]},
    )


if __name__ == "__main__":
    cli.main(run, Cam)
