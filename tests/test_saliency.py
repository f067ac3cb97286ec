"""Saliency: each kernel against a slow plain reference, pictures whose object is known, and photographs."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
from conftest import DATA_FOLDER
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.stats import rankdata
from skimage.segmentation import slic

from pipeline import saliency as S
from pipeline.core import store
from pipeline.core.job import InputError
from pipeline.core.steps.labels import Saliency
from pipeline.kinds.pixels import reduced, touching

VOC = DATA_FOLDER / "voc_mini"
Array = NDArray[np.floating[Any]]


def scene(
    height: int, width: int, centre: tuple[float, float], radius: float, noise: float = 0
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """An orange disk on a grey-blue ground: u8 [H, W, 3] and the disk's mask [H, W]."""
    y, x = np.indices((height, width))
    inside = np.hypot(y - centre[0], x - centre[1]) <= radius
    rgb = np.where(inside[..., None], (220, 120, 40), (90, 110, 130)).astype(float)
    rgb += np.random.default_rng(0).normal(0, noise, rgb.shape)
    return np.clip(rgb, 0, 255).astype(np.uint8), inside


def auc(saliency: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    """Chance that a pixel of the object is more salient than one outside it, ties counting half."""
    n = int(inside.sum())
    return float((rankdata(saliency)[inside.ravel()].sum() - n * (n + 1) / 2) / (n * (inside.size - n)))


def noise_picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- slow plain references ---


def plain_barrier(channel: NDArray[np.float32], sweeps: int) -> NDArray[np.float32]:
    height, width = channel.shape
    value, infinite = channel.tolist(), float("inf")
    border = [[y in (0, height - 1) or x in (0, width - 1) for x in range(width)] for y in range(height)]
    paths = [
        [[v, v, 0.0 if edge else infinite] for v, edge in zip(*rows, strict=True)]
        for rows in zip(value, border, strict=True)
    ]
    for sweep in range(sweeps):
        order = list(product(range(height), range(width)))
        back = -1
        if sweep % 2:
            order, back = order[::-1], 1
        for y, x in order:
            for ny, nx in ((y + back, x), (y, x + back)):
                if border[y][x] or paths[ny][nx][2] == infinite:
                    continue
                high, low = max(paths[ny][nx][0], value[y][x]), min(paths[ny][nx][1], value[y][x])
                if np.float32(high) - np.float32(low) < paths[y][x][2]:
                    paths[y][x] = [high, low, float(np.float32(high) - np.float32(low))]
    return np.array(paths, dtype=np.float32)[..., 2]


def plain_neighbours(labels: NDArray[np.int64]) -> set[tuple[int, int]]:
    pairs = set()
    height, width = labels.shape
    for y, x in product(range(height), range(width)):
        for ny, nx in ((y + 1, x), (y, x + 1)):
            if ny < height and nx < width and labels[y, x] != labels[ny, nx]:
                a, b = int(labels[y, x]), int(labels[ny, nx])
                pairs.add((min(a, b), max(a, b)))
    return pairs


def plain_connectivity(colour: Array, pairs: set[tuple[int, int]], border: list[int], sigma: float) -> Array:
    """Floyd-Warshall over neighbours and all pairs of border regions, then the paper's sums, one by one."""
    count = len(colour)
    linked = pairs | {(a, b) for a in border for b in border if a < b}
    geodesic = np.full((count, count), np.inf)
    for a in range(count):
        geodesic[a, a] = 0
    for a, b in linked:
        geodesic[a, b] = geodesic[b, a] = np.sqrt(sum((colour[a][c] - colour[b][c]) ** 2 for c in range(3)))
    for via in range(count):
        for a in range(count):
            for b in range(count):
                geodesic[a, b] = min(geodesic[a, b], geodesic[a, via] + geodesic[via, b])
    result = []
    for a in range(count):
        alike = [np.exp(-(geodesic[a, b] ** 2) / (2 * sigma**2)) for b in range(count)]
        result.append(sum(alike[b] for b in border) / np.sqrt(sum(alike)))
    return np.array(result)


def plain_contrast(colour: Array, position: Array, background: Array, sigma: float) -> Array:
    result = np.zeros(len(colour))
    for a, b in product(range(len(colour)), repeat=2):
        apart = sum((position[a] - position[b]) ** 2)
        weight = np.exp(-apart / (2 * sigma**2)) * background[b]
        result[a] += np.sqrt(sum((colour[a] - colour[b]) ** 2)) * weight
    return result


def regions_of(rgb: NDArray[np.uint8], wanted: int = 40) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    labels = slic(rgb, wanted, compactness=100, sigma=1, start_label=0)
    assert labels.max() > wanted / 2
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return labels, border


# --- kernels ---


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 31), (24, 17)])
@pytest.mark.parametrize("sweeps", [1, 2, 3, 4])
@pytest.mark.parametrize("grain", [0.01, 10])  # the coarse one has many ties
def test_barrier_distance_equals_the_plain_sweeps(height: int, width: int, sweeps: int, grain: float) -> None:
    noise = np.random.default_rng(height + sweeps).normal(0, 20, (height, width))
    channel = (np.round(noise / grain) * grain).astype(np.float32)
    np.testing.assert_array_equal(S.barrier_kernel()(channel, sweeps), plain_barrier(channel, sweeps))


