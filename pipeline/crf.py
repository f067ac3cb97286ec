"""Pseudo-labels from seeds: the rules of AE-PSL, then a dense CRF.

Wei et al., CVPR 2017 (AE-PSL), section 3.2: mined regions are foreground, low saliency is background; pixels that two
classes claim, low-saliency pixels inside mined regions and pixels nobody claims stay open (255). The open pixels and
the borders are then settled by a dense CRF over the background and the image's tags; `refine: argmax` stops before
it, so the CRF's effect is always measured. Without saliency the background is where every score is low (Ahn & Kwak
2018).

Reads: photographs, seeds, saliency (optional). Makes: labels u8 [N,S,S], covered bool [N]. Cost: 30-300 ms an image and
core.
"""

from __future__ import annotations

import numpy as np

from pipeline.core import cli
from pipeline.core.job import Job
from pipeline.core.processes import over_processes
from pipeline.core.steps.labels import Crf
from pipeline.kernels.densecrf import dense_crf
from pipeline.kinds import classes, labels, photographs, seeds
from pipeline.kinds.pixels import VOID


def seed_labels(claimed: np.ndarray, scores: np.ndarray, background: np.ndarray | None, settings: Crf) -> np.ndarray:
    """Slot map, int16 [h,w]: 0 background, k + 1 for tag slot k, -1 open (AE-PSL section 3.2).

    claimed, scores: [T,h,w]. background: bool [h,w]. Where the data set has no background (None), k for tag slot k.
    """
    found = np.full(scores.shape[1:], -1, np.int16)
    low = np.zeros(found.shape, bool) if background is None else background
    found[low] = 0
    count = claimed.sum(0)
    strongest = np.where(claimed, scores, -1.0).argmax(0).astype(np.int16) + (background is not None)
    one = count == 1 if settings.conflicts else count > 0
    found[(count > 0) & (low if settings.low_saliency else False)] = -1
    take = one & ~low if settings.low_saliency else one
    found[take] = strongest[take]
    found[(count > 1) & ~one] = -1
    return found


def unary(
    found: np.ndarray, scores: np.ndarray, saliency: np.ndarray | None, background: bool, settings: Crf
) -> np.ndarray:
    """Probabilities for the CRF, float32 [T+1,h,w], the background's first ([T,h,w] without one): `certainty` for
    seeded pixels, soft evidence for open ones.

    An open pixel is foreground as far as its best score and its saliency say, half each (without saliency: as its
    score says), shared among tags by their scores.
    """
    slots = len(scores) + background
    share = scores + 0.1
    if background:
        evidence = scores.max(0) if saliency is None else (scores.max(0) + saliency) / 2
        foreground = np.clip(evidence, 0.05, 0.95)
        soft = np.concatenate([1 - foreground[None], foreground * share / share.sum(0)]).astype(np.float32)
    else:
        soft = (share / share.sum(0)).astype(np.float32)
    hard = np.full_like(soft, (1 - settings.certainty) / max(slots - 1, 1))
    for k in range(slots):
        hard[k][found == k] = settings.certainty
    return np.where(found < 0, soft, hard)


def label_image(
    rgb: np.ndarray, found: seeds.Seeds, saliency: np.ndarray | None, background: int | None, settings: Crf
) -> np.ndarray:
    """Pseudo-labels of one image, uint8 [h,w]. saliency: f32 [h,w] in [0,1] or None. background: its class id."""
    if background is not None and not len(found.classes):  # an image known to hold none of the classes
        return np.full(rgb.shape[:2], background, np.uint8)
    if not len(found.classes):
        return np.full(rgb.shape[:2], VOID, np.uint8)
    claimed = found.claimed > 0
    low = None
    if background is not None:
        unclaimed = ~claimed.any(0) & (found.scores.max(0) < settings.background)
        low = unclaimed if saliency is None else saliency < settings.background
    slots = seed_labels(claimed, found.scores, low, settings)
    ids = np.array([*([] if background is None else [background]), *found.classes, VOID], np.uint8)
    if settings.refine == "crf":
        evidence = unary(slots, found.scores, saliency, background is not None, settings)
        posterior = dense_crf(rgb, evidence, settings)
        slots = posterior.argmax(0)
        slots[posterior.max(0) < settings.keep] = -1
    return ids[slots]


def run(job: Job) -> None:
    settings: Crf = job.settings
    pictures, source, saliency = job.photographs, job.inputs["seeds"], job.inputs.get("saliency")
    background = classes.background(source)

    def label(i: int) -> np.ndarray:
        rgb = photographs.image(pictures, i)
        h, w = rgb.shape[:2]
        salient = None if saliency is None else np.asarray(saliency["saliency"][i, :h, :w]).astype(np.float32) / 255
        return label_image(rgb, seeds.at_pixels(source, pictures, i), salient, background, settings)

    rows = photographs.split(pictures, "train")
    labels.write_labels(job, rows, lambda some: over_processes(label, some, job.threads), of=source)


if __name__ == "__main__":
    cli.main(run, Crf)
