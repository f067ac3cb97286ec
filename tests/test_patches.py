"""Mix: each rule of the patch sampler, and the crop, against slow plain references and planted truth."""

from __future__ import annotations

from collections import Counter
from math import comb
from pathlib import Path

import numpy as np
import planted
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pipeline import patches, triplet
from pipeline.core import store
from pipeline.core.job import InputError
from pipeline.core.steps.weights import Patches, Triplet
from pipeline.kinds.patches import draws_by_image
from pipeline.kinds.pixels import crop
from pipeline.networks.backbones import backbone
from pipeline.patches import distinct, draw_patches

LABELS = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
    elements=st.sampled_from([0, 0, 1, 2, 20, 255, 255]),
)
SIDES = st.tuples(st.integers(1, 12), st.integers(0, 12)).map(lambda s: (s[0], s[0] + 1 + s[1]))


def area(box: NDArray[np.int32]) -> int:
    return int((box[2] - box[0]) * (box[3] - box[1]))


def plain_coverage(
    box: NDArray[np.int32], earlier: list[NDArray[np.int32]], shape: tuple[int, int], whole: int = 0
) -> float:
    """Share of a box's own area (or of `whole`) that lies in the image and in any of the earlier boxes, by pixels."""
    y0, x0, y1, x1 = box.tolist()
    covered = 0
    for y in range(max(y0, 0), min(y1, shape[0])):
        for x in range(max(x0, 0), min(x1, shape[1])):
            covered += any(b[0] <= y < b[2] and b[1] <= x < b[3] for b in earlier)
    return float(covered / (whole or area(box)))


def plain_distinct(boxes: NDArray[np.int32], shape: tuple[int, int], wanted: int, reference: str) -> list[int]:
    """The rule as one would say it: look at all, keep what is new, then take from the dropped.

    As released ('first'), what is covered of a box is compared with the area of the first of them all.
    """
    kept: list[int] = []
    for index in range(len(boxes)):
        whole = area(boxes[0]) if reference == "first" else 0
        if plain_coverage(boxes[index], [boxes[k] for k in kept], shape, whole) <= 0.6:
            kept.append(index)
    return (kept + [i for i in range(len(boxes)) if i not in kept])[:wanted]


def centres(boxes: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    return (boxes[:, 0] + boxes[:, 2]) // 2, (boxes[:, 1] + boxes[:, 3]) // 2


@settings(max_examples=150, deadline=None)
@given(LABELS, SIDES, st.integers(1, 25), st.sampled_from([0, 2, None]), st.integers(0, 2**32 - 1))
def test_any_label_map(
    labels: NDArray[np.uint8], sides: tuple[int, int], count: int, background: int | None, seed: int
) -> None:
    boxes, classes = draw_patches(labels, np.random.default_rng(seed), count=count, sides=sides, background=background)
    assert boxes.dtype == np.int32 and boxes.shape == (len(classes), 4) and classes.dtype == np.uint8
    if (labels == 255).all():
        assert len(boxes) == 0
        return
    assert len(boxes) == count
    y, x = centres(boxes)
    assert (classes == labels[y, x]).all() and (classes != 255).all()
    side = boxes[:, 2] - boxes[:, 0]
    assert (side == boxes[:, 3] - boxes[:, 1]).all() and (side % 2 == 0).all()
    assert side.min() >= sides[0] and side.max() <= sides[1]

    has_background = background is not None and bool((labels == background).any())
    has_foreground = bool(((labels != 255) & (labels != background)).any())
    plain = 0 if background is None or count == 1 else max(1, count // 10)
    if has_background and has_foreground:
        assert (classes[: count - plain] != background).all() and (classes[count - plain :] == background).all()
    assert_coverage_rule(boxes[: count - plain], (labels.shape[0], labels.shape[1]))


def assert_coverage_rule(foreground: NDArray[np.int32], shape: tuple[int, int]) -> None:
    """Every patch up to some point is new; every one after it, the refill, had been dropped as covered."""
    coverage = [plain_coverage(foreground[i], list(foreground[:i]), shape) for i in range(len(foreground))]
    refill = next((i for i, share in enumerate(coverage) if share > 0.6), len(foreground))
    assert all(plain_coverage(box, list(foreground[:refill]), shape) > 0.6 for box in foreground[refill:])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 10), st.sampled_from(["own", "first"]))
