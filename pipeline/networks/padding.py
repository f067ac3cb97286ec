"""Where convolutions pad, and how strides are undone without moving the map.

A layer of stride 2 makes one cell of two. With TensorFlow's 'same' padding on an even side its window stands half a
cell right of (and below) the middle of the two, and a network that was trained so has learnt to look half a cell left
of its window's middle: its maps lie where the picture does. If the stride becomes a dilation and the layer is padded
evenly, the window moves and what was learnt does not: maps shift by half a cell of the undone stride, 8 pixels where
32 became 16 and 12 where it became 8 (measured with ImageNet weights: 8 and 12).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks.trunk import Backbone


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's 'same' padding, which puts the odd pixel at the end; the weights expect that.

    start: cells to pad before the input, where an undone stride asks for another place; what is needed after it
    follows, and may be negative.
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
        pads: list[int] = []
        for size, k, s, d in zip(
            x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], self.dilation[::-1], strict=True
        ):
            total = (math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size
            if self.start is None:
                total = max(total, 0)
            start = total // 2 if self.start is None else self.start
            pads += [start, total - start]
        if pads[0] != pads[1] or pads[2] != pads[3]:
            x, pads = F.pad(x, pads), [0, 0, 0, 0]
        return F.conv2d(x, self.weight, self.bias, self.stride, (pads[2], pads[0]), self.dilation, self.groups)


def undo_strides(net: Backbone, limit: int) -> Backbone:
    """Replace the striding of late stages by dilation until the output stride is `limit` (Chen et al. 2017).

    With `net.padding` 'aligned', layers with 'same' padding keep their windows where the strided network had them, to
    the pixel. 'legacy' pads them evenly: what networks trained before version 0.2 expect.
    """
    stride, dilation = 1, 1
    last: Sequence[nn.Module] = []  # of the layers that keep their stride
    for stage in net.stages:
        spatial = [m for m in stage.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d) and _pair(m.stride)[0] == 2]
        factor = 2 if spatial else 1  # a stage strides once; a second strided layer is its shortcut
        undone = stride * factor > limit
        if not undone:
            stride *= factor
            last = spatial or last
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


def _keep_place(layer: SameConv2d, rate: int, last: Sequence[nn.Module]) -> None:
    """Pad a layer whose stride is undone such that its window stays half a cell of the old spacing off the middle.

    At a rate of 1 that falls between two cells. The window then goes half a cell too far, and the last layer that
    keeps its stride takes it back: its odd pixel goes to the start, which moves its window by half of its own cells.
    """
    layer.start = rate * (layer.kernel_size[0] // 2) - max(1, rate // 2)
    if rate == 1:
        for strided in last:
            if isinstance(strided, SameConv2d):
                strided.start = strided.kernel_size[0] // 2


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value, value)
