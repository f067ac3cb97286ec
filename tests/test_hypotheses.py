"""Hypotheses: likeness and merging against plain references, each filter, clusters, planted objects, and the kind."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import planted
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from pipeline import hypotheses as H
from pipeline.core import store
from pipeline.core.steps.seeds import Hypotheses as Settings
from pipeline.kinds import hypotheses as kind
from pipeline.kinds.hypotheses import Hypotheses
from pipeline.kinds.pixels import touching


def two_objects(height: int = 72, width: int = 96, noise: float = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """An orange disk and a blue rectangle on grey: u8 [h,w,3] and their masks."""
    y, x = np.indices((height, width))
    disk = np.hypot(y - height * 0.4, x - width * 0.25) < height * 0.22
    block = (abs(y - height * 0.6) < height * 0.25) & (abs(x - width * 0.7) < width * 0.12)
    rgb = np.full((height, width, 3), 120.0)
    rgb[disk], rgb[block] = (230, 120, 30), (40, 70, 200)
    rgb += np.random.default_rng(0).normal(0, noise, rgb.shape)
    return np.clip(rgb, 0, 255).astype(np.uint8), [disk, block]


def patchwork(rng: np.random.Generator, height: int = 20, width: int = 24, regions: int = 9) -> np.ndarray:
    """A label map of connected regions: the pixels nearest to each of some places."""
    places = rng.permutation(height * width)[:regions]
    y, x = np.indices((height, width))
    far = [(y - place // width) ** 2 + (x - place % width) ** 2 for place in places]
    return np.unique(np.argmin(far, axis=0), return_inverse=True)[1].reshape(height, width)


# ------------------------------------------------------------------------------------------------ plain references


def plain_histogram(bins: np.ndarray, mask: np.ndarray, count: int) -> np.ndarray:
    table = np.zeros((len(bins), count))
    for c, channel in enumerate(bins):
        for y, x in np.argwhere(mask):
            table[c, channel[y, x]] += 1
    return table.ravel() / table.sum()


def plain_likeness(one: np.ndarray, other: np.ndarray, parts: list[tuple[np.ndarray, int]]) -> float:
    """Uijlings 2013, equations 2 to 7, of two masks [h,w], from their pixels."""
    total = sum(
        np.minimum(plain_histogram(bins, one, count), plain_histogram(bins, other, count)).sum()
        for bins, count in parts
    )
    y, x = np.nonzero(one | other)
    around = (y.max() + 1 - y.min()) * (x.max() + 1 - x.min())
    size = 1 - (one.sum() + other.sum()) / one.size
    fill = 1 - (around - one.sum() - other.sum()) / one.size
    return total + size + fill


def plain_merging(labels: np.ndarray, parts: list[tuple[np.ndarray, int]]) -> list[np.ndarray]:
    """The masks of all regions, in the order in which they come to be."""
    masks = [labels == k for k in range(labels.max() + 1)]
    alive = set(range(len(masks)))

    def meet(one: np.ndarray, other: np.ndarray) -> bool:
        return any(
            (one[a] & other[b]).any()
            for a, b in [
                (np.s_[1:], np.s_[:-1]),
                (np.s_[:-1], np.s_[1:]),
                (np.s_[:, 1:], np.s_[:, :-1]),
                (np.s_[:, :-1], np.s_[:, 1:]),
            ]
        )

    while len(alive) > 1:
        pairs = [pair for pair in combinations(sorted(alive), 2) if meet(masks[pair[0]], masks[pair[1]])]
        one, other = max(pairs, key=lambda pair: plain_likeness(masks[pair[0]], masks[pair[1]], parts))
        alive = (alive - {one, other}) | {len(masks)}
        masks.append(masks[one] | masks[other])
    return masks


# -------------------------------------------------------------------------------------------------------- likeness


def test_histograms_and_likeness_equal_plain_counts() -> None:
    rng = np.random.default_rng(0)
    labels, bins = patchwork(rng), rng.integers(0, 7, (3, 20, 24))
    table = H.histograms(labels, bins, 7)
    for k in range(9):
        np.testing.assert_allclose(table[k], plain_histogram(bins, labels == k, 7), rtol=1e-6)
    regions = H.Regions(labels, table)
    pairs = touching(labels)
    expected = [plain_likeness(labels == a, labels == b, [(bins, 7)]) for a, b in pairs]
    np.testing.assert_allclose(regions.alike(pairs[:, 0], pairs[:, 1]), expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_merging_equals_merging_masks_and_counting_anew(seed: int) -> None:
    """Histograms averaged by size, boxes and neighbours carried on: the same regions in the same order."""
    rng = np.random.default_rng(seed)
    labels = patchwork(rng, 12, 15, regions=10)
    parts = [(rng.integers(0, 5, (3, 12, 15)), 5), (rng.integers(0, 4, (8, 12, 15)), 4)]
    for used in (parts, parts[1:]):
        features = np.concatenate([H.histograms(labels, bins, count) for bins, count in used], axis=1)
        regions = H.Regions(labels, features)
        inside = H.spans(H.merge(regions, touching(labels)))
        found = H.Hierarchy(inside[:10, 0][labels], inside, regions.boxes)
        masks = plain_merging(labels, used)
        assert len(found.boxes) == len(masks) == 19
        for k, mask in enumerate(masks):
            y0, x0, y1, x1 = found.boxes[k]
            drawn = np.zeros_like(mask)
            drawn[y0:y1, x0:x1] = found.segment(k)
            np.testing.assert_array_equal(drawn, mask)
            assert found.segment(k).any(0).all() and found.segment(k).any(1).all(), "the box is tight"


def test_colours_fill_their_bins_and_slopes_point_where_it_gets_brighter() -> None:
    rgb = np.zeros((2, 3, 3), np.uint8)
    rgb[0], rgb[1, 1] = 255, (255, 0, 0)
    bins = H.colour_bins(H.channels(rgb, "hsv"))
    assert bins.shape == (3, 2, 3)
    assert bins[:, 0, 0].tolist() == [0, 0, 24]  # white
    assert bins[:, 1, 1].tolist() == [0, 24, 24]  # red
    assert bins[:, 1, 0].tolist() == [0, 0, 0]  # black
    assert H.colour_bins(H.channels(rgb, "lab"))[:, 0, 0].tolist() == [24, 12, 12]
    ramp = np.zeros((16, 16, 3), np.float32)
    ramp[..., 0] = np.linspace(0, 1, 16)  # brighter to the right
    ramp[..., 1] = np.linspace(1, 0, 16)[:, None]  # brighter upwards
    slopes = H.texture_bins(ramp).reshape(3, 8, 16, 16)[:, :, 8, 8]
    # Directions in steps of 45 degrees from 'right' over 'down'; across the slope nothing, along it the last bin.
    assert slopes[0].tolist() == [9, 7, 0, 0, 0, 0, 0, 7]
    assert slopes[1].tolist() == [0, 0, 0, 0, 0, 7, 9, 7]
    assert not slopes[2].any()


# ----------------------------------------------------------------------------------------------- order and filters


def test_late_merges_come_first_but_not_only_and_from_all_hierarchies() -> None:
    counts = [5, 3, 9]
    worth, place = {}, 0
    for count in counts:
        for rank in range(count, 0, -1):
            if rank > 1:  # the last of each is the whole picture
                worth[place] = rank * ((place + 1) * 0.6180339887498949 % 1)
            place += 1
    assert H.ranked(counts).tolist() == sorted(worth, key=lambda place: worth[place])
    order = H.ranked([401] * 12)
    first = order[:240]
    assert np.bincount(first // 401, minlength=12).min() >= 10, "of 20 that would be each one's share"
    rank = 401 - first % 401
    assert np.median(rank) < 60 and rank.max() > 200


def test_small_and_slim_boxes_are_left_out() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 9, 11], [0, 0, 10, 40], [0, 0, 10, 41], [0, 0, 41, 10], [5, 5, 45, 15]])
    assert H.fit(boxes, (100, 100), 0.01, 4).tolist() == [True, False, True, False, False, True]
    assert H.fit(boxes, (100, 100), 0, 100).all()


@examples(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.6, 1.0]), st.sampled_from([3, 1000]))
def test_boxes_that_are_there_already_are_left_out(seed: int, overlap: float, most: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 12, (40, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, 8, (40, 2))], 1)

    def plain_iou(a: np.ndarray, b: np.ndarray) -> float:
        one, other = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
        one[a[0] : a[2], a[1] : a[3]] = other[b[0] : b[2], b[1] : b[3]] = True
        return (one & other).sum() / (one | other).sum()

    expected: list[int] = []
    for k, box in enumerate(boxes):
        if len(expected) < most and all(plain_iou(box, boxes[j]) <= overlap for j in expected):
            expected.append(k)
    assert H.distinct(boxes, overlap, most) == expected


# -------------------------------------------------------------------------------------------------------- clusters


def around(places: list[tuple[int, int, int, int]], each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Boxes about some places, in random order, and the place of each."""
    rng = np.random.default_rng(seed)
    which = rng.permutation(np.repeat(np.arange(len(places)), each))
    boxes = np.array(places)[which] + rng.integers(-4, 5, (len(which), 4))
    return boxes, which