def test_distinct_equals_the_plain_rule(seed: int, number: int, wanted: int, reference: str) -> None:
    rng = np.random.default_rng(seed)
    shape = (14, 17)
    y, x, half = (
        rng.integers(0, shape[0], number),
        rng.integers(0, shape[1], number),
        rng.integers(1, 6, number),
    )
    boxes = np.stack([y - half, x - half, y + half, x + half], axis=1).astype(np.int32)
    assert distinct(boxes, shape, wanted, 0.6, reference).tolist() == plain_distinct(boxes, shape, wanted, reference)
    assert distinct(boxes[:0], shape, wanted, 0.6, reference).tolist() == []


def test_coverage_is_relative_to_the_candidates_own_area() -> None:
    small, large = [8, 8, 12, 12], [0, 0, 20, 20]
    far = [30, 30, 34, 34]
    # The large box around the small one is new; divided by the first box's area, as released, it is not.
    outwards, inwards = np.array([small, large, far], np.int32), np.array([large, small, far], np.int32)
    assert distinct(outwards, (40, 40), 2, 0.6).tolist() == [0, 1]
    assert distinct(outwards, (40, 40), 2, 0.6, "first").tolist() == [0, 2]
    # The small box inside the large one is covered entirely; divided by the first box's area it is kept.
    assert distinct(inwards, (40, 40), 2, 0.6).tolist() == [0, 2]
    assert distinct(inwards, (40, 40), 2, 0.6, "first").tolist() == [0, 1]


def test_coverage_counts_the_union_and_a_limit_met_exactly_is_kept() -> None:
    first, second, far = [0, 0, 10, 3], [0, 3, 10, 6], [10, 0, 20, 10]
    for third, expected in (([0, 0, 10, 10], [0, 1, 2]), ([0, 0, 10, 9], [0, 1, 3])):  # 60% and 67% covered
        boxes = np.array([first, second, third, far], np.int32)
        assert distinct(boxes, (20, 10), 3, 0.6).tolist() == expected


def test_the_refill_keeps_the_draw_order() -> None:
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 4], [1, 0, 5, 4], [20, 20, 24, 24]], np.int32)
    assert distinct(boxes, (30, 30), 4, 0.6).tolist() == [0, 3, 1, 2]


def test_a_one_pixel_object_fills_its_share_with_repeats() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[11, 23] = 7
    boxes, classes = draw_patches(labels, np.random.default_rng(0), count=10, sides=(8, 8))
    assert classes.tolist() == [7] * 9 + [0]
    assert (boxes[:9] == [7, 19, 15, 27]).all()


@pytest.mark.parametrize(("count", "plain"), [(9, 1), (10, 1), (19, 1), (20, 2), (2, 1), (1, 0)])
def test_background_count_is_the_floor_of_a_tenth_but_at_least_one(count: int, plain: int) -> None:
    labels = np.zeros((32, 32), np.uint8)
    labels[:, 16:] = 3
    _, classes = draw_patches(labels, np.random.default_rng(1), count=count, sides=(4, 8))
    assert classes.tolist() == [3] * (count - plain) + [0] * plain


def test_a_missing_set_is_replaced_and_keeps_its_class() -> None:
    rng = np.random.default_rng(2)
    assert draw_patches(np.full((9, 9), 5, np.uint8), rng, count=10, sides=(2, 4))[1].tolist() == [5] * 10
    assert draw_patches(np.zeros((9, 9), np.uint8), rng, count=10, sides=(2, 4))[1].tolist() == [0] * 10


def test_without_background_class_zero_is_ordinary() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[:, 32:] = 1
    boxes, classes = draw_patches(labels, np.random.default_rng(3), count=40, sides=(4, 4), background=None)
    assert 8 < (classes == 0).sum() < 32
    assert_coverage_rule(boxes, (64, 64))


def test_background_patches_may_repeat() -> None:
    labels = np.full((20, 20), 1, np.uint8)
    labels[4, 4] = 0
    boxes, classes = draw_patches(labels, np.random.default_rng(4), count=10, sides=(6, 6), background_share=0.5)
    assert classes.tolist() == [1] * 5 + [0] * 5
    assert (boxes[5:] == [1, 1, 7, 7]).all()


