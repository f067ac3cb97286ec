"""The kinds: how a row is read, resizing, drawing. Values against plain references, and no torch on import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import planted
import pytest

from pipeline.core import store
from pipeline.kinds import classes, masks, photographs, pixels, tags
from pipeline.kinds.crops import resize_by_torch

REPO = Path(__file__).resolve().parents[1]


def artifact(path: Path, kind: str, arrays: dict[str, np.ndarray], **meta: object) -> store.Artifact:
    return planted.rows_artifact(path, kind, arrays, meta)


def tagged(path: Path, table: np.ndarray) -> store.Artifact:
    return artifact(path, "tags", {"tags": table.astype(bool)}, classes=["x"] * table.shape[1], background=0)


# --------------------------------------------------------------------------------------------------------- classes


def test_the_background_is_what_the_data_set_says(tmp_path: Path) -> None:
    table, names = {"tags": np.ones((1, 3), bool)}, ["sky", "road", "car"]
    for number, (meta, background, foreground) in enumerate(
        [({"background": 0}, 0, [1, 2]), ({"background": None}, None, [0, 1, 2]), ({}, 0, [1, 2])]
    ):
        made = artifact(tmp_path / f"{number}.json", "tags", table, classes=names, **meta)
        assert classes.names(made) == names
        assert classes.background(made) == background
        assert classes.foreground(made).tolist() == foreground
        assert classes.foreground(made).dtype == np.int64


# ---------------------------------------------------------------------------------------------- photographs, masks


@pytest.fixture
def photos(tmp_path: Path) -> store.Artifact:
    rgb = np.full((3, 64, 64, 3), 99, np.uint8)
    rgb[0, :10, :20], rgb[1, :20, :20] = (10, 20, 30), (40, 50, 60)
    arrays = {"rgb": rgb, "size": np.array([[10, 20], [20, 20], [64, 64]], np.int32)}
    tables = {
        "id": store.encode_text(["one", "zwei", "drü"]),
        "split_train": np.array([0, 2]),
        "split_val": np.array([1]),
        "split_score": np.array([2]),
    }
    return planted.rows_artifact(tmp_path / "p.json", "photographs", arrays, {}, tables)


def test_photographs(photos: store.Artifact) -> None:
    assert photographs.image(photos, 0).shape == (10, 20, 3)
    assert (photographs.image(photos, 0) == (10, 20, 30)).all()
    assert photographs.size(photos, 0) == (10, 20)
    assert photographs.ids(photos) == ["one", "zwei", "drü"]
    assert photographs.split(photos, "train").tolist() == [0, 2]
    assert photographs.only_split(photos, "train", [b"a", b"b", b"c"]) == [b"a", None, b"c"]


def test_mean_colour_ignores_padding(photos: store.Artifact) -> None:
    np.testing.assert_array_equal(photographs.mean_colour(photos, np.arange(2)), [30, 40, 50])
    np.testing.assert_array_equal(photographs.mean_colour(photos, np.array([0])), [10, 20, 30])


def test_true_masks_each_at_its_size(tmp_path: Path) -> None:
    mask = [np.full(24, 3, np.uint8), np.full(1, pixels.VOID, np.uint8)]
    arrays = {"mask": mask, "full_size": np.array([[4, 6], [1, 1]], np.int32), "has_mask": np.array([True, False])}
    made = artifact(tmp_path / "m.json", "masks", arrays)
    assert masks.true_mask(made, 0).tolist() == [[3] * 6] * 4
    assert masks.true_mask(made, 1).tolist() == [[pixels.VOID]]
    assert masks.has_mask(made).tolist() == [True, False]
    older = artifact(tmp_path / "older.json", "masks", {**arrays, "mask": np.zeros((2, 8, 8), np.uint8)})
    with pytest.raises(store.ArtifactError, match="run again"):
        masks.true_mask(older, 0)


@pytest.mark.parametrize(
    ("full", "max_side", "found"),
    [
        ((24, 1024), 1024, "7 px narrow at the 300 px where saliency works; 8 expected"),
        ((1024, 24), 1024, "7 px narrow at the 300 px"),
        ((24, 1024), 512, "12 px narrow at data.max_side 512; 16 expected"),
        ((15, 15), 512, "15 px narrow at data.max_side 512"),
        ((16, 16), 512, None),
        ((16, 512), 512, None),
        ((26, 1024), 1024, None),
        ((24, 700), 1024, None),
        ((30, 3000), 16, "0 px narrow at data.max_side 16"),
    ],
)
def test_narrow_photographs_are_known_before_anything_is_computed(
    full: tuple[int, int], max_side: int, found: str | None
) -> None:
    reason = photographs.too_narrow(full, max_side)
    assert (reason is None) == (found is None)
    assert found is None or found in str(reason)


# ------------------------------------------------------------------------------------------------------------ tags


def test_slots_hold_every_tag(tmp_path: Path) -> None:
    table = np.zeros((3, 7), bool)
    table[0, [2, 5]] = True
    assert tags.slots(tagged(tmp_path / "t.json", table)).tolist() == [[2, 5, 255, 255], [255] * 4, [255] * 4]
    table[1, 1:] = True
    wide = tags.slots(tagged(tmp_path / "u.json", table))
    assert wide[1].tolist() == [1, 2, 3, 4, 5, 6]
    assert wide[0].tolist() == [2, 5, 255, 255, 255, 255]
    assert wide.dtype == np.uint8
    np.testing.assert_array_equal(tags.tags(tagged(tmp_path / "v.json", table)), table)


def slow_draw(table: np.ndarray, candidates: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The draw as first written, O(N²·C)."""
    if count >= len(candidates):
        return np.sort(candidates)
    left = rng.permutation(candidates)
    chosen: list[int] = []
    seen = np.zeros(table.shape[1])
    while len(chosen) < count:
        available = table[left].any(0)
        if available.any():
            rarest = np.where(available, seen, np.inf).argmin()
            position = int(table[left, rarest].argmax())
        else:
            position = 0
        chosen.append(int(left[position]))
        seen += table[left[position]]
        left = np.delete(left, position)
    return np.sort(np.asarray(chosen, np.int64))