@pytest.mark.parametrize("seed", range(3))
def test_clusters_are_of_boxes_that_overlap(seed: int) -> None:
    boxes, which = around([(10, 10, 60, 60), (10, 90, 50, 160), (90, 20, 150, 70), (80, 80, 160, 170)], 12, seed)
    found = H.clustered(boxes, 4)
    assert len({(int(a), int(b)) for a, b in zip(found, which, strict=True)}) == len(set(found.tolist())) == 4
    _, firsts = np.unique(found, return_index=True)
    assert firsts.tolist() == sorted(firsts), "numbered by their best box"
    assert found[0] == 0


def test_clusters_cut_little_affinity() -> None:
    """Normalised cut of the clusters against random ones and against slices of the order."""
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 100, (80, 2))
    boxes = np.concatenate([corner, corner + rng.integers(20, 60, (80, 2))], 1)
    affinity = H.iou(boxes[:, None], boxes)

    def cut(labels: np.ndarray) -> float:
        return sum(affinity[labels == k][:, labels != k].sum() / affinity[labels == k].sum() for k in np.unique(labels))

    found = H.clustered(boxes, 6)
    assert len(set(found.tolist())) == 6
    others = [rng.permutation(found) for _ in range(50)] + [np.repeat(np.arange(6), 14)[:80]]
    assert cut(found) < 0.75 * min(map(cut, others))


