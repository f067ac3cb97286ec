"""Seeds: the three readings of 'top 20 %', what is claimed where, and that another threshold computes no map anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import planted
import pytest

from pipeline.core import store
from pipeline.core.job import Job
from pipeline.core.steps.base import Claims
from pipeline.core.steps.seeds import Cam, Mine
from pipeline.kinds import seeds

READINGS = ["of_max", "top_of_max", "top_pixels"]


def smooth(seed: int, shape: tuple[int, int, int] = (3, 12, 10)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def plain(score: np.ndarray, settings: Claims) -> np.ndarray:
    """The reading of one map, by sorting."""
    flat = sorted(score.ravel().tolist(), reverse=True)
    t, top = settings.threshold, flat[0]
    if settings.reading == "of_max":
        region = score > t * top
    elif settings.reading == "top_of_max":
        region = score >= (1 - t) * top
    else:
        region = score >= flat[round(t * len(flat)) - 1]
    if region.mean() > settings.largest:
        region = score >= flat[round(settings.largest * len(flat)) - 1]
    return region & (score > 0)


@pytest.mark.parametrize("largest", [1.0, 0.7, 0.1])
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("reading", READINGS)
def test_the_three_readings(reading: str, threshold: float, largest: float) -> None:
    settings = Mine(reading=reading, threshold=threshold, largest=largest)
    scores = smooth(0)
    found = seeds.claim(scores, settings)
    for k, score in enumerate(scores):
        np.testing.assert_array_equal(found[k], plain(score, settings))
    assert found.any()
    assert found.mean((1, 2)).max() <= largest + 1 / scores[0].size
    np.testing.assert_array_equal(
        seeds.claim(scores, Cam(reading=reading, threshold=threshold, largest=largest)), found
    )


@pytest.mark.parametrize("reading", READINGS)
def test_an_empty_map_claims_nothing(reading: str) -> None:
    settings = Cam(reading=reading, threshold=0.9, largest=1.0)
    scores = np.zeros((2, 6, 6), np.float32)
    scores[1, 2:4, 2:4] = 0.5
    found = seeds.claim(scores, settings)
    assert not found[0].any()
    np.testing.assert_array_equal(found[1], scores[1] > 0, "zeros are never the top of anything")
    assert seeds.claim(np.zeros((0, 3, 3)), settings).shape == (0, 3, 3), "an image without tags"


def test_a_map_that_is_the_same_everywhere_claims_all_or_nothing() -> None:
    flat = np.ones((1, 5, 5), np.float32)
    assert seeds.claim(flat, Cam(threshold=0.5, largest=1.0)).all()
    assert not seeds.claim(flat, Cam(threshold=0.5, largest=0.7)).any(), "no threshold makes it less than everything"


@pytest.mark.parametrize("reading", READINGS)
def test_maps_are_relative_to_their_own_maximum(reading: str) -> None:
    scores, settings = smooth(1), Cam(reading=reading, threshold=0.3)
    np.testing.assert_array_equal(seeds.claim(scores, settings), seeds.claim(scores * 0.25, settings))


# ------------------------------------------------------------------------------------- on the grid and at pixels

SIZES = [(48, 64), (30, 42), (20, 20)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, store.Artifact]:
    """Three pictures, two with claims, at a grid of 4. What lies outside a picture's own cells is filled with 9."""
    root = tmp_path_factory.mktemp("seeds")
    pictures = [np.full((*size, 3), 50 * i, np.uint8) for i, size in enumerate(SIZES)]
    scores, claimed = np.full((3, 4, 16, 16), 0.9), np.full((3, 4, 16, 16), 9)
    for i, size in enumerate(SIZES):
        gh, gw = seeds.cells(size, 4)
        scores[i, :, :gh, :gw], claimed[i, :, :gh, :gw] = smooth(i, (4, gh, gw)), 0
    claimed[0, 0, 2:5, 4:8], claimed[0, 1, 4:9, 4:6] = 1, 2
    claimed[1, 0, 1:3, 8:] = 3
    classes = np.array([[1, 2, 255, 255], [3, 255, 255, 255], [255] * 4])
    return {
        "photographs": planted.photographs(root / "p.json", pictures),
        "seeds": planted.seeds(root / "s.json", scores, classes, claimed, 4),
    }


def test_seeds_of_an_image_are_its_own_cells_and_tags(world: dict[str, store.Artifact]) -> None:
    for i, (count, shape) in enumerate(((2, (12, 16)), (1, (8, 11)), (0, (5, 5)))):
        found = seeds.on_grid(world["seeds"], world["photographs"], i)
        assert found.classes.tolist() == [[1, 2], [3], []][i]
        assert found.scores.shape == found.claimed.shape == (count, *shape)
        assert (found.scores.dtype, found.claimed.dtype) == (np.float32, np.uint8)
        np.testing.assert_array_equal(found.scores, smooth(i, (4, *shape))[:count].astype(np.float16))
        assert (found.claimed < 9).all()


