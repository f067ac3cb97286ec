"""Segmentation heads by name: feature maps of a backbone → class scores. `decode` gives what is scored, [B,C,h,w]."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core.job import InputError
from pipeline.kernels.dilated import DilatedConv2d
from pipeline.networks.padding import offset
from pipeline.networks.trunk import Backbone


class Head(Protocol):
    """What every head below is, a module beside that. score: the 1x1 layer over what `decode` gives."""

    score: nn.Conv2d

    def decode(self, features: list[Tensor]) -> Tensor: ...
    def __call__(self, features: list[Tensor]) -> Tensor: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> Any: ...


def _cbr(cin: int, cout: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    pad = dilation * (kernel // 2)
    return nn.Sequential(
        DilatedConv2d(cin, cout, kernel, padding=pad, dilation=dilation, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(True),
    )


class LargeFov(nn.Module):
    """DeepLab-LargeFOV's classifier: 3x3 dilated, 1x1, 1x1 (Chen et al. 2015, arXiv 1412.7062).

    vgg16 brings the first two itself (fc6 and fc7), so only the last is added to it.
    """

    def __init__(self, trunk: Backbone, classes: int, width: int, stride: int):
        super().__init__()
        fov, deep = {8: 12, 16: 6, 32: 3}[stride], trunk.channels[-1]
        self.layers = nn.Sequential()
        if trunk.name == "vgg16":
            width = deep
        else:
            self.layers.extend([_cbr(deep, width, 3, fov), nn.Dropout2d(0.5), _cbr(width, width, 1), nn.Dropout2d(0.5)])
        self.score = nn.Conv2d(width, classes, 1)

    def decode(self, features: list[Tensor]) -> Tensor:
        out: Tensor = self.layers(features[-1])
        return out

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.score(self.decode(features))


class DeepLabV3Plus(nn.Module):
    """ASPP with image pooling, and a decoder that takes up stage 2 (Chen et al. 2018, arXiv 1802.02611)."""

    def __init__(self, trunk: Backbone, classes: int, width: int, stride: int):
        super().__init__()
        rates = [max(1, rate * 16 // stride) for rate in (6, 12, 18)]
        deep = trunk.channels[-1]
        self.branches = nn.ModuleList([_cbr(deep, width, 1), *(_cbr(deep, width, 3, rate) for rate in rates)])
        # No BatchNorm on the pooled branch: it has one value per image, and batches may be small.
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(deep, width, 1), nn.ReLU(True))
        self.project = nn.Sequential(_cbr(5 * width, width, 1), nn.Dropout2d(0.1))
        self.low = _cbr(trunk.channels[1], 48, 1)
        self.fuse = nn.Sequential(_cbr(width + 48, width, 3), _cbr(width, width, 3))
        self.score = nn.Conv2d(width, classes, 1)

    def decode(self, features: list[Tensor]) -> Tensor:
        deep, low = features[-1], self.low(features[1])
        context = [branch(deep) for branch in self.branches]
        context.append(self.pooled(deep).expand(-1, -1, *deep.shape[2:]))
        x = F.interpolate(self.project(torch.cat(context, 1)), low.shape[2:], mode="bilinear", align_corners=False)
        out: Tensor = self.fuse(torch.cat([x, low], 1))
        return out

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.score(self.decode(features))


class Hypercolumn(nn.Module):
    """What several layers say of a place, side by side, and two 1x1 layers that judge it: a hidden one, and `score`.

    Hariharan et al. 2015, arXiv 1411.5752; Zhan et al. 2018 (mix-and-match, arXiv 1712.00661), whose released VGG16
    adds two blocks of 3x3 convolution and pool above the last layer, as here, and answers at every second pixel, as
    here. Columns are taken at stage 2's cells: every 2 px over vgg16, every 4 over the others.

    The hidden layer over a concatenation is a sum of one over each part, and a 1x1 layer may come before a bilinear
    enlargement as well as after it: so every map goes through its part of the layer where it is small, and all pixels
    are learnt from for less than the columns of a few hundred would take.
    Raises InputError in training on one crop alone whose map is too small for BatchNorm.
    Ours: the ends of the five stages instead of the image and every layer; channels are brought to one scale first, as
    for the colours of `proxy`; each map's part is initialised by its own width, so that none begins louder.
    """

    def __init__(self, trunk: Backbone, classes: int, width: int, stride: int):
        super().__init__()
        deep, cell = trunk.channels[-1], 2 if trunk.name == "vgg16" else 4
        self.shifts = [offset(trunk, level) // cell for level in range(1, len(trunk.channels) + 1)] + [0, 0]
        self.levels = nn.ModuleList([nn.BatchNorm2d(channels, affine=False) for channels in trunk.channels])
        pool = nn.MaxPool2d(2, ceil_mode=True)
        self.wider = nn.ModuleList([nn.Sequential(_cbr(channels, width, 3), pool) for channels in (deep, width)])
        parts = [*trunk.channels, width, width]
        self.hidden = nn.ModuleList([nn.Conv2d(part, width, 1, bias=k == 0) for k, part in enumerate(parts)])
        self.score = nn.Conv2d(width, classes, 1)

    def decode(self, features: list[Tensor]) -> Tensor:
        deep = features[-1]
        if self.training and len(deep) == 1 and max(deep.shape[2:]) <= 2:
            raise InputError(
                f"head hypercolumn: one crop alone, whose last map is {deep.shape[2]} x {deep.shape[3]}, leaves "
                "BatchNorm a single value; set batch to at least 2, or crop to more than twice the stride"
            )
        maps = [level(feature) for level, feature in zip(self.levels, features, strict=True)]
        grid = maps[1].shape[2:]
        maps[0] = F.avg_pool2d(maps[0], 2)
        for block in self.wider:
            maps.append(block(maps[-1]))
        first, second, *coarse = [part(each) for part, each in zip(self.hidden, maps, strict=True)]
        out: Tensor = first + second
        for part, shift in zip(coarse, self.shifts[2:], strict=True):
            out = out + _placed(part, grid, shift)
        return out.relu()

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.score(self.decode(features))


def _placed(x: Tensor, grid: Sequence[int], shift: int) -> Tensor:
    """A coarser map [B,C,h,w] on a grid: [B,C,*grid]. shift: how many of its cells the map lies right and below.

    Cells are a power of two as wide as the grid's; where the last of them reach beyond it, they are cut off.
    """
    size = [n * 2 ** math.ceil(math.log2(wanted / n)) for n, wanted in zip(x.shape[2:], grid, strict=True)]
    out = F.interpolate(x, size, mode="bilinear", align_corners=False)
    if shift:
        out = F.pad(out, (0, shift, 0, shift), mode="replicate")[..., shift:, shift:]
    return out[..., : grid[0], : grid[1]]


HEADS: dict[str, Callable[[Backbone, int, int, int], Head]] = {
    "deeplabv3+": DeepLabV3Plus,
    "largefov": LargeFov,
    "hypercolumn": Hypercolumn,
}