def test_few_boxes_and_boxes_that_never_meet_have_clusters() -> None:
    apart = np.array([[0, 20 * k, 10, 20 * k + 10] for k in range(12)])
    assert H.clustered(apart[:4], 10).tolist() == [0, 1, 2, 3]
    found = H.clustered(apart, 10)
    assert found.shape == (12,) and set(found.tolist()) <= set(range(10)) and found[0] == 0
    assert H.clustered(apart, 1).tolist() == [0] * 12


# ----------------------------------------------------------------------------------------------------- the pictures


@pytest.mark.parametrize("noise", [0, 8])
def test_planted_objects_are_among_the_best(noise: float) -> None:
    rgb, masks = two_objects(144, 192, noise)
    found = H.search(rgb, Settings())
    assert len(found.boxes) == len(found.clusters) == len(found.segments) <= 200
    for mask in masks:
        best = 0.0
        for (y0, x0, y1, x1), segment in list(zip(found.boxes, found.segments, strict=True))[:40]:
            both = (segment & mask[y0:y1, x0:x1]).sum()
            best = max(best, both / (segment.sum() + mask.sum() - both))
        assert best >= 0.9


def test_settings_are_kept() -> None:
    rgb, _ = two_objects(noise=6)

    def shapes(found: Hypotheses) -> tuple[np.ndarray, np.ndarray]:
        height, width = (found.boxes[:, 2:] - found.boxes[:, :2]).T
        return height * width / (72 * 96), np.maximum(height, width) / np.minimum(height, width)

    free = Settings(regions=(150,), smallest=0, slimmest=100, overlap=1, most=300, clusters=7)
    everything = H.search(rgb, free)
    area, slimness = shapes(everything)
    assert area.min() < 0.005 and slimness.max() > 4
    assert set(everything.clusters.tolist()) == set(range(7))
    kept = Settings(regions=(150,), smallest=0.02, slimmest=2, overlap=0.5, most=8)
    chosen = H.search(rgb, kept)
    area, slimness = shapes(chosen)
    assert len(chosen.boxes) == 8 < len(everything.boxes) <= 300
    assert area.min() >= 0.02 and slimness.max() <= 2
    overlaps = H.iou(chosen.boxes[:, None], chosen.boxes)
    assert (overlaps[~np.eye(8, dtype=bool)] <= 0.5).all()


@pytest.mark.parametrize("size", [(40, 60), (16, 16), (17, 200), (1, 1)])
def test_a_picture_without_regions_is_one_hypothesis(size: tuple[int, int]) -> None:
    found = H.search(np.full((*size, 3), 77, np.uint8), Settings())
    assert found.boxes.tolist() == [[0, 0, *size]] and found.clusters.tolist() == [0]
    assert found.segments[0].shape == size and found.segments[0].all()


