"""What each erasing round took: share of the image area, and how much of it truly belongs to its class.

    python benchmarks/erasing.py results/voc_mini results/voc_mini/seed*/imagenet/classify/cam/erase/mine/seeds.json

Counted on the images of split `score`, over the pixels that are not void; prints one line per artifact and round.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.core import store
from pipeline.kinds import masks, photographs, seeds
from pipeline.kinds.pixels import VOID, resize_nearest


def rounds(pictures: store.Artifact, truths: store.Artifact, source: store.Artifact) -> np.ndarray:
    """Pixels taken, pixels taken rightly, and all pixels, for each round: int64 [rounds, 3]."""
    counts = np.zeros((len(source.meta["rounds"]), 3), np.int64)
    has = masks.has_mask(truths)
    for i in photographs.split(pictures, "score"):
        ids, _, claimed = seeds.at_pixels(source, pictures, i)
        if not has[i] or not len(ids):
            continue
        truth = resize_nearest(masks.true_mask(truths, i), *pictures["size"][i])
        for k in range(len(counts)):
            taken = (claimed == k + 1) & (truth != VOID)
            counts[k] += taken.sum(), (taken & (truth == ids[:, None, None])).sum(), (truth != VOID).sum()
    return counts


def main(folder: str, paths: list[str]) -> None:
    pictures = store.Artifact(Path(folder, "photographs.json"), "photographs")
    truths = store.Artifact(Path(folder, "masks.json"), "masks")
    for path in paths:
        source = store.Artifact(Path(path), "seeds")
        for k, (taken, right, pixels) in enumerate(rounds(pictures, truths, source), 1):
            entry = source.meta["rounds"][k - 1]
            story = ", ".join(f"{name} {value}" for name, value in entry.items() if value != "")
            print(
                f"{path} round {k}: {taken / pixels:.1%} of the area, {right / max(taken, 1):.1%} of it right ({story})"
            )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
