"""Photographs that show none of the classes, through the real commands: from a folder to what networks learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from conftest import CAM, ERASE, MINE, TINY, prepare, stage
from PIL import Image

from pipeline.core import store
from pipeline.kinds import tags
from pipeline.kinds.labels import labels_at
from pipeline.kinds.pixels import VOID


def make_folder(root: Path) -> Path:
    """Six photographs with a crack, and six with an empty mask; no table of tags."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True)
    for i in range(12):
        rgb, mask = rng.integers(90, 130, (64, 64, 3)).astype(np.uint8), np.zeros((64, 64), np.uint8)
        if i % 2:
            rgb[20:40, 20:40], mask[20:40, 20:40] = 250, 1
        Image.fromarray(rgb).save(root / "images" / f"a{i:02d}.png")
        Image.fromarray(mask).save(root / "masks" / f"a{i:02d}.png")
    (root / "classes.txt").write_text("background\ncrack\n")
    (root / "splits/val.txt").write_text("a10\na11\n")
    return root


def test_they_are_learnt_from_as_such(tmp_path: Path) -> None:
    data = {"name": "x", "max_side": 64, "folder": {"root": str(make_folder(tmp_path / "d"))}}
    made = prepare(tmp_path / "made", data)
    photographs = store.Artifact(made["photographs"])
    table = tags.tags(store.Artifact(made["tags"]))
    assert table[:10].tolist() == [[False, bool(i % 2)] for i in range(10)]

    def make(name: str, stage_name: str, settings: dict | None = None, **inputs: str) -> store.Artifact:
        made[name] = tmp_path / "made" / f"{name}.json"
        stage(stage_name, made[name], settings, **{role: made[source] for role, source in inputs.items()})
        return store.Artifact(made[name])

    see, know = {"photographs": "photographs"}, {"photographs": "photographs", "tags": "tags"}
    make("weights", "init", {"method": "random"})
    classifier = make("classifier", "classify", TINY, **know, weights="weights")
    seeds = make("seeds", "cam", CAM, **know, classifier="classifier")
    make("eraser", "erase", ERASE, **know, seeds="seeds", weights="weights")
    mined = make("mined", "mine", MINE, **see, seeds="seeds", classifier="eraser")
    labels = make("labels", "crf", **see, seeds="mined")
    few = make("few", "masks", **know, masks="masks")
    model = make("model", "segment", {**TINY, "width": 16}, **see, labels="few", weights="weights")
    for network in (classifier, model):
        assert np.isfinite(network.read("curve_loss")).all()
    assert few.read("covered")[:10].all()
    for i in range(10):
        for found in (seeds, mined):
            assert (found["classes"][i] == VOID).all() == (i % 2 == 0)
            assert i % 2 or not found["claimed"][i].any()
        truth = np.zeros((64, 64), np.uint8)
        truth[20:40, 20:40] = i % 2
        assert np.array_equal(labels_at(few, photographs, i), truth)
        assert i % 2 or not labels_at(labels, photographs, i).any(), "background throughout, and no pixel left open"