def test_centres_and_sides_are_uniform() -> None:
    labels = np.full((6, 5), 255, np.uint8)
    labels[1, 1:4] = [4, 0, 9]
    labels[5, 4] = 4
    rng = np.random.default_rng(5)
    seen: Counter[tuple[int, int, int]] = Counter()
    draws = 6000
    for _ in range(draws):
        boxes, classes = draw_patches(labels, rng, count=1, sides=(3, 9), background=None)
        y, x = centres(boxes)
        assert classes[0] == labels[y[0], x[0]]
        seen[int(y[0]), int(x[0]), int(boxes[0, 2] - boxes[0, 0])] += 1
    expected = draws / (4 * 3)  # four labelled pixels, sides 4, 6, 8
    assert len(seen) == 12
    assert sum((n - expected) ** 2 / expected for n in seen.values()) < 31.3  # chi-square, 11 degrees: p = 0.001


def test_five_candidates_are_drawn_for_each_foreground_patch() -> None:
    # Five lone pixels and five foreground patches: all pixels are found if 25 draws hit each at least once.
    labels = np.zeros((4, 40), np.uint8)
    labels[1, 4::8] = 1
    rng = np.random.default_rng(10)
    draws = 2000
    found = 0
    for _ in range(draws):
        boxes, classes = draw_patches(labels, rng, count=6, sides=(4, 4))
        found += len({int(x) for x in centres(boxes[classes == 1])[1]}) == 5
    expected = sum((-1) ** k * comb(5, k) * (1 - k / 5) ** 25 for k in range(6))  # 0.981; 0.943 for 20 draws
    assert abs(found / draws - expected) < 0.01


def test_same_seed_same_patches_and_the_labels_stay_untouched() -> None:
    labels = np.random.default_rng(6).integers(0, 4, (50, 60), dtype=np.uint8)
    before = labels.copy()
    one, two = (draw_patches(labels, np.random.default_rng(7), count=10, sides=(8, 20)) for _ in range(2))
    assert (one[0] == two[0]).all() and (one[1] == two[1]).all() and (labels == before).all()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"count": 0}, "count is 0"),
        ({"sides": (7, 7)}, "even"),
        ({"sides": (0, 1)}, "even"),
        ({"sides": (8, 6)}, "sides"),
        ({"background_share": 1.0}, "background_share"),
        ({"background": 255}, "background"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, object], word: str) -> None:
    good: dict[str, object] = {"count": 4, "sides": (4, 8)}
    with pytest.raises(ValueError, match=word):
        draw_patches(np.zeros((8, 8), np.uint8), np.random.default_rng(0), **(good | change))  # type: ignore[arg-type]


