"""Pseudo-label rules against the paper's, pixel by pixel, and what the dense CRF does with a planted picture."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import numpy as np
import planted
import pytest
import torch

from pipeline import crf, relabel
from pipeline.core import data, store
from pipeline.core.config import Crf, Relabel
from pipeline.core.densecrf import DeepLabKernels, dense_crf
from pipeline.core.processes import over_processes

OPEN = -1


def by_the_rules(claimed: list[bool], scores: list[float], background: bool, settings: Crf) -> int:
    """AE-PSL section 3.2 for one pixel."""
    tags = [k for k, claim in enumerate(claimed) if claim]
    if not tags:
        return 0 if background else OPEN  # nobody claims it: background where it is not salient, else open
    if background and settings.low_saliency:
        return OPEN  # inside a mined region, and not salient
    if len(tags) > 1 and settings.conflicts:
        return OPEN  # two classes claim it
    return max(tags, key=lambda k: scores[k]) + 1


@pytest.mark.parametrize("conflicts", [True, False])
@pytest.mark.parametrize("low_saliency", [True, False])
def test_seed_labels_follow_the_rules(conflicts: bool, low_saliency: bool) -> None:
    settings = Crf(conflicts=conflicts, low_saliency=low_saliency)
    rng = np.random.default_rng(0)
    cases = list(product([False, True], repeat=4)) * 4  # three claims and the background, every combination
    claimed = np.array([case[:3] for case in cases]).T.reshape(3, 8, 8)
    background = np.array([case[3] for case in cases]).reshape(8, 8)
    scores = rng.random((3, 8, 8)).astype(np.float32)
    found = crf.seed_labels(claimed, scores, background, settings)
    for y, x in np.ndindex(8, 8):
        expected = by_the_rules(claimed[:, y, x].tolist(), scores[:, y, x].tolist(), bool(background[y, x]), settings)
        assert found[y, x] == expected, (claimed[:, y, x], background[y, x])


def test_claims_are_regions_where_there_are_any_and_thresholded_maps_otherwise() -> None:
    first, scores = np.array([[[0, 1, 2]]], np.uint8), np.array([[[0.9, 0.1, 0.3]]], np.float32)
    assert crf.claims(first, scores, True, Crf()).tolist() == [[[False, True, True]]]
    assert crf.claims(first, scores, False, Crf(foreground=0.2)).tolist() == [[[True, False, True]]]


@pytest.mark.parametrize("with_saliency", [True, False])
def test_the_unary_is_a_distribution_and_seeds_lead_it(with_saliency: bool) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 3, (6, 7)).astype(np.int16)
    scores, saliency = rng.random((2, 6, 7)).astype(np.float32), rng.random((6, 7)).astype(np.float32)
    settings = Crf(certainty=0.8)
    found = crf.unary(labels, scores, saliency if with_saliency else None, settings)
    assert found.shape == (3, 6, 7)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-6)
    for k in range(3):
        np.testing.assert_allclose(found[k][labels == k], 0.8)
    evidence, unsettled = (scores.max(0) + saliency) / 2 if with_saliency else scores.max(0), labels < 0
    np.testing.assert_allclose(found[0][unsettled], 1 - evidence.clip(0.05, 0.95)[unsettled], atol=1e-6)
    better = scores[0] > scores[1]
    assert (found[1] > found[2])[unsettled & better].all()
    assert (found[1] < found[2])[unsettled & ~better].all()


def planted_picture(size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc on a dark ground, with a little noise, and its mask."""
    y, x = np.mgrid[:size, :size]
    mask = (y - 30) ** 2 + (x - 34) ** 2 < 18**2
    noise = np.random.default_rng(0).normal(0, 6, (size, size, 3))
    rgb = np.where(mask[..., None], (200, 150, 60), (40, 60, 110)) + noise
    return rgb.clip(0, 255).astype(np.uint8), mask


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("with_saliency", [True, False])
def test_the_crf_snaps_a_shifted_seed_to_the_edge(with_saliency: bool) -> None:
    rgb, mask = planted_picture()
    seed = np.roll(mask, (5, -6), (0, 1))
    scores = np.where(seed, 0.9, 0.02)[None].astype(np.float32)
    saliency = np.where(mask, 0.8, 0.02).astype(np.float32) if with_saliency else None
    first = seed[None].astype(np.uint8)
    arguments = (rgb, np.array([7], np.uint8), first, scores, saliency, True)
    before, after = (crf.label_image(*arguments, Crf(refine=refine)) for refine in ("argmax", "crf"))
    assert set(np.unique(after)) == {0, 7}
    assert iou(before == 7, mask) < 0.76
    assert iou(after == 7, mask) > 0.95
    if with_saliency:
        assert set(np.unique(before)) == {0, 7, 255}
        doubtful = crf.label_image(*arguments, Crf(keep=0.99999))
        assert (doubtful == 255).any()
        assert (doubtful[doubtful != 255] == after[doubtful != 255]).all(), "keep only takes labels away"


