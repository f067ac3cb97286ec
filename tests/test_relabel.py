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
