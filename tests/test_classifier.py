"""Class activation maps of planted networks, whose maps are known: place, mirror images, scales, sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.networks import classifier
from pipeline.networks.classifier import Classifier
from pipeline.networks.trunk import Backbone

STATISTICS = ((0.0,) * 3, (1.0,) * 3)


def colour_detector(stride: int = 16) -> Classifier:
    """A network that sees classes as colours: 1 is red, 2 green, 3 blue; one cell is the mean over stride² pixels."""
    model = Classifier(Backbone("planted", [nn.AvgPool2d(stride)], (3,), STATISTICS), [1, 2, 3]).eval()
    model.score.weight.data = torch.eye(3)[:, :, None, None]
    return model


def scene(height: int, width: int, boxes: dict[int, tuple[int, int, int, int]]) -> np.ndarray:
    """Black, with a box (y0, x0, y1, x1) of each class's colour."""
    rgb = np.zeros((height, width, 3), np.uint8)
    for k, (y0, x0, y1, x1) in boxes.items():
        rgb[y0:y1, x0:x1, k - 1] = 200
    return rgb


def maps_of(rgb: np.ndarray, classes: list[int], grid: int = 4, stride: int = 16, **settings: object) -> np.ndarray:
    return activation(colour_detector(stride), rgb, classes, grid, **settings)


def activation(
    model: Classifier,
    rgb: np.ndarray,
    classes: list[int],
    grid: int,
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0),
    flip: bool = True,
) -> np.ndarray:
    ids = np.array(classes, np.uint8)
    options = {"grid": grid, "scales": scales, "flip": flip, "device": "cpu", "precision": "f32"}
    return classifier.activation(model, rgb[None], [ids], **options)[0]


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
    maps = activation(model, rgb, [1, 2, 3], 4)
    assert maps[0].max() > 0.99
    assert not maps[1:].any()


def test_order_of_classes_is_kept() -> None:
    rgb = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_allclose(maps_of(rgb, [3, 1]), maps_of(rgb, [1, 2, 3])[[2, 0]], rtol=1e-6)


def recall(model: Classifier, pictures: list[np.ndarray], tags: np.ndarray, rows: list[int]) -> float:
    return classifier.recall(
        model, pictures.__getitem__, tags.astype(bool), np.array(rows), device="cpu", precision="f32"
    )


def test_recall_is_the_share_of_images_whose_best_class_is_a_tag() -> None:
    pictures = [scene(32, 32, {1: (0, 0, 9, 9)}), scene(32, 32, {2: (0, 0, 9, 9)}), scene(32, 32, {})]
    tags = np.array([[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])  # a column for every class id
    model = colour_detector()
    assert recall(model, pictures, tags, [0, 1, 2]) == 0.5, "untagged ones do not count"
    assert recall(model, pictures, tags, [0]) == 1
    assert recall(model, pictures, tags, [1]) == 0
    assert recall(model, pictures, tags, [2]) == 0


@pytest.mark.parametrize(("foreground", "red"), [([0, 1, 2], 0), ([0, 2, 3], 0), ([4, 5, 9], 4)])
def test_class_ids_find_their_score_columns_whatever_the_background_is(foreground: list[int], red: int) -> None:
    """Without a background, or with one in the middle, a class's id is not its column plus one."""
    model = colour_detector()
    model.foreground = tuple(foreground)
    rgb = scene(64, 64, {1: (0, 0, 32, 32), 3: (32, 32, 64, 64)})
    expected = maps_of(rgb, [3, 1])
    np.testing.assert_array_equal(activation(model, rgb, [foreground[2], red], 4), expected)
    tags = np.zeros((1, 10))
    tags[0, red] = 1
    assert recall(model, [scene(32, 32, {1: (0, 0, 9, 9)})], tags, [0]) == 1
    (found,) = classifier.tag_probabilities(model, rgb[None], [[red, foreground[1]]], device="cpu", precision="f32")
    np.testing.assert_allclose(found, 1 / (1 + np.exp([-50, 0])), atol=1e-6)
    with pytest.raises(ValueError, match=r"class \[7\] asked for"):
        activation(model, rgb, [7], 4)


@pytest.mark.parametrize("foreground", [[1, 2, 3], [0, 1, 3]])
def test_the_loss_is_the_soft_margin_over_the_foreground_alone(foreground: list[int]) -> None:
    """Sum over images of the mean over classes, so that unequal parts of a batch add up to the whole."""
    model, rng = colour_detector(), np.random.default_rng(0)
    tags = torch.from_numpy(rng.random((5, 4)) < 0.5)
    batch = {"image": torch.from_numpy(rng.integers(0, 9, (5, 3, 32, 32), dtype=np.uint8)), "tags": tags}
    step = classifier.classifier_step(foreground)
    total, count = step(model, batch)["loss"]
    scores, wanted = model(batch["image"]).double(), tags[:, foreground].double()
    plain = -(wanted * scores.sigmoid().log() + (1 - wanted) * (1 - scores.sigmoid()).log()).mean(1).sum()
    torch.testing.assert_close(total.double(), plain, rtol=1e-5, atol=1e-6)
    assert int(count) == 5
    parts = [step(model, {name: value[rows] for name, value in batch.items()})["loss"] for rows in ([0, 1], [2, 3, 4])]
    torch.testing.assert_close(sum(part[0] for part in parts), total)
