"""Pseudo-label rules against the paper's, pixel by pixel and against their former slow form, with and without a
background, and what they make of a planted picture."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import planted
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from pipeline import crf
from pipeline.core import store
from pipeline.core.steps.labels import Crf
from pipeline.kernels.densecrf import DeepLabKernels, dense_crf
from pipeline.kinds.labels import labels_at
from pipeline.kinds.seeds import Seeds

OPEN = -1


def by_the_rules(claimed: list[bool], scores: list[float], background: bool, settings: Crf, exists: bool = True) -> int:
    """AE-PSL section 3.2 for one pixel. exists: whether there is a background; slots begin after it."""
    tags = [k for k, claim in enumerate(claimed) if claim]
    if not tags:
        return 0 if background else OPEN  # nobody claims it: background where it is not salient, else open
    if background and settings.low_saliency:
        return OPEN  # inside a mined region, and not salient
    if len(tags) > 1 and settings.conflicts:
        return OPEN  # two classes claim it
    return max(tags, key=lambda k: scores[k]) + exists


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("conflicts", [True, False])
@pytest.mark.parametrize("low_saliency", [True, False])
def test_seed_labels_follow_the_rules(conflicts: bool, low_saliency: bool, exists: bool) -> None:
    settings = Crf(conflicts=conflicts, low_saliency=low_saliency)
    rng = np.random.default_rng(0)
    cases = list(product([False, True], repeat=4)) * 4  # three claims and the background, every combination
    claimed = np.array([case[:3] for case in cases]).T.reshape(3, 8, 8)
    background = np.array([case[3] for case in cases]).reshape(8, 8)
    scores = rng.random((3, 8, 8)).astype(np.float32)
    found = crf.seed_labels(claimed, scores, background if exists else None, settings)
    for y, x in np.ndindex(8, 8):
        here = claimed[:, y, x].tolist(), scores[:, y, x].tolist(), exists and bool(background[y, x])
        assert found[y, x] == by_the_rules(*here, settings, exists), here


@pytest.mark.parametrize("with_saliency", [True, False])
def test_the_unary_is_a_distribution_and_seeds_lead_it(with_saliency: bool) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 3, (6, 7)).astype(np.int16)
    scores, saliency = rng.random((2, 6, 7)).astype(np.float32), rng.random((6, 7)).astype(np.float32)
    found = crf.unary(labels, scores, saliency if with_saliency else None, True, Crf(certainty=0.8))
    assert found.shape == (3, 6, 7)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-6)
    for k in range(3):
        np.testing.assert_allclose(found[k][labels == k], 0.8)
    evidence, unsettled = (scores.max(0) + saliency) / 2 if with_saliency else scores.max(0), labels < 0
    np.testing.assert_allclose(found[0][unsettled], 1 - evidence.clip(0.05, 0.95)[unsettled], atol=1e-6)
    better = scores[0] > scores[1]
    assert (found[1] > found[2])[unsettled & better].all()
    assert (found[1] < found[2])[unsettled & ~better].all()


def test_without_a_background_tags_share_what_is_open_by_their_scores() -> None:
    scores = np.array([[[0.9, 0.5, 0.0]], [[0.1, 0.5, 0.2]]], np.float32)
    found = crf.unary(np.array([[OPEN, 1, OPEN]], np.int16), scores, np.ones((1, 3), np.float32), False, Crf())
    np.testing.assert_allclose(found[:, 0], [[1.0 / 1.2, 0.2, 0.1 / 0.4], [0.2 / 1.2, 0.8, 0.3 / 0.4]], rtol=1e-5)


# ----------------------------------------------------------------------------------- as before, to the last bit


def former(
    rgb: np.ndarray, ids: np.ndarray, claimed: np.ndarray, scores: np.ndarray, saliency: np.ndarray | None, rules: Crf
) -> np.ndarray:
    """The rules as they were written while the background was class 0 everywhere."""
    if saliency is not None:
        background = saliency < rules.background
    else:
        background = ~claimed.any(0) & (scores.max(0) < rules.background)
    labels = np.full(background.shape, -1, np.int16)
    for y, x in np.ndindex(labels.shape):
        here = claimed[:, y, x].tolist(), scores[:, y, x].tolist(), bool(background[y, x])
        labels[y, x] = by_the_rules(*here, rules)
    if rules.refine == "crf":
        evidence = scores.max(0) if saliency is None else (scores.max(0) + saliency) / 2
        foreground, share = np.clip(evidence, 0.05, 0.95), scores + 0.1
        soft = np.concatenate([1 - foreground[None], foreground * share / share.sum(0)]).astype(np.float32)
        hard = np.full_like(soft, (1 - rules.certainty) / max(len(scores), 1))
        for k in range(len(soft)):
            hard[k][labels == k] = rules.certainty
        posterior = dense_crf(rgb, np.where(labels < 0, soft, hard), rules)
        labels = posterior.argmax(0).astype(np.int16)
        labels[posterior.max(0) < rules.keep] = -1
    return np.concatenate([[0], ids, [255]]).astype(np.uint8)[labels]


@examples(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(["crf", "argmax"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.6]),
)
def test_labels_are_those_of_before_where_class_0_is_the_background(
    seed: int, tags: int, salient: bool, refine: str, conflicts: bool, low_saliency: bool, keep: float
) -> None:
    rng = np.random.default_rng(seed)
    rules = Crf(refine=refine, conflicts=conflicts, low_saliency=low_saliency, keep=keep, background=0.3)  # type: ignore[arg-type]
    rgb = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8).repeat(4, 0).repeat(3, 1)
    scores = rng.random((tags, 12, 12)).astype(np.float32)
    claimed = rng.integers(0, 3, (tags, 12, 12)) * (rng.random((tags, 12, 12)) < 0.5)
    saliency = rng.random((12, 12)).astype(np.float32) if salient else None
    ids = rng.choice(np.arange(1, 9), tags, replace=False).astype(np.uint8)
    found = crf.label_image(rgb, Seeds(ids, scores, claimed.astype(np.uint8)), saliency, 0, rules)
    np.testing.assert_array_equal(found, former(rgb, ids, claimed > 0, scores, saliency, rules))


# --------------------------------------------------------------------------------------------- planted pictures


def planted_picture(size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc on a dark ground, with a little noise, and its mask."""
    y, x = np.mgrid[:size, :size]
    mask = (y - 30) ** 2 + (x - 34) ** 2 < 18**2
    noise = np.random.default_rng(0).normal(0, 6, (size, size, 3))
    rgb = np.where(mask[..., None], (200, 150, 60), (40, 60, 110)) + noise
    return rgb.clip(0, 255).astype(np.uint8), mask


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def claims_of(ids: list[int], *regions: np.ndarray, low: float = 0.0) -> Seeds:
    """Seeds that claim these regions, with scores of 0.9 there."""
    where = np.stack(regions)
    return Seeds(np.array(ids, np.uint8), np.where(where, 0.9, low).astype(np.float32), where.astype(np.uint8))