def test_barrier_distance_of_a_ring_is_the_height_of_its_wall() -> None:
    channel = np.zeros((40, 40), np.float32)
    channel[10:30, 10:30] = 7
    channel[15:25, 15:25] = 3  # the inside of the wall is lower, but a path to it must climb to 7
    distance = S.barrier_kernel()(channel, 3)
    assert (distance[10:30, 10:30] == 7).all()
    assert distance.sum() == 7 * 20 * 20


def plain_reconstruct(marker: NDArray[np.float32], ceiling: NDArray[np.float32]) -> NDArray[np.float32]:
    """The former kernel: `marker` floods its 4-neighbours, never above `ceiling`, until two sweeps change nothing."""
    height, width = marker.shape
    level, quiet, step = marker.copy(), 0, 1
    while quiet < 2:
        quiet += 1
        for y in range(height) if step > 0 else range(height - 1, -1, -1):
            for x in range(width) if step > 0 else range(width - 1, -1, -1):
                for ny, nx in ((y - step, x), (y, x - step)):
                    if 0 <= ny < height and 0 <= nx < width:
                        flooded = min(level[ny, nx], ceiling[y, x])
                        if flooded > level[y, x]:
                            level[y, x], quiet = flooded, 0
        step = -step
    return level


def plain_flatten(saliency: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    opened = plain_reconstruct(minimum_filter(saliency, width), saliency)
    return -plain_reconstruct(-maximum_filter(opened, width), -opened)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("grain", [0.001, 0.2])  # the coarse one has many ties
def test_flatten_equals_the_former_kernel(seed: int, grain: float) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.random((6, 9)).repeat(4, 0).repeat(4, 1)[:23, :35] + 0.2 * rng.random((23, 35))
    saliency = (np.round(noise / grain) * grain).astype(np.float32)
    saliency /= saliency.max()
    width = max(1, round(50 * np.sqrt(saliency.mean()) * 35 / S.WORKING_SIDE))
    found = S._flatten(saliency)
    np.testing.assert_array_equal(found, plain_flatten(saliency, width))
    assert (found != saliency).any() and found.dtype == np.float32


def test_flatten_removes_what_is_narrow_and_keeps_the_edges_of_what_is_wide() -> None:
    wide = np.zeros((120, 120), np.float32)
    wide[30:90, 30:90] = 1
    speckled = wide.copy()
    speckled[10:13, 10:13] = 1
    speckled[50:53, 50:53] = 0
    np.testing.assert_array_equal(S._flatten(speckled), wide)


def test_region_means_and_neighbours_equal_plain_loops() -> None:
    rgb = noise_picture(20, 33)
    labels, _ = regions_of(rgb, 15)
    lab = S._lab(rgb)
    colour, position = S._region_means(labels, lab)
    for region in range(labels.max() + 1):
        ys, xs = np.nonzero(labels == region)
        np.testing.assert_allclose(colour[region], lab[ys, xs].mean(0), rtol=1e-4)
        np.testing.assert_allclose(position[region], (ys.mean() / 20, xs.mean() / 33))
    pairs = touching(labels)
    assert len(pairs) == len(plain_neighbours(labels))
    assert {(int(a), int(b)) for a, b in pairs} == plain_neighbours(labels)


@pytest.mark.parametrize("noise", [0, 25])
def test_boundary_connectivity_equals_floyd_warshall(noise: float) -> None:
    # without noise most steps between regions have length 0, which a sparse graph must not take for no edge
    rgb, _ = scene(40, 60, (20, 30), 12, noise)
    labels, border = regions_of(rgb)
    colour, _ = S._region_means(labels, S._lab(rgb))
    expected = plain_connectivity(colour, plain_neighbours(labels), border.tolist(), S.SIGMA_COLOUR)
    np.testing.assert_allclose(S._boundary_connectivity(colour, touching(labels), border), expected)


def test_a_background_cut_in_two_is_one_background() -> None:
    colour = np.array([[50.0, 0, 0], [80, 60, 0], [50, 0, 0]])  # ground, a bar across the picture, ground
    pairs = np.array([[0, 1], [1, 2]])
    ground, bar, _ = S._boundary_connectivity(colour, pairs, np.array([0, 1, 2]))
    np.testing.assert_allclose([ground, bar], [2 / np.sqrt(2), 1], rtol=1e-6)


def test_background_weighted_contrast_equals_plain_loops() -> None:
    rng = np.random.default_rng(0)
    colour, position, background = rng.normal(0, 30, (30, 3)), rng.random((30, 2)), rng.random(30)
    np.testing.assert_allclose(
        S._background_weighted_contrast(colour, position, background),
        plain_contrast(colour, position, background, S.SIGMA_SPACE),
    )


def test_optimise_equals_a_dense_solve_and_nothing_near_costs_less() -> None:
    rng = np.random.default_rng(1)
    labels, _ = regions_of(noise_picture(30, 40))
    pairs, count = touching(labels), labels.max() + 1
    colour, background, foreground = rng.normal(0, 10, (count, 3)), rng.random(count), rng.random(count)
    like = {
        (a, b): np.exp(-sum((colour[a] - colour[b]) ** 2) / (2 * S.SIGMA_COLOUR**2)) + S.SMOOTH_FLOOR
        for a, b in pairs.tolist()
    }
    system = np.diag(background + foreground)
    for (a, b), weight in like.items():
        system[[a, b], [a, b]] += weight
        system[[a, b], [b, a]] -= weight
    found = S._optimise(colour, pairs, background, foreground)
    np.testing.assert_allclose(found, np.linalg.solve(system, foreground))

    def cost(s: Array) -> float:
        smooth = sum(weight * (s[a] - s[b]) ** 2 for (a, b), weight in like.items())
        return float((background * s**2).sum() + (foreground * (s - 1) ** 2).sum() + smooth)

    assert all(cost(found) < cost(found + rng.normal(0, 0.01, count)) for _ in range(20))


def test_frequency_tuned_equals_the_formula() -> None:
    rgb, _ = scene(12, 15, (6, 7), 3, noise=20)
    lab = np.pad(S._lab(rgb).astype(float), ((2, 2), (2, 2), (0, 0)), mode="edge")
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    mean = S._lab(rgb).reshape(-1, 3).astype(float).mean(0)
    expected = np.zeros((12, 15))
    for y, x in product(range(12), range(15)):
        blurred = sum(kernel[j, i] * lab[y + j, x + i] for j in range(5) for i in range(5))
        expected[y, x] = np.sqrt(((blurred - mean) ** 2).sum())
    expected = (expected - expected.min()) / np.ptp(expected)
    np.testing.assert_allclose(S.frequency_tuned(rgb), expected, atol=1e-4)


def test_border_contrast_forgives_an_object_on_one_side() -> None:
    rgb, inside = scene(60, 60, (30, 0), 20)
    contrast = S._border_contrast(S._lab(rgb))
    assert contrast[inside].min() > 5 * contrast[~inside].max()


# --- every measure ---


@pytest.mark.parametrize("name", S.METHODS)
class TestEveryMeasure:
    @pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 200), (61, 9), (97, 64), (310, 420)])
    def test_shape_range_and_same_answer_twice(self, name: str, height: int, width: int) -> None:
        rgb = noise_picture(height, width)
        first, second = S.METHODS[name](rgb), S.METHODS[name](rgb.copy())
        assert first.shape == (height, width)
        assert first.dtype == np.float32
        assert (first.min(), first.max()) == (0, 1)
        np.testing.assert_array_equal(first, second)

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (13, 200, 77)])
    def test_one_colour_gives_zeros(self, name: str, colour: tuple[int, int, int]) -> None:
        rgb = np.full((30, 40, 3), colour, np.uint8)
        assert not S.METHODS[name](rgb).any()

    @pytest.mark.parametrize("step", [1, 255])
    def test_nearly_one_colour_stays_finite(self, name: str, step: int) -> None:
        halves, dot = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30, 3), np.uint8)
        halves[:, 15:] = step
        dot[10, 15] = step
        for rgb in (halves, dot):
            saliency = S.METHODS[name](rgb)
            assert np.isfinite(saliency).all()
            assert 0 <= saliency.min() <= saliency.max() <= 1

    @pytest.mark.parametrize("noise", [0, 12])
    def test_finds_the_disk(self, name: str, noise: float) -> None:
        rgb, inside = scene(110, 150, (50, 85), 22, noise)
        saliency = S.METHODS[name](rgb)
        assert auc(saliency, inside) > 0.99
        assert saliency[inside].mean() > saliency[~inside].mean() + 0.5

    def test_a_view_of_a_larger_array_is_as_good_as_a_copy(self, name: str) -> None:
        view = noise_picture(60, 80)[::2, 5:65]
        np.testing.assert_array_equal(S.METHODS[name](view), S.METHODS[name](view.copy()))

    @pytest.mark.parametrize(
        "bad", [np.zeros((20, 20), np.uint8), np.zeros((20, 20, 3)), np.zeros((7, 20, 3), np.uint8)]
    )
    def test_refuses_what_is_no_picture(self, name: str, bad: NDArray[np.uint8]) -> None:
        with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
            S.METHODS[name](bad)