def test_conflicts_are_settled_inside_the_object() -> None:
    """Two classes claim the disc's middle; the CRF gives every pixel to the background or one of the two."""
    rgb, mask = planted_picture()
    one, other = mask.copy(), mask.copy()
    one[:, 40:] = other[:, :30] = False
    scores = np.where(np.stack([one, other]), 0.9, 0.0).astype(np.float32)
    saliency = np.where(mask, 0.9, 0.0).astype(np.float32)
    seeds = crf.label_image(
        rgb, np.array([3, 5]), (scores > 0).astype(np.uint8), scores, saliency, True, Crf(refine="argmax")
    )
    assert (seeds[one & other] == 255).all()
    assert (seeds[one & ~other] == 3).all()
    assert (seeds[other & ~one] == 5).all()
    done = crf.label_image(rgb, np.array([3, 5]), (scores > 0).astype(np.uint8), scores, saliency, True, Crf())
    assert set(np.unique(done)) <= {0, 3, 5}
    assert iou(done > 0, mask) > 0.95


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


# ---------------------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_processes_keep_the_order(processes: int, count: int) -> None:
    offset = 10
    assert list(over_processes(lambda i: (i, i * i + offset), range(count), processes)) == [
        (i, i * i + offset) for i in range(count)
    ]


def test_processes_are_used_and_their_errors_arrive() -> None:
    assert os.getpid() not in set(over_processes(lambda i: os.getpid(), range(4), 2))

    def fails(i: int) -> float:
        return 1 / (i - 2)

    with pytest.raises(ZeroDivisionError):
        list(over_processes(fails, range(4), 2))


def test_processes_can_use_torch_after_the_parent_has() -> None:
    """A thread pool does not survive a fork: a child that asked for it would wait forever."""
    import torch

    torch.set_num_threads(2)
    a = torch.rand(400, 400)
    a @ a

    def work(i: int) -> tuple[int, float]:
        return torch.get_num_threads(), float(
            torch.nn.functional.interpolate(a[None, None], scale_factor=4.0).sum() > i
        )

    assert list(over_processes(work, range(3), 2)) == [(1, 1.0)] * 3


# -------------------------------------------------------------------------------------------------- the stage


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, store.Artifact]:
    """Four pictures: the disc twice, one without tags, one of the validation split."""
    root = tmp_path_factory.mktemp("crf")
    rgb, mask = planted_picture(56)
    pictures = [rgb, rgb[:50, ::-1], rgb, rgb]
    tags = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]])
    images = planted.images(root / "i.json", pictures, tags, train=[0, 1, 2])
    scores, first = np.zeros((4, 4, 14, 14)), np.zeros((4, 4, 14, 14))
    for i, truth in ((0, mask), (1, mask[:, ::-1])):
        scores[i, 0] = truth[2::4, 2::4] * 0.9
        first[i, 0] = truth[2::4, 2::4] * (i + 1)
    classes = np.array([[2, 255, 255, 255], [1, 255, 255, 255], [255] * 4, [255] * 4])
    saliency = np.zeros((4, 56, 56), np.uint8)
    saliency[0], saliency[1] = mask * 200, mask[:, ::-1] * 200
    return {
        "images": images,
        "seeds": planted.seeds(root / "s.json", scores, classes, first, 4, [{"loss": 1.0}] * 2),
        "saliency": planted.rows_artifact(root / "b.json", "saliency", {"saliency": saliency}, {}),
    }


