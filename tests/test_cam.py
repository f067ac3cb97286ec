"""The stage that makes class activation maps: what it stores and claims. The maps themselves: test_classifier.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
from colours import colour_detector

from pipeline import cam, excitation
from pipeline.core import store
from pipeline.core.steps.seeds import Cam, Excitation
from pipeline.kinds import seeds
from pipeline.networks.classifier import Classifier, activation, tag_probabilities

PLACE = {"device": "cpu", "precision": "f32"}


def scene(height: int, width: int, boxes: dict[int, tuple[int, int, int, int]]) -> np.ndarray:
    """Black, with a box (y0, x0, y1, x1) of each class's colour."""
    rgb = np.zeros((height, width, 3), np.uint8)
    for k, (y0, x0, y1, x1) in boxes.items():
        rgb[y0:y1, x0:x1, k - 1] = 200
    return rgb


def test_a_tags_probability_is_the_sigmoid_of_its_score() -> None:
    rgb = scene(32, 32, {1: (0, 0, 16, 16)})  # a quarter of it is 200 red
    (found,) = tag_probabilities(colour_detector(), rgb[None] // 100, [[3, 1]], **PLACE)
    np.testing.assert_allclose(found, [0.5, 1 / (1 + np.exp(-0.5))], rtol=1e-5)


def world(folder: Path, background: int | None) -> dict[str, store.Artifact]:
    """Three pictures with known objects; without a background classes begin at 0."""
    shift = 0 if background is None else 1
    pictures = [
        scene(64, 96, {1: (0, 0, 32, 32), 2: (32, 48, 64, 96)}),
        scene(50, 64, {3: (16, 16, 48, 48)}),
        scene(64, 64, {}),
        scene(64, 64, {1: (0, 0, 64, 32)}),
    ]
    table = np.zeros((4, 3 + shift), bool)
    for row, column in ((0, 0), (0, 1), (1, 2), (3, 0)):
        table[row, column + shift] = True
    made = planted.dataset(folder, pictures, table, background=background, train=[0, 1, 2])
    names = planted.class_names(3 + shift, background)
    meta = {"classes": names, "background": background}
    header = store.Header("classifier", "classify", {"method": "classify", "epochs": 3.0}, "test")
    curve = {"curve_loss": np.array([0.5, 0.25], np.float32)}
    made["classifier"] = planted.table_artifact(folder / "c.json", "classifier", curve, meta, header)
    return made


@pytest.mark.parametrize("background", [0, None])
def test_the_stage_claims_what_its_maps_exceed(
    background: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = world(tmp_path, background)
    shift = 0 if background is None else 1
    model = colour_detector(classes=np.arange(3) + shift)
    monkeypatch.setattr(cam, "load_classifier", lambda artifact: model)
    settings = Cam(scales=(1.0,), threshold=0.6)
    cam.run(planted.job(settings, tmp_path / "s.json", given))
    made = store.Artifact(tmp_path / "s.json", "seeds")
    assert made.meta["rounds"] == [{"loss": 0.25, "epochs": 3.0}], "what later rounds compare with"
    assert (made.meta["background"], made.meta["classes"]) == (background, planted.class_names(3 + shift, background))
    assert made.read("classes").tolist() == [
        [shift, 1 + shift, 255, 255],
        [2 + shift, 255, 255, 255],
        [255] * 4,
        [255] * 4,  # a validation image: no slot of it is filled
    ]
    for i, count in enumerate((2, 1, 0)):
        found = seeds.on_grid(made, given["photographs"], i)
        assert len(found.classes) == count
        np.testing.assert_array_equal(found.claimed, seeds.claim(found.scores, settings).astype(np.uint8))
        assert found.claimed.max(initial=1) == 1
    first = seeds.at_pixels(made, given["photographs"], 0)
    assert first.claimed[0, 4:24, 4:24].all() and not first.claimed[0, 40:].any()
    assert first.claimed[1, 40:60, 56:92].all() and not first.claimed[1, :, :40].any()
    assert not made.read("scores")[3].any()


@pytest.mark.parametrize("stage", [cam, excitation])
def test_a_loss_that_erasing_could_not_compare_is_not_passed_on(
    stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classifier of `hcp` has a squared loss by default, of other size than the soft margin of a later round."""
    given = world(tmp_path, 0)
    monkeypatch.setattr(stage, "load_classifier", lambda artifact: colour_detector())
    method = Cam(scales=(1.0,)) if stage is cam else Excitation(scales=(1.0,), at=1)
    for loss, first in (("squared", {}), ("soft_margin", {"loss": 0.25, "epochs": 3.0})):
        header = store.Header("classifier", "hcp", {"method": "hcp", "epochs": 3.0, "loss": loss}, "test")
        curve = {"curve_loss": np.array([0.5, 0.25], np.float32)}
        given["classifier"] = planted.table_artifact(tmp_path / f"{loss}.json", "classifier", curve, {}, header)
        stage.run(planted.job(method, tmp_path / f"{loss}-s.json", given))
        assert store.Artifact(tmp_path / f"{loss}-s.json", "seeds").meta["rounds"] == [first]


def test_another_threshold_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, runs = world(tmp_path, 0), []

    def counted(model: Classifier, rgb: np.ndarray, classes: list, **options: Any) -> list[np.ndarray]:
        runs.extend(ids for ids in classes if len(ids))
        return activation(model, rgb, classes, **options)

    monkeypatch.setattr(cam, "load_classifier", lambda artifact: colour_detector())
    monkeypatch.setattr(cam, "activation", counted)
    out = tmp_path / "s.json"
    cam.run(planted.job(Cam(scales=(1.0,), threshold=0.6), out, given))
    before = store.Artifact(out).read("claimed")
    assert len(runs) == 2, "the image without tags needs no map"
    cam.run(planted.job(Cam(scales=(1.0,), threshold=0.2), out, given))
    assert len(runs) == 2
    assert store.Artifact(out).read("claimed").sum() > before.sum()
