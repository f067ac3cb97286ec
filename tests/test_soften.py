"""Seeds as soft labels: the values by hand, and which images they cover."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import planted
import pytest

from pipeline import soften
from pipeline.core import store
from pipeline.core.job import InputError
from pipeline.core.steps.labels import Soften

SIZES = [(16, 24), (20, 20), (24, 9), (24, 24)]


def world(folder: Path, background: int | None = 0) -> dict[str, store.Artifact]:
    """Two tags, one, none; the last photograph is of split val. Cells of 4 pixels, random scores with some zeros."""
    rng = np.random.default_rng(0)
    slots = np.array([[1, 3, 255], [2, 255, 255], [255] * 3, [255] * 3])
    scores = np.zeros((4, 3, 6, 6))
    for i, (h, w) in enumerate(SIZES):
        for k in np.flatnonzero(slots[i] != 255):
            part = rng.random((-(-h // 4), -(-w // 4)))
            scores[i, k, : part.shape[0], : part.shape[1]] = np.where(part < 0.3, 0, part)
    pictures = [np.zeros((*size, 3), np.uint8) for size in SIZES]
    given = planted.dataset(folder, pictures, np.zeros((4, 4)), background=background, train=[0, 1, 2])
    given["seeds"] = planted.seeds(folder / "seeds.json", scores, slots, scores > 0.8, 4, background=background)
    return given


def test_values_by_hand() -> None:
    """0.9 dog leaves 0.1 (the paper's example); two tags share with what the larger leaves; no score: background."""
    scores = np.array([[0.9, 0.5, 0.0, 1.0], [0.0, 0.5, 0.0, 1.0]])[:, None]
    expected = [[0.1, 1 / 3, 1, 0], [0.9, 1 / 3, 0, 0.5], [0, 1 / 3, 0, 0.5]]
    found = soften.probabilities(scores)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-6)
    np.testing.assert_array_equal(soften.probabilities(np.zeros((0, 2, 3))), np.ones((1, 2, 3)))


def test_the_artifact_is_a_slow_loop_over_the_seeds(tmp_path: Path) -> None:
    given = world(tmp_path)
    soften.run(planted.job(Soften(), tmp_path / "s.json", given))
    made = store.Artifact(tmp_path / "s.json", "soft")
    assert made.read("covered").tolist() == [True, True, True, False]
    assert made.read("slots").tolist() == [[0, 1, 3, 255], [0, 2, 255, 255], [0, 255, 255, 255], [255] * 4]
    assert made.meta == {"grid": 4, "classes": planted.class_names(4), "background": 0}
    scores, expected = given["seeds"].read("scores").astype(float), np.zeros((4, 4, 6, 6))
    for i, (h, w) in enumerate(SIZES[:3]):
        for y, x in np.ndindex(-(-h // 4), -(-w // 4)):
            cell = [1 - max(scores[i, :, y, x]), *scores[i, :, y, x]]
            expected[i, :, y, x] = np.array(cell) / sum(cell)
    np.testing.assert_allclose(made.read("probabilities"), expected, atol=5e-4)
    assert (made["probabilities"][2, 0, :6, :3] == 1).all(), "without tags background throughout"
    assert not made["probabilities"][2, 0, :, 3:].any(), "of the photograph's own cells"


def test_without_a_background_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of these classes is the background, to which 'soften' gives"):
        soften.run(planted.job(Soften(), tmp_path / "s.json", world(tmp_path, background=None)))
