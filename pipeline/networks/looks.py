"""Photographs as a network looks at them, in several sizes and mirrored, and what it answers as probabilities.

Legend: B photographs of one size, C classes, h x w the photograph in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.networks.pictures import resized, to_tensor
from pipeline.networks.trunk import SMALLEST


def looks(
    photographs: Tensor, scales: Sequence[float], flip: bool
) -> Iterator[tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """A batch uint8 [B,3,h,w] in every size, and mirrored: what the network is shown, and the function that brings its
    logits [B,C,·,·] to probabilities float32 [B,C,h,w]."""
    if not scales:
        raise ValueError("scales is empty; at least one expected")
    size = photographs.shape[2:]

    def straight(logits: Tensor) -> Tensor:
        return F.interpolate(logits.float().softmax(1), size, mode="bilinear", align_corners=False)

    def mirrored(logits: Tensor) -> Tensor:
        return straight(logits).flip(3)

    for scale in scales:
        x = resized(photographs, *(max(SMALLEST, round(side * scale)) for side in size))
        yield x, straight
        if flip:  # after the other, not beside it: half the memory
            yield x.flip(3), mirrored


def batch_of(rgb: np.ndarray | Tensor) -> Tensor:
    """Photographs as `Network.probabilities` takes them → uint8 [B,3,h,w]. Raises ValueError for anything else."""
    x = to_tensor(rgb) if isinstance(rgb, np.ndarray) and rgb.ndim == 4 else torch.as_tensor(rgb)
    if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(
            f"photographs {rgb.dtype} {list(rgb.shape)} found; uint8 [B,h,w,3] as an array or [B,3,h,w] as a tensor "
            "expected, 0 to 255"
        )
    return x


def gated(scores: Tensor, possible: np.ndarray | Tensor | None) -> Tensor:
    """Scores [B,C,h,w] with 0 for impossible classes, the rest divided by its sum. possible: bool [B,C] or None."""
    if possible is None:
        return scores
    mask = torch.as_tensor(possible)
    if mask.dtype != torch.bool or mask.shape != scores.shape[:2]:
        raise ValueError(
            f"possible classes {mask.dtype} {list(mask.shape)} found; bool {list(scores.shape[:2])} expected"
        )
    if mask.device.type == "cpu":  # a network's own, on a GPU, is not waited for
        if bool(mask.all()):
            return scores
        if not bool(mask.any(1).all()):
            raise ValueError("possible classes: a photograph without any; at least one each expected")
    mask = mask.to(scores.device)[:, :, None, None]
    scores = scores * mask
    total = scores[:, :1].clone()  # one after the other: the same sum however many classes are impossible
    for k in range(1, scores.shape[1]):
        total += scores[:, k : k + 1]
    even = mask / mask.sum(1, keepdim=True)  # where the network is sure of impossible classes alone
    return torch.where(total > 0, scores / total, even)
