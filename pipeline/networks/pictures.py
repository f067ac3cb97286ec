"""Photographs as tensors, and how many of them go through a network at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PIXEL_BYTES = 1024  # a network's largest activations and scores for a pixel it looks at: VGG16's, of 64 channels
LARGEST_BATCH = 16


def batch_size(device: str, side: int, scales: Sequence[float] = (1.0,), flip: bool = False) -> int:
    """How many photographs of this longer side, looked at in these sizes, go through a network at once.

    On a CPU one (core/processes.py says why), on a GPU as many as half of its free memory holds, at most 16.
    """
    if device == "cpu":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    pixels = (side * max(scales)) ** 2 * (1 + flip)
    return max(1, min(LARGEST_BATCH, int(free / 2 / (PIXEL_BYTES * pixels))))


def to_tensor(rgb: np.ndarray) -> Tensor:
    """uint8 [...,h,w,3] → uint8 [...,3,h,w]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(rgb, -1, -3)))


def resized(x: Tensor, height: int, width: int) -> Tensor:
    """uint8 [B,3,h,w] → uint8 [B,3,height,width], bilinear with antialiasing, on the tensor's device."""
    if x.shape[2:] == (height, width):
        return x
    if x.device.type != "cpu":  # others do not resize bytes
        return _antialiased(x.float(), height, width).round().clamp(0, 255).byte()
    return _antialiased(x.contiguous(memory_format=torch.channels_last), height, width).contiguous()


def _antialiased(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)
