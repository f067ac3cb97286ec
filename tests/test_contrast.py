"""Pixel contrast against a double loop, and its gradients against autograd's."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.kernels import contrast
from pipeline.kernels.contrast import Pixels, pixel_contrast


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
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", ["released", "paper"])
def test_loss_and_gradient_are_the_double_loops(
    form: str, case: str, own: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """own: the anchors are the candidates. In double precision, so that nothing but the formula can differ."""
    monkeypatch.setattr(contrast, "ROWS", rows)
    classes, images = CASES[case]
    anchors = pixels(len(classes), classes, images, 0)
    candidates = anchors if own else pixels(len(classes), classes[::-1], images, 1)
    leaves = [anchors.features.requires_grad_()]
    leaves += [] if own else [candidates.features.requires_grad_()]
    found, count = pixel_contrast(anchors, candidates, 0.3, form)  # type: ignore[arg-type]
    wanted, number = slow(anchors, candidates, 0.3, form)
    assert count == number
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    ours, theirs = torch.autograd.grad(3 * found, leaves), torch.autograd.grad(3 * wanted, leaves)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_nobody_with_a_positive_is_no_loss_and_no_anchor() -> None:
    anchors, candidates = pixels(3, [0, 0, 0], [0, 0, 0], 0), pixels(2, [1, 1], [0, 0], 1)
    anchors.features.requires_grad_()
    total, count = pixel_contrast(anchors, candidates, 0.07, "paper")
    assert (float(total.detach()), int(count)) == (0.0, 0)
    assert not torch.autograd.grad(total, anchors.features)[0].any()


def test_unit_features_at_the_lowest_temperature_do_not_overflow_and_below_it_are_refused() -> None:
    """All features alike: e = exp(50) for every pair; released: 1/n Σ log(e + n e) - s = log(1 + n) each."""
    features = F.normalize(torch.ones(600, 4), dim=1)
    both = Pixels(features, torch.arange(600) % 2, torch.zeros(600, dtype=torch.long))
    total, count = pixel_contrast(both, both, contrast.COLDEST, "released")
    assert math.isclose(float(total / count), math.log(301), rel_tol=1e-5)
    with pytest.raises(ValueError, match=r"temperature 0\.01 found; at least 0\.02 expected"):
        pixel_contrast(both, both, 0.01, "released")