def test_a_tiny_busy_picture_has_hypotheses() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    found = H.search(rgb, Settings())
    assert len(found.boxes) >= 1
    assert (found.boxes[:, :2] >= 0).all() and (found.boxes[:, 2:] <= (16, 20)).all()


# ------------------------------------------------------------------------------------------------- stage and kind


def test_every_photograph_of_every_split_has_its_own(tmp_path: Path) -> None:
    pictures = [two_objects(40, 64)[0], np.full((30, 50, 3), 9, np.uint8), two_objects(64, 48, noise=9)[0]]
    given = {"photographs": planted.photographs(tmp_path / "p.json", pictures, train=[0])}
    H.run(planted.job(Settings(clusters=3), tmp_path / "h.json", given))
    made = store.Artifact(tmp_path / "h.json", "hypotheses")
    assert made.meta == {"clusters": 3}
    for i, picture in enumerate(pictures):
        wanted = H.search(picture, Settings(clusters=3))
        np.testing.assert_array_equal(kind.boxes(made, i), wanted.boxes)
        np.testing.assert_array_equal(kind.clusters(made, i), wanted.clusters)
        for mask, other in zip(kind.segments(made, i), wanted.segments, strict=True):
            np.testing.assert_array_equal(mask, other)
    H.run(planted.job(Settings(clusters=3), tmp_path / "again.json", given, threads=2))
    assert store.Artifact(tmp_path / "again.json").digest == made.digest


@examples(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 19), st.integers(1, 19)), max_size=6), st.integers(0, 2**32 - 1))
def test_packed_masks_come_back(sizes: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = [rng.random(size) < 0.5 for size in sizes]
    boxes = np.array([[3, 5, 3 + h, 5 + w] for h, w in sizes]).reshape(-1, 4)
    packed = kind.pack(masks)
    assert packed.dtype == np.uint8 and len(packed) == sum(-(-h * w // 8) for h, w in sizes)
    for mask, other in zip(kind.unpack(boxes, packed), masks, strict=True):
        assert mask.dtype == np.bool_
        np.testing.assert_array_equal(mask, other)
    with pytest.raises(ValueError, match="bytes, which are not those of"):
        kind.unpack(boxes, np.append(packed, np.uint8(0)))


def test_planted_rows_are_read_as_they_were_given(tmp_path: Path) -> None:
    rows = [
        Hypotheses(np.array([[0, 0, 2, 3], [1, 1, 5, 4]]), np.array([1, 0]), [np.ones((2, 3), bool), np.eye(4, 3) > 0]),
        Hypotheses(np.zeros((0, 4), int), np.zeros(0, int), []),
    ]
    made = planted.hypotheses(tmp_path / "h.json", rows)
    for i, row in enumerate(rows):
        assert kind.boxes(made, i).tolist() == row.boxes.tolist()
        assert kind.clusters(made, i).tolist() == row.clusters.tolist()
        assert [mask.tolist() for mask in kind.segments(made, i)] == [mask.tolist() for mask in row.segments]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clusters": np.array([0, 1])}, "2 clusters and 1 segments found"),
        ({"boxes": np.array([[0, 0, 9, 4]])}, "boxes within its 8 x 6 pixels expected"),
        ({"boxes": np.array([[3, 0, 3, 4]])}, "boxes within its 8 x 6 pixels expected"),
        ({"clusters": np.array([5])}, r"clusters \[5\] found; 0 to 4 expected"),
        ({"segments": [np.ones((4, 3), bool)]}, r"a segment bool \[4, 3\] found"),
        ({"segments": [np.ones((3, 4))]}, r"a segment float64 \[3, 4\] found"),
    ],
)
def test_hypotheses_that_do_not_fit_are_refused(change: dict, said: str, tmp_path: Path) -> None:
    pictures = planted.photographs(tmp_path / "p.json", [np.zeros((8, 6, 3), np.uint8)])
    good = Hypotheses(np.array([[1, 1, 4, 5]]), np.array([0]), [np.ones((3, 4), bool)])
    assert kind.as_row(pictures, 0, good, 5)["segments"].tolist() == [255, 240]
    with pytest.raises(ValueError, match=f"hypotheses of photograph 0: .*{said}"):
        kind.as_row(pictures, 0, good._replace(**change), 5)
