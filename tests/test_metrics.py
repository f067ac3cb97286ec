"""Scores against slow plain references, and the cases that are easy to get wrong: absent classes, void, unlabelled."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core import metrics
from pipeline.core.metrics import confusion, coverage, miou, per_class_iou, precision_recall
from pipeline.kinds import pixels

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


def plain_iou(
    true: np.ndarray, predicted: np.ndarray, unlabelled: str, background: int | None = 0
) -> list[float | None]:
    """IoU by sets of pixels."""
    pixels = [(t, p) for t, p in zip(true.ravel().tolist(), predicted.ravel().tolist(), strict=True) if t != 255]
    if unlabelled == "background":
        pixels = [(t, background if p == 255 else p) for t, p in pixels]
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
@pytest.mark.parametrize("background", [0, 3, None])
@pytest.mark.parametrize("seed", range(3))
def test_iou_is_intersection_over_union(seed: int, unlabelled: str, background: int | None) -> None:
    """With background None an unlabelled pixel is a true one that no class hits."""
    true, predicted = maps(seed)
    true[true == 2] = 1  # class 2 is absent, and still predicted
    expected = plain_iou(true, predicted, unlabelled, background)
    found = per_class_iou(confusion(true, predicted, C), unlabelled, background)
    assert expected[2] is None
    assert [None if np.isnan(value) else pytest.approx(value) for value in found] == expected
    known = [value for value in expected if value is not None]
    assert miou(confusion(true, predicted, C), unlabelled, background) == pytest.approx(sum(known) / len(known))


def test_by_hand() -> None:
    true = np.array([[0, 0, 1, 1, 2, 255]], np.uint8)
    predicted = np.array([[0, 1, 1, 255, 2, 2]], np.uint8)
    matrix = confusion(true, predicted, 3)
    np.testing.assert_allclose(per_class_iou(matrix), [1 / 3, 1 / 3, 1])  # the 255 became background
    np.testing.assert_allclose(per_class_iou(matrix, background=2), [1 / 2, 1 / 3, 1 / 2])
    np.testing.assert_allclose(per_class_iou(matrix, background=None), [1 / 2, 1 / 3, 1])
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


def test_void_is_the_same_everywhere() -> None:
    assert metrics.VOID == pixels.VOID == 255


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
