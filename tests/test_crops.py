"""Training samples: image and label stay aligned, nothing outside counts, randomness follows the generator alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import planted
import pytest

from pipeline.core import store
from pipeline.kinds.crops import Crops

FILL = np.array([7, 7, 7], np.uint8)  # no label's colour


def checked(height: int, width: int, cell: int = 16) -> np.ndarray:
    """Labels 1..5 in squares."""
    y, x = np.arange(height)[:, None] // cell, np.arange(width)[None] // cell
    return ((y * 3 + x) % 5 + 1).astype(np.uint8)


def coloured(labels: np.ndarray) -> np.ndarray:
    """A picture whose grey value says the label: 40 x label."""
    return np.repeat((labels * 40)[..., None], 3, 2)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> store.Artifact:
    """Larger than the crops, smaller, and narrow."""
    pictures = [coloured(checked(*size)) for size in ((120, 160), (30, 40), (20, 160))]
    return planted.photographs(tmp_path_factory.mktemp("crops") / "p.json", pictures)


TAGS = np.array([[1, 0], [0, 1], [1, 1]], bool)


def cutter(images: store.Artifact, **options: object) -> Crops:
    given: dict[str, Any] = {"crop": 64, "scale": (0.5, 2.0), "jitter": 0.0, "fill": FILL, "tags": TAGS, "inside": True}
    given["label"] = lambda i: checked(*images["size"][i])
    return Crops(images, **{**given, **options})


def drawn(cut: Crops, i: int, count: int = 12) -> list[dict[str, np.ndarray]]:
    return [cut(i, np.random.default_rng((i, number))) for number in range(count)]


@pytest.mark.parametrize("i", [0, 1, 2])
def test_image_and_label_stay_aligned(i: int, images: store.Artifact) -> None:
    for sample in drawn(cutter(images), i):
        image, label = sample["image"], sample["label"]
        assert image.shape == (3, 64, 64)
        assert label.shape == (64, 64)
        assert image.dtype == label.dtype == np.uint8
        inside = label != 255
        assert inside.any()
        assert sample["inside"].dtype == bool
        np.testing.assert_array_equal(sample["inside"], inside)
        assert (image[:, ~inside] == 7).all(), "outside: fill and VOID, nothing else"
        said = image[0].astype(int)
        wrong = inside & (abs(said - 40 * label.astype(int)) > 20)
        # Where two squares meet, the resized image mixes their colours; nowhere else may they disagree.
        edge = np.zeros_like(inside)
        for axis in (0, 1):
            change = np.diff(label.astype(int), axis=axis) != 0
            for shift in (-1, 0, 1, 2):
                where = np.argwhere(change)
                where[:, axis] = np.clip(where[:, axis] + shift, 0, 63)
                edge[tuple(where.T)] = True
        assert not (wrong & ~edge).any()


def test_labels_are_never_interpolated(images: store.Artifact) -> None:
    two = cutter(images, label=lambda i: np.where(checked(*images["size"][i]) > 2, 200, 3).astype(np.uint8))
    for i in range(3):
        for sample in drawn(two, i):
            assert set(np.unique(sample["label"])) <= {3, 200, 255}


def test_void_of_the_photograph_is_inside_it(images: store.Artifact) -> None:
    """Which the label cannot say. Without being asked for, a sample says nothing of it."""
    plain, void = cutter(images), cutter(images, label=lambda i: np.full(images["size"][i], 255, np.uint8))
    for one, other in zip(drawn(plain, 1), drawn(void, 1), strict=True):
        assert (other["label"] == 255).all() and other["inside"].any() and not other["inside"].all()
        np.testing.assert_array_equal(one["inside"], other["inside"])
    assert "inside" not in drawn(cutter(images, inside=False), 1, 1)[0]


def test_half_of_the_crops_are_mirrored(images: store.Artifact) -> None:
    """The label says left 1, right 2. (That the image turns with it is the first test's business.)"""
    label = np.where(np.arange(160) < 80, 1, 2).astype(np.uint8)[None].repeat(120, 0)
    samples = drawn(cutter(images, scale=(1.0, 1.0), crop=160, label=lambda i: label), 0, 60)
    assert 15 < sum(bool(sample["label"][80, 20] == 2) for sample in samples) < 45


def test_one_generator_one_sample(images: store.Artifact) -> None:
    cut = cutter(images, jitter=0.3)
    for i in range(3):
        one, same, other = (cut(i, np.random.default_rng(seed)) for seed in (5, 5, 6))
        assert all(np.array_equal(one[name], same[name]) for name in one)
        assert not np.array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["tags"], TAGS[i])


def test_scale_follows_the_settings(images: store.Artifact) -> None:
    """Squares of 16 pixels appear with sides of 16 x scale."""
    for scale in (0.5, 1.0, 2.0):
        label = cutter(images, scale=(scale, scale))(0, np.random.default_rng(0))["label"]
        row = label[(label != 255).any(1)][16]
        row = row[row != 255]
        runs = np.diff(np.flatnonzero(np.diff(row.astype(int)) != 0))
        assert set(runs) == {16 * scale}


def test_a_picture_smaller_than_the_crop_keeps_all_of_itself(images: store.Artifact) -> None:
    for sample in drawn(cutter(images, scale=(1.0, 1.0)), 1):
        inside = sample["label"] != 255
        assert inside.sum() == 30 * 40
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        assert (np.diff(rows) == 1).all()
        assert (len(rows), len(columns)) == (30, 40)


def test_the_whole_of_a_large_picture_is_visited(images: store.Artifact) -> None:
    """Corners must not be rarer than they have to be: with crops of half the side, each is reached."""
    label = np.arange(120 * 160).reshape(120, 160)
    seen = np.zeros(label.size, bool)
    mark = (label % 250).astype(np.uint8)
    cut = cutter(images, scale=(1.0, 1.0), label=lambda i: mark)
    for number in range(120):
        window, _, _ = cut._window(120, 160, np.random.default_rng(number))
        seen[label[window]] = True
    assert seen.mean() > 0.97
