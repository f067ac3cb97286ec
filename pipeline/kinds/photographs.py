"""Photographs: rgb u8 [N,S,S,3], at the upper left of a black canvas; size i32 [N,2], height and width of each.

Tables: id; split_train, split_val, split_score (row numbers). Rows: the training list, then the validation list.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.core import store
from pipeline.core.store import Artifact

# The least shorter side that a stage can bear where it works on photographs reduced to the longer side given here.
NARROWEST = 16  # at data.max_side: below it there is nothing to compute maps on
SALIENCY_SIDE, SALIENCY_NARROWEST = 300, 8  # saliency's default side


def image(photographs: Artifact, i: int) -> np.ndarray:
    """One photograph, uint8 [h,w,3], without its padding."""
    h, w = photographs["size"][i]
    return np.asarray(photographs["rgb"][i, :h, :w])


def size(photographs: Artifact, i: int) -> tuple[int, int]:
    """Height and width of one photograph as stored."""
    h, w = photographs["size"][i]
    return int(h), int(w)


def ids(photographs: Artifact) -> list[str]:
    """Names of the photographs: their files' without suffix."""
    return store.decode_text(photographs.read("id"))


def split(photographs: Artifact, name: str) -> np.ndarray:
    """Row numbers of a split, int64."""
    return photographs.read(f"split_{name}").astype(np.int64)


def only_split(photographs: Artifact, name: str, keys: Sequence[bytes]) -> list[bytes | None]:
    """Row keys with None for the photographs outside a split: those rows stay empty."""
    chosen = set(split(photographs, name).tolist())
    return [key if i in chosen else None for i, key in enumerate(keys)]


def mean_colour(photographs: Artifact, rows: np.ndarray) -> np.ndarray:
    """Mean colour of these photographs, uint8 [3]; of every n-th where there are thousands, which agree closely."""
    total, pixels = np.zeros(3), 0
    for i in rows[:: max(1, len(rows) // 1000)]:
        rgb = image(photographs, int(i))
        total += rgb.sum((0, 1), dtype=np.float64)
        pixels += rgb.shape[0] * rgb.shape[1]
    return np.round(total / max(pixels, 1)).astype(np.uint8)


def reduced(full: tuple[int, int], longest: int) -> tuple[int, int]:
    """Height and width once the longer side is at most `longest`."""
    reduction = min(1.0, longest / max(full))
    return max(1, round(full[0] * reduction)), max(1, round(full[1] * reduction))


def too_narrow(full: tuple[int, int], max_side: int) -> str | None:
    """Why no stage, or not saliency, could use a photograph of this size, and what to do; None where all can."""
    found = min(full) * min(1, max_side / max(full))
    if found < NARROWEST:
        remedy = "crop it" if min(full) >= NARROWEST else "use a larger one, or leave it out"
        return f"{found:.0f} px narrow at data.max_side {max_side}; {NARROWEST} expected, {remedy}"
    stored = reduced(full, max_side)
    left = min(reduced(stored, SALIENCY_SIDE))
    if left < SALIENCY_NARROWEST:
        narrow = f"{left} px narrow at the {SALIENCY_SIDE} px where saliency works"
        return f"{narrow}; {SALIENCY_NARROWEST} expected, crop it"
    return None
