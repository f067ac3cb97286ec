"""The kind `patches`: squares of labelled photographs. image i64 [P], draw i32 [P], box i32 [P,4] (y0, x0, y1, x1, end
exclusive; may leave the image), class u8 [P]; meta: size (pixels they are resized to), classes, background."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.core import store


def draws_by_image(bank: store.Artifact) -> dict[int, list[tuple[NDArray[np.int32], NDArray[np.uint8]]]]:
    """The patch bank as image row → its draws (boxes [n,4], classes [n]); empty draws are left out."""
    images, draws, boxes, classes = (bank.read(name) for name in ("image", "draw", "box", "class"))
    found: dict[int, list[tuple[NDArray[np.int32], NDArray[np.uint8]]]] = {}
    edges = np.flatnonzero(np.diff(images * (int(draws.max(initial=0)) + 1) + draws)) + 1
    for part in np.split(np.arange(len(images)), edges):
        found.setdefault(int(images[part[0]]), []).append((boxes[part], classes[part]))
    return found
