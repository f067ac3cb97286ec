"""Soft labels: stored, cut and learned from as what they say; hard labels beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import planted
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core import loop, store, train
from pipeline.core.job import Job
from pipeline.core.steps.models import Segment
from pipeline.kernels.pixel_losses import pixel_loss, soft_pixel_loss
from pipeline.kinds.crops import Crops
from pipeline.kinds.labels import labels_at, write_labels
from pipeline.kinds.pixels import resize_maps
from pipeline.kinds.soft import soft_at, write_soft

FILL = np.array([7, 7, 7], np.uint8)
SIZES = ((30, 48), (20, 20), (17, 40))
GRID, SLOTS = 4, 3
IDS = ([0, 2], [0, 1, 3], [2])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> store.Artifact:
    rng = np.random.default_rng(0)
    rgb = np.zeros((3, 50, 50, 3), np.uint8)
    for row, (h, w) in zip(rgb, SIZES, strict=True):
        row[:h, :w] = rng.integers(10, 250, (h, w, 3))
    arrays = {"rgb": rgb, "size": np.array(SIZES, np.int32)}
    meta = {"classes": ["nothing", "a", "b", "c"], "background": None}
    return planted.rows_artifact(tmp_path_factory.mktemp("data") / "p.json", "photographs", arrays, meta)


def cells(i: int) -> tuple[int, int]:
    return -(-SIZES[i][0] // GRID), -(-SIZES[i][1] // GRID)


def maps_of(i: int) -> np.ndarray:
    """Probabilities of photograph i, float32 [k,gh,gw], which float16 holds exactly."""
    raw = np.random.default_rng(i).integers(1, 9, (len(IDS[i]), *cells(i)))
    return (np.round(256 * raw / raw.sum(0)) / 256).astype(np.float32)


def given(indices: list[int]) -> Iterator[tuple[list[int], np.ndarray]]:
    for i in indices:
        yield IDS[i], maps_of(i)


def job_for(photographs: store.Artifact, out: Path) -> Job:
    return planted.job(Segment(), out, {"photographs": photographs})


@pytest.fixture(scope="module")
def soft(photographs: store.Artifact, tmp_path_factory: pytest.TempPathFactory) -> store.Artifact:
    out = tmp_path_factory.mktemp("soft") / "s.json"
    write_soft(job_for(photographs, out), np.array([0, 1]), GRID, SLOTS, given, of=photographs, votes=5)
    return store.Artifact(out)


# ------------------------------------------------------------------------------------------------------ storing


def test_soft_labels_lie_in_their_slots_and_nowhere_else(soft: store.Artifact) -> None:
    assert soft["probabilities"].shape == (3, SLOTS, 13, 13) and soft["probabilities"].dtype == np.float16
    assert soft.read("slots").tolist() == [[0, 2, 255], [0, 1, 3], [255] * 3]
    assert soft.read("slots").dtype == np.uint8
    assert soft.read("covered").tolist() == [True, True, False]
    assert soft.meta == {"grid": 4, "classes": ["nothing", "a", "b", "c"], "background": None, "votes": 5}
    for i in (0, 1):
        row = soft["probabilities"][i].copy()
        k, (gh, gw) = len(IDS[i]), cells(i)
        np.testing.assert_array_equal(row[:k, :gh, :gw], maps_of(i))
        row[:k, :gh, :gw] = 0
        assert not row.any()
    assert not soft["probabilities"][2].any()


def test_soft_at_is_bilinear_between_the_photographs_own_cells(
    soft: store.Artifact, photographs: store.Artifact
) -> None:
    for i in (0, 1):
        slots, maps = soft_at(soft, photographs, i)
        assert slots.tolist() == soft.read("slots")[i].tolist()
        assert maps.shape == (SLOTS, *SIZES[i]) and maps.dtype == np.float32
        known, (gh, gw) = maps_of(i), cells(i)
        for k, y, x in [(0, 0, 0), (1, 5, 7), (0, 16, 19), (1, SIZES[i][0] - 1, SIZES[i][1] - 1)]:
            at = [min(max((p - 1.5) / GRID, 0), n - 1) for p, n in zip((y, x), (gh, gw), strict=True)]
            low = [int(a) for a in at]
            high = [min(a + 1, n - 1) for a, n in zip(low, (gh, gw), strict=True)]
            fy, fx = at[0] - low[0], at[1] - low[1]
            top = (1 - fx) * known[k, low[0], low[1]] + fx * known[k, low[0], high[1]]
            bottom = (1 - fx) * known[k, high[0], low[1]] + fx * known[k, high[0], high[1]]
            assert maps[k, y, x] == pytest.approx((1 - fy) * top + fy * bottom, abs=1e-6)
        np.testing.assert_allclose(maps.sum(0), 1, atol=0.02)
    slots, maps = soft_at(soft, photographs, 2)
    assert slots.tolist() == [255] * 3 and not maps.any()


@pytest.mark.parametrize(
    ("ids", "shape"),
    [([0, 1, 2, 3], (4, 8, 12)), ([0, 0], (2, 8, 12)), ([0, 255], (2, 8, 12)), ([0], (2, 8, 12)), ([0], (1, 8, 13))],
)
def test_soft_labels_that_do_not_fit_are_refused(
    ids: list[int], shape: tuple[int, ...], photographs: store.Artifact, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"soft labels of photograph 0: classes .* a map \[8, 12\] of each"):
        write_soft(
            job_for(photographs, tmp_path / "s.json"),
            np.array([0]),
            GRID,
            SLOTS,
            lambda rows: iter([(ids, np.zeros(shape, np.float32))]),
            of=photographs,
        )


@pytest.mark.parametrize(("old", "new"), [((7, 9), (14, 27)), ((20, 30), (7, 11)), ((5, 5), (5, 5)), ((1, 4), (3, 1))])
def test_maps_are_resized_as_by_torch(old: tuple[int, int], new: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).random((3, *old)).astype(np.float16)
    expected = F.interpolate(torch.from_numpy(maps.astype(np.float32))[None], new, mode="bilinear")[0].numpy()
    found = resize_maps(maps, *new)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_uncovered_labels_hold_255(photographs: store.Artifact, tmp_path: Path) -> None:
    out, label = tmp_path / "l.json", np.arange(30 * 48).reshape(30, 48).astype(np.uint8) % 4
    write_labels(job_for(photographs, out), np.array([0]), lambda rows: iter([label]), of=photographs, note="x")
    labels = store.Artifact(out)
    assert labels.read("covered").tolist() == [True, False, False]
    assert labels.meta == {"classes": ["nothing", "a", "b", "c"], "background": None, "note": "x"}
    np.testing.assert_array_equal(labels_at(labels, photographs, 0), label)
    assert (labels["labels"][0, 30:] == 255).all() and (labels["labels"][0, :, 48:] == 255).all()
    assert (labels["labels"][1] == 255).all() and (labels["labels"][2] == 255).all()


# ------------------------------------------------------------------------------------------------------ cutting


def hard(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 4, SIZES[i]).astype(np.uint8)


def one_hot(i: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(4, dtype=np.uint8), (hard(i) == np.arange(4)[:, None, None]).astype(np.float32)


@pytest.mark.parametrize("i", [0, 1, 2])
def test_a_crop_follows_its_draws_in_their_order(i: int, photographs: store.Artifact) -> None:
    """Scale, start and place of each axis, mirror, jitter: the samples of earlier versions come back."""
    cut = Crops(photographs, 32, (0.5, 2.0), 0.3, FILL, label=hard)
    for seed in range(12):
        rng, lengths = np.random.default_rng(seed), []
        scale = np.exp(rng.uniform(np.log(0.5), np.log(2.0)))
        for length in SIZES[i]:
            source = min(length, max(1, round(32 / scale)))
            start = rng.integers(0, length - source + 1)
            size = min(32, max(1, round(source * scale)))
            lengths.append((source, start, size, rng.integers(0, 32 - size + 1)))
        mirror = rng.random() < 0.5
        brightness, contrast = 1 + 0.3 * rng.uniform(-1, 1, 2)
        expected = np.full((32, 32), 255, np.uint8)
        for y, x in np.ndindex(lengths[0][2], lengths[1][2]):
            to, at = [], []
            for k, (source, start, size, place) in zip((y, x), lengths, strict=True):
                to.append(place + k)
                at.append(start + int((k + 0.5) * source / size))
            expected[tuple(to)] = hard(i)[tuple(at)]
        sample = cut(i, np.random.default_rng(seed))
        assert sample.keys() == {"image", "label"}
        np.testing.assert_array_equal(sample["label"], expected[:, ::-1] if mirror else expected)
        outside = sample["image"][:, sample["label"] == 255]
        assert (outside == int(np.clip((7 * brightness - 128) * contrast + 128, 0, 255))).all()


@pytest.mark.parametrize("i", [0, 1, 2])
def test_soft_labels_move_with_the_image_and_the_hard_label(i: int, photographs: store.Artifact) -> None:
    tags = np.eye(3, 4, dtype=bool)
    cut = Crops(photographs, 32, (0.5, 2.0), 0.0, FILL, tags=tags, label=hard, soft=one_hot)
    plain = Crops(photographs, 32, (0.5, 2.0), 0.0, FILL)
    for seed in range(12):
        sample = cut(i, np.random.default_rng(seed))
        assert sample["slots"].tolist() == [0, 1, 2, 3]
        assert sample["soft"].shape == (4, 32, 32) and sample["soft"].dtype == np.float32
        assert all(value.flags["C_CONTIGUOUS"] for value in sample.values())
        np.testing.assert_array_equal(sample["image"], plain(i, np.random.default_rng(seed))["image"])
        np.testing.assert_array_equal(sample["tags"], tags[i])
        inside = sample["label"] != 255
        np.testing.assert_allclose(sample["soft"].sum(0), inside, atol=1e-6)
        assert (sample["image"][:, ~inside] == 7).all()
    # At scale 1 nothing is mixed: the one-hot maps say what the label says.
    for seed in range(6):
        sample = Crops(photographs, 32, (1.0, 1.0), 0.0, FILL, label=hard, soft=one_hot)(i, np.random.default_rng(seed))
        inside = sample["label"] != 255
        np.testing.assert_array_equal(sample["soft"].argmax(0)[inside], sample["label"][inside])
        assert set(np.unique(sample["soft"])) <= {0.0, 1.0}


def test_soft_labels_are_resized_like_a_slow_reference(photographs: store.Artifact) -> None:
    """The window alone is resized, bilinear, as torch does it; mirrored or not."""
    rng = np.random.default_rng(5)
    maps = rng.random((2, *SIZES[0])).astype(np.float32)
    cut = Crops(photographs, 32, (0.5, 2.0), 0.0, FILL, soft=lambda i: (np.array([1, 2], np.uint8), maps))
    mirrored = 0
    for seed in range(8):
        drawn = np.random.default_rng(seed)
        window, size, place = cut._window(*SIZES[0], drawn)
        expected = torch.zeros(2, 32, 32)
        inner = F.interpolate(torch.from_numpy(maps[:, *window])[None], size, mode="bilinear")[0]
        expected[:, *place] = inner
        if drawn.random() < 0.5:
            expected, mirrored = expected.flip(2), mirrored + 1
        np.testing.assert_allclose(cut(0, np.random.default_rng(seed))["soft"], expected.numpy(), atol=1e-5)
    assert 0 < mirrored < 8


# ----------------------------------------------------------------------------------------------------- learning


def soft_batch(labelled: float = 0.7) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [2,5,4,3], slots [2,3] with an empty one, probabilities [2,3,4,3] of which some pixels have none."""
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    slots = torch.tensor([[0, 4, 2], [3, 1, 255]], dtype=torch.uint8)
    probabilities = torch.rand(2, 3, 4, 3)
    probabilities[1, 2] = 0
    probabilities = probabilities / probabilities.sum(1, keepdim=True)
    return logits, slots, probabilities * (torch.rand(2, 1, 4, 3) < labelled)


