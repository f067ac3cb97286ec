"""Pseudo-labels from seeds: the rules of AE-PSL, then a dense CRF.

Wei et al., CVPR 2017 (AE-PSL), section 3.2: mined regions are foreground, low saliency is background; pixels that two
classes claim, low-saliency pixels inside mined regions and pixels nobody claims stay open (255). The open pixels and
the borders are then settled by a dense CRF over the background and the image's tags; `refine: argmax` stops before
it, so the CRF's effect is always measured. Without saliency the background is where every score is low (Ahn & Kwak
2018).

Reads: images, seeds, saliency (optional). Makes: labels u8 [N,S,S], covered bool [N]. Cost: 30-300 ms an image and
core.
"""

from __future__ import annotations

import numpy as np

from pipeline.core import cli, data
from pipeline.core.config import Crf
from pipeline.core.densecrf import dense_crf
from pipeline.core.labels import write_labels
from pipeline.core.processes import over_processes


def claims(first: np.ndarray, scores: np.ndarray, mined: bool, settings: Crf) -> np.ndarray:
    """Which pixels each tag claims, bool [T,h,w]: mined regions, or scores above the threshold for plain CAM."""
    return first > 0 if mined else scores > settings.foreground


def seed_labels(claimed: np.ndarray, scores: np.ndarray, background: np.ndarray, settings: Crf) -> np.ndarray:
    """Slot map, int16 [h,w]: 0 background, k + 1 for tag slot k, -1 open (AE-PSL section 3.2).

    claimed, scores: [T,h,w]. background: bool [h,w].
    """
    labels = np.full(background.shape, -1, np.int16)
    labels[background] = 0
    count = claimed.sum(0)
    strongest = np.where(claimed, scores, -1.0).argmax(0).astype(np.int16) + 1
    one = count == 1 if settings.conflicts else count > 0
    labels[(count > 0) & (background if settings.low_saliency else False)] = -1
    take = one & ~background if settings.low_saliency else one
    labels[take] = strongest[take]
    labels[(count > 1) & ~one] = -1
    return labels


def unary(labels: np.ndarray, scores: np.ndarray, saliency: np.ndarray | None, settings: Crf) -> np.ndarray:
    """Probabilities for the CRF, float32 [T+1,h,w]: `certainty` for seeded pixels, soft evidence for open ones.

    An open pixel is foreground as far as its best score and its saliency say, half each (without saliency: as its
    score says), shared among tags by their scores.
    """
    slots = len(scores) + 1
    evidence = scores.max(0) if saliency is None else (scores.max(0) + saliency) / 2
    foreground = np.clip(evidence, 0.05, 0.95)
    share = scores + 0.1
    soft = np.concatenate([1 - foreground[None], foreground * share / share.sum(0)]).astype(np.float32)
    hard = np.full_like(soft, (1 - settings.certainty) / max(slots - 1, 1))
    for k in range(slots):
        hard[k][labels == k] = settings.certainty
    return np.where(labels < 0, soft, hard)


def label_image(
    rgb: np.ndarray,
    classes: np.ndarray,
    first: np.ndarray,
    scores: np.ndarray,
    saliency: np.ndarray | None,
    mined: bool,
    settings: Crf,
) -> np.ndarray:
    """Pseudo-labels of one image, uint8 [h,w].

    classes: ids of its T tags; first, scores: [T,h,w]; saliency: f32 [h,w] in [0,1] or None.
    """
    claimed = claims(first, scores, mined, settings)
    background = (
        saliency < settings.background
        if saliency is not None
        else ~claimed.any(0) & (scores.max(0) < settings.background)
    )
    labels = seed_labels(claimed, scores, background, settings)
    ids = np.concatenate([[0], classes, [data.VOID]]).astype(np.uint8)
    if settings.refine == "argmax":
        return ids[labels]
    posterior = dense_crf(rgb, unary(labels, scores, saliency, settings), settings)
    labels = posterior.argmax(0)
    labels[posterior.max(0) < settings.keep] = -1
    return ids[labels]


def run(job: cli.Job) -> None:
    settings: Crf = job.settings
    images, seeds, saliency = job.images, job.inputs["seeds"], job.inputs.get("saliency")
    grid, mined = seeds.meta["grid"], len(seeds.meta["rounds"]) > 1

    def label(i: int) -> np.ndarray:
        rgb = data.image(images, i)
        h, w = rgb.shape[:2]
        classes = np.asarray(seeds["classes"][i])
        classes = classes[classes != data.VOID]
        if not len(classes):  # an image known to hold none of the classes
            return np.zeros((h, w), np.uint8)
        first, scores = (data.from_grid(seeds[name][i, : len(classes)], grid, h, w) for name in ("first", "scores"))
        salient = None if saliency is None else np.asarray(saliency["saliency"][i, :h, :w]).astype(np.float32) / 255
        return label_image(rgb, classes, first, scores, salient, mined, settings)

    write_labels(job, data.split(images, "train"), lambda rows: over_processes(label, rows, job.threads))


if __name__ == "__main__":
    cli.main(run, Crf)
