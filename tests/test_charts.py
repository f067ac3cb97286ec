"""What a page is drawn with: embedding maps, colours, overlays, charts."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import planted
import pytest
import torch
from PIL import Image

from pipeline.core import show
from pipeline.kinds.pixels import VOID
from pipeline.networks.trunk import Backbone
from pipeline.report import charts, embedding
from pipeline.report.features import features

# ------------------------------------------------------------------------------------------------- embedding


def test_silhouette_follows_its_definition() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    classes = np.array([0] * 8 + [1] * 11 + [2])
    expected = []
    for i in range(20):
        distance = np.linalg.norm(vectors - vectors[i], axis=1)
        own = (classes == classes[i]) & (np.arange(20) != i)
        if not own.any():
            expected.append(0.0)
            continue
        a = distance[own].mean()
        b = min(distance[classes == k].mean() for k in range(3) if k != classes[i])
        expected.append((b - a) / max(a, b))
    assert embedding.silhouette(vectors, classes) == pytest.approx(np.mean(expected), abs=1e-6)


def test_a_neighbour_from_the_same_image_does_not_count() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    classes = np.array([0, 0, 1, 1])
    assert embedding.neighbour_accuracy(vectors, classes, np.array([0, 1, 2, 3])) == 1
    assert embedding.neighbour_accuracy(vectors, classes, np.array([0, 0, 1, 1])) == 0
    assert math.isnan(embedding.neighbour_accuracy(vectors, classes, np.zeros(4, int)))


def test_patches_are_chosen_evenly_and_always_the_same(tmp_path: Path) -> None:
    ids, zeros = np.random.default_rng(0).integers(0, 3, 40), np.zeros((40, 4))
    bank = planted.patches(tmp_path / "p.json", np.arange(40), zeros, ids, 32, 3)
    rows = embedding.choose_patches(bank, 12)
    assert rows.tolist() == embedding.choose_patches(bank, 12).tolist()
    assert np.ptp(np.bincount(bank.read("class")[rows])) == 0


def test_few_points_are_flattened_onto_their_principal_axes() -> None:
    vectors = np.eye(2, 6, dtype=np.float32)[[0, 1, 0, 1]] + np.random.default_rng(0).normal(0, 0.01, (4, 6))
    points, method = embedding.flatten(vectors)
    assert method == "PCA"
    assert points.shape == (4, 2)
    assert (points[::2, 0] > 0).all() != (points[1::2, 0] > 0).all()


def test_the_map_is_t_sne_and_separates_what_is_apart() -> None:
    vectors = np.eye(2, 6, dtype=np.float32)[np.arange(12) % 2] + np.random.default_rng(0).normal(0, 0.01, (12, 6))
    points, method = embedding.flatten(vectors.astype(np.float32))
    assert method == "t-SNE"
    nearest = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(12)
    assert (nearest.argmin(1) % 2 == np.arange(12) % 2).all()


def test_features_are_what_triplet_compares() -> None:
    class Planted(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            raise AssertionError("the embedding is asked for")

        def embedding(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :, ::8, ::8].float()

    patches = np.random.default_rng(0).integers(1, 255, (5, 32, 32, 3), np.uint8)
    net: Backbone = Planted()  # type: ignore[assignment]
    vectors = features(net, patches, 4, "cpu", "f32")
    wanted = patches[:, ::8, ::8].transpose(0, 3, 1, 2).reshape(5, -1).astype(np.float32)
    assert vectors == pytest.approx(wanted / np.linalg.norm(wanted, axis=1, keepdims=True), abs=1e-5)
    assert features(net, patches, 2, "cpu", "f32").shape == (5, 12)


# -------------------------------------------------------------------------------------------------- pictures


def test_palette_is_vocs() -> None:
    colours = show.palette(256)
    assert colours[[0, 1, 2, 3, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]
    assert len(np.unique(colours, axis=0)) == 256


def test_palette_png_keeps_every_value(tmp_path: Path) -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    path = tmp_path / "x.png"
    path.write_bytes(show.palette_png(labels))
    with Image.open(path) as picture:
        assert picture.mode == "P"
        assert (np.asarray(picture) == labels).all()


def test_overlay_tints_objects_and_leaves_the_background_grey() -> None:
    rgb = np.full((40, 60, 3), 100, np.uint8)
    labels = np.zeros((40, 60), np.uint8)
    labels[10:30, 10:30] = 1
    drawn = show.overlay(rgb, labels, background=0)
    assert drawn.shape == rgb.shape
    assert drawn[20, 20, 0] > drawn[20, 20, 1] + 40
    assert np.ptp(drawn[2, 2]) == 0
    assert drawn[2, 2, 0] == round(100 * 0.85 + 12)
    assert show.overlay(rgb, labels, background=None)[2, 2, 0] == 45  # class 0 is black


@pytest.mark.parametrize("background", [0, 1, None])
def test_errors_tell_right_wrong_and_missed_apart(background: int | None) -> None:
    rgb = np.full((3, 4, 3), 100, np.uint8)
    truth = np.array([[0, 1, 2, VOID]] * 3, np.uint8)
    predicted = np.repeat(np.arange(3, dtype=np.uint8)[:, None], 4, 1)
    drawn = show.errors(rgb, predicted, truth, background=background)
    kinds = {
        tuple(np.round(40 + 0.6 * np.array(colour)).astype(int)): name
        for colour, name in ((show.RIGHT, "right"), (show.WRONG, "wrong"), (show.MISSED, "missed"))
    }
    for p in range(3):
        for k, t in enumerate((0, 1, 2, VOID)):
            if t == VOID or p == t == background:
                wanted = None
            elif p == t:
                wanted = "right"
            else:
                wanted = "missed" if p == background else "wrong"
            assert kinds.get(tuple(drawn[p, k].tolist())) == wanted


def test_edges_lie_on_both_sides() -> None:
    labels = np.zeros((4, 6), np.uint8)
    labels[:, 3:] = 1
    assert show.edges(labels).any(0).tolist() == [False, False, True, True, False, False]
    assert show.edges(labels, 2).sum() == 16


# ---------------------------------------------------------------------------------------------------- charts


def test_charts_are_empty_without_values() -> None:
    assert charts.ladder([], {}) == ""
    assert charts.lines([charts.Line("x", [1, 2], [math.nan, math.nan])], "t") == ""


@pytest.mark.parametrize("values", [[0.0, 0.0], [0.5], [-1.0, 2.0], [1e6, math.nan, 3.0]])
def test_lines_stay_on_the_canvas(values: list[float]) -> None:
    drawn = charts.lines([charts.Line("loss", list(range(len(values))), values)], "epoch", width=340, height=190)
    for circle in drawn.split("<circle")[1:]:
        x, y = (float(circle.split(f'{name}="')[1].split('"')[0]) for name in ("cx", "cy"))
        assert 0 <= x <= 340
        assert 0 <= y <= 190


def numbers(drawn: str, attribute: str) -> list[float]:
    return [float(value) for value in re.findall(rf' {attribute}="(-?[\d.]+)"', drawn)]


@pytest.mark.parametrize("values", [[0.0], [0.004, 0.99], [0.4, 0.5, 0.6]])
def test_groups_stay_on_the_canvas_and_say_their_numbers(values: list[float]) -> None:
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    found = [charts.Group("a <b> with a very long name, too long", values, mean, sd), charts.Group("c", [1.0], 1.0, sd)]
    drawn = charts.groups(found, "mIoU", found[0])
    assert all(0 <= x <= 640 for attribute in ("cx", "x", "x1", "x2") for x in numbers(drawn, attribute))
    assert all(0 <= float(x) <= 640 for x in re.findall(r"[MH]([-\d.]+)", drawn))
    assert drawn.count('class="each"') == len(values) + 1
    assert f"{100 * mean:.1f}" in drawn and "nan" not in drawn
    assert (f" ± {100 * sd:.1f} %" in drawn) == (len(values) > 1)
    assert "<b>" not in drawn
    assert charts.groups([], "mIoU") == ""


def test_a_better_group_lies_further_right() -> None:
    found = [charts.Group(str(value), [value], value, math.nan) for value in (0.2, 0.3, 0.45)]
    places = numbers(charts.groups(found, "mIoU"), "cx")[::2]
    assert places[2] - places[1] == pytest.approx(1.5 * (places[1] - places[0]), abs=0.2)
