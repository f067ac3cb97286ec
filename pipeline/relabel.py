"""A model's predictions on the training images as labels for the next one.

The tag constraint is AE-PSL's and STC's (argmax over the background and the image's tags); the thresholds are those of
semi-supervised training (Zhao et al. 2021, section 4); the CRF is optional.

Reads: images, model. Makes: labels u8 [N,S,S], covered bool [N]. Cost: one inference pass over split train.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.core import cli, data
from pipeline.core.config import Relabel
from pipeline.core.densecrf import DeepLabKernels, dense_crf
from pipeline.core.inference import probabilities
from pipeline.core.labels import write_labels
from pipeline.core.models import for_inference, load_segmenter
from pipeline.core.processes import over_processes


def decide(scores: np.ndarray, ids: np.ndarray, settings: Relabel) -> np.ndarray:
    """Probabilities [K,h,w] of the classes `ids` → labels uint8 [h,w]; below their threshold 255."""
    best = scores.argmax(0)
    labels = ids[best].astype(np.uint8)
    needed = np.where(labels == 0, settings.background, settings.foreground)
    labels[scores.max(0) < needed] = data.VOID
    return labels


def run(job: cli.Job) -> None:
    settings: Relabel = job.settings
    images, artifact = job.images, job.inputs["model"]
    model = for_inference(load_segmenter(artifact), job.device)
    tags, classes = data.image_tags(images), len(data.class_names(images))

    def possible(i: int) -> np.ndarray:
        return np.concatenate([[0], np.flatnonzero(tags[i]) + 1]) if settings.tags else np.arange(classes)

    def refine(item: tuple[int, np.ndarray]) -> tuple[int, np.ndarray]:
        i, scores = item
        return i, dense_crf(data.image(images, i), scores, DeepLabKernels()) if settings.crf else scores

    def predict(i: int) -> tuple[int, np.ndarray]:
        scores = probabilities(
            model,
            data.image(images, i),
            scales=settings.scales,
            flip=settings.flip,
            device=job.device,
            precision=job.precision,
        )[possible(i)]
        return i, scores / scores.sum(0).clip(1e-6)

    def label(rows: list[int]) -> Iterator[np.ndarray]:
        # A few at a time: on a GPU the network comes first, then the CRF on all cores.
        for start in range(0, len(rows), 16):
            predicted = over_processes(predict, rows[start : start + 16], job.images_at_once)
            for i, scores in over_processes(refine, predicted, job.threads if settings.crf else 1):
                yield decide(scores, possible(i), settings)

    write_labels(job, data.split(images, "train"), label)


if __name__ == "__main__":
    cli.main(run, Relabel)
