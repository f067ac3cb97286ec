"""What a network sees inside boxes, from one pass over the whole photograph: means of its feature map.

The mean commutes with a linear layer: scores of boxes are the means of class maps, and equally the linear scores of
mean features. Legend: B photographs, P boxes of each, C channels of a map of h x w cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def coverage(boxes: Tensor, cells: Sequence[int], stride: float) -> Tensor:
    """How much each cell counts in each box: float32 [...,P,h·w], by the area they share; each box's sum is 1.

    boxes: [...,P,4] y0, x0, y1, x1 in pixels, ends exclusive, within the map. cells: h, w of the map; stride: pixels of
    a cell's side. A box smaller than a cell sees the cell it is in.
    """

    def shared(low: Tensor, high: Tensor, count: int) -> Tensor:
        start = torch.arange(count, device=boxes.device) * stride
        return (torch.minimum(high[..., None], start + stride) - torch.maximum(low[..., None], start)).clamp(min=0)

    y0, x0, y1, x1 = boxes.float().unbind(-1)
    area = (shared(y0, y1, cells[0])[..., :, None] * shared(x0, x1, cells[1])[..., None, :]).flatten(-2)
    return area / area.sum(-1, keepdim=True)


def means(maps: Tensor, boxes: Tensor, stride: float) -> Tensor:
    """Mean of maps [B,C,h,w] inside boxes [B,P,4] (see `coverage`): float32 [B,P,C], differentiable in the maps.

    A matrix product of coverage and cells, in float32 under autocast too.
    """
    with torch.autocast(maps.device.type, enabled=False):
        weights = coverage(boxes, maps.shape[2:], stride)
        return weights @ maps.float().flatten(2).transpose(1, 2)