def test_the_soft_loss_and_its_gradient_are_those_of_a_slow_double_loop() -> None:
    logits, slots, probabilities = soft_batch()
    logits.requires_grad_()
    total, count = soft_pixel_loss(logits, slots, probabilities)
    (gradient,) = torch.autograd.grad(total, logits)
    z = logits.detach().numpy()
    loss, labelled, slow = 0.0, 0, np.zeros_like(z)
    for b, y, x in np.ndindex(2, 4, 3):
        p = np.exp(z[b, :, y, x]) / np.exp(z[b, :, y, x]).sum()
        labelled += bool((probabilities[b, :, y, x] > 0).any())
        for slot, wanted in zip(slots[b].tolist(), probabilities[b, :, y, x].tolist(), strict=True):
            if slot != 255:
                loss -= wanted * np.log(p[slot])
                slow[b, :, y, x] += wanted * (p - (np.arange(5) == slot))
    assert 0 < labelled < 24
    assert float(total.detach()) == pytest.approx(loss, rel=1e-12)
    assert int(count) == labelled
    np.testing.assert_allclose(gradient.numpy(), slow, rtol=1e-7, atol=1e-9)


def test_what_an_empty_slot_holds_is_not_looked_at() -> None:
    logits, slots, probabilities = soft_batch()
    wanted = soft_pixel_loss(logits, slots, probabilities)
    probabilities[1, 2] = float("nan")
    assert soft_pixel_loss(logits, slots, probabilities) == wanted