@pytest.mark.parametrize("with_saliency", [True, False])
@pytest.mark.parametrize("background", [0, 4])
def test_the_crf_snaps_a_shifted_seed_to_the_edge(with_saliency: bool, background: int) -> None:
    rgb, mask = planted_picture()
    seed = np.roll(mask, (5, -6), (0, 1))
    found = claims_of([7], seed, low=0.02)
    saliency = np.where(mask, 0.8, 0.02).astype(np.float32) if with_saliency else None
    before, after = (
        crf.label_image(rgb, found, saliency, background, Crf(refine=refine))  # type: ignore[arg-type]
        for refine in ("argmax", "crf")
    )
    assert set(np.unique(after)) == {background, 7}
    assert iou(before == 7, mask) < 0.76
    assert iou(after == 7, mask) > 0.95
    if with_saliency:
        assert set(np.unique(before)) == {background, 7, 255}
        doubtful = crf.label_image(rgb, found, saliency, background, Crf(keep=0.99999))
        assert (doubtful == 255).any()
        assert (doubtful[doubtful != 255] == after[doubtful != 255]).all(), "keep only takes labels away"


def test_conflicts_are_settled_inside_the_object() -> None:
    """Two classes claim the disc's middle; the CRF gives every pixel to the background or one of the two."""
    rgb, mask = planted_picture()
    one, other = mask.copy(), mask.copy()
    one[:, 40:] = other[:, :30] = False
    saliency = np.where(mask, 0.9, 0.0).astype(np.float32)
    both = claims_of([3, 5], one, other)
    seeds = crf.label_image(rgb, both, saliency, 0, Crf(refine="argmax"))
    assert (seeds[one & other] == 255).all()
    assert (seeds[one & ~other] == 3).all()
    assert (seeds[other & ~one] == 5).all()
    done = crf.label_image(rgb, both, saliency, 0, Crf())
    assert set(np.unique(done)) <= {0, 3, 5}
    assert iou(done > 0, mask) > 0.95


@pytest.mark.parametrize("with_saliency", [True, False])
def test_without_a_background_the_tags_divide_the_picture_between_them(with_saliency: bool) -> None:
    """Class 0, an ordinary one, claims the picture's edge, class 5 the disc's middle; the rest is open, however little
    salient, and the CRF gives it to one of the two."""
    rgb, mask = planted_picture()
    y, x = np.mgrid[:64, :64]
    disc, ground = (y - 30) ** 2 + (x - 34) ** 2 < 10**2, ~mask
    ground[8:-8, 8:-8] = False
    saliency = np.where(mask, 0.8, 0.0).astype(np.float32) if with_saliency else None
    both = claims_of([0, 5], ground, disc)
    before = crf.label_image(rgb, both, saliency, None, Crf(refine="argmax"))
    np.testing.assert_array_equal(before, np.select([ground, disc], [0, 5], 255))
    after = crf.label_image(rgb, both, saliency, None, Crf())
    assert set(np.unique(after)) == {0, 5}
    assert iou(after == 5, mask) > 0.95


