"""Do class activation maps in bf16 agree with those in float32? One trained classifier, both precisions.

    python benchmarks/precision.py results/voc_mini results/voc_mini/seed0/imagenet/classify/classifier.json

Prints the mean difference of the maps (in [0,1]) and the share of cells that fall on the same side of a threshold.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.core import store
from pipeline.kinds import photographs, tags
from pipeline.kinds.pixels import VOID
from pipeline.networks.classifier import activation, load_classifier
from pipeline.networks.states import for_inference


def main(folder: str, classifier_path: str, count: int = 100) -> None:
    pictures = store.Artifact(Path(folder, "photographs.json"), "photographs")
    slots = tags.slots(store.Artifact(Path(folder, "tags.json"), "tags"))
    model = for_inference(load_classifier(store.Artifact(Path(classifier_path), "classifier")), "cpu")
    maps: dict[str, list[np.ndarray]] = {"f32": [], "bf16": []}
    how = {"grid": 4, "scales": (1.0, 0.5, 1.5), "flip": True, "device": "cpu"}
    for i in photographs.split(pictures, "train")[:count]:
        classes = slots[i][slots[i] != VOID]
        for precision, found in maps.items():
            rgb = photographs.image(pictures, i)
            found.append(activation(model, rgb[None], [classes], precision=precision, **how)[0].ravel())
    exact, fast = (np.concatenate(found) for found in maps.values())
    print(
        f"{count} images: mean difference {np.abs(exact - fast).mean():.4f}, largest {np.abs(exact - fast).max():.3f}"
    )
    for t in (0.2, 0.4, 0.65):
        print(f"threshold {t}: {((exact > t) == (fast > t)).mean():.2%} of the cells on the same side")


if __name__ == "__main__":
    main(*sys.argv[1:3])
