"""Pixel contrast against a double loop, its gradients against autograd's, and which pixels each variant compares."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import planted
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, stage
from torch import Tensor

from pipeline.contrast import Projector, compared, distort, places, run
from pipeline.core import store
from pipeline.core.steps.weights import Contrast
from pipeline.kernels import contrast
from pipeline.kernels.contrast import Pixels, paper, released
from pipeline.kinds.pixels import VOID
from pipeline.networks.backbones import backbone
from pipeline.networks.segmenter import Segmenter
from pipeline.networks.states import state_of


def slow(anchors: Pixels, candidates: Pixels, temperature: float, form: str) -> tuple[Tensor, int]:
    """The formulas of the module's docstring, pair by pair."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for p in range(len(anchors.features)):
        s = [(anchors.features[p] @ other) / temperature for other in candidates.features]
        same = [bool(c == anchors.classes[p]) for c in candidates.classes]
        positives = [q for q in range(len(s)) if same[q]]
        negatives = [k for k in range(len(s)) if not same[k] and candidates.images[k] == anchors.images[p]]
        if not positives:
            continue
        against = sum((s[k].exp() for k in negatives), torch.zeros((), dtype=torch.float64))
        whole = against + sum(s[q].exp() for q in positives)
        for q in positives:
            total = total + ((s[q].exp() + against if form == "released" else whole).log() - s[q]) / len(positives)
        count += 1
    return total, count


