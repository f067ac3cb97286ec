"""Training samples: image and label stay aligned, nothing outside counts, randomness follows the generator alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import planted
import pytest

from pipeline import masks
from pipeline.core import data, store
from pipeline.core.config import Masks

FILL = np.array([7, 7, 7], np.uint8)  # no label's colour


def checked(height: int, width: int, cell: int = 16) -> np.ndarray:
    """Labels 1..5 in squares."""
    y, x = np.arange(height)[:, None] // cell, np.arange(width)[None] // cell
    return ((y * 3 + x) % 5 + 1).astype(np.uint8)


def coloured(labels: np.ndarray) -> np.ndarray:
    """A picture whose grey value says the label: 40 x label."""
    return np.repeat((labels * 40)[..., None], 3, 2)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> store.Artifact:
    """Larger than the crops, smaller, and narrow."""
    pictures = [coloured(checked(*size)) for size in ((120, 160), (30, 40), (20, 160))]
    tags = np.array([[1, 0], [0, 1], [1, 1]])
    return planted.images(tmp_path_factory.mktemp("data") / "i.json", pictures, tags)


def cutter(images: store.Artifact, **options: object) -> data.Crops:
    given = {"crop": 64, "scale": (0.5, 2.0), "jitter": 0.0, "fill": FILL}
    given["label"] = lambda i: checked(*images["size"][i])
    return data.Crops(images, **{**given, **options})  # type: ignore[arg-type]


def drawn(cut: data.Crops, i: int, count: int = 12) -> list[data.Sample]:
    return [cut(i, np.random.default_rng((i, number))) for number in range(count)]


@pytest.mark.parametrize("i", [0, 1, 2])
def test_image_and_label_stay_aligned(i: int, images: store.Artifact) -> None:
    for sample in drawn(cutter(images), i):
        image, label = sample["image"], sample["label"]
        assert image.shape == (3, 64, 64)
        assert label.shape == (64, 64)
        assert image.dtype == label.dtype == np.uint8
        inside = label != 255
        assert inside.any()
        assert (image[:, ~inside] == 7).all(), "outside: fill and VOID, nothing else"
        said = image[0].astype(int)
        wrong = inside & (abs(said - 40 * label.astype(int)) > 20)
        # Where two squares meet, the resized image mixes their colours; nowhere else may they disagree.
        edge = np.zeros_like(inside)
        for axis in (0, 1):
            change = np.diff(label.astype(int), axis=axis) != 0
            for shift in (-1, 0, 1, 2):
                where = np.argwhere(change)
                where[:, axis] = np.clip(where[:, axis] + shift, 0, 63)
                edge[tuple(where.T)] = True
        assert not (wrong & ~edge).any()


def test_labels_are_never_interpolated(images: store.Artifact) -> None:
    two = cutter(images, label=lambda i: np.where(checked(*images["size"][i]) > 2, 200, 3).astype(np.uint8))
    for i in range(3):
        for sample in drawn(two, i):
            assert set(np.unique(sample["label"])) <= {3, 200, 255}


def test_half_of_the_crops_are_mirrored(images: store.Artifact) -> None:
    """The label says left 1, right 2. (That the image turns with it is the first test's business.)"""
    label = np.where(np.arange(160) < 80, 1, 2).astype(np.uint8)[None].repeat(120, 0)
    samples = drawn(cutter(images, scale=(1.0, 1.0), crop=160, label=lambda i: label), 0, 60)
    assert 15 < sum(bool(sample["label"][80, 20] == 2) for sample in samples) < 45


def test_one_generator_one_sample(images: store.Artifact) -> None:
    cut = cutter(images, jitter=0.3)
    for i in range(3):
        one, same, other = (cut(i, np.random.default_rng(seed)) for seed in (5, 5, 6))
        assert all(np.array_equal(one[name], same[name]) for name in one)
        assert not np.array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["tags"], images["tags"][i])


def test_scale_follows_the_settings(images: store.Artifact) -> None:
    """Squares of 16 pixels appear with sides of 16 x scale."""
    for scale in (0.5, 1.0, 2.0):
        label = cutter(images, scale=(scale, scale))(0, np.random.default_rng(0))["label"]
        row = label[(label != 255).any(1)][16]
        row = row[row != 255]
        runs = np.diff(np.flatnonzero(np.diff(row.astype(int)) != 0))
        assert set(runs) == {16 * scale}


