"""A model's predictions as labels: thresholds, the tag constraint, which images, with and without a background."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import planted
import pytest
import torch
from colours import colour_segmenter, constant_segmenter, plain

from pipeline import relabel
from pipeline.core import store
from pipeline.core.job import InputError
from pipeline.core.steps.labels import Relabel
from pipeline.kinds.labels import labels_at


@pytest.mark.parametrize(
    ("settings", "expected", "without"),
    [
        ({}, [0, 0, 4, 4], [0, 0, 4, 4]),
        ({"background": 0.6}, [0, 255, 4, 4], [0, 0, 4, 4]),
        ({"foreground": 0.5}, [0, 0, 4, 255], [0, 0, 4, 255]),
        ({"foreground": 0.7, "background": 0.8}, [0, 255, 4, 255], [0, 255, 4, 255]),
    ],
)
def test_labels_need_their_thresholds(settings: dict, expected: list[int], without: list[int]) -> None:
    """Class 0 leads with 0.8 and with 0.5, class 4 with 0.7 and with 0.4; without a background it is like the rest."""
    ids = np.array([0, 4, 9])
    scores = np.array([[0.8, 0.5, 0.2, 0.3], [0.1, 0.3, 0.7, 0.4], [0.1, 0.2, 0.1, 0.3]])[:, None]
    for background, labels in ((0, expected), (None, without), (9, without)):
        found = relabel.decide(torch.from_numpy(scores), ids, background, Relabel(**settings))
        assert found.dtype == torch.uint8
        assert found[0].tolist() == labels


def rescued_slowly(found: np.ndarray, scores: np.ndarray, lost: list[int], ids: np.ndarray) -> np.ndarray:
    """Over and over: of all classes that have no 1 % yet, in all pixels not taken yet, the surest takes its pixel."""
    out, left = found.copy(), {k: max(1, round(0.01 * found.size)) for k in lost}
    pixels = list(np.ndindex(found.shape))
    while any(left.values()):
        k, at = max(((k, at) for k in lost if left[k] for at in pixels), key=lambda pair: scores[pair[0]][pair[1]])
        out[at] = ids[k]
        pixels.remove(at)
        left[k] -= 1
    return out


@pytest.mark.parametrize("seed", range(4))
def test_a_rescued_class_has_its_most_probable_pixels_and_the_surer_of_two_wins(seed: int) -> None:
    rng, ids = np.random.default_rng(seed), np.array([0, 2, 5, 7])
    scores = 0.01 + rng.random((4, 30, 40)) * np.array([0.5, 0.05, 0.05, 0.5])[:, None, None]
    scores[1:3, 10:14, 20:24] += 0.2  # the two lost ones are surest in the same 16 places
    scores = (scores / scores.sum(0)).astype(np.float32)
    found = relabel.decide(torch.from_numpy(scores), ids, 0, Relabel(foreground=0.9, background=0.9)).numpy()
    lost = np.array([False, True, True, False])
    own = np.array([False, True, True, True])
    out = relabel.rescue(found, scores, lost, ids, own)
    np.testing.assert_array_equal(out, rescued_slowly(found, scores, [1, 2], ids))
    tops = [set(np.argsort(-scores[k].ravel())[:12].tolist()) for k in (1, 2)]
    assert tops[0] & tops[1] and [(out == k).sum() for k in (2, 5)] == [12, 12], "some are the best of both"
    changed = out != found
    assert (found == 255).mean() > 0.9 and np.isin(out[changed], (2, 5)).all(), "below all thresholds, but labelled"
    np.testing.assert_array_equal(relabel.rescue(found, scores, np.zeros(4, bool), ids, own), found)


def test_two_lost_tags_of_one_place_are_both_rescued() -> None:
    """Class 5 is a little surer of the same ten pixels: class 2 has the next best."""
    scores = np.full((3, 20, 50), 0.01, np.float32)
    scores[0], scores[1, 0, :10], scores[2, 0, :10], scores[1, 9, 20:30] = 0.9, 0.05, 0.06, 0.03
    ids, own = np.array([0, 2, 5]), np.array([False, True, True])
    out = relabel.rescue(np.zeros((20, 50), np.uint8), scores, own, ids, own)
    assert (out[0, :10] == 5).all() and (out[9, 20:30] == 2).all() and (out > 0).sum() == 20


def test_a_small_tag_is_not_lost_to_one_that_is_rescued() -> None:
    """Class 2 wins five pixels of 1000, where class 5, which wins none, is surest too. Of a large tag pixels are taken,
    and where nobody is sure of the small one's, it has nothing to keep."""
    ids, own = np.array([0, 2, 5]), np.array([False, True, True])
    for width, kept in ((5, 5), (10, 10), (11, 1)):
        scores = np.full((3, 20, 50), 0.01, np.float32)
        scores[0], scores[:, 0, :width], scores[2, 3, :10] = 0.9, np.array([[0.1], [0.5], [0.4]]), 0.05
        lost = relabel.lost_classes(scores, own, 0.001)
        assert lost.tolist() == [False, False, True]
        out = relabel.rescue(ids[scores.argmax(0)].astype(np.uint8), scores, lost, ids, own)
        assert (out[0, :width] == 2).sum() == kept and (out == 5).sum() == 10
    unsure = np.where(scores.argmax(0) == 1, 255, 0).astype(np.uint8)
    assert (relabel.rescue(unsure, scores, lost, ids, own)[0, :10] == 5).all()


