"""Soft labels as label maps: argmax, threshold, what stays unlabelled, and the CRF before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import planted
import pytest

from pipeline import harden
from pipeline.core import store
from pipeline.core.steps.labels import Harden
from pipeline.kernels.densecrf import DeepLabKernels, dense_crf
from pipeline.kinds.labels import labels_at
from pipeline.kinds.soft import labelled_at, most_probable, soft_at

SIZES = [(32, 40), (40, 30), (40, 40), (40, 40), (24, 24)]
BLACK = np.zeros((1, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("least", "expected"),
    [(0.6, [0, 255, 7, 255, 3, 255]), (0.0, [0, 0, 7, 7, 3, 255]), (0.95, [255] * 6), (1.0, [255] * 6)],
)
def test_values_by_hand(least: float, expected: list[int]) -> None:
    """Slots background, 7, 3 and an empty one, which never wins; the last pixel is unlabelled."""
    maps = np.array(
        [[0.9, 0.4, 0.1, 0.2, 0.0, 0.9], [0.1, 0.3, 0.8, 0.5, 0.3, 0.1], [0, 0.3, 0.1, 0.3, 0.7, 0], [0] * 6]
    )
    slots, labelled = np.array([0, 7, 3, 255], np.uint8), np.arange(6) < 5
    found = harden.decide(BLACK, slots, maps[:, None].astype(np.float32), labelled[None], Harden(least=least))
    assert found.dtype == np.uint8
    assert found[0].tolist() == expected


def test_nothing_in_any_slot_is_unlabelled() -> None:
    maps, none = np.zeros((2, 1, 6), np.float32), np.zeros((1, 6), bool)
    for settings in (Harden(), Harden(crf=True, least=0)):
        assert (harden.decide(BLACK, np.full(2, 255, np.uint8), maps, none, settings) == 255).all()


def world(folder: Path, background: int | None = 0) -> dict[str, store.Artifact]:
    """Random probabilities of three classes on cells of 8 pixels, some of them unlabelled; the third photograph is not
    covered, the fourth has one class alone, the last is of split val."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
    slots = np.array([[0, 2, 3], [1, 3, 0], [255] * 3, [0, 255, 255], [0, 1, 2]])
    maps = rng.random((5, 3, 5, 5)) ** 4 * (slots != 255)[..., None, None]
    maps = maps / maps.sum(1, keepdims=True).clip(1e-9) * (rng.random((5, 1, 5, 5)) < 0.8)
    given = planted.dataset(folder, pictures, np.zeros((5, 4)), background=background, train=range(4))
    covered = np.array([1, 1, 0, 1, 1], bool)
    given["soft"] = planted.soft(folder / "soft.json", maps, slots, 8, 4, covered=covered, background=background)
    return given


@pytest.mark.parametrize("background", [0, None])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_stage_labels_what_is_covered_pixel_by_pixel(background: int | None, threads: int, tmp_path: Path) -> None:
    given, out = world(tmp_path, background), tmp_path / "l.json"
    harden.run(planted.job(Harden(), out, given, threads=threads))
    made = store.Artifact(out, "labels")
    assert made.read("covered").tolist() == [True, True, False, True, False]
    assert made.meta == {"classes": planted.class_names(4, background), "background": background}
    unlabelled, unsure, cells = 0, 0, given["soft"].read("probabilities")
    for i in (0, 1, 3):
        found = labels_at(made, given["photographs"], i)
        slots, maps = soft_at(given["soft"], given["photographs"], i)
        for y, x in np.ndindex(found.shape):
            best = maps[:, y, x].tolist().index(maps[:, y, x].max())
            if not cells[i, :, y // 8, x // 8].any():
                expected, unlabelled = 255, unlabelled + 1
            elif maps[best, y, x] < 0.6:
                expected, unsure = 255, unsure + 1
            else:
                expected = slots[best]
            assert found[y, x] == expected
    assert unlabelled > 200 and unsure > 200
    assert set(np.unique(labels_at(made, given["photographs"], 3))) == {0, 255}


def test_at_no_threshold_it_is_what_is_scored_and_shown(tmp_path: Path) -> None:
    given, out = world(tmp_path), tmp_path / "l.json"
    harden.run(planted.job(Harden(least=0), out, given))
    soft, pictures = given["soft"], given["photographs"]
    for i in (0, 1, 3):
        shown = most_probable(*soft_at(soft, pictures, i), labelled_at(soft, pictures, i))
        np.testing.assert_array_equal(labels_at(store.Artifact(out), pictures, i), shown)


def test_the_crf_comes_first_and_fills_nothing_that_is_unlabelled(tmp_path: Path) -> None:
    """A dark thing on light ground, of which the maps, shifted by 8 pixels, are unsure; the CRF finds its edges."""
    rgb = np.full((48, 64, 3), 220, np.uint8)
    rgb[16:32, 24:40] = 30
    thing = np.full((12, 16), 0.2)
    thing[4:8, 4:8] = 0.75
    maps = np.stack([1 - thing, thing])[None]
    maps[..., :3] = 0  # 12 pixels on the left are unlabelled
    given = planted.dataset(tmp_path, [rgb], np.array([[0, 0, 1]]))
    given["soft"] = planted.soft(tmp_path / "soft.json", maps, np.array([[0, 2]]), 4, 3)
    found = {}
    for crf in (False, True):
        harden.run(planted.job(Harden(crf=crf, least=0.7), tmp_path / f"{crf}.json", given))
        found[crf] = labels_at(store.Artifact(tmp_path / f"{crf}.json"), given["photographs"], 0)
        assert (found[crf][:, :12] == 255).all()
    slots, probabilities = soft_at(given["soft"], given["photographs"], 0)
    posterior = dense_crf(rgb, probabilities, DeepLabKernels())
    expected = np.where(posterior.max(0) < 0.7, 255, slots[posterior.argmax(0)])
    np.testing.assert_array_equal(found[True][:, 12:], expected[:, 12:])
    truth = np.where(rgb[..., 0] < 100, 2, 0)[:, 12:]
    right = {crf: (labels[:, 12:] == truth).mean() for crf, labels in found.items()}
    assert right[True] > right[False] + 0.02