def test_a_picture_smaller_than_the_crop_keeps_all_of_itself(images: store.Artifact) -> None:
    for sample in drawn(cutter(images, scale=(1.0, 1.0)), 1):
        inside = sample["label"] != 255
        assert inside.sum() == 30 * 40
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        assert (np.diff(rows) == 1).all()
        assert (len(rows), len(columns)) == (30, 40)


def test_the_whole_of_a_large_picture_is_visited(images: store.Artifact) -> None:
    """Corners must not be rarer than they have to be: with crops of half the side, each is reached."""
    label = np.arange(120 * 160).reshape(120, 160)
    seen = np.zeros(label.size, bool)
    mark = (label % 250).astype(np.uint8)
    cut = cutter(images, scale=(1.0, 1.0), label=lambda i: mark)
    for number in range(120):
        window, _, _ = cut._window(120, 160, np.random.default_rng(number))
        seen[label[window]] = True
    assert seen.mean() > 0.97


def test_jitter_keeps_the_order_of_grey_levels() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    spread = []
    for seed in range(20):
        out = data.jitter(ramp, 0.4, np.random.default_rng(seed))[0, :, 0].astype(int)
        assert (np.diff(out) >= 0).all()
        spread.append(out[128])
    assert min(spread) < 110
    assert max(spread) > 146
    np.testing.assert_array_equal(data.jitter(ramp, 0.0, np.random.default_rng(0)), ramp)


@pytest.mark.parametrize(("old", "new"), [((7, 9), (14, 27)), ((20, 30), (7, 11)), ((5, 5), (5, 5)), ((3, 4), (1, 1))])
def test_nearest_takes_the_cell_under_each_centre(old: tuple[int, int], new: tuple[int, int]) -> None:
    array = np.arange(old[0] * old[1]).reshape(old)
    found = data.resize_nearest(array, *new)
    for i, j in np.ndindex(*new):
        y, x = int((i + 0.5) * old[0] / new[0]), int((j + 0.5) * old[1] / new[1])
        assert found[i, j] == array[y, x]
    assert data.resize_nearest(array[..., None].repeat(2, 2), *new).shape == (*new, 2)


