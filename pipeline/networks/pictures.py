"""Photographs as tensors."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


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
