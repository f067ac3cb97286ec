"""Scores of label maps: one confusion matrix per split, everything else derives from it.

`confusion[t, p]` counts pixels of true class t predicted p; its last column is 255, 'unlabelled'. Pixels whose true
label is void are dropped. IoU follows the VOC convention: matrices are summed over the whole split, never averaged
per image.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

VOID = 255  # a label that is never counted; kinds/pixels.py has the same


def confusion(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Two label maps of one shape (uint8, 255 = void/unlabelled) → int64 [classes, classes + 1]."""
    if true.shape != predicted.shape:
        raise ValueError(f"true labels are {true.shape}, predictions {predicted.shape}")
    counts = np.zeros(classes * (classes + 1), np.int64)
    for rows in bands(true):
        valid = true[rows] != VOID
        truth = true[rows][valid].astype(np.int64)
        guess = predicted[rows][valid].astype(np.int64)
        labelled = guess != VOID
        largest = max(truth.max(initial=0), guess.max(initial=0, where=labelled))
        if largest >= classes:
            raise ValueError(f"labels up to {largest} found, {classes} classes expected")
        guess[~labelled] = classes
        counts += np.bincount(truth * (classes + 1) + guess, minlength=len(counts))
    return counts.reshape(classes, classes + 1)


def bands(array: np.ndarray) -> Iterator[slice]:
    """Rows of an image, about a million pixels at a time: 64-bit copies of 12 megapixels would take hundreds of MB."""
    height = max(1, 2**20 // max(1, array.shape[1]))
    return (slice(top, top + height) for top in range(0, array.shape[0], height))


def per_class_iou(matrix: np.ndarray, unlabelled: str = "background", background: int | None = 0) -> np.ndarray:
    """IoU per class, float64 [classes]; NaN for a class without true pixels among those that count.

    unlabelled: 'background' counts pixels predicted 255 as class `background` (where the data set has none, None, as
    missed); 'ignore' drops them: labelled pixels only.
    """
    square = matrix[:, :-1].astype(np.float64)
    true = square.sum(1)
    if unlabelled == "background":
        true = matrix.sum(1).astype(np.float64)
        if background is not None:
            square[:, background] += matrix[:, -1]
    elif unlabelled != "ignore":
        raise ValueError(f"unlabelled='{unlabelled}'; 'background' or 'ignore' expected")
    hit = np.diag(square)
    union = square.sum(0) + true - hit
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = hit / union
    return np.where(true > 0, iou, np.nan)


def miou(matrix: np.ndarray, unlabelled: str = "background", background: int | None = 0) -> float:
    """Mean IoU over the classes that have true pixels."""
    iou = per_class_iou(matrix, unlabelled, background)
    return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")


def coverage(matrix: np.ndarray) -> float:
    """Share of the valid pixels that carry a label."""
    return float(1 - matrix[:, -1].sum() / max(matrix.sum(), 1))


def precision_recall(matrix: np.ndarray) -> tuple[float, float]:
    """Mean precision and recall over the classes with true pixels, unlabelled pixels counting as missed."""
    hit = np.diag(matrix[:, :-1]).astype(np.float64)
    present = matrix.sum(1) > 0
    predicted = matrix[:, :-1].sum(0)
    precision = np.divide(hit, predicted, out=np.zeros_like(hit), where=predicted > 0)
    recall = np.divide(hit, matrix.sum(1), out=np.zeros_like(hit), where=present)
    if not present.any():
        return float("nan"), float("nan")
    return float(precision[present].mean()), float(recall[present].mean())