@pytest.mark.parametrize(("h", "w"), [(16, 24), (13, 22)])
def test_from_grid_puts_each_cell_over_its_pixels(h: int, w: int) -> None:
    rng = np.random.default_rng(0)
    stored = np.zeros((2, 8, 8))
    cells = -(-h // 4), -(-w // 4)
    stored[:, : cells[0], : cells[1]] = rng.random((2, *cells))
    rounds = (stored * 9).astype(np.uint8)
    full = data.from_grid(rounds, 4, h, w)
    assert full.shape == (2, h, w)
    for k, y, x in np.ndindex(2, h, w):
        assert full[k, y, x] == rounds[k, y // 4, x // 4]
    smooth = data.from_grid(stored.astype(np.float16), 4, h, w)
    assert smooth.shape == (2, h, w)
    assert smooth.dtype == np.float32
    # Bilinear between cell centres, which lie at 4k + 1.5; beyond the outermost centres constant.
    for k, y, x in [(0, 5, 7), (1, 9, 12), (0, 0, 0), (1, 3, 2)]:
        at = [min(max((p - 1.5) / 4, 0), n - 1) for p, n in zip((y, x), cells, strict=True)]
        low = [int(a) for a in at]
        high = [min(a + 1, n - 1) for a, n in zip(low, cells, strict=True)]
        (fy, fx), corner = [a - b for a, b in zip(at, low, strict=True)], stored[k].astype(np.float16).astype(float)
        expected = (1 - fy) * ((1 - fx) * corner[low[0], low[1]] + fx * corner[low[0], high[1]]) + fy * (
            (1 - fx) * corner[high[0], low[1]] + fx * corner[high[0], high[1]]
        )
        assert smooth[k, y, x] == pytest.approx(expected, abs=1e-5)


def test_resizing_keeps_a_pictures_place_and_type() -> None:
    rgb = np.zeros((40, 40, 3), np.uint8)
    rgb[8:24, 16:32] = 255
    small = data.resize_image(rgb, 20, 10)
    assert small.dtype == np.uint8
    assert small.shape == (20, 10, 3)
    weight = small[..., 0].astype(float)
    assert (weight.sum(1) * (np.arange(20) + 0.5)).sum() / weight.sum() * 2 == pytest.approx(16, abs=0.1)
    assert (weight.sum(0) * (np.arange(10) + 0.5)).sum() / weight.sum() * 4 == pytest.approx(24, abs=0.1)


def test_mean_colour_ignores_padding(tmp_path: Path) -> None:
    pictures = [np.full((10, 20, 3), (10, 20, 30), np.uint8), np.full((20, 20, 3), (40, 50, 60), np.uint8)]
    images = planted.images(tmp_path / "i.json", pictures, np.ones((2, 1)), side=64)
    np.testing.assert_array_equal(data.mean_colour(images, np.arange(2)), [30, 40, 50])
    np.testing.assert_array_equal(data.mean_colour(images, np.array([0])), [10, 20, 30])


def test_tag_slots_hold_every_tag(tmp_path: Path) -> None:
    tags = np.zeros((3, 6), bool)
    tags[0, [1, 4]] = True
    images = planted.images(tmp_path / "i.json", [np.zeros((4, 4, 3), np.uint8)] * 3, tags)
    assert data.tag_slots(images).tolist() == [[2, 5, 255, 255], [255] * 4, [255] * 4]
    tags[1] = True
    images = planted.images(tmp_path / "j.json", [np.zeros((4, 4, 3), np.uint8)] * 3, tags)
    assert data.tag_slots(images)[1].tolist() == [1, 2, 3, 4, 5, 6]


# --------------------------------------------------------------------------------------- a share of true masks


def unbalanced(count: int = 400) -> np.ndarray:
    """Tags: class 0 in nine images of ten, class 3 in one of forty."""
    rng = np.random.default_rng(0)
    tags = rng.random((count, 4)) < (0.9, 0.3, 0.1, 0.025)
    tags[0] = False
    return tags


def test_a_balanced_draw_is_fairer_than_chance() -> None:
    tags, candidates = unbalanced(), np.arange(400)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        chosen = masks.balanced_draw(tags, candidates, 40, rng)
        assert len(set(chosen.tolist())) == 40
        assert (np.diff(chosen) > 0).all()
        plain = rng.choice(candidates, 40, replace=False)
        balanced, chance = tags[chosen].sum(0), tags[plain].sum(0)
        assert balanced.min() >= min(5, tags[:, 3].sum())
        assert balanced.min() > chance.min()
        assert balanced.max() / balanced.min() < chance.max() / max(chance.min(), 1)


def test_a_draw_follows_its_seed_and_takes_only_candidates() -> None:
    tags, candidates = unbalanced(), np.arange(100, 200)
    one, same, other = (masks.balanced_draw(tags, candidates, 20, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert set(one.tolist()) <= set(candidates.tolist())


def test_a_draw_of_everything_and_of_images_without_tags() -> None:
    tags = np.zeros((6, 2), bool)
    candidates = np.array([5, 1, 3])
    for count in (3, 9):
        assert masks.balanced_draw(tags, candidates, count, np.random.default_rng(0)).tolist() == [1, 3, 5]
    assert len(masks.balanced_draw(tags, candidates, 2, np.random.default_rng(0))) == 2


@pytest.mark.parametrize(("fraction", "used"), [(1.0, 6), (0.5, 3), (0.01, 1)])
def test_masks_are_the_true_ones_reduced_and_as_many_as_asked(fraction: float, used: int, tmp_path: Path) -> None:
    truths = [np.kron(checked(20, 30, 5), np.ones((2, 2), np.uint8)) for _ in range(8)]
    images = planted.images(
        tmp_path / "i.json", [np.zeros((20, 30, 3), np.uint8)] * 8, np.ones((8, 5)), truths, train=range(6)
    )
    masks.run(planted.job(Masks(fraction=fraction), tmp_path / "m.json", {"images": images}))
    made = store.Artifact(tmp_path / "m.json", "labels")
    covered = made.read("covered")
    assert covered.sum() == used
    assert not covered[6:].any(), "validation masks are not for training"
    for i in np.flatnonzero(covered):
        np.testing.assert_array_equal(data.labels_at(made, images, i), checked(20, 30, 5))
        assert (made["labels"][i, 20:] == 255).all()
