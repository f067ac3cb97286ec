"""The headline number end to end: planted networks, labels and seeds whose confusion matrices are counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import planted
import pytest
from colours import PALETTE, colour_segmenter, plain, stripes
from conftest import stage

from pipeline.core import store
from pipeline.core.config import Evaluate
from pipeline.core.metrics import confusion, miou, per_class_iou
from pipeline.evaluate import CLAIMED, at_thresholds, seeds_counter, thresholds, total


def known() -> np.ndarray:
    """Truth of the first picture at twice its size: right above, wrong below, void at the lower right."""
    truth = np.repeat(np.array([1, 0, 2], np.uint8), 64)[None].repeat(128, 0)
    truth[64:, :128], truth[64:, 128:] = 3, 255
    return truth


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return world(tmp_path_factory.mktemp("world"))


def world(folder: Path, background: int | None = 0) -> dict[str, Path]:
    """Two photographs of split val with a mask, one without, and one of split train."""
    pictures = [stripes(64, 1, 0, 2), plain(32, 64, PALETTE[3]), stripes(64, 1, 1), stripes(64, 2, 2)]
    second = np.repeat(np.array([3, 0], np.uint8), 32)[None].repeat(32, 0)
    masks = [known(), second, None, np.zeros((64, 64), np.uint8)]
    table = np.zeros((4, 4), bool)
    made = planted.dataset(folder, pictures, table, masks, background=background, train=[3])
    names = planted.class_names(4, background)
    made["model"] = planted.model(folder / "model.json", colour_segmenter(PALETTE), names, background, max_side=96)
    return {role: artifact.path for role, artifact in made.items()}


# By hand, in units of 1024 pixels. First picture: 64 x 64 each of 0, 1, 2 right; below, 3 is taken for 1 and for 0.
# Second picture, all blue: half of it is 3, half 0.
MATRIX = 1024 * np.array([[4, 0, 0, 1, 0], [0, 4, 0, 0, 0], [0, 0, 4, 0, 0], [4, 4, 0, 1, 0]])
IOU = [4 / 9, 4 / 8, 1, 1 / 10]


def scored(given: dict[str, Path], of: Path, out: Path, settings: dict | None = None) -> store.Artifact:
    stage("evaluate", out, settings, photographs=given["photographs"], masks=given["masks"], of=of)
    return store.Artifact(out, "metrics")


@pytest.mark.parametrize("settings", [{}, {"scales": [1.0, 2.0], "flip": True}])
def test_the_miou_of_a_planted_network_is_the_one_counted_by_hand(
    given: dict[str, Path], settings: dict, tmp_path: Path
) -> None:
    out = tmp_path / "metrics.json"
    said = stage("evaluate", out, settings, photographs=given["photographs"], masks=given["masks"], of=given["model"])
    found = store.Artifact(out, "metrics")
    np.testing.assert_array_equal(found.read("confusion"), MATRIX[None, None])
    np.testing.assert_allclose(per_class_iou(MATRIX), IOU)
    assert miou(found.read("confusion")[0, 0]) == pytest.approx(sum(IOU) / 4)
    assert "val, 2 images, mIoU 51.1" in said
    assert found.meta["images"] == {"val": 2}, "one photograph of split val has no mask"
    assert (found.meta["classes"], found.meta["background"]) == (planted.class_names(4), 0)
    manifest = json.loads(out.read_text())
    assert manifest["parents"]["model"] == store.Artifact(given["model"]).digest


def test_without_a_background_the_same_network_has_the_same_score(tmp_path: Path) -> None:
    """A network labels every pixel, so it does not matter to it what class 0 is."""
    given = world(tmp_path, background=None)
    found = scored(given, given["model"], tmp_path / "metrics.json")
    np.testing.assert_array_equal(found.read("confusion")[0, 0], MATRIX)
    assert found.meta["background"] is None
    assert miou(MATRIX, background=None) == pytest.approx(sum(IOU) / 4)


# Of the first picture's labels half a stripe each is unlabelled: 16 columns at the stored size, 32 at the mask's.
LABELLED = 1024 * np.array([[2, 0, 0, 0, 2], [0, 2, 0, 0, 2], [0, 0, 4, 0, 0], [2, 2, 0, 0, 4]])


@pytest.mark.parametrize(
    ("background", "iou"),
    # With a background, 255 counts as class 0: hits 2 + 2 of 4 + 2 + 2 + 2 + 4 false ones. Without, as missed.
    [(0, [4 / 12, 2 / 6, 1, 0]), (None, [2 / 6, 2 / 6, 1, 0])],
)
def test_unlabelled_pixels_are_background_where_there_is_one_and_missed_where_not(
    background: int | None, iou: list[float], tmp_path: Path
) -> None:
    given = world(tmp_path, background)
    label = np.repeat(np.array([1, 0, 2], np.uint8), 32)[None].repeat(64, 0)
    label[:, 0:16] = label[:, 32:48] = 255
    maps = [label, np.full((32, 64), 3), None, None]
    labels = planted.labels(tmp_path / "labels.json", maps, 96, 4, background)
    pictures = [stripes(64, 1, 0, 2), plain(32, 64, PALETTE[3]), stripes(64, 1, 1), stripes(64, 2, 2)]
    given["photographs"] = planted.photographs(tmp_path / "p.json", pictures, train=[1, 2, 3], score=[0, 2, 3]).path
    found = scored(given, labels.path, tmp_path / "metrics.json")
    assert found.meta["images"] == {"score": 1}, "row 1 is not of the split, 2 has no mask, 3 no labels"
    np.testing.assert_array_equal(found.read("confusion")[0, 0], LABELLED)
    np.testing.assert_allclose(per_class_iou(LABELLED, background=background), iou)
    assert miou(LABELLED, background=background) == pytest.approx(sum(iou) / 4)


@pytest.mark.parametrize("background", [0, None])
def test_soft_labels_are_scored_as_the_most_probable_class(background: int | None, tmp_path: Path) -> None:
    """The same stripes as above in cells of 16 pixels, at probabilities of 0.4 to 0.6; half a stripe is unlabelled."""
    given = world(tmp_path, background)
    maps, slots = np.zeros((4, 3, 6, 6)), np.array([[1, 0, 2], [3, 0, 255], [255] * 3, [255] * 3])
    for k, column in enumerate((1, 3, 4, 5)):
        own = (0, 1, 2, 2)[k]
        maps[0, :, :4, column] = 0.2
        maps[0, own, :4, column] = 0.6
    maps[1, 0], maps[1, 1] = 0.6, 0.4
    covered = np.array([1, 1, 0, 0])
    soft = planted.soft(tmp_path / "soft.json", maps, slots, 16, 4, covered=covered, background=background)
    pictures = [stripes(64, 1, 0, 2), plain(32, 64, PALETTE[3]), stripes(64, 1, 1), stripes(64, 2, 2)]
    given["photographs"] = planted.photographs(tmp_path / "p.json", pictures, train=[1, 2, 3], score=[0, 2, 3]).path
    found = scored(given, soft.path, tmp_path / "metrics.json")
    assert (found.meta["of"], found.meta["thresholds"], found.meta["images"]) == ("soft", [None], {"score": 1})
    np.testing.assert_array_equal(found.read("confusion")[0, 0], LABELLED)


@pytest.mark.parametrize("background", [0, None])
def test_seeds_are_scored_as_what_they_claim_and_at_thresholds(background: int | None, tmp_path: Path) -> None:
    """One photograph 32 x 64: class 2 claims its left quarter, with a score of 0.8 over its left half."""
    truth = np.full((32, 64), 1, np.uint8)
    truth[:, :32] = 2
    given = planted.dataset(tmp_path, [plain(32, 64, (9, 9, 9))], np.zeros((1, 4), bool), [truth], background)
    scores, claimed = np.zeros((1, 4, 16, 16)), np.zeros((1, 4, 16, 16))
    scores[0, 0, :8, :8], claimed[0, 0, :8, :4] = 0.8, 1
    scores[0, 0, :8, 8:] = 0.2
    classes = np.array([[2, 255, 255, 255]])
    seeds = planted.seeds(tmp_path / "s.json", scores, classes, claimed, 4, background=background)
    paths = {role: artifact.path for role, artifact in given.items()}
    found = scored(paths, seeds.path, tmp_path / "metrics.json", {"thresholds": 3})
    assert found.meta["thresholds"] == [0.25, 0.5, 0.75, CLAIMED]
    rest = 4 if background is None else 0  # the column of pixels without a class
    # Between the centres of two cells, at 29.5 and 33.5, the map falls from 0.8 to 0.2: 0.725, 0.575, 0.425, 0.275.
    for matrix, right, wrong in zip(found.read("confusion")[0], (32, 32, 30, 16), (2, 0, 0, 0), strict=True):
        expected = np.zeros((4, 5), int)
        expected[2, 2], expected[1, 2] = 32 * right, 32 * wrong
        expected[2, rest], expected[1, rest] = 1024 - 32 * right, 1024 - 32 * wrong
        np.testing.assert_array_equal(matrix, expected)


def test_seeds_are_scored_at_the_original_size(tmp_path: Path) -> None:
    """A planted map that is right has an mIoU of 1 between its two levels, also where the photograph was reduced."""
    truth = np.zeros((48, 64), np.uint8)
    truth[16:32, 32:64] = 2
    given = planted.dataset(tmp_path, [plain(24, 32, (0, 0, 0))] * 2, np.zeros((2, 4)), [truth, np.zeros_like(truth)])
    scores, claimed = np.full((2, 4, 8, 8), 0.2), np.zeros((2, 4, 8, 8))
    scores[0, 0, 2:4, 4:8] = 0.8
    claimed[0, 0, 2:4, 4:6], claimed[0, 0, 2:4, 6:8] = 1, 2
    found = planted.seeds(tmp_path / "s.json", scores, np.array([[2, 255, 255, 255], [255] * 4]), claimed)
    count, levels = seeds_counter(given["photographs"], given["masks"], found, Evaluate(thresholds=3))
    matrices = total(count, [0, 1], 1)
    assert levels == [0.25, 0.5, 0.75, "claimed"]
    assert miou(matrices[3]) == 1, "the claimed region is the truth, whichever round claimed it"
    assert miou(matrices[1]) > 0.8, "bilinear maps blur the border by less than a cell"
    assert (matrices.sum((1, 2)) == 2 * truth.size).all()
    np.testing.assert_array_equal(matrices, total(count, [0, 1], 2), "processes change nothing")


def test_thresholds_are_even_and_inside() -> None:
    np.testing.assert_allclose(thresholds(19), np.arange(1, 20) * 0.05, atol=1e-9)
    np.testing.assert_allclose(thresholds(1), [0.5])


@pytest.mark.parametrize("below", [0, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_one_histogram_equals_thresholding_again_and_again(seed: int, below: int) -> None:
    """below: the class of what no threshold exceeds; 4 of 4 classes: none."""
    rng, levels = np.random.default_rng(seed), thresholds(7)
    true, best = rng.integers(0, 4, (2, 13, 17), dtype=np.uint8)
    true[rng.random(true.shape) < 0.2] = 255
    score = rng.random(true.shape).astype(np.float32)
    score[::3] = levels[rng.integers(0, len(levels), score[::3].shape)]  # exactly on a level: not above it
    score[0, :3] = 0, 1, 0.99999
    found = at_thresholds(true, best, score, levels, 4, below)
    for t, level in enumerate(levels):
        labels = np.where(score > level, best, 255 if below == 4 else below).astype(np.uint8)
        np.testing.assert_array_equal(found[t], confusion(true, labels, 4), str(level))


# ------------------------------------------------------------------------------------------------ messages


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"thresholds": 0}, "thresholds"), ({"flop": True}, "flop"), ({"scales": []}, "scales"), ({"crf": "x"}, "crf")],
)
def test_bad_settings_are_a_message(settings: dict, words: str, given: dict[str, Path], tmp_path: Path) -> None:
    of = {"photographs": given["photographs"], "masks": given["masks"], "of": given["model"]}
    said = stage("evaluate", tmp_path / "m.json", settings, fails=True, **of)
    assert said.startswith("error: --settings") and words in said
    assert "Traceback" not in said


def test_what_cannot_be_scored_is_a_message(given: dict[str, Path], tmp_path: Path) -> None:
    those = {"photographs": given["photographs"], "masks": given["masks"]}

    def refused(**changed: Path) -> str:
        said = stage("evaluate", tmp_path / "m.json", fails=True, **{**those, **changed})
        assert said.startswith("error: ") and "Traceback" not in said
        return said

    assert "tags cannot be scored; seeds, labels, soft, model can" in refused(of=given["tags"])
    assert "no such artifact" in refused(of=tmp_path / "none.json")
    assert "this is tags, masks expected" in refused(of=given["model"], masks=given["tags"])
    other = planted.labels(tmp_path / "l.json", [np.zeros((9, 9), np.uint8)], 96, 4, names=["a", "b", "c", "d"])
    assert "'a', 'b', 'c', 'd'" in refused(of=other.path)
