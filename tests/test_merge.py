"""True masks over pseudo-labels: by image or by class, and never a true object's pixel lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import planted
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import merge
from pipeline.core import store
from pipeline.core.job import InputError
from pipeline.core.steps.labels import Merge
from pipeline.kinds.labels import labels_at

BACKGROUNDS = st.sampled_from([0, 2, None])
MAPS = st.integers(1, 6).flatmap(
    lambda side: st.tuples(*[hnp.arrays(np.uint8, (side, 5), elements=st.sampled_from([0, 1, 2, 3, 255]))] * 2)
)


def plain(true: np.ndarray, pseudo: np.ndarray, background: int | None) -> np.ndarray:
    """The rule pixel by pixel: what is drawn stays; of the drawn classes, pseudo-labels say nothing."""
    drawn = set(true.ravel().tolist()) - {255, background}
    out = pseudo.copy()
    for at in np.ndindex(true.shape):
        if int(true[at]) in drawn or int(pseudo[at]) in drawn:
            out[at] = true[at]
    return out


@settings(max_examples=200, deadline=None)
@given(MAPS, BACKGROUNDS)
def test_by_class_no_pixel_of_a_true_object_is_ever_lost(
    maps: tuple[np.ndarray, np.ndarray], background: int | None
) -> None:
    true, pseudo = maps
    found = merge.merge_by_class(true, pseudo, background)
    objects = (true != 255) & ((true != background) if background is not None else True)
    np.testing.assert_array_equal(found[objects], true[objects])
    for k in set(true[objects].tolist()):
        np.testing.assert_array_equal(found == k, true == k, "nor does a drawn class gain any")
    np.testing.assert_array_equal(found, plain(true, pseudo, background))
    assert found.dtype == np.uint8


def test_by_hand() -> None:
    """A mask drawn for class 1 only; the pseudo-labels know class 2 as well, and take some of its pixels for 1."""
    true = np.array([[1, 1, 0, 0, 255, 0]], np.uint8)
    pseudo = np.array([[2, 0, 1, 2, 1, 255]], np.uint8)
    assert merge.merge_by_class(true, pseudo, 0).tolist() == [[1, 1, 0, 2, 255, 255]]
    assert merge.merge_by_class(true, pseudo, None).tolist() == [[1, 1, 0, 0, 255, 0]], "class 0 is drawn as well"


SIZES = [(6, 8), (8, 5), (4, 4), (8, 8)]


def world(folder: Path, background: int | None = 0) -> tuple[dict[str, store.Artifact], list, list]:
    """Four photographs: with a true mask and pseudo-labels, with either, with neither."""
    rng = np.random.default_rng(0)
    maps = [[rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), size) for size in SIZES] for _ in range(2)]
    true, pseudo = [maps[0][0], maps[0][1], None, None], [maps[1][0], None, maps[1][2], None]
    given = {
        "photographs": planted.photographs(folder / "p.json", [np.zeros((*size, 3), np.uint8) for size in SIZES]),
        "true": planted.labels(folder / "t.json", true, 8, 4, background),
        "pseudo": planted.labels(folder / "l.json", pseudo, 8, 4, background),
    }
    return given, true, pseudo


@pytest.mark.parametrize("background", [0, None])
@pytest.mark.parametrize("by", ["image", "class"])
def test_the_stage_covers_what_either_covers(by: str, background: int | None, tmp_path: Path) -> None:
    given, true, pseudo = world(tmp_path, background)
    merge.run(planted.job(Merge(by=by), tmp_path / "m.json", given))
    made = store.Artifact(tmp_path / "m.json", "labels")
    assert made.read("covered").tolist() == [True, True, True, False]
    assert made.meta == {"classes": planted.class_names(4, background), "background": background, "true": 2}
    both = true[0] if by == "image" else plain(true[0], pseudo[0], background)
    for i, expected in enumerate((both, true[1], pseudo[2])):
        np.testing.assert_array_equal(labels_at(made, given["photographs"], i), expected)
    assert (made["labels"][3] == 255).all()
    assert (made["labels"][0, 6:] == 255).all(), "outside the photograph"


def test_labels_of_other_classes_are_refused(tmp_path: Path) -> None:
    given, true, _ = world(tmp_path)
    for names, background in ((["a", "b", "c", "d"], 0), (planted.class_names(4), None)):
        given["pseudo"] = planted.labels(tmp_path / "o.json", true, 8, 4, background, names)
        with pytest.raises(InputError, match="the same expected") as error:
            merge.run(planted.job(Merge(), tmp_path / "m.json", given))
        assert all(str(given[role].path) in str(error.value) for role in ("true", "pseudo"))