def test_at_pixels_scores_are_bilinear_and_claims_are_those_of_the_cell(world: dict[str, store.Artifact]) -> None:
    for i, (h, w) in enumerate(SIZES):
        cells, found = (of(world["seeds"], world["photographs"], i) for of in (seeds.on_grid, seeds.at_pixels))
        assert found.scores.shape == found.claimed.shape == (len(cells.classes), h, w)
        for k, y, x in np.ndindex(len(cells.classes), h, w):
            assert found.claimed[k, y, x] == cells.claimed[k, y // 4, x // 4]
        for k in range(len(cells.classes)):
            at = cells.scores[k]
            # Centres of cells lie at 1.5, 5.5, …, so pixel (5, 6) lies 0.875 and 1.125 cells from the first.
            expected = (1 - 0.875) * (0.875 * at[0, 1] + 0.125 * at[0, 2]) + 0.875 * (
                0.875 * at[1, 1] + 0.125 * at[1, 2]
            )
            assert found.scores[k, 5, 6] == pytest.approx(expected, abs=1e-6)
            assert found.scores[k, 0, 0] == at[0, 0], "beyond the outermost centres constant"


def test_claimed_pixels_are_those_of_any_class(world: dict[str, store.Artifact]) -> None:
    expected = [np.zeros(size, bool) for size in SIZES]
    expected[0][8:20, 16:32] = expected[0][16:36, 16:24] = True
    expected[1][4:12, 32:42] = True
    for i in range(3):
        np.testing.assert_array_equal(seeds.claimed_pixels(world["seeds"], world["photographs"], i), expected[i])


# ------------------------------------------------------------------------------------------------------- writing


def write(folder: Path, settings: Cam, world: dict[str, store.Artifact], asked: list[int]) -> store.Artifact:
    """Seeds of a maker whose maps are planted; `asked` lists the images whose maps were computed."""
    photographs = world["photographs"]
    slots = np.array([[1, 2, 255, 255], [3, 255, 255, 255], [255] * 4], np.uint8)

    def find(rows: list[int]) -> list[seeds.Found]:
        asked.extend(rows)
        return [
            {"scores": smooth(i, (int((slots[i] != 255).sum()), *seeds.cells(SIZES[i], settings.grid)))} for i in rows
        ]

    def settle(i: int, found: seeds.Found) -> seeds.Found:
        return {"claimed": seeds.claim(found["scores"], settings).astype(np.uint8)}

    job: Job = planted.job(settings, folder / "seeds.json", {"photographs": photographs})
    meta = {"grid": settings.grid, "classes": list("abcd"), "background": 0, "rounds": [{"loss": 1.0}]}
    seeds.write(job, slots, settings.grid, {"scores": ("map", np.float16)}, find, settle, meta)
    return store.Artifact(folder / "seeds.json", "seeds")


def test_another_threshold_leaves_the_maps(world: dict[str, store.Artifact], tmp_path: Path) -> None:
    asked: list[int] = []
    first = write(tmp_path, Cam(threshold=0.5), world, asked)
    assert asked == [0, 1, 2]
    before = {name: first.read(name) for name in ("scores", "claimed")}
    second = write(tmp_path, Cam(threshold=0.8, reading="top_pixels", largest=0.9), world, asked)
    assert asked == [0, 1, 2], "no map was computed again"
    assert second.digest != first.digest
    np.testing.assert_array_equal(second.read("scores"), before["scores"])
    assert second.read("claimed").sum() > before["claimed"].sum()
    for i in range(3):  # what is claimed follows from the maps as stored, so it does not matter when they were made
        found = seeds.on_grid(second, world["photographs"], i)
        np.testing.assert_array_equal(
            found.claimed, seeds.claim(found.scores, Cam(threshold=0.8, reading="top_pixels", largest=0.9))
        )
    write(tmp_path, Cam(scales=(1.0,)), world, asked)
    assert asked == [0, 1, 2] * 2, "another scale makes other maps"


def test_empty_slots_claim_nothing(world: dict[str, store.Artifact], tmp_path: Path) -> None:
    made = write(tmp_path, Cam(), world, [])
    for i in range(3):
        empty = made.read("classes")[i] == 255
        gh, gw = seeds.cells(SIZES[i], 4)
        for name in ("scores", "claimed"):
            assert not made.read(name)[i][empty].any()
            outside = made.read(name)[i].copy()
            outside[:, :gh, :gw] = 0
            assert not outside.any(), "nothing beyond the image's own cells"
