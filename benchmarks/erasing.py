"""What each erasing round took: share of the image area, and how much of it truly belongs to its class.

    python benchmarks/erasing.py results/voc_mini/images.json results/voc_mini/seed*/imagenet/*/cam/ae/ae/seeds.json

Counted on the images of split `score`, over the pixels that are not void; prints one line per artifact and round.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.core import data, store


def rounds(images: store.Artifact, seeds: store.Artifact) -> np.ndarray:
    """Pixels taken, pixels taken rightly, and all pixels, for each round: int64 [rounds, 3]."""
    counts = np.zeros((len(seeds.meta["rounds"]), 3), np.int64)
    for i in data.split(images, "score"):
        classes = np.asarray(seeds["classes"][i])
        classes = classes[classes != data.VOID]
        if not images["has_mask"][i] or not len(classes):
            continue
        h, w = images["size"][i]
        truth = data.resize_nearest(data.true_mask(images, i), h, w)
        first = data.from_grid(seeds["first"][i, : len(classes)], seeds.meta["grid"], h, w)
        for k in range(len(counts)):
            taken = (first == k + 1) & (truth != data.VOID)
            counts[k] += taken.sum(), (taken & (truth == classes[:, None, None])).sum(), (truth != data.VOID).sum()
    return counts


def main(paths: list[str]) -> None:
    images = store.Artifact(Path(paths[0]), "images")
    for path in paths[1:]:
        seeds = store.Artifact(Path(path), "seeds")
        for k, (taken, right, pixels) in enumerate(rounds(images, seeds), 1):
            entry = seeds.meta["rounds"][k - 1]
            story = ", ".join(f"{name} {value}" for name, value in entry.items() if value != "")
            print(
                f"{path} round {k}: {taken / pixels:.1%} of the area, {right / max(taken, 1):.1%} of it right ({story})"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
