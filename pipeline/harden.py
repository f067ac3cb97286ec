"""Soft labels as label maps: the most probable class of a pixel, where it is probable enough.

The second way of "Learning to segment with image-level annotations", Pattern Recognition 2016, which derives one label
a pixel from the maps instead of learning from them as they are (ours: 255 below a threshold; the dense CRF of DeepLab
before it, if asked for). What is unlabelled stays so: a cell without any probability is 255 also after the CRF.

Reads: photographs, soft. Makes: labels u8 [N,S,S], covered bool [N], of the training images that the soft labels cover.
Cost: reading the maps; with the CRF 30-300 ms an image and core.
"""

from __future__ import annotations

import numpy as np

from pipeline.core import cli
from pipeline.core.job import Job
from pipeline.core.processes import over_processes
from pipeline.core.steps.labels import Harden
from pipeline.kernels.densecrf import DeepLabKernels, dense_crf
from pipeline.kinds import labels, photographs
from pipeline.kinds.pixels import VOID
from pipeline.kinds.soft import labelled_at, most_probable, soft_at


def decide(rgb: np.ndarray, slots: np.ndarray, maps: np.ndarray, labelled: np.ndarray, settings: Harden) -> np.ndarray:
    """Labels uint8 [h,w] of a photograph uint8 [h,w,3] with probabilities f32 [K,h,w] of the classes slots u8 [K].

    255 where the best class is less probable than settings.least, and wherever labelled, bool [h,w], says no.
    """
    slots, maps = slots[slots != VOID], maps[slots != VOID]
    if not len(slots):
        return np.full(labelled.shape, VOID, np.uint8)
    if settings.crf:
        maps = dense_crf(rgb, maps, DeepLabKernels())
    found = most_probable(slots, maps, labelled)
    found[maps.max(0) < settings.least] = VOID
    return found


def run(job: Job) -> None:
    settings: Harden = job.settings
    pictures, source = job.photographs, job.inputs["soft"]
    rows = photographs.split(pictures, "train")
    rows = rows[source.read("covered")[rows]]

    def label(i: int) -> np.ndarray:
        known = labelled_at(source, pictures, i)
        return decide(photographs.image(pictures, i), *soft_at(source, pictures, i), known, settings)

    labels.write_labels(job, rows, lambda some: over_processes(label, some, job.threads), of=source)


if __name__ == "__main__":
    cli.main(run, Harden)
