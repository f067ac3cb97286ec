"""True masks as labels, for a seeded, class-balanced share of the training images; the rest stays unlabelled.

With a small share it is the setting of Mix-and-Match tuning and of semi-supervised methods; with all of it, the ceiling
that every other recipe is measured against.

Reads: photographs, tags (for the balance), masks. Makes: labels u8 [N,S,S] (void and unlabelled 255), covered bool [N].
Cost: reading the masks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.core import cli
from pipeline.core.job import InputError, Job
from pipeline.core.steps.labels import Masks
from pipeline.kinds import classes, labels, photographs
from pipeline.kinds import masks as true
from pipeline.kinds import tags as said
from pipeline.kinds.pixels import resize_nearest


def run(job: Job) -> None:
    settings: Masks = job.settings
    pictures, masks, tags = job.photographs, job.inputs["masks"], job.inputs["tags"]
    rows = photographs.split(pictures, "train")
    candidates = rows[true.has_mask(masks)[rows]]
    if not len(candidates):
        raise InputError(f"{masks.path}: no image of split train has a mask; the masks step needs some")
    count = max(1, round(settings.fraction * len(candidates)))
    shown = said.tags(tags)[:, classes.foreground(tags)]
    shown = np.column_stack([shown, ~shown.any(1)])  # those that show none are drawn like a class
    chosen = said.balanced_draw(shown, candidates, count, np.random.default_rng(job.seed))
    print(f"{len(chosen)} of {len(candidates)} true masks used", flush=True)

    def label(indices: list[int]) -> Iterator[np.ndarray]:
        for i in indices:
            yield resize_nearest(true.true_mask(masks, i), *pictures["size"][i])

    labels.write_labels(job, chosen, label, of=masks, used=len(chosen), available=len(candidates))


if __name__ == "__main__":
    cli.main(run, Masks)
