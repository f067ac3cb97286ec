"""Scores against slow plain references, and the cases that are easy to get wrong: absent classes, void, unlabelled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import planted
import pytest

from pipeline.core import store
from pipeline.core.config import Evaluate
from pipeline.core.metrics import confusion, coverage, miou, per_class_iou, precision_recall
from pipeline.evaluate import at_thresholds, labels_counter, seeds_counter, thresholds, total

C = 4


def maps(seed: int, shape: tuple[int, ...] = (13, 17), void: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true, predicted = rng.integers(0, C, (2, *shape), dtype=np.uint8)
    true[rng.random(shape) < void] = 255
    predicted[rng.random(shape) < void] = 255
    return true, predicted


def counted(true: np.ndarray, predicted: np.ndarray) -> list[list[int]]:
    matrix = [[0] * (C + 1) for _ in range(C)]
    for t, p in zip(true.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        if t != 255:
            matrix[t][C if p == 255 else p] += 1
    return matrix


def plain_iou(true: np.ndarray, predicted: np.ndarray, unlabelled: str) -> list[float | None]:
    """IoU by sets of pixels."""
    pixels = [(t, p) for t, p in zip(true.ravel().tolist(), predicted.ravel().tolist(), strict=True) if t != 255]
    if unlabelled == "background":
        pixels = [(t, 0 if p == 255 else p) for t, p in pixels]
    else:
        pixels = [(t, p) for t, p in pixels if p != 255]
    out: list[float | None] = []
    for c in range(C):
        both = sum(t == c and p == c for t, p in pixels)
        either = sum(t == c or p == c for t, p in pixels)
        out.append(both / either if any(t == c for t, _ in pixels) else None)
    return out


@pytest.mark.parametrize("seed", range(4))
def test_confusion_is_a_count(seed: int) -> None:
    true, predicted = maps(seed)
    matrix = confusion(true, predicted, C)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == counted(true, predicted)
    assert matrix.sum() == (true != 255).sum(), "void pixels are dropped, nothing else is"


@pytest.mark.parametrize("unlabelled", ["background", "ignore"])
@pytest.mark.parametrize("seed", range(4))
def test_iou_is_intersection_over_union(seed: int, unlabelled: str) -> None:
    true, predicted = maps(seed)
    true[true == 2] = 1  # class 2 is absent, and still predicted
    expected = plain_iou(true, predicted, unlabelled)
    found = per_class_iou(confusion(true, predicted, C), unlabelled)
    assert expected[2] is None
    assert [None if np.isnan(value) else pytest.approx(value) for value in found] == expected
    known = [value for value in expected if value is not None]
    assert miou(confusion(true, predicted, C), unlabelled) == pytest.approx(sum(known) / len(known))


def test_by_hand() -> None:
    true = np.array([[0, 0, 1, 1, 2, 255]], np.uint8)
    predicted = np.array([[0, 1, 1, 255, 2, 2]], np.uint8)
    matrix = confusion(true, predicted, 3)
    np.testing.assert_allclose(per_class_iou(matrix), [1 / 3, 1 / 3, 1])  # the 255 became background
    np.testing.assert_allclose(per_class_iou(matrix, "ignore"), [1 / 2, 1 / 2, 1])
    assert coverage(matrix) == pytest.approx(4 / 5)
    precision, recall = precision_recall(matrix)
    assert precision == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert recall == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)


def test_ignoring_unlabelled_pixels_blanks_a_class_that_has_no_other() -> None:
    true, predicted = np.array([[0, 0, 1]], np.uint8), np.array([[0, 1, 255]], np.uint8)
    found = per_class_iou(confusion(true, predicted, 2), "ignore")
    assert found[0] == 0.5
    assert np.isnan(found[1]), "all true pixels of class 1 were dropped, so there is nothing to score"
    assert per_class_iou(confusion(true, predicted, 2))[1] == 0


def test_void_predictions_never_matter_and_void_truth_never_counts() -> None:
    true, predicted = maps(9)
    other = np.where(true == 255, 3, predicted).astype(np.uint8)
    np.testing.assert_array_equal(confusion(true, predicted, C), confusion(true, other, C))


def test_sums_over_images_not_means_of_images() -> None:
    (a, p), (b, q) = maps(1), maps(2, (5, 7))
    together = np.concatenate([a.ravel(), b.ravel()])[None], np.concatenate([p.ravel(), q.ravel()])[None]
    np.testing.assert_array_equal(confusion(a, p, C) + confusion(b, q, C), confusion(*together, C))


def test_nothing_to_score() -> None:
    empty = np.zeros((C, C + 1), np.int64)
    assert np.isnan(miou(empty))
    assert np.isnan(precision_recall(empty)).all()
    assert np.isfinite(coverage(empty))
    blank = confusion(np.full((3, 3), 255, np.uint8), np.zeros((3, 3), np.uint8), C)
    assert blank.shape == (C, C + 1)
    assert not blank.any()


@pytest.mark.parametrize(("true", "predicted"), [(C, 0), (0, C), (0, 254), (200, 255)])
def test_a_class_that_does_not_exist_is_refused(true: int, predicted: int) -> None:
    with pytest.raises(ValueError, match=f"labels up to {max(v for v in (true, predicted) if v != 255)} found"):
        confusion(np.full((2, 2), true, np.uint8), np.full((2, 2), predicted, np.uint8), C)


def test_shapes_and_unknown_readings_are_refused() -> None:
    with pytest.raises(ValueError, match="predictions"):
        confusion(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), C)
    with pytest.raises(ValueError, match="'background' or 'ignore'"):
        per_class_iou(np.ones((C, C + 1), np.int64), "drop")


# ------------------------------------------------------------------------------------------------- evaluate


def test_thresholds_are_even_and_inside() -> None:
    np.testing.assert_allclose(thresholds(19), np.arange(1, 20) * 0.05, atol=1e-9)
    np.testing.assert_allclose(thresholds(1), [0.5])


@pytest.mark.parametrize("seed", range(3))
def test_one_histogram_equals_thresholding_again_and_again(seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = thresholds(7)
    true, _ = maps(seed)
    best = rng.integers(1, C, true.shape, dtype=np.uint8)
    score = rng.random(true.shape).astype(np.float32)
    score[::3] = levels[rng.integers(0, len(levels), score[::3].shape)]  # exactly on a level: not above it
    score[0, :3] = 0, 1, 0.99999
    found = at_thresholds(true, best, score, levels, C)
    for t, level in enumerate(levels):
        labels = np.where(score > level, best, 0).astype(np.uint8)
        np.testing.assert_array_equal(found[t], confusion(true, labels, C), str(level))


def test_seeds_are_scored_at_the_original_size(tmp_path: Path) -> None:
    """A planted map that is right has an mIoU of 1 between its two levels, also where the image was reduced."""
    truth = np.zeros((48, 64), np.uint8)
    truth[16:32, 32:64] = 2
    pictures = [np.zeros((24, 32, 3), np.uint8)] * 2
    tags = np.array([[0, 1, 0], [0, 0, 0]])
    images = planted.images(tmp_path / "i.json", pictures, tags, [truth, np.zeros_like(truth)])
    scores = np.full((2, 4, 8, 8), 0.2)
    scores[0, 0, 2:4, 4:8] = 0.8
    first = np.zeros((2, 4, 8, 8))
    first[0, 0, 2:4, 4:6] = 1
    first[0, 0, 2:4, 6:8] = 2
    classes = np.array([[2, 255, 255, 255], [255] * 4])
    seeds = planted.seeds(tmp_path / "s.json", scores, classes, first, 4, [{"loss": 1.0}, {"loss": 1.0}])
    count, levels = seeds_counter(images, seeds, Evaluate(thresholds=3))
    matrices = total(count, [0, 1], 1)
    assert levels == [0.25, 0.5, 0.75, "mined"]
    assert matrices.shape == (4, 4, 5)
    assert miou(matrices[3]) == 1, "the mined region is the truth"
    assert miou(matrices[1]) > 0.8, "bilinear maps blur the border by less than a cell"
    assert (matrices.sum((1, 2)) == 2 * truth.size).all()
    everything = at_thresholds(truth, np.full_like(truth, 2), np.full(truth.shape, 0.2, np.float32), np.array([0.1]), 4)
    assert miou(everything[0]) < 0.2
    np.testing.assert_array_equal(matrices, total(count, [0, 1], 2))  # processes change nothing


def test_labels_are_scored_at_the_original_size(tmp_path: Path) -> None:
    truth = np.repeat(np.repeat(np.array([[0, 1], [2, 255]], np.uint8), 10, 0), 14, 1)
    images = planted.images(tmp_path / "i.json", [np.zeros((10, 14, 3), np.uint8)], np.array([[1, 1, 0]]), [truth])
    labels = np.full((1, 14, 14), 255, np.uint8)
    labels[0, :10, :14] = truth[::2, ::2]
    artifact = planted.rows_artifact(tmp_path / "l.json", "labels", {"labels": labels, "covered": np.ones(1, bool)}, {})
    matrix = labels_counter(images, store.Artifact(artifact.path))(0)[0]
    np.testing.assert_array_equal(matrix, np.diag([140, 140, 140, 0, 0])[:4])