def test_where_probabilities_sum_to_1_the_gradient_is_softmax_minus_them_and_elsewhere_0() -> None:
    logits, slots, probabilities = soft_batch()
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(soft_pixel_loss(logits, slots, probabilities)[0], logits)
    full = torch.zeros_like(logits)
    for b in range(2):
        for k, slot in enumerate(slots[b].tolist()):
            if slot != 255:
                full[b, slot] = probabilities[b, k]
    known = full.sum(1, keepdim=True) > 0
    expected = torch.where(known, logits.detach().softmax(1) - full, 0)
    assert 0 < int(known.sum()) < known.numel()
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_hot_probabilities_give_the_hard_loss(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 5, 6, 7, requires_grad=True)
    slots = torch.tensor([[4, 0, 255], [1, 2, 3]], dtype=torch.uint8)
    label = slots.long().gather(1, torch.randint(0, 3, (2, 42))).view(2, 6, 7).to(torch.uint8)
    probabilities = (label[:, None] == slots[:, :, None, None]).to(dtype)  # an empty slot claims the unlabelled pixels
    hard, soft = pixel_loss(logits, label), soft_pixel_loss(logits, slots, probabilities)
    torch.testing.assert_close(soft[0], hard[0])
    assert int(soft[1]) == int(hard[1]) < 84, "what stands in an empty slot does not count"
    gradients = [torch.autograd.grad(total, logits)[0] for total, _ in (hard, soft)]
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_nothing_labelled_is_a_loss_of_0_without_gradient(kind: str) -> None:
    logits = torch.randn(2, 5, 4, 3, requires_grad=True)
    if kind == "hard":
        found = pixel_loss(logits, torch.full((2, 4, 3), 255, dtype=torch.uint8))
    else:
        found = soft_pixel_loss(logits, torch.full((2, 3), 255, dtype=torch.uint8), torch.zeros(2, 3, 4, 3))
    assert [int(value.detach()) for value in found] == [0, 0]
    loss = loop.objective({"loss": found})
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad is not None and not logits.grad.any()