@pytest.mark.parametrize("threads", [1, 2])
def test_the_stage_labels_what_it_covers(world: dict[str, store.Artifact], threads: int, tmp_path: Path) -> None:
    crf.run(planted.job(Crf(), tmp_path / "l.json", world, threads=threads))
    made = store.Artifact(tmp_path / "l.json", "labels")
    assert made.read("covered").tolist() == [True, True, True, False]
    _, mask = planted_picture(56)
    labels = made.read("labels")
    assert iou(labels[0] == 2, mask) > 0.95
    assert iou(labels[1, :50] == 1, mask[:50, ::-1]) > 0.95
    assert (labels[1, 50:] == 255).all(), "below the image there is nothing to label"
    assert not labels[2].any(), "an image known to hold no class is background"
    serial = tmp_path / "serial.json"
    crf.run(planted.job(Crf(), serial, world))
    assert store.Artifact(serial).digest == made.digest


# -------------------------------------------------------------------------------------------------- relabel


def test_labels_need_their_thresholds() -> None:
    ids = np.array([0, 4, 9])
    scores = np.array([[0.8, 0.5, 0.2, 0.3], [0.1, 0.3, 0.7, 0.4], [0.1, 0.2, 0.1, 0.3]])[:, None]

    def decide(**settings: float) -> list[int]:
        return relabel.decide(scores, ids, Relabel(**settings))[0].tolist()  # type: ignore[arg-type]

    assert decide() == [0, 0, 4, 4]
    assert decide(background=0.6) == [0, 255, 4, 4]
    assert decide(foreground=0.5) == [0, 0, 4, 255]
    assert decide(foreground=0.7, background=0.8) == [0, 255, 4, 255]
    assert relabel.decide(scores, ids, Relabel()).dtype == np.uint8


def test_the_tag_constraint_leaves_only_the_images_own_classes(
    world: dict[str, store.Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is sure of class 3, which no image is tagged with; class 2 comes next, then class 1."""
    images = world["images"]

    class Model(torch.nn.Module):
        pass

    def probabilities(model: Model, rgb: np.ndarray, **options: object) -> np.ndarray:
        return np.broadcast_to(np.array([0.1, 0.15, 0.25, 0.5])[:, None, None], (4, *rgb.shape[:2])).copy()

    monkeypatch.setattr(relabel, "load_segmenter", lambda artifact: Model())
    monkeypatch.setattr(relabel, "probabilities", probabilities)
    model = planted.rows_artifact(tmp_path / "m.json", "model", {"x": np.zeros((4, 1))}, {})

    def labels(name: str, **settings: object) -> list[set[int]]:
        out = tmp_path / f"{name}.json"
        relabel.run(planted.job(Relabel(**settings), out, {"images": images, "model": model}))  # type: ignore[arg-type]
        made = store.Artifact(out, "labels")
        assert made.read("covered").tolist() == [True, True, True, False]
        return [set(np.unique(data.labels_at(made, images, i)).tolist()) for i in range(3)]

    assert labels("tags") == [{2}, {1}, {0}]
    assert labels("free", tags=False) == [{3}] * 3
    # Among the possible classes probabilities sum to one again: 0.25 of 0.35, 0.15 of 0.25.
    assert labels("sure", foreground=0.65) == [{2}, {255}, {0}]
    assert labels("crf", crf=True) == [{2}, {1}, {0}]


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
