"""What the dense CRF takes, and what it does to a planted picture. Its speed and processes: tests/test_crf.py."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.kernels.densecrf import DeepLabKernels, dense_crf


def planted_picture(size: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A bright disc on a dark ground; its mask; probabilities of one disc four pixels off."""
    y, x = np.mgrid[:size, :size]
    mask, off = ((y - 30) ** 2 + (x - c) ** 2 < 18**2 for c in (34, 30))
    noise = np.random.default_rng(0).normal(0, 6, (size, size, 3))
    rgb = np.where(mask[..., None], (200, 150, 60), (40, 60, 110)) + noise
    foreground = np.where(off, 0.7, 0.3).astype(np.float32)
    return rgb.clip(0, 255).astype(np.uint8), mask, np.stack([1 - foreground, foreground])


def test_it_moves_labels_to_the_edges_of_the_photograph() -> None:
    rgb, mask, probabilities = planted_picture()
    found = dense_crf(rgb, probabilities, DeepLabKernels())
    before, after = ((scores.argmax(0) == mask).mean() for scores in (probabilities, found))
    assert before < 0.95 and after > 0.97
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, bool])
def test_a_photograph_that_is_not_bytes_is_refused(dtype: type) -> None:
    """In 0..1 it would be cast to zeros, and no edge would be left."""
    rgb, _, probabilities = planted_picture()
    with pytest.raises(ValueError, match=r"uint8 \[64, 64, 3\] expected, grey levels from 0 to 255"):
        dense_crf((rgb / 255).astype(dtype), probabilities, DeepLabKernels())


def test_sizes_must_agree() -> None:
    rgb, _, probabilities = planted_picture()
    with pytest.raises(ValueError, match=r"uint8 \[64, 63, 3\]"):
        dense_crf(rgb[:, :63], probabilities, DeepLabKernels())
    with pytest.raises(ValueError, match="expected"):
        dense_crf(rgb[:, :63], probabilities[:1], DeepLabKernels())