@pytest.mark.parametrize("centre", [(50, 18), (18, 75), (91, 75), (50, 131)])
@pytest.mark.parametrize("noise", [0, 12])
def test_robust_background_finds_an_object_on_the_border(centre: tuple[float, float], noise: float) -> None:
    rgb, inside = scene(110, 150, centre, 30, noise)
    saliency = S.robust_background(rgb)
    assert auc(saliency, inside) > 0.99
    assert saliency[inside].mean() > 8 * saliency[~inside].mean()


@pytest.mark.parametrize("noise", [25, 50, 80])
def test_robust_background_sees_through_noise(noise: float) -> None:
    rgb, inside = scene(120, 160, (60, 70), 25, noise)
    assert auc(S.robust_background(rgb), inside) > 0.98


def test_robust_background_takes_a_border_of_two_colours_for_background() -> None:
    rgb, inside = scene(120, 160, (60, 80), 25)
    rgb[:60][~inside[:60]] = (150, 190, 230)  # sky above ground
    assert auc(S.robust_background(rgb), inside) > 0.99


def test_robust_background_keeps_to_the_number_of_regions() -> None:
    rgb = noise_picture(120, 160)
    few, many = (len(np.unique(S.robust_background(rgb, regions=n))) for n in (20, 200))
    assert few <= 40 < many <= 260


