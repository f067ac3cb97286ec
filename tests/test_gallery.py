"""The gallery of a page: what is drawn of each kind, pixel by pixel, and which photographs are shown."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import planted
from PIL import Image

from pipeline.core import show
from pipeline.kinds.hypotheses import Hypotheses
from pipeline.kinds.pixels import VOID
from pipeline.report import facts, gallery
from pipeline.report.dataset import Dataset


def pictures(strips: str) -> list[np.ndarray]:
    """The pictures of a page, in its order."""
    found = re.findall(r"data:image/jpeg;base64,([^\"]+)", strips)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]


def test_shown_images_are_spread_over_the_classes() -> None:
    tags = np.zeros((30, 3), bool)
    tags[:26, 0] = True
    tags[26:28, 1] = True
    tags[28:, 2] = True
    rows = gallery.spread(tags, np.arange(30), 6)
    assert rows == gallery.spread(tags, np.arange(30), 6)
    assert tags[rows].sum(0).tolist() == [2, 2, 2]
    assert gallery.spread(tags, np.arange(2), 6) == [0, 1]


def test_the_background_is_no_tag_wherever_it_stands(tmp_path: Path) -> None:
    table = np.array([[True, False, False], [True, True, False]])
    grey = [np.full((40, 40, 3), 90, np.uint8)] * 2
    data = planted.dataset(tmp_path, grey, table, background=2, names=["cat", "dog", "rest"])
    counts = {entry["name"]: entry["train"] for entry in facts.class_legend(Dataset(**data))}
    assert counts == {"cat": 2, "dog": 1, "rest": None}
    album = gallery.Album(Dataset(**data), 96)
    assert [strip.tags for strip in album.strips([0, 1], [])] == ["cat", "cat, dog"]
    labels = np.full((40, 40), 2, np.uint8)
    labels[10:30, 10:30] = 0
    drawn = pictures(album.labelled(0, labels, "x").src + '"')[0]
    assert np.ptp(drawn[2, 2].astype(int)) < 12  # the background: grey as it was
    assert np.ptp(drawn[20, 20].astype(int)) < 30  # class 0: tinted in its colour, black
    assert drawn[20, 20].mean() < drawn[2, 2].mean() - 20


def one_photograph(folder: Path) -> gallery.Album:
    data = planted.dataset(folder, [np.full((56, 64, 3), 120, np.uint8)], np.array([[False, True, True]]))
    return gallery.Album(Dataset(**data), 96)


def test_every_maker_of_seeds_is_shown_as_heat_and_as_what_it_claims(tmp_path: Path) -> None:
    album = one_photograph(tmp_path)
    scores, claimed = np.zeros((1, 2, 16, 16)), np.zeros((1, 2, 16, 16), np.uint8)
    scores[0, 0, :, :8] = 1
    claimed[0, 0, 2:6, 2:6] = 1
    claimed[0, 1, 2:6, 10:14] = 2
    made = planted.seeds(tmp_path / "s.json", scores, np.array([[1, 2]]), claimed)
    heat, region = album.seeds(made, "cam")(0)
    assert (heat.title, region.title) == ("cam", "cam · claimed")
    assert region.note == "14% of the image"  # 32 of 14 x 16 cells
    warm, by_round = (pictures(cell.src + '"')[0].astype(int) for cell in (heat, region))
    assert warm[45, 8, 0] > warm[45, 56, 0] + 100
    for place, number in (((16, 16), 1), ((16, 48), 2)):
        grey = 120 * 0.8
        wanted = 0.35 * grey + 0.65 * np.array(show.round_colour(number))
        assert np.abs(by_round[place] - wanted).max() < 16
    assert np.ptp(by_round[45, 32]) < 12


def test_the_best_hypothesis_of_each_cluster_is_outlined(tmp_path: Path) -> None:
    album = one_photograph(tmp_path)
    boxes = np.array([[8, 8, 40, 24], [10, 10, 20, 20], [8, 36, 40, 60]])
    masks = [np.ones(tuple(box[2:] - box[:2]), bool) for box in boxes]
    made = planted.hypotheses(tmp_path / "h.json", [Hypotheses(boxes, np.array([0, 0, 1]), masks)])
    (cell,) = album.hypotheses(made, "search")(0)
    assert (cell.title, cell.note) == ("search", "best of 2 clusters, 3 in all")
    drawn = pictures(cell.src + '"')[0].astype(int)
    lines = np.abs(drawn - 120).max(2) > 40
    assert lines[24, [7, 8, 23, 24]].any() and lines[24, 34:38].any() and lines[24, 58:62].any()
    assert not lines[24, 11:21].any() and not lines[48].any(), "the second of its cluster is not drawn"


def test_a_photograph_without_tags_has_no_seeds(tmp_path: Path) -> None:
    album = one_photograph(tmp_path)
    nothing = np.zeros((1, 2, 16, 16))
    made = planted.seeds(tmp_path / "s.json", nothing, np.full((1, 2), VOID), nothing)
    cells = album.seeds(made, "cam")(0)
    assert [(cell.src, cell.note) for cell in cells] == [("", "no tag"), ("", "")]


def test_soft_labels_show_how_likely_objects_are_and_the_likeliest_class(tmp_path: Path) -> None:
    data = planted.dataset(
        tmp_path, [np.full((64, 64, 3), 120, np.uint8)] * 2, np.array([[0, 1], [0, 1]]), [np.zeros((64, 64))] * 2
    )
    album = gallery.Album(Dataset(**data), 96)
    probabilities = np.zeros((2, 3, 16, 16))
    probabilities[0, 0, :, :8], probabilities[0, 1, :, :8] = 0.9, 0.1  # background on the left, class 1 on the right
    probabilities[0, 0, :, 8:], probabilities[0, 1, :, 8:] = 0.2, 0.8
    probabilities[0, :, 12:] = 0  # unlabelled
    slots = np.array([[0, 1, VOID]] * 2)
    made = planted.soft(tmp_path / "s.json", probabilities, slots, 4, 2, covered=np.array([True, False]))
    heat, best = album.soft(made, "soften")(0)
    warm = pictures(heat.src + '"')[0].astype(int)
    assert warm[20, 56, 0] > warm[20, 8, 0] + 100
    drawn = pictures(best.src + '"')[0].astype(int)
    assert drawn[20, 56, 0] > drawn[20, 56, 1] + 40
    assert np.ptp(drawn[20, 8]) < 12
    # Class 1 on the right in rows 0 to 47, the last with a labelled cell; 255 below counts as background.
    assert best.note == f"this image: {100 * (1 - 48 * 32 / 64**2):.0f} %"
    assert [cell.note for cell in album.soft(made, "soften")(1)] == ["not labelled", ""]
