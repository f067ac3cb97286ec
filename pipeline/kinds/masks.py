"""True masks at original resolution: mask u8, ragged, row by row the pixels of each, 255 = void or unknown; full_size
i32 [N,2], height and width of each; has_mask bool [N] (a mask without any object is known, not unknown)."""

from __future__ import annotations

import numpy as np

from pipeline.core.store import OLDER, Artifact, ArtifactError


def true_mask(masks: Artifact, i: int) -> np.ndarray:
    """The true mask at original resolution, uint8 [h0,w0]; one pixel of VOID, [1,1], where there is none."""
    h, w = masks["full_size"][i]
    pixels = masks.row("mask", i)
    if pixels.ndim != 1:
        raise ArtifactError(f"{masks.path}: masks on a common canvas, {OLDER}")
    return pixels.reshape(h, w)


def has_mask(masks: Artifact) -> np.ndarray:
    """bool [N]."""
    return masks.read("has_mask")