def pixels(number: int, classes: list[int], images: list[int], seed: int) -> Pixels:
    features = torch.randn(number, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Pixels(F.normalize(features, dim=1), torch.tensor(classes), torch.tensor(images))


CASES = {
    "one image": ([0, 0, 1, 1, 1, 2, 0], [0] * 7),  # class 2 has a single pixel
    "two images": ([0, 0, 1, 1, 1, 2, 0, 1, 3], [0, 0, 0, 0, 1, 1, 1, 1, 1]),
    "one class": ([4, 4, 4], [0, 0, 0]),
    "a class in the other image alone": ([0, 0, 5, 5], [0, 0, 1, 1]),
}


@pytest.mark.parametrize("rows", [2, contrast.ROWS])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", ["released", "paper"])
def test_loss_and_gradient_are_the_double_loops(
    form: str, case: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In double precision, so that nothing but the formula can differ."""
    monkeypatch.setattr(contrast, "ROWS", rows)
    classes, images = CASES[case]
    anchors = pixels(len(classes), classes, images, 0)
    candidates = anchors if form == "released" else pixels(len(classes), classes[::-1], images, 1)
    leaves = [anchors.features.requires_grad_()]
    leaves += [] if form == "released" else [candidates.features.requires_grad_()]
    found, count = released(anchors, 0.3) if form == "released" else paper(anchors, candidates, 0.3)
    wanted, number = slow(anchors, candidates, 0.3, form)
    assert count == number
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    ours, theirs = torch.autograd.grad(3 * found, leaves), torch.autograd.grad(3 * wanted, leaves)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("form", "off"), [("released", 3e-3), ("paper", 5e-3)])
def test_products_in_bfloat16_give_nearly_the_same_gradient(form: str, off: float) -> None:
    torch.manual_seed(0)
    classes = torch.arange(400) % 4
    features = F.normalize(torch.randn(400, 256) + torch.randn(4, 256)[classes] / 2, dim=1)
    grads = []
    for kind in (torch.float32, torch.bfloat16):
        leaf = features.to(kind).requires_grad_()
        both = Pixels(leaf, classes, torch.zeros(400, dtype=torch.long))
        total, _ = released(both, 0.07) if form == "released" else paper(both, both, 0.07)
        grads.append(torch.autograd.grad(total, leaf)[0].float())
    assert (grads[0] - grads[1]).norm() < off * grads[0].norm()


def test_nobody_with_a_positive_is_no_loss_and_no_anchor() -> None:
    anchors, candidates = pixels(3, [0, 0, 0], [0, 0, 0], 0), pixels(2, [1, 1], [0, 0], 1)
    anchors.features.requires_grad_()
    total, count = paper(anchors, candidates, 0.07)
    assert (float(total.detach()), int(count)) == (0.0, 0)
    assert not torch.autograd.grad(total, anchors.features)[0].any()


def test_unit_features_at_the_lowest_temperature_do_not_overflow_and_below_it_are_refused() -> None:
    """All features alike: e = exp(50) for every pair; released: 1/n Σ log(e + n e) - s = log(1 + n) each."""
    features = F.normalize(torch.ones(600, 4), dim=1)
    both = Pixels(features, torch.arange(600) % 2, torch.zeros(600, dtype=torch.long))
    total, count = released(both, contrast.COLDEST)
    assert math.isclose(float(total / count), math.log(301), rel_tol=1e-5)
    with pytest.raises(ValueError, match=r"temperature 0\.01 found; at least 0\.02 expected"):
        released(both, 0.01)


# ------------------------------------------------------------------------------------------- who is compared with whom

LABELS = torch.tensor([[0, 0, 1, VOID, 1], [1, 1, 0, 2, VOID], [VOID, 0, 2, 2, 2]], dtype=torch.uint8)
PARTNER = [2, 0, 1]
Known = list[tuple[Tensor, int]]
TAU = 0.3


def views() -> tuple[Tensor, Tensor]:
    draws = torch.randn(2, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    first, second = F.normalize(draws, dim=-1)
    return first, second


def formula(variant: str, form: str) -> list[float]:
    """Mean loss of each image (and view) by the paper's section 3 and the released code, written out for each case."""
    (first, second), out = views(), []

    def e(a: Tensor, b: Tensor) -> float:
        return math.exp(float(a @ b) / TAU)

    def known(view: Tensor, i: int) -> Known:
        return [(view[i, p], int(LABELS[i, p])) for p in range(5) if LABELS[i, p] != VOID]

    def released(anchors: list[tuple[Tensor, int, int]]) -> float:
        losses = []
        for f, y, m in anchors:
            against = sum(e(f, g) for g, c, n in anchors if c != y and n == m)
            mine = [e(f, g) for g, c, _ in anchors if c == y]
            losses.append(sum(-math.log(x / (x + against)) for x in mine) / len(mine))
        return sum(losses) / len(losses)

    def paper(
        anchors: list[tuple[Tensor, int]], own: list[tuple[Tensor, int]], other: list[tuple[Tensor, int]]
    ) -> float:
        losses = []
        for f, y in anchors:
            mine = [e(f, g) for g, c in own + other if c == y]
            whole = sum(e(f, g) for g, _ in own) + sum(e(f, g) for g, c in other if c == y)
            losses.append(sum(-math.log(x / whole) for x in mine) / len(mine))
        return sum(losses) / len(losses)

    everything = [[pixel for i in range(3) for pixel in known(view, i)] for view in (first, second)]
    for i, j in enumerate(PARTNER):
        match variant, form:
            case "within", "released":
                out += [released([(f, y, 0) for f, y in known(view, i)]) for view in (first, second)]
            case "within", "paper":
                out.append(paper(known(first, i), known(second, i), []))
            case "cross", "released":
                one, two = known(first, i), known(second, j)
                out.append(released([(f, y, 0) for f, y in one] + [(f, y, 1) for f, y in two]))
            case "cross", "paper":
                out.append(paper(known(first, i), known(second, i), known(second, j)))
    if variant == "batch" and form == "released":
        out = [released([(f, y, 0) for f, y in bag]) for bag in everything]
    elif variant == "batch":
        out = [paper(everything[0], everything[1], [])]
    return out


@pytest.mark.parametrize("variant", ["within", "cross", "batch"])
@pytest.mark.parametrize("form", ["released", "paper"])
def test_variants_compare_what_the_papers_formulas_say(variant: str, form: str) -> None:
    settings = Contrast(variant=variant, form=form, crop=64)  # type: ignore[arg-type]
    pairs = compared(views(), LABELS, torch.tensor(PARTNER), settings)
    found = [released(sets[0], TAU) if form == "released" else paper(sets[0], sets[1], TAU) for sets in pairs]
    assert [float(total / count) for total, count in found] == pytest.approx(formula(variant, form), rel=1e-9)


def test_an_image_without_labels_is_compared_with_nothing() -> None:
    labels = LABELS.clone()
    labels[0] = VOID
    pairs = compared(views(), labels, torch.tensor([0, 0, 0]), Contrast(variant="within", crop=64))
    counts = [int(released(sets[0], TAU)[1]) for sets in pairs]
    assert counts == [0, 0, 4, 4, 4, 4]


def test_projected_pixels_have_unit_length_and_lie_where_their_labels_do() -> None:
    """72 x 104 px, which the network pads to 96 x 128: cells of what was added are not compared."""
    settings = Contrast(spacing=8, width=16, crop=64)
    extractor = Segmenter(backbone("efficientnet_lite0", 16), "deeplabv3+", 3, 16, 16)
    features = Projector(extractor, settings).eval()(torch.randint(0, 256, (2, 3, 72, 104), dtype=torch.uint8))
    assert features.shape == (2, 9 * 13, 256)
    torch.testing.assert_close(features.norm(dim=2), torch.ones(2, 9 * 13))


class Ruler(torch.nn.Module):
    """In place of a network: a map of stride 4 that says where each of its cells lies, in pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = backbone("resnet18", 16), torch.nn.Identity()
        self.trunk.forward = lambda x: x  # type: ignore[method-assign]
        self.head.decode = lambda x: F.avg_pool2d(self.where(*x.shape[2:]), 4)  # type: ignore[attr-defined]

    @staticmethod
    def where(height: int, width: int) -> Tensor:
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        return torch.stack([y, x, torch.full_like(x, 100)])[None]


@pytest.mark.parametrize("spacing", [4, 7, 8, 9, 30, 50, 200])
@pytest.mark.parametrize("side", [45, 64, 101, 112, 126])
def test_labels_are_read_in_the_middle_of_each_features_cell(side: int, spacing: int) -> None:
    """Whether or not the spacing divides the crop, and what the network makes of it."""
    settings = Contrast(spacing=spacing, crop=side)
    ruler = Ruler()
    ruler.head.score = torch.nn.Conv2d(3, 1, 1)
    net = Projector(ruler, settings)  # type: ignore[arg-type]
    net.projection = torch.nn.Identity()  # type: ignore[assignment]
    found = net(torch.zeros(1, 3, side, side, dtype=torch.uint8))[0]
    at = places(side, spacing)
    assert len(found) == len(at) ** 2 and at.max() < side
    middles = (100 * found[:, :2] / found[:, 2:]).unflatten(0, (len(at), len(at)))
    labels = torch.stack(torch.meshgrid(at + 0.5, at + 0.5, indexing="ij"), -1)
    assert (middles - labels).abs().max() <= 1
    if len(at) > 1:
        assert spacing <= torch.diff(at).float().mean() < 2 * spacing
    if 32 % spacing == 0:
        assert at.tolist() == list(range(spacing // 2, side, spacing))


def test_a_crop_that_the_spacing_does_not_divide_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = [np.random.default_rng(i).integers(0, 256, (48, 48, 3), dtype=np.uint8) for i in range(2)]
    given = planted.dataset(tmp_path, pictures, np.zeros((2, 3)))
    half = np.repeat([0, 1], 24)[None].repeat(48, 0)
    given["labels"] = planted.labels(tmp_path / "l.json", [half, half.T], 48, 3)
    given["weights"] = planted.weights(tmp_path / "w.json", backbone("resnet18"))
    settings = Contrast(crop=45, batch=2, epochs=1, width=8)
    run(planted.job(settings, tmp_path / "c.json", given))
    assert store.Artifact(tmp_path / "c.json", "weights").read("curve_loss")[0] > 0


def test_distorted_colours_keep_the_geometry_and_follow_from_the_seed() -> None:
    image = torch.zeros(3, 20, 20, dtype=torch.uint8)
    image[:, :, 10:] = 200
    batch = image.expand(8, -1, -1, -1)
    torch.manual_seed(0)
    first = distort(batch)
    torch.manual_seed(0)
    assert torch.equal(first, distort(batch))
    assert first.dtype == torch.uint8 and first.shape == batch.shape
    assert len({tuple(one[:, 0, 15].tolist()) for one in first}) > 3, "each image has colours of its own"
    assert all((one[:, :, :10].float().std((1, 2)) == 0).all() for one in first), "an even area stays even"


def test_a_decoder_that_contrast_has_trained_is_not_new_to_what_follows(tiny: dict[str, Path], tmp_path: Path) -> None:
    """`head_lr` is for new layers: at next to nothing they stand still, and what was taken over learns on."""
    given = {"photographs": tiny["photographs"], "labels": tiny["few"]}
    net = {**TINY, "width": 16, "batch": 2, "weight_decay": 0}
    before = tmp_path / "weights.json"
    stage("contrast", before, net, **given, weights=tiny["weights"])

    def trained(name: str, weights: Path, epochs: int) -> dict[str, Tensor]:
        stage("segment", tmp_path / name, {**net, "head_lr": 1e-9, "epochs": epochs}, **given, weights=weights)
        state = state_of(store.Artifact(tmp_path / name))
        return {key: value for key, value in state.items() if key.startswith("head.") and key.endswith("weight")}

    for source, learns in ((before, True), (tiny["weights"], False)):
        short, long = trained(f"{learns}1.json", source, 1), trained(f"{learns}2.json", source, 2)
        moved = {name for name in short if (short[name] - long[name]).abs().max() > 1e-6}
        assert moved == ({name for name in short if "score" not in name} if learns else set())