def test_bad_label_maps_are_refused() -> None:
    for labels in (np.zeros((8, 8), np.int64), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8 map"):
            draw_patches(labels, np.random.default_rng(0), count=4, sides=(4, 8))  # type: ignore[arg-type]


def padded(rgb: NDArray[np.uint8], box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """The box cut from a copy of the image inside a wide black frame."""
    frame = 400
    wide = np.pad(rgb, ((frame, frame), (frame, frame), (0, 0)))
    return wide[box[0] + frame : box[2] + frame, box[1] + frame : box[3] + frame]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(-30, 50),
    st.integers(-30, 70),
    st.integers(1, 80),
    st.integers(1, 80),
    st.sampled_from([1, 7, 32]),
)
def test_crop_equals_padding_then_bilinear(y0: int, x0: int, height: int, width: int, size: int) -> None:
    rgb = np.random.default_rng(8).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    box = (y0, x0, y0 + height, x0 + width)
    found = crop(rgb, box, size)
    assert found.dtype == np.uint8 and found.shape == (size, size, 3)
    canvas = torch.from_numpy(padded(rgb, box)).permute(2, 0, 1)[None].double()
    exact = torch.nn.functional.interpolate(canvas, size=(size, size), mode="bilinear", align_corners=False)
    assert np.abs(found - exact[0].permute(1, 2, 0).numpy()).max() <= 0.5 + 1e-9


def test_crop_at_its_own_size_copies_pixels_and_blackens_the_outside() -> None:
    rgb = np.random.default_rng(9).integers(1, 256, (20, 30, 3), dtype=np.uint8)
    assert (crop(rgb, (3, 5, 13, 15), 10) == rgb[3:13, 5:15]).all()
    corner = crop(rgb, np.array([-6, 24, 4, 34], np.int32), 10)
    assert (corner[6:, :6] == rgb[:4, 24:]).all() and not corner[:6].any() and not corner[:, 6:].any()
    assert not crop(rgb, (100, 100, 110, 110), 8).any()


def test_crop_does_not_overflow_at_its_largest() -> None:
    white = np.full((2, 2, 3), 255, np.uint8)
    assert (crop(white, (0, 0, 2, 2), 1024) == 255).all()


@pytest.mark.parametrize(
    ("box", "size"), [((4, 0, 4, 4), 8), ((0, 5, 4, 4), 8), ((0, 0, 4, 4), 0), ((0, 0, 4, 4), 1025)]
)
def test_crop_refuses_empty_boxes_and_impossible_sizes(box: tuple[int, int, int, int], size: int) -> None:
    with pytest.raises(ValueError, match="cannot crop"):
        crop(np.zeros((8, 8, 3), np.uint8), box, size)


# ------------------------------------------------------------------------------------------------- the stages


SIZES = [(40, 64), (48, 48), (30, 50), (32, 32)]


def labelled(folder: Path, background: int | None) -> dict[str, store.Artifact]:
    """Four photographs: labelled in classes 0, 1, 2; all of class 0; without a labelled pixel; not covered."""
    mixed = np.random.default_rng(0).integers(0, 3, (5, 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    maps = [mixed, np.zeros(SIZES[1], np.uint8), np.full(SIZES[2], 255, np.uint8), None]
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
    return {
        "photographs": planted.photographs(folder / "p.json", pictures),
        "labels": planted.labels(folder / "l.json", maps, 64, 3, background),
    }


@pytest.mark.parametrize("reference", ["own", "first"])
@pytest.mark.parametrize("background", [0, None])
def test_the_stage_draws_from_what_is_labelled(background: int | None, reference: str, tmp_path: Path) -> None:
    given = labelled(tmp_path, background)
    settings = Patches(per_image=10, draws=3, sides=(8, 20), size=32, reference=reference)  # type: ignore[arg-type]
    patches.run(planted.job(settings, tmp_path / "b.json", given, seed=4))
    bank = store.Artifact(tmp_path / "b.json", "patches")
    assert bank.meta == {"size": 32, "classes": planted.class_names(3, background), "background": background}
    draws = draws_by_image(bank)
    assert sorted(draws) == [0, 1] and all(len(of) == 3 for of in draws.values())
    label = given["labels"]["labels"][0, :40, :64]
    for number, (boxes, classes) in enumerate(draws[0]):
        expected = draw_patches(
            label,
            np.random.default_rng((4, 0, number)),
            count=10,
            sides=(8, 20),
            reference=reference,
            background=background,
        )
        np.testing.assert_array_equal(boxes, expected[0])
        np.testing.assert_array_equal(classes, expected[1])
        assert (classes[:9] != 0).all() and classes[9] == 0 if background == 0 else (classes == 0).sum() > 0
    assert all((classes == 0).all() for _, classes in draws[1])


def test_nothing_labelled_is_a_message(tmp_path: Path) -> None:
    given = labelled(tmp_path, 0)
    given["labels"] = planted.labels(tmp_path / "n.json", [None, None, np.full(SIZES[2], 255), None], 64, 3)
    with pytest.raises(InputError, match="no pixel is labelled") as error:
        patches.run(planted.job(Patches(sides=(8, 20), size=32), tmp_path / "b.json", given))
    assert str(given["labels"].path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "stride", "size", "largest"),
    [("resnet18", 32, 64, 2), ("resnet18", 16, 64, 4), ("vgg16", 8, 64, 8), ("efficientnet_lite0", 32, 96, 3)],
)
def test_a_pool_larger_than_the_map_is_refused(name: str, stride: int, size: int, largest: int) -> None:
    """Its cells would be the map's, several times over."""
    net = backbone(name, stride)
    triplet.refuse_enlarging(net, size, Triplet(stride=stride, pool=largest))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"is {largest} x {largest}; set pool to at most {largest}, a smaller stride"):
        triplet.refuse_enlarging(net, size, Triplet(stride=stride, pool=largest + 1))  # type: ignore[arg-type]


def test_the_stage_refuses_such_a_pool_before_it_trains(tmp_path: Path) -> None:
    given = labelled(tmp_path, 0)
    box, ids = np.array([[0, 0, 16, 16]] * 4), np.array([0, 1, 0, 1])
    given["patches"] = planted.patches(tmp_path / "b.json", np.zeros(4), box, ids, 32, 3)
    given["weights"] = planted.weights(tmp_path / "w.json", backbone("resnet18"))
    with pytest.raises(InputError, match="pool: 4 asked for, but the map of a patch of 32 px at stride 32 is 1 x 1"):
        triplet.run(planted.job(Triplet(), tmp_path / "t.json", given))
