"""Running a segmentation network over one photograph of any size, at several scales, and reading labels from it.

Legend: C classes, h x w the photograph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.core import data, train
from pipeline.core.models import Segmenter

SMALLEST = 32  # pixels; below it the coarsest feature map would be empty
BAND_BYTES = 2**27


@torch.inference_mode()
def probabilities(
    model: Segmenter,
    rgb: np.ndarray,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    device: str = "cpu",
    precision: str = "f32",
) -> np.ndarray:
    """Softmax averaged over scales and mirror images, float32 [C,h,w]. rgb: uint8 [h,w,3]; model: in eval mode."""
    model.to(device)
    total = None
    for scale in scales:
        size = (max(SMALLEST, round(side * scale)) for side in rgb.shape[:2])
        x = data.to_tensor(data.resize_image(rgb, *size))[None].to(device)
        for mirrored in (False, True) if flip else (False,):  # one after the other: half the memory
            with train.autocast(device, precision):
                logits = model(x.flip(3) if mirrored else x)
            scores = F.interpolate(logits.float().softmax(1), rgb.shape[:2], mode="bilinear", align_corners=False)
            scores = scores.flip(3) if mirrored else scores
            total = scores if total is None else total + scores
    if total is None:
        raise ValueError("scales is empty; at least one expected")
    return (total[0] / (len(scales) * (1 + flip))).cpu().numpy()


def reduced(rgb: np.ndarray, max_side: int | None) -> np.ndarray:
    """The photograph with its longer side at most max_side pixels (None: as it is)."""
    longer = max(rgb.shape[:2])
    if max_side is None or longer <= max_side:
        return rgb
    return data.resize_image(rgb, *(max(1, round(side * max_side / longer)) for side in rgb.shape[:2]))


def label_map(scores: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scores float32 [C,h,w] → labels uint8 [height,width]: bilinear, then argmax.

    Done in bands of rows: the scores of a 12-megapixel photograph would not fit into memory.
    """
    classes, h, _ = scores.shape
    out = np.empty((height, width), np.uint8)
    at = np.clip((np.arange(height) + 0.5) * h / height - 0.5, 0, h - 1)
    top = at.astype(np.int64)
    bottom, share = np.minimum(top + 1, h - 1), (at - top).astype(np.float32)[:, None]
    band = max(1, BAND_BYTES // (4 * classes * width))
    for start in range(0, height, band):
        rows = slice(start, start + band)
        mixed = scores[:, top[rows]] * (1 - share[rows]) + scores[:, bottom[rows]] * share[rows]
        wide = F.interpolate(torch.from_numpy(mixed), width, mode="linear", align_corners=False)
        out[rows] = wide.argmax(0).numpy()
    return out
