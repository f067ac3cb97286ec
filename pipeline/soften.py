"""Seeds as soft labels: every cell's scores, and what they leave for the background, as probabilities.

"Learning to segment with image-level annotations", Pattern Recognition 2016: a network is trained on localization maps
as they are, by the multi-label cross-entropy of STC, instead of on one label a pixel. For the maps M_c in [0,1] of an
image's tags the background's is M_0 = 1 - max_c M_c, and p = M / sum M over the background and the tags (form of M_0:
ours). What is claimed of the maps does not matter here, nor which round claimed it.

Reads: photographs, seeds. Makes: soft on the seeds' grid (probabilities f16 [N,K+1,g,g], slots u8 [N,K+1], covered bool
[N]) of all training images; one without tags is background throughout, as it is known to show none of the classes.
Cost: reading the seeds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.core import cli
from pipeline.core.job import InputError, Job
from pipeline.core.steps.labels import Soften
from pipeline.kinds import classes, photographs, seeds
from pipeline.kinds.soft import Soft, write_soft


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Scores float [T,gh,gw] in [0,1] of an image's tags → float32 [T+1,gh,gw], the background's first; sums are 1.

    Where all scores are 0, and in an image without tags, the background has all.
    """
    maps = np.concatenate([1 - scores.max(0, keepdims=True, initial=0), scores]).astype(np.float32)
    return maps / maps.sum(0)  # at least 1: the largest score and what it leaves


def run(job: Job) -> None:
    pictures, source = job.photographs, job.inputs["seeds"]
    background = classes.background(source)
    if background is None:
        raise InputError(
            f"{source.path}: none of these classes is the background, to which 'soften' gives what the scores leave; "
            "make labels of these seeds with crf"
        )

    def label(indices: list[int]) -> Iterator[Soft]:
        for i in indices:
            found = seeds.on_grid(source, pictures, i)
            yield [background, *found.classes], probabilities(found.scores)

    slots = 1 + source["classes"].shape[1]
    write_soft(job, photographs.split(pictures, "train"), source.meta["grid"], slots, label, of=source)


if __name__ == "__main__":
    cli.main(run, Soften)
