"""Where layers pad, and how strides are undone without moving the map.

A layer of stride 2 makes one cell of two, but no odd kernel stands in the middle of two. TensorFlow's 'same' padding,
on an even side, puts it half a cell to the right (and below), and training makes up for it: EfficientNet-Lite0 as
released answers where the object is, though all its windows together stand 15.5 pixels off. If a stride becomes a
dilation and the layer is padded evenly, as is usual, its window moves to the middle and what was learnt stays: maps
shift by half a cell of the undone stride, 8 pixels where 32 became 16, 12 where it became 8. So an undone layer must
keep its window where it stood.

torchvision's even padding puts windows half a cell to the left, by the same reasoning with the opposite shift. There it
is left as it is: maps of a ResNet-18 that was trained at stride 16 lie within a quarter of the stride of the objects as
they are, and with the same rule the one run that was tried scored lower. docs/results/foundation.md has the figures,
benchmarks/shift.py takes the shifts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.kernels.dilated import conv2d
from pipeline.networks.trunk import Backbone


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's 'same' padding, which puts the odd pixel at the end; the weights expect that.

    start: cells padded before the input instead (negative: dropped), once a stride is undone; those after it follow
    from the size of the output, ceil(side / stride).
    Trained on a CPU under bf16 autocast, kernels wider than one pixel stay in float32: oneDNN's bf16 gradients of
    strided and dilated depthwise convolutions are slow (EfficientNet-Lite0 at 160 px, two cores with AVX512-BF16:
    37 to 45 images/s this way, 28 all bf16, 31 to 33 all float32).
    """

    start: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        wide, trained = self.kernel_size[0] > 1, torch.is_grad_enabled()
        if wide and trained and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self._convolve(x.float())
        return self._convolve(x)

    def _convolve(self, x: Tensor) -> Tensor:
        pads = padding(x, self.kernel_size, self.stride, self.dilation, self.start)
        if pads[0] != pads[1] or pads[2] != pads[3]:
            x, pads = F.pad(x, pads), [0, 0, 0, 0]
        if _pair(self.stride) == (1, 1) and pads[0] == pads[2]:
            return conv2d(x, self.weight, self.bias, pads[0], self.dilation[0], self.groups)
        return F.conv2d(x, self.weight, self.bias, self.stride, (pads[2], pads[0]), self.dilation, self.groups)


class PlacedMaxPool2d(nn.MaxPool2d):
    """Maximum over 3x3, stride 2, whose windows begin at the cells they stand for, not one before; of x >= 0."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(x, padding(x, (3, 3), (2, 2), (1, 1), 0)), 3, 2)


def padding(
    x: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    start: int | None,
) -> list[int]:
    """[left, right, top, bottom] for an output of ceil(side / stride). start None: TensorFlow's 'same'."""
    pads: list[int] = []
    for size, k, s, d in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], dilation[::-1], strict=True):
        total = (math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size
        first = max(total, 0) // 2 if start is None else start
        pads += [first, max(total, 0) - first if start is None else total - first]
    return pads


def undo_strides(net: Backbone, limit: int) -> Backbone:
    """Replace the striding of late stages by dilation until the output stride is `limit` (Chen et al. 2017).

    With `net.padding` 'aligned', the last map of a network padded TensorFlow's way lies where the strided network's
    lies, to the pixel; the stage that strides last lies half its cell aside. 'legacy' pads evenly, which networks
    trained before the change expect.
    """
    stride, dilation = 1, 1
    last: list[nn.Conv2d] = []  # of the layers that keep their stride: one, and its shortcut
    for stage in net.stages:
        spatial = [m for m in stage.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d) and _pair(m.stride)[0] == 2]
        factor = 2 if spatial else 1  # a stage strides once; a second strided layer is its shortcut
        undone = stride * factor > limit
        if not undone:
            stride *= factor
            last = [m for m in spatial if isinstance(m, nn.Conv2d)] or last
        wanted = dilation * factor if undone else dilation
        for module in stage.modules():
            if isinstance(module, nn.Conv2d):
                strided = module in spatial
                # The layer that used to stride still sees its input at the old spacing.
                rate = dilation if strided else wanted
                if strided and undone:
                    module.stride = (1, 1)
                    if net.padding == "aligned" and isinstance(module, SameConv2d):
                        _keep_place(module, rate, last)
                if module.kernel_size[0] > 1 and rate > 1:
                    module.dilation = (rate, rate)
                    if not isinstance(module, SameConv2d):
                        module.padding = (rate * (module.kernel_size[0] // 2),) * 2
        dilation = wanted
    return net


def _keep_place(layer: SameConv2d, rate: int, last: Sequence[nn.Conv2d]) -> None:
    """Pad a layer whose stride is undone such that its window stays half a cell of the old spacing off the middle.

    At a rate of 1 that would be between two cells. The window then goes a whole cell, and the last layer that keeps
    its stride takes half of that back: its own window changes sides.
    """
    layer.start = rate * (layer.kernel_size[0] // 2) - max(1, rate // 2)
    if rate == 1:
        for strided in last:
            if isinstance(strided, SameConv2d):
                strided.start = strided.kernel_size[0] // 2


def offset(net: Backbone, level: int) -> int:
    """How far right of the photograph, and below, the map of a level (1 to 5) lies, pixels, once strides are undone.

    Nothing is left of it in the last map (`undo_strides`). Inner maps lie half a cell aside where the last layer that
    strides has changed sides, and in VGG16, whose weights come from pools in the middle, half a cell of each.
    """
    if net.padding != "aligned":
        return 0
    striding = [
        [m for m in stage.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d) and _pair(m.stride)[0] == 2]
        for stage in net.stages
    ]
    if net.name == "vgg16":
        pools = [m for stage in striding[:level] for m in stage]
        placed = any(isinstance(m, PlacedMaxPool2d) for m in pools)
        return 0 if placed else round(sum(2**k for k in range(len(pools))) / 2)
    changed = any(isinstance(m, SameConv2d) and m.start is not None for m in striding[level - 1])
    return 2 ** (level - 1) if changed else 0


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value, value)
