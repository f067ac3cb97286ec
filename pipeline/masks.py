"""True masks as labels, for a seeded, class-balanced share of the training images; the rest stays unlabelled.

With a small share it is the setting of Mix-and-Match tuning and of semi-supervised methods; with all of it, the ceiling
that every other recipe is measured against.

Reads: images. Makes: labels u8 [N,S,S] (void and unlabelled 255), covered bool [N]. Cost: reading the masks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.core import cli, data
from pipeline.core.config import Masks
from pipeline.core.labels import write_labels


def balanced_draw(tags: np.ndarray, candidates: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of the candidate rows, chosen so that classes occur evenly. tags: bool [N,C].

    The class that so far occurs least often picks next, at random among the images that show it.
    """
    if count >= len(candidates):
        return np.sort(candidates)
    left = rng.permutation(candidates)
    chosen: list[int] = []
    seen = np.zeros(tags.shape[1])
    while len(chosen) < count:
        available = tags[left].any(0)
        if available.any():
            rarest = np.where(available, seen, np.inf).argmin()
            position = int(tags[left, rarest].argmax())
        else:
            position = 0
        chosen.append(int(left[position]))
        seen += tags[left[position]]
        left = np.delete(left, position)
    return np.sort(np.asarray(chosen, np.int64))


def run(job: cli.Job) -> None:
    settings: Masks = job.settings
    images = job.images
    rows = data.split(images, "train")
    candidates = rows[images.read("has_mask")[rows]]
    if not len(candidates):
        raise cli.InputError(f"{images.path}: no image of split train has a mask; the masks step needs some")
    count = max(1, round(settings.fraction * len(candidates)))
    chosen = balanced_draw(data.image_tags(images), candidates, count, np.random.default_rng(job.seed))
    print(f"{len(chosen)} of {len(candidates)} true masks used", flush=True)

    def label(indices: list[int]) -> Iterator[np.ndarray]:
        for i in indices:
            yield data.resize_nearest(data.true_mask(images, i), *images["size"][i])

    write_labels(job, chosen, label, used=len(chosen), available=len(candidates))


if __name__ == "__main__":
    cli.main(run, Masks)
