"""Dilated convolutions: torch's numbers and gradients, in less time."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.kernels import dilated
from pipeline.networks.backbones import backbone
from pipeline.networks.segmenter import Segmenter

# in, out, kernel, dilation, height, width, groups, padding
SHAPES = [
    (12, 12, 5, 2, 8, 8, 12, 4),
    (12, 12, 3, 2, 7, 9, 12, 2),
    (12, 12, 3, 2, 7, 9, 12, 0),
    (12, 12, 5, 3, 7, 10, 12, 5),  # padding that is no multiple of the dilation
    (20, 8, 3, 6, 8, 8, 1, 6),
    (20, 8, 3, 4, 7, 5, 1, 4),
    (20, 8, 3, 18, 7, 5, 1, 18),  # a kernel of which only the middle sees a cell
    (20, 8, 3, 2, 9, 9, 4, 2),  # groups that are not ours
    (20, 8, 3, 1, 9, 9, 1, 1),
]


def gradients(convolve: Any, parts: list[Tensor], grad: Tensor | None = None) -> tuple[Tensor, ...]:
    out = convolve(*parts)
    grad = torch.linspace(-1, 1, out.numel()).reshape(out.shape) if grad is None else grad
    return (out, *torch.autograd.grad(out, parts, grad))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_and_gradients_are_torchs(shape: tuple[int, ...], channels_last: bool) -> None:
    cin, cout, kernel, dilation, height, width, groups, padding = shape
    torch.manual_seed(0)
    x = torch.randn(3, cin, height, width)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    parts = [x, torch.randn(cout, cin // groups, kernel, kernel), torch.randn(cout)]
    parts = [part.requires_grad_() for part in parts]
    ours = gradients(lambda x, w, b: dilated.conv2d(x, w, b, padding, dilation, groups), parts)
    torchs = gradients(lambda x, w, b: F.conv2d(x, w, b, 1, padding, dilation, groups), parts)
    for a, b in zip(ours, torchs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_whole_network_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers of EfficientNet-Lite0 and DeepLab-v3+ that are dilated go this way, and their gradients agree."""
    torch.manual_seed(0)
    model = Segmenter(backbone("efficientnet_lite0", 16), "deeplabv3+", 3, 16, 16).eval()  # batch statistics aside
    x = torch.randn(2, 3, 64, 80)
    went = []
    apply = dilated._Dilated.apply
    monkeypatch.setattr(dilated._Dilated, "apply", lambda *args: went.append(args[3]) or apply(*args))

    def taught() -> dict[str, Tensor]:
        model.zero_grad()
        model(x).square().mean().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    ours = taught()
    assert sorted(went) == [2, 2, 2, 2, 6, 12, 18]
    monkeypatch.setattr(dilated, "conv2d", lambda x, w, b, p, d, g=1: F.conv2d(x, w, b, 1, p, d, g))
    monkeypatch.setattr("pipeline.networks.padding.conv2d", dilated.conv2d)
    torchs = taught()
    assert len(went) == 7, "the second time went torch's way"
    for name in ours:
        assert (ours[name] - torchs[name]).norm() <= 1e-4 * torchs[name].norm() + 1e-9, name


def test_nothing_of_ours_stands_in_an_exported_or_predicting_network() -> None:
    x, weight = torch.randn(1, 4, 6, 6), torch.randn(4, 1, 3, 3, requires_grad=True)
    with torch.no_grad():
        assert dilated.conv2d(x, weight, None, 2, 2, 4).grad_fn is None
    with torch.autocast("cpu", torch.bfloat16):
        assert dilated.conv2d(x, weight, None, 2, 2, 4).dtype == torch.bfloat16


def test_it_is_worth_its_lines() -> None:
    """Depthwise 5x5 at dilation 2, as in EfficientNet-Lite0 (some seven times faster; fastest of five turns)."""
    if torch.backends.mkldnn.is_available() is False:
        pytest.skip("torch without oneDNN, whose gradients this is about")
    x = torch.randn(8, 1152, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(1152, 1, 5, 5, requires_grad=True)

    def took(convolve: Any) -> float:
        out, start = convolve(), time.perf_counter()
        torch.autograd.grad(out, (x, weight), torch.ones_like(out))
        return time.perf_counter() - start

    ours = min(took(lambda: dilated.conv2d(x, weight, None, 4, 2, 1152)) for _ in range(5))
    torchs = min(took(lambda: F.conv2d(x, weight, None, 1, 4, 2, 1152)) for _ in range(5))
    assert torchs > 1.5 * ours, f"torch {1e3 * torchs:.1f} ms, ours {1e3 * ours:.1f} ms"