def test_an_image_without_tags_is_background_or_unknown() -> None:
    rgb, _ = planted_picture(32)
    none = Seeds(np.zeros(0, np.uint8), np.zeros((0, 32, 32), np.float32), np.zeros((0, 32, 32), np.uint8))
    for background, expected in ((0, 0), (3, 3), (None, 255)):
        assert (crf.label_image(rgb, none, None, background, Crf()) == expected).all()


def test_restricting_the_classes_changes_almost_nothing() -> None:
    rgb, mask = planted_picture(48)
    chosen = np.stack([np.where(mask, 0.3, 0.7), np.where(mask, 0.7, 0.3)]).astype(np.float32)
    everything = np.full((8, 48, 48), 1e-6, np.float32)
    everything[[0, 5]] = chosen
    few = np.array([0, 5])[dense_crf(rgb, chosen, DeepLabKernels()).argmax(0)]
    many = dense_crf(rgb, everything / everything.sum(0), DeepLabKernels()).argmax(0)
    assert (few == many).mean() > 0.995


def test_dense_crf_gives_probabilities() -> None:
    rgb, mask = planted_picture(32)
    posterior = dense_crf(rgb, np.stack([~mask, mask]).astype(np.float32), Crf())
    assert posterior.shape == (2, 32, 32)
    np.testing.assert_allclose(posterior.sum(0), 1, atol=1e-4)
    np.testing.assert_array_equal(dense_crf(rgb, np.ones((1, 32, 32), np.float32), Crf()), 1)


def test_the_bilateral_kernel_grows_with_the_photograph() -> None:
    rgb, mask = planted_picture(48)
    chance = np.where(mask, 0.55, 0.45) + np.random.default_rng(0).uniform(-0.3, 0.3, mask.shape)
    scores = np.stack([1 - chance, chance]).clip(0.05, 0.95).astype(np.float32)
    kernels = Crf(compat=0, bilateral_sxy=30)

    def twice(array: np.ndarray) -> np.ndarray:
        return array.repeat(2, -2).repeat(2, -1)

    small = dense_crf(rgb, scores, kernels).argmax(0)
    large = dense_crf(twice(rgb.transpose(2, 0, 1)).transpose(1, 2, 0), twice(scores), kernels).argmax(0)
    narrow = dense_crf(rgb, scores, Crf(compat=0, bilateral_sxy=1)).argmax(0)
    assert (twice(small) == large).mean() > 0.98
    assert (small != narrow).mean() > 0.05


# -------------------------------------------------------------------------------------------------- the stage


def world(root: Path, background: int | None = 0) -> dict[str, store.Artifact]:
    """Four pictures: the disc twice, one without tags, one of the validation split. Seeds of the disc; without a
    background also of the ground, as class 0."""
    rgb, mask = planted_picture(56)
    masks = [mask, mask[:50, ::-1]]
    pictures = [rgb, rgb[:50, ::-1], rgb, rgb]
    scores, claimed = np.zeros((4, 4, 14, 14)), np.zeros((4, 4, 14, 14))
    classes = np.full((4, 4), 255)
    for i, truth in enumerate(masks):
        parts = [truth] if background == 0 else [~truth, truth]
        for k, (part, number) in enumerate(
            zip(parts, ([2, 1][i],) if background == 0 else (0, [2, 1][i]), strict=True)
        ):
            cells = part[2::4, 2::4]
            scores[i, k, : cells.shape[0], : cells.shape[1]] = cells * 0.9
            claimed[i, k, : cells.shape[0], : cells.shape[1]] = cells * (i + 1)
            classes[i, k] = number
    saliency = [truth.astype(np.uint8) * 200 for truth in masks] + [np.zeros((56, 56), np.uint8)] * 2
    return {
        "photographs": planted.photographs(root / "p.json", pictures, train=[0, 1, 2]),
        "seeds": planted.seeds(root / "s.json", scores, classes, claimed, 4, background=background),
        "saliency": planted.saliency(root / "b.json", saliency, 56),
    }


@pytest.mark.parametrize("background", [0, None])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_stage_labels_what_it_covers(threads: int, background: int | None, tmp_path: Path) -> None:
    given = world(tmp_path, background)
    crf.run(planted.job(Crf(), tmp_path / "l.json", given, threads=threads))
    made = store.Artifact(tmp_path / "l.json", "labels")
    assert made.read("covered").tolist() == [True, True, True, False]
    assert made.meta == {"classes": planted.class_names(4, background), "background": background}
    _, mask = planted_picture(56)
    labels = [labels_at(made, given["photographs"], i) for i in range(3)]
    assert iou(labels[0] == 2, mask) > 0.95
    assert iou(labels[1] == 1, mask[:50, ::-1]) > 0.95
    assert set(np.unique(labels[0])) == {0, 2}
    assert (made["labels"][1, 50:] == 255).all(), "below the image there is nothing to label"
    assert (labels[2] == (255 if background is None else 0)).all(), "an image known to hold no class"
    assert (made["labels"][3] == 255).all(), "a validation image is not covered"
    if threads > 1:
        serial = tmp_path / "serial.json"
        crf.run(planted.job(Crf(), serial, given))
        assert store.Artifact(serial).digest == made.digest
