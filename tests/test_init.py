"""Weights to begin with: random ones follow their seed, ImageNet's follow none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import planted
import pytest

from pipeline import init
from pipeline.core import store
from pipeline.core.steps.weights import Imagenet, Random
from pipeline.networks.backbones import load_backbone


def test_random_weights_follow_their_seed(tmp_path: Path) -> None:
    made = {}
    for number, seed in enumerate((0, 0, 1)):
        init.run(planted.job(Random(), tmp_path / f"{number}.json", seed=seed))
        made[number] = store.Artifact(tmp_path / f"{number}.json", "weights")
    assert made[0].digest == made[1].digest != made[2].digest
    net = load_backbone(made[0], 16)
    assert (net.name, net.gray) == ("resnet18", False)


def test_imagenet_weights_do_not_follow_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their header names no seed, so VGG16's two new layers must not depend on one either."""
    made: list[dict[str, np.ndarray]] = []
    monkeypatch.setattr(init.store, "write_table", lambda out, header, arrays, meta: made.append(arrays))
    monkeypatch.setattr(init, "load_imagenet", lambda net, file: None)
    for seed in (0, 5):
        init.run(planted.job(Imagenet(backbone="vgg16"), tmp_path / "x.json", seed=seed))
    assert np.array_equal(made[0]["float32"], made[1]["float32"])