def test_the_hard_loss_is_a_slow_mean_over_labelled_pixels() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 4, 3), torch.randint(0, 5, (2, 4, 3)).to(torch.uint8)
    labels[torch.rand(2, 4, 3) < 0.4] = 255
    total, count = pixel_loss(logits, labels)
    errors = [
        -float(logits[b, :, y, x].log_softmax(0)[int(labels[b, y, x])])
        for b, y, x in np.ndindex(2, 4, 3)
        if labels[b, y, x] != 255
    ]
    assert int(count) == len(errors) < 24
    assert float(total / count) == pytest.approx(np.mean(errors), rel=1e-5)


def test_a_network_learns_soft_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gray says how probable class 2 is; what is learned is that probability, not its rounding to a class."""
    monkeypatch.chdir(tmp_path)
    rgb = np.random.default_rng(0).integers(0, 2, (6, 5, 5)).repeat(4, 1).repeat(4, 2).astype(np.uint8) * 200
    arrays = {"rgb": rgb[..., None].repeat(3, 3), "size": np.full((6, 2), 20, np.int32)}
    photographs = planted.rows_artifact(tmp_path / "p.json", "photographs", arrays, {"classes": ["n", "a", "b"]})
    share = np.where(rgb[:, ::4, ::4] > 0, 0.75, 0.25).astype(np.float32)
    job = job_for(photographs, tmp_path / "s.json")
    write_soft(
        job,
        np.arange(6),
        4,
        2,
        lambda rows: (([0, 2], np.stack([1 - share[i], share[i]])) for i in rows),
        of=photographs,
    )
    soft = store.Artifact(tmp_path / "s.json")
    assert soft.meta["background"] == 0, "artifacts of before do not say"
    cut = Crops(photographs, 16, (1.0, 1.0), 0.0, FILL, soft=lambda i: soft_at(soft, photographs, i))

    def step(net: nn.Module, batch: dict[str, Tensor]) -> train.Losses:
        return {"loss": soft_pixel_loss(net(batch["image"].float() / 200), batch["slots"], batch["soft"])}

    torch.manual_seed(0)
    model = nn.Conv2d(3, 3, 5, padding=2, padding_mode="replicate")
    settings = Segment(epochs=60, batch=6, optimizer="adamw", lr=0.1, head_lr=1.0, schedule="cosine", weight_decay=0.0)
    curves = train.fit(model, np.arange(6), cut, step, planted.job(settings, tmp_path / "m.json"))
    picture = torch.from_numpy(arrays["rgb"]).permute(0, 3, 1, 2).float() / 200
    with torch.no_grad():
        found = model(picture).softmax(1)[:, 2].numpy()
    wanted = np.stack([soft_at(soft, photographs, i)[1][1] for i in range(6)])
    assert abs(found - wanted).mean() < 0.04
    entropy = -(wanted * np.log(wanted) + (1 - wanted) * np.log(1 - wanted)).mean()
    assert curves["curve_loss"][-1] == pytest.approx(entropy, abs=0.03), "what the soft labels leave open, no less"
