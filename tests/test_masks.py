"""True masks as labels: as many as asked, of the training images, at the stored size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import planted
import pytest
from test_crops import checked

from pipeline import masks
from pipeline.core import store
from pipeline.core.job import InputError
from pipeline.core.steps.labels import Masks
from pipeline.kinds.labels import labels_at


def world(folder: Path, background: int | None, known: int = 6) -> dict[str, store.Artifact]:
    """Ten photographs at half the size of their masks; the first `known` have one, rows 0 to 7 are for training."""
    truths = [np.kron(checked(20, 30, 5) + (background is None) - 1, np.ones((2, 2), np.uint8)) for _ in range(10)]
    maps = [truth if i < known or i > 7 else None for i, truth in enumerate(truths)]
    table = np.ones((10, 6), bool)
    return planted.dataset(folder, [np.zeros((20, 30, 3), np.uint8)] * 10, table, maps, background, train=range(8))


@pytest.mark.parametrize("background", [0, None])
@pytest.mark.parametrize(("fraction", "used"), [(1.0, 6), (0.5, 3), (0.01, 1)])
def test_masks_are_the_true_ones_reduced_and_as_many_as_asked(
    fraction: float, used: int, background: int | None, tmp_path: Path
) -> None:
    given = world(tmp_path, background)
    masks.run(planted.job(Masks(fraction=fraction), tmp_path / "m.json", given))
    made = store.Artifact(tmp_path / "m.json", "labels")
    covered = made.read("covered")
    assert covered.sum() == used
    assert not covered[6:].any(), "without a mask, or for validation"
    for i in np.flatnonzero(covered).tolist():
        expected = checked(20, 30, 5) + (background is None) - 1
        np.testing.assert_array_equal(labels_at(made, given["photographs"], i), expected)
        assert (made["labels"][i, 20:] == 255).all()
    for i in np.flatnonzero(~covered).tolist():
        assert (made["labels"][i] == 255).all()
    assert made.meta == {"used": used, "available": 6, "classes": planted.class_names(6, background)} | {
        "background": background
    }


def test_photographs_that_show_nothing_are_drawn_like_a_class(tmp_path: Path) -> None:
    """One of two classes and nothing by turns: of three, one each."""
    table = np.zeros((9, 3), bool)
    table[0::3, 1] = table[1::3, 2] = True
    maps = [np.full((20, 30), i % 3 + 1 if i % 3 < 2 else 0, np.uint8) for i in range(9)]
    given = planted.dataset(tmp_path, [np.zeros((20, 30, 3), np.uint8)] * 9, table, maps)
    for seed in range(5):
        masks.run(planted.job(Masks(fraction=1 / 3), tmp_path / f"{seed}.json", given, seed=seed))
        made = store.Artifact(tmp_path / f"{seed}.json", "labels")
        drawn = made.read("covered").nonzero()[0]
        assert sorted(i % 3 for i in drawn.tolist()) == [0, 1, 2]
        for i in drawn.tolist():
            np.testing.assert_array_equal(labels_at(made, given["photographs"], i), maps[i])


def test_no_masks_at_all_is_a_message(tmp_path: Path) -> None:
    given = world(tmp_path, 0, known=0)
    with pytest.raises(InputError, match="no image of split train has a mask"):
        masks.run(planted.job(Masks(), tmp_path / "m.json", given))