@pytest.mark.parametrize("share", [0.02, 0.15, 0.6])
def test_the_draw_is_that_of_the_slow_one(share: float) -> None:
    rng = np.random.default_rng(0)
    for seed in range(40):
        count, width = int(rng.integers(1, 60)), int(rng.integers(1, 9))
        table = rng.random((count, width)) < share * rng.uniform(0, 2, width)
        candidates = np.flatnonzero(rng.random(count) < 0.8)
        for wanted in (0, 1, len(candidates) // 2, max(0, len(candidates) - 1), len(candidates)):
            one, other = (
                draw(table, candidates, wanted, np.random.default_rng(seed)) for draw in (tags.balanced_draw, slow_draw)
            )
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype


def test_the_draw_looks_at_each_photograph_a_few_times_only() -> None:
    """Of 20,000 photographs half are drawn; the slow one looked at 20,000 x 10,000 x 20 tags, hours of it."""
    table = np.random.default_rng(0).random((20_000, 20)) < 0.07
    table[:, 0] = False  # the background's column
    chosen = tags.balanced_draw(table, np.arange(20_000), 10_000, np.random.default_rng(0))
    assert len(set(chosen.tolist())) == 10_000
    drawn, all_of_it = table[chosen].sum(0)[1:], table.sum(0)[1:]
    assert drawn.min() / drawn.max() > 0.9
    assert (drawn > 0.55 * all_of_it).all(), "photographs without a tag come last"


def unbalanced(count: int = 400) -> np.ndarray:
    """Tags: class 0 in nine images of ten, class 3 in one of forty."""
    rng = np.random.default_rng(0)
    table = rng.random((count, 4)) < (0.9, 0.3, 0.1, 0.025)
    table[0] = False
    return table


def test_a_balanced_draw_is_fairer_than_chance() -> None:
    table, candidates = unbalanced(), np.arange(400)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        chosen = tags.balanced_draw(table, candidates, 40, rng)
        assert len(set(chosen.tolist())) == 40
        assert (np.diff(chosen) > 0).all()
        plain = rng.choice(candidates, 40, replace=False)
        balanced, chance = table[chosen].sum(0), table[plain].sum(0)
        assert balanced.min() >= min(5, table[:, 3].sum())
        assert balanced.min() > chance.min()
        assert balanced.max() / balanced.min() < chance.max() / max(chance.min(), 1)


def test_a_draw_follows_its_seed_and_takes_only_candidates() -> None:
    table, candidates = unbalanced(), np.arange(100, 200)
    one, same, other = (tags.balanced_draw(table, candidates, 20, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert set(one.tolist()) <= set(candidates.tolist())


def test_a_draw_of_everything_and_of_images_without_tags() -> None:
    table = np.zeros((6, 2), bool)
    candidates = np.array([5, 1, 3])
    for count in (3, 9):
        assert tags.balanced_draw(table, candidates, count, np.random.default_rng(0)).tolist() == [1, 3, 5]
    assert len(tags.balanced_draw(table, candidates, 2, np.random.default_rng(0))) == 2


# ---------------------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize("longest", [6, 80, 400])
def test_resizing_is_torchs(longest: int) -> None:
    """Bytes that stored results rest on; Pillow's differ by a level here and there. Crops ask torch itself."""
    import torch

    rng = np.random.default_rng(longest)
    for k in range(30):
        h, w, height, width = (int(n) for n in rng.integers(1, longest, 4))
        rgb = rng.integers(0, 256, (h, w, 3), np.uint8) if k % 3 else 255 * rng.integers(0, 2, (h, w, 3), np.uint8)
        tensor = torch.from_numpy(rgb).permute(2, 0, 1)[None]
        expected = torch.nn.functional.interpolate(tensor, (height, width), mode="bilinear", antialias=True)[0]
        for resize in (pixels.resize_image, resize_by_torch):
            np.testing.assert_array_equal(resize(rgb, height, width), expected.permute(1, 2, 0).numpy())
    assert pixels.resize_image(rgb, *rgb.shape[:2]) is rgb


def test_resizing_a_panorama_to_a_few_pixels() -> None:
    """Weights so small that no more bits would fit, and several bands."""
    import torch

    rgb = np.random.default_rng(0).integers(0, 256, (300, 6000, 3), np.uint8)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(rgb).permute(2, 0, 1)[None], (7, 20), mode="bilinear", antialias=True
    )
    np.testing.assert_array_equal(pixels.resize_image(rgb, 7, 20), expected[0].permute(1, 2, 0).numpy())
    assert (pixels.resize_image(np.full_like(rgb, 255), 7, 20) == 255).all()


def test_jitter_keeps_the_order_of_grey_levels() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    spread = []
    for seed in range(20):
        out = pixels.jitter(ramp, 0.4, np.random.default_rng(seed))[0, :, 0].astype(int)
        assert (np.diff(out) >= 0).all()
        spread.append(out[128])
    assert min(spread) < 110
    assert max(spread) > 146
    np.testing.assert_array_equal(pixels.jitter(ramp, 0.0, np.random.default_rng(0)), ramp)


@pytest.mark.parametrize(("old", "new"), [((7, 9), (14, 27)), ((20, 30), (7, 11)), ((5, 5), (5, 5)), ((3, 4), (1, 1))])
def test_nearest_takes_the_cell_under_each_centre(old: tuple[int, int], new: tuple[int, int]) -> None:
    array = np.arange(old[0] * old[1]).reshape(old)
    found = pixels.resize_nearest(array, *new)
    for i, j in np.ndindex(*new):
        y, x = int((i + 0.5) * old[0] / new[0]), int((j + 0.5) * old[1] / new[1])
        assert found[i, j] == array[y, x]
    assert pixels.resize_nearest(array[..., None].repeat(2, 2), *new).shape == (*new, 2)


@pytest.mark.parametrize(("h", "w"), [(16, 24), (13, 22)])
def test_from_grid_puts_each_cell_over_its_pixels(h: int, w: int) -> None:
    rng = np.random.default_rng(0)
    stored = np.zeros((2, 8, 8))
    cells = -(-h // 4), -(-w // 4)
    stored[:, : cells[0], : cells[1]] = rng.random((2, *cells))
    rounds = (stored * 9).astype(np.uint8)
    full = pixels.from_grid(rounds, 4, h, w)
    assert full.shape == (2, h, w)
    for k, y, x in np.ndindex(2, h, w):
        assert full[k, y, x] == rounds[k, y // 4, x // 4]
    smooth = pixels.from_grid(stored.astype(np.float16), 4, h, w)
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
    small = pixels.resize_image(rgb, 20, 10)
    assert small.dtype == np.uint8
    assert small.shape == (20, 10, 3)
    weight = small[..., 0].astype(float)
    assert (weight.sum(1) * (np.arange(20) + 0.5)).sum() / weight.sum() * 2 == pytest.approx(16, abs=0.1)
    assert (weight.sum(0) * (np.arange(10) + 0.5)).sum() / weight.sum() * 4 == pytest.approx(24, abs=0.1)


def test_kinds_are_read_without_torch() -> None:
    code = (
        "import sys; from pipeline.kinds import classes, masks, photographs, pixels, tags; "
        "import pipeline.prepare; print({'torch', 'skimage'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
