"""Class activation maps of planted networks, whose maps are known: place, mirror images, scales, sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import planted
import pytest
import torch
from colours import colour_detector

from pipeline import cam
from pipeline.core import store
from pipeline.core.steps import Cam
from pipeline.kinds import seeds
from pipeline.networks.classifier import activation, classification_loss, classifier_step, recall, tag_probabilities

PLACE = {"device": "cpu", "precision": "f32"}


def scene(height: int, width: int, boxes: dict[int, tuple[int, int, int, int]]) -> np.ndarray:
    """Black, with a box (y0, x0, y1, x1) of each class's colour."""
    rgb = np.zeros((height, width, 3), np.uint8)
    for k, (y0, x0, y1, x1) in boxes.items():
        rgb[y0:y1, x0:x1, k - 1] = 200
    return rgb


def maps_of(
    rgb: np.ndarray,
    classes: Sequence[int],
    grid: int = 4,
    stride: int = 16,
    scales: Sequence[float] = (1.0, 0.5, 1.5, 2.0),
    flip: bool = True,
) -> np.ndarray:
    return activation(colour_detector(stride), rgb, classes, grid=grid, scales=scales, flip=flip, **PLACE)


def centre(score: np.ndarray, grid: int) -> tuple[float, float]:
    """Centroid in pixels of the photograph."""
    y, x = (np.arange(side) * grid + (grid - 1) / 2 for side in score.shape)
    return float((score.sum(1) * y).sum() / score.sum()), float((score.sum(0) * x).sum() / score.sum())


