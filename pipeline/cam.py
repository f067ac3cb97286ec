"""Class activation maps of every training image, for the classes of its tags.

Zhou et al. 2016; several scales and mirror images as in Ahn & Kwak 2018 (PSA) and Ahn et al. 2019 (IRN).

Reads: images, classifier. Makes: seeds = scores f16 [N,K,g,g] for the K tag slots of an image (divided by each
class's maximum), classes u8 [N,K], first u8 [N,K,g,g] (all 0: nothing is mined yet). Cost: 2 x sum(scales²) forward
passes an image.
"""

from __future__ import annotations

import numpy as np

from pipeline.core import cli, data, localize, store
from pipeline.core.config import Cam
from pipeline.core.models import for_inference, load_classifier
from pipeline.core.processes import over_processes


def run(job: cli.Job) -> None:
    settings: Cam = job.settings
    images, classifier = job.images, job.inputs["classifier"]
    model = for_inference(load_classifier(classifier), job.device)
    slots, side = data.tag_slots(images), localize.grid_size(images, settings.grid)
    shape = (slots.shape[1], side, side)

    def locate(i: int) -> store.Row:
        classes = slots[i][slots[i] != data.VOID]
        scores = np.zeros(shape, np.float16)
        if len(classes):
            maps = localize.activation(
                model, data.image(images, i), classes, settings, settings.grid, job.device, job.precision
            )
            scores[: len(classes), : maps.shape[1], : maps.shape[2]] = maps
        return {"scores": scores, "classes": slots[i], "first": np.zeros(shape, np.uint8)}

    store.write_rows(
        job.out,
        job.header,
        {"scores": (shape, np.float16), "classes": ((slots.shape[1],), np.uint8), "first": (shape, np.uint8)},
        data.only_split(images, "train", store.row_keys(job.header, job.inputs)),
        lambda rows: over_processes(locate, rows, job.images_at_once),
        meta={
            "grid": settings.grid,
            "classes": data.class_names(images),
            "rounds": [{"loss": float(classifier["curve_loss"][-1])}],
        },
        axes="image, tag slot, row, column",
    )


if __name__ == "__main__":
    cli.main(run, Cam)