def test_lost_is_a_tag_that_wins_less_than_its_share() -> None:
    """Of 1000 pixels class 4 wins 2, class 6 wins 1, class 9, not of the image, none; the background wins the rest."""
    scores = np.full((4, 25, 40), 0.1)
    scores[0] = 0.3
    scores[1, 0, :2], scores[2, 1, 0] = 0.4, 0.31  # however unsure: it is the argmax that counts
    own = np.array([False, True, True, False])
    for share, expected in ((0.0, []), (0.001, []), (0.0011, [2]), (0.002, [2]), (0.0021, [1, 2]), (0.9999, [1, 2])):
        assert relabel.lost_classes(scores, own, share).nonzero()[0].tolist() == expected
    nothing = scores[:3] * np.array([1, 0, 1])[:, None, None]
    lost = relabel.lost_classes(nothing, own[:3], 0.001)
    assert lost.tolist() == [False, True, False]
    labels = np.zeros((25, 40), np.uint8)
    found = relabel.rescue(labels, nothing, lost, np.array([0, 4, 6]), own[:3])
    assert not found.any(), "nothing speaks for it anywhere"


SIZES = [(40, 64), (32, 50), (64, 64), (33, 33)]


def world(
    folder: Path, probabilities: list[float], background: int | None = 0, tags: list[list[int]] | None = None
) -> dict[str, store.Artifact]:
    """Four photographs, the last of split val; a network that says the same everywhere."""
    pictures = [np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8) for i, size in enumerate(SIZES)]
    table = np.array(tags or [[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
    given = planted.dataset(folder, pictures, table, background=background, train=[0, 1, 2])
    names = planted.class_names(4, background)
    given["model"] = planted.model(folder / "model.json", constant_segmenter(probabilities), names, background)
    return given


def labelled(given: dict[str, store.Artifact], out: Path, **settings: object) -> list[set[int]]:
    """The labels of each training image; what is not covered must hold 255."""
    relabel.run(planted.job(Relabel(**settings), out, given))  # type: ignore[arg-type]
    made, model = store.Artifact(out, "labels"), given["model"]
    assert made.meta == {"classes": model.meta["classes"], "background": model.meta["background"]}
    for i in np.flatnonzero(~made.read("covered")).tolist():
        assert (made["labels"][i] == 255).all()
    return [set(np.unique(labels_at(made, given["photographs"], i)).tolist()) for i in range(3)]


def test_the_tag_constraint_leaves_only_the_images_own_classes(tmp_path: Path) -> None:
    """The network is sure of class 3, which no image is tagged with; class 2 comes next, then class 1."""
    given, out = world(tmp_path, [0.1, 0.15, 0.25, 0.5]), tmp_path / "l.json"
    assert labelled(given, out) == [{2}, {1}, {0}]
    assert store.Artifact(out).read("covered").tolist() == [True, True, True, False]
    assert labelled(given, out, tags=False) == [{3}] * 3
    # Among the possible classes probabilities sum to one again: 0.25 of 0.35, 0.15 of 0.25.
    assert labelled(given, out, foreground=0.65) == [{2}, {255}, {0}]
    assert labelled(given, out, crf=True, flip=False) == [{2}, {1}, {0}]


@pytest.mark.parametrize("crf", [False, True])
def test_a_lost_tag_is_rescued_in_the_artifact(crf: bool, tmp_path: Path) -> None:
    """A picture of black (background) with a strip of dark red, which is nearest to black and of all to red."""
    palette = [(0, 0, 0), (200, 30, 30), (30, 200, 30), (30, 30, 200)]
    picture = np.concatenate([plain(64, 96, palette[0]), plain(64, 32, (70, 0, 0)), plain(64, 64, palette[2])], 1)
    given = planted.dataset(tmp_path, [picture], np.array([[0, 1, 1, 0]]))
    given["model"] = planted.model(tmp_path / "m.json", colour_segmenter(palette), planted.class_names(4))
    found = {}
    for rescue in (0.0, 0.001):
        settings = Relabel(rescue=rescue, foreground=0.9, background=0.9, tags=False, crf=crf)
        relabel.run(planted.job(settings, tmp_path / f"{rescue}.json", given))
        found[rescue] = labels_at(store.Artifact(tmp_path / f"{rescue}.json"), given["photographs"], 0)
    assert not (found[0.0] == 1).any() and (found[0.0] == 2).any()
    new = found[0.001] != found[0.0]
    assert new.sum() == round(0.01 * 64 * 192) and (found[0.001][new] == 1).all()
    assert not new[:, :80].any() and not new[:, 144:].any(), "in and around the red strip"
    assert not (found[0.001] == 3).any(), "no tag of the image, so nothing to rescue"


def test_without_a_background_an_image_without_tags_may_show_any_class(tmp_path: Path) -> None:
    tags = [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    given, out = world(tmp_path, [0.3, 0.05, 0.25, 0.4], None, tags), tmp_path / "l.json"
    assert labelled(given, out) == [{0}, {1}, {3}]
    assert labelled(given, out, background=0.9) == [{0}, {1}, {3}], "no class is the background"
    assert labelled(given, out, foreground=0.5) == [{0}, {1}, {255}], "0.3 of 0.55 is enough"


def test_only_what_was_covered_before(tmp_path: Path) -> None:
    given, out = world(tmp_path, [0.1, 0.15, 0.25, 0.5]), tmp_path / "l.json"
    with pytest.raises(InputError, match="images: covered needs labels that say which"):
        labelled(given, out, images="covered")
    # The last row is covered, too, but of split val.
    maps = [np.zeros(SIZES[0]), None, np.zeros(SIZES[2]), np.zeros(SIZES[3])]
    given["covered"] = planted.labels(tmp_path / "before.json", maps, 64, 4)
    assert labelled(given, out, images="covered") == [{2}, {255}, {0}]
    assert store.Artifact(out).read("covered").tolist() == [True, False, True, False]
    assert labelled(given, out, images="all") == [{2}, {1}, {0}]
    slots = np.full((4, 2), 255)
    given["covered"] = planted.soft(
        tmp_path / "soft.json", np.zeros((4, 2, 8, 8)), slots, 8, 4, covered=np.array([0, 1, 0, 0])
    )
    assert labelled(given, out, images="covered") == [{255}, {1}, {255}], "soft labels say which as well"


def test_labels_are_the_networks_answer_pixel_by_pixel(tmp_path: Path) -> None:
    palette = [(0, 0, 0), (200, 30, 30), (30, 200, 30), (30, 30, 200)]
    pictures = [np.concatenate([plain(64, 32, palette[k]) for k in order], 1) for order in ((1, 0, 3), (2, 1, 0))]
    given = planted.dataset(tmp_path, pictures, np.array([[0, 1, 0, 0], [0, 1, 1, 0]]))
    given["model"] = planted.model(tmp_path / "m.json", colour_segmenter(palette), planted.class_names(4))
    relabel.run(planted.job(Relabel(), tmp_path / "l.json", given))
    made = store.Artifact(tmp_path / "l.json")
    # Blue is impossible in the first; of background and red it is nearer to black.
    for i, expected in enumerate(((1, 0, 0), (2, 1, 0))):
        assert labels_at(made, given["photographs"], i).tolist() == [np.repeat(expected, 32).tolist()] * 64