@pytest.mark.parametrize(
    ("size", "grid"), [((96, 128), 4), ((97, 131), 4), ((50, 70), 8), ((64, 64), 1), ((33, 65), 16)]
)
@pytest.mark.parametrize("flip", [False, True])
def test_sizes_and_range(size: tuple[int, int], grid: int, flip: bool) -> None:
    rgb = scene(*size, {1: (8, 8, 30, 30), 3: (10, 30, 33, 50)})
    maps = maps_of(rgb, [3, 1], grid, flip=flip)
    assert maps.shape == (2, -(-size[0] // grid), -(-size[1] // grid))
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    np.testing.assert_allclose(maps.max((1, 2)), 1, atol=1e-3)


@pytest.mark.parametrize("size", [(128, 160), (121, 150), (115, 139)])
@pytest.mark.parametrize(
    "settings", [{"scales": (1.0,), "flip": False}, {"scales": (1.0,)}, {"scales": (0.5,)}, {"scales": (2.0,)}, {}]
)
def test_the_map_lies_where_the_object_lies(size: tuple[int, int], settings: dict) -> None:
    """To within three pixels (a cell has 16), at every scale, mirrored or not, at sizes that no stride divides."""
    boxes = {1: (16, 32, 48, 64), 2: (64, 96, 112, 128)}
    maps = maps_of(scene(*size, boxes), [1, 2], **settings)
    for score, (y0, x0, y1, x1) in zip(maps, boxes.values(), strict=True):
        y, x = centre(score, 4)
        assert abs(y - (y0 + y1 - 1) / 2) < 3
        assert abs(x - (x0 + x1 - 1) / 2) < 3
        inside = np.zeros(size, bool)
        inside[y0:y1, x0:x1] = True
        cells = inside[2::4, 2::4][: score.shape[0], : score.shape[1]]
        claimed = score[: cells.shape[0], : cells.shape[1]] > 0.5
        assert (cells & claimed).sum() / (cells | claimed).sum() > 0.4


def test_a_mirrored_photograph_gives_the_mirrored_map() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    one, other = maps_of(rgb, [1, 2, 3]), maps_of(np.ascontiguousarray(rgb[:, ::-1]), [1, 2, 3])
    np.testing.assert_allclose(other, one[:, :, ::-1], atol=2e-3)


def test_scales_are_summed_before_dividing_by_the_maximum() -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    single = [maps_of(rgb, [1], scales=(scale,)) for scale in (1.0, 0.5)]
    both = maps_of(rgb, [1], scales=(1.0, 0.5))
    # Maxima of single scales are unknown here, so the sum is known up to two factors.
    a, b = (values.ravel() for values in single)
    factors, *_ = np.linalg.lstsq(np.stack([a, b], 1), both.ravel(), rcond=None)
    assert (factors > 0.1).all()
    np.testing.assert_allclose(np.stack([a, b], 1) @ factors, both.ravel(), atol=1e-4)


def test_a_class_that_responds_nowhere_has_an_empty_map() -> None:
    model = colour_detector()
    model.score.weight.data[1] *= -1  # class 2 answers green with a negative score: ReLU
    rgb = scene(64, 64, {1: (0, 0, 32, 32), 2: (16, 16, 64, 64)})
    maps = activation(model, rgb, [1, 2, 3], grid=4, scales=(1.0,), flip=True, **PLACE)
    assert maps[0].max() > 0.99
    assert not maps[1:].any()


def test_order_of_classes_is_kept() -> None:
    rgb = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(maps_of(rgb, [3, 1]), maps_of(rgb, [1, 2, 3])[[2, 0]])


# ------------------------------------------------------------------------------------ classes are ids, not columns


def test_a_classifier_of_a_data_set_without_a_background_knows_class_0() -> None:
    """Red is class 0, green 2, blue 5."""
    model = colour_detector(classes=(0, 2, 5))
    rgb = scene(64, 64, {1: (0, 0, 32, 32), 2: (32, 0, 64, 64)})
    maps = activation(model, rgb, [2, 0], grid=4, scales=(1.0,), flip=False, **PLACE)
    assert maps[0, 12, 4] > 0.9 > 0.1 > maps[0, 4, 4], "green"
    assert maps[1, 4, 4] > 0.9 > 0.1 > maps[1, 12, 4], "red"
    with pytest.raises(ValueError, match=r"class \[1, 9\] asked for; this classifier knows \[0, 2, 5\]"):
        activation(model, rgb, [2, 9, 1], grid=4, scales=(1.0,), flip=False, **PLACE)


def test_training_sees_the_tags_of_the_foreground_classes_only() -> None:
    tags = torch.tensor([[False, True, False, True], [False, False, False, True]])
    scores = torch.tensor([[0.3, -1.0, 2.0], [-0.5, 0.1, 0.0]])

    def slow(columns: list[int]) -> float:
        total = 0.0
        for b in range(2):
            each = [
                -float(torch.log(torch.sigmoid(scores[b, f] if tags[b, k] else -scores[b, f])))
                for f, k in enumerate(columns)
            ]
            total += sum(each) / len(each)
        return total

    total, count = classification_loss(scores, tags[:, 1:])
    assert float(total) == pytest.approx(slow([1, 2, 3]), rel=1e-5)
    assert int(count) == 2
    for columns in ([1, 2, 3], [0, 1, 3]):
        step = classifier_step(columns)
        total, _ = step(torch.nn.Identity(), {"image": scores, "tags": tags})["loss"]
        assert float(total) == pytest.approx(slow(columns), rel=1e-5)


def test_recall_is_the_share_of_images_whose_best_class_is_a_tag() -> None:
    pictures = [scene(32, 32, {1: (0, 0, 9, 9)}), scene(32, 32, {2: (0, 0, 9, 9)}), scene(32, 32, {})]
    tags = np.array([[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool)
    model = colour_detector()

    def of(*rows: int) -> float:
        return recall(model, pictures.__getitem__, tags, np.array(rows), **PLACE)

    assert of(0, 1, 2) == 0.5, "untagged ones do not count"
    assert of(0) == 1
    assert of(1) == 0
    assert of(2) == 0


def test_a_tags_probability_is_the_sigmoid_of_its_score() -> None:
    rgb = scene(32, 32, {1: (0, 0, 16, 16)})  # a quarter of it is 200 red
    found = tag_probabilities(colour_detector(), rgb // 100, [3, 1], **PLACE)
    np.testing.assert_allclose(found, [0.5, 1 / (1 + np.exp(-0.5))], rtol=1e-5)


# -------------------------------------------------------------------------------------------------- the stage


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


def test_another_threshold_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, runs = world(tmp_path, 0), []

    def counted(*arguments: object, **options: object) -> np.ndarray:
        runs.append(1)
        return activation(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(cam, "load_classifier", lambda artifact: colour_detector())
    monkeypatch.setattr(cam, "activation", counted)
    out = tmp_path / "s.json"
    cam.run(planted.job(Cam(scales=(1.0,), threshold=0.6), out, given))
    before = store.Artifact(out).read("claimed")
    assert len(runs) == 2, "the image without tags needs no map"
    cam.run(planted.job(Cam(scales=(1.0,), threshold=0.2), out, given))
    assert len(runs) == 2
    assert store.Artifact(out).read("claimed").sum() > before.sum()