# --- values as they were, the stage, and what it needs ---


def blocks() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (16, 21, 3), dtype=np.uint8).repeat(20, 0).repeat(20, 1)


@pytest.mark.parametrize(
    ("name", "picture", "mean", "pixels"),
    [
        ("rbd", "disk", 0.09036, [0.0, 1.0, 0.00413]),
        ("mb+", "disk", 0.0952, [0.0008, 0.98526, 0.01135]),
        ("ft", "disk", 0.16844, [0.13891, 0.88615, 0.09623]),
        ("rbd", "blocks", 0.67927, [0.01663, 0.83322, 0.88295]),
        ("mb+", "blocks", 0.3493, [0.00114, 0.08911, 0.0565]),
        ("ft", "blocks", 0.46201, [0.23491, 0.50305, 0.16937]),
    ],
)
def test_maps_are_those_of_the_first_release(name: str, picture: str, mean: float, pixels: list[float]) -> None:
    if picture == "disk":
        inside = np.hypot(*(np.indices((110, 150)) - np.array([50, 85])[:, None, None])) <= 22
        noise = np.random.default_rng(7).normal(0, 12, (110, 150, 3))
        rgb = np.clip(np.where(inside[..., None], (220, 120, 40), (90, 110, 130)) + noise, 0, 255).astype(np.uint8)
    else:
        rgb = blocks()
    found = S.METHODS[name](rgb)
    assert float(found.mean()) == pytest.approx(mean, abs=5e-4)
    assert [float(found[at]) for at in ((5, 5), (50, 85), (80, 40))] == pytest.approx(pixels, abs=2e-3)


