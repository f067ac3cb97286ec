"""Segmentation heads by name: feature maps of a backbone → class scores. `decode` gives what is scored, [B,C,h,w]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.kernels.dilated import DilatedConv2d
from pipeline.networks.trunk import Backbone


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


HEADS: dict[str, type[DeepLabV3Plus] | type[LargeFov]] = {"deeplabv3+": DeepLabV3Plus, "largefov": LargeFov}
