"""Networks whose answers are known by hand: they tell classes apart by colour, or say the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.networks.backbones import backbone
from pipeline.networks.classifier import Classifier
from pipeline.networks.segmenter import Segmenter
from pipeline.networks.trunk import Backbone

PALETTE = [(0, 0, 0), (200, 30, 30), (30, 200, 30), (30, 30, 200)]  # a colour for each of four classes
LIFT = 3.0  # makes normalised colours positive, so that every ReLU lets them through


def colour_detector(stride: int = 16, classes: Sequence[int] = (1, 2, 3)) -> Classifier:
    """A classifier of three classes: red, green, blue. One cell of its maps is the mean over stride² pixels."""
    trunk = Backbone("planted", [nn.AvgPool2d(stride)], (3,), ((0.0,) * 3, (1.0,) * 3))
    model = Classifier(trunk, classes).eval()
    model.score.weight.data = torch.eye(3)[:, :, None, None]
    return model


def _pass_on(conv: nn.Conv2d, norm: nn.BatchNorm2d, tap: int | None = None) -> None:
    """Hand the first three channels on as they are, the rest as zeros. tap: the pixel of the window that is read."""
    nn.init.zeros_(conv.weight)
    at = conv.kernel_size[0] // 2 if tap is None else tap
    for k in range(3):
        conv.weight.data[k, k, at, at] = 1
    nn.init.ones_(norm.weight)


def colour_trunk() -> Backbone:
    """A ResNet-18 whose last map, of stride 32, is the normalised picture near the upper left of each 32 x 32 block,
    lifted by LIFT."""
    net = backbone("resnet18", 32).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.weight)  # residual branches add nothing
            nn.init.zeros_(module.bias)
    first: Any = net.stages[0]
    _pass_on(first[0], first[1], tap=6)  # 3 pixels on: what the pool sees then lies within the block
    first[1].bias.data[:3] = LIFT
    for module in net.modules():
        if (shortcut := getattr(module, "downsample", None)) is not None:
            _pass_on(shortcut[0], shortcut[1])
    return net


def colour_segmenter(palette: Sequence[Sequence[int]]) -> Segmenter:
    """A DeepLab-LargeFOV that gives each pixel the class whose colour (0..255) is nearest.

    Exact for stripes of colours that are multiples of 32 wide: at a border the scores of both meet in the middle.
    """
    model = Segmenter(colour_trunk(), "largefov", len(palette), 8, 32).eval()
    layers: Any = model.head.layers
    for module in layers:
        if isinstance(module, nn.Sequential):
            _pass_on(module[0], module[1])  # type: ignore[arg-type]
    mean, std = (part.flatten() for part in (model.trunk.mean, model.trunk.std))
    colours = (torch.tensor(palette, dtype=torch.float32) - mean) / std + LIFT
    score: Any = model.head.score
    nn.init.zeros_(score.weight)
    score.weight.data[:, :3, 0, 0] = 2 * colours  # |x - c|² without |x|², which all classes share
    score.bias.data = -colours.square().sum(1)
    return model


def constant_segmenter(probabilities: Sequence[float]) -> Segmenter:
    """A network that says these probabilities of every pixel of every picture."""
    model = Segmenter(backbone("resnet18", 32), "largefov", len(probabilities), 8, 32).eval()
    score: Any = model.head.score
    nn.init.zeros_(score.weight)
    score.bias.data = torch.tensor(probabilities).log()
    return model


def plain(height: int, width: int, colour: Sequence[int]) -> np.ndarray:
    """A picture of one colour."""
    return np.full((height, width, 3), colour, np.uint8)


def stripes(height: int, *classes: int) -> np.ndarray:
    """A picture of vertical stripes, 32 pixels wide, in the colours of these classes."""
    return np.concatenate([plain(height, 32, PALETTE[k]) for k in classes], axis=1)