@pytest.mark.parametrize("name", S.METHODS)
def test_the_stage_measures_a_reduced_photograph_and_stores_it_at_its_size(name: str, tmp_path: Path) -> None:
    pictures = [blocks(), scene(60, 90, (30, 40), 15, 5)[0], noise_picture(40, 40)]
    given = {"photographs": planted.photographs(tmp_path / "p.json", pictures, train=[0, 1])}
    for threads in (1, 2):
        out = tmp_path / f"{threads}.json"
        S.run(planted.job(Saliency(algorithm=name, side=150), out, given, threads=threads))  # type: ignore[arg-type]
    made = store.Artifact(tmp_path / "2.json", "saliency")
    assert made.digest == store.Artifact(tmp_path / "1.json").digest
    for i, rgb in enumerate(pictures[:2]):
        small = S.METHODS[name](reduced(rgb, 150))
        h, w = rgb.shape[:2]
        expected = np.round(np.asarray(Image.fromarray(small).resize((w, h), Image.Resampling.BILINEAR)) * 255)
        np.testing.assert_array_equal(made["saliency"][i, :h, :w], expected)
        assert not made["saliency"][i, h:].any() and not made["saliency"][i, :, w:].any()
    assert not made["saliency"][2].any(), "a validation image"


def test_without_numba_mb_says_what_is_missing_and_the_others_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "pipeline.kernels.barrier", raising=False)
    given = {"photographs": planted.photographs(tmp_path / "p.json", [noise_picture(40, 40)])}

    def run(name: str) -> Path:
        S.run(planted.job(Saliency(algorithm=name), tmp_path / "s.json", given))  # type: ignore[arg-type]
        return tmp_path / "s.json"

    with pytest.raises(InputError, match=r"'mb\+' needs numba, which is not installed: pip install 'tagmask\[mb\]'"):
        run("mb+")
    assert not (tmp_path / "s.json").exists()
    for name in ("rbd", "ft"):
        assert store.Artifact(run(name)).read("saliency").any()


def test_another_error_of_the_kernel_is_not_taken_for_a_missing_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pipeline.kernels.barrier", None)
    with pytest.raises(ModuleNotFoundError, match="barrier"):
        S.barrier_kernel()


@pytest.mark.skipif(not VOC.is_dir(), reason=f"no photographs: {VOC} is missing")
@pytest.mark.parametrize(("name", "least"), [("rbd", 0.86), ("mb+", 0.83)])
def test_photographs_are_more_salient_inside_their_objects(name: str, least: float) -> None:
    scores = []
    for image in (VOC / "ImageSets/Segmentation/train_6cls.txt").read_text().split()[::18]:
        rgb = np.asarray(Image.open(VOC / f"JPEGImages/{image}.jpg").convert("RGB"))
        mask = np.asarray(Image.open(VOC / f"SegmentationClass/{image}.png"))
        known = mask != 255
        scores.append(auc(S.METHODS[name](rgb)[known], mask[known] > 0))
    assert len(scores) >= 20
    assert np.mean(scores) > least  # nearness to the middle of the picture alone scores 0.82
