"""What every annotation format is written from: photographs with their masks, and what the values of a mask mean.

A mask is a label map uint8 [H,W] of class ids, upright as the photograph is shown, 255 where nothing is said. Pixels of
the background and of 255 are no object in any format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skimage.measure import label

from pipeline.core.metrics import VOID
from pipeline.core.show import palette


@dataclass(frozen=True)
class Labelled:
    """A photograph and its mask. file: its path below the folder given, parts joined by '/'. score: how sure the
    network is, where somebody knows; tools sort by it."""

    path: Path
    file: str
    labels: np.ndarray
    score: float | None = None


@dataclass(frozen=True)
class About:
    """What holds for all masks of an export.

    names: by class id. background: its id, or None. model: digest of what made the masks. sources: the folders or files
    that were given as photographs. image_url: where a tool finds them, in place of its own local files.
    """

    names: Sequence[str]
    background: int | None
    model: str
    sources: Sequence[Path] = ()
    image_url: str | None = None

    @property
    def objects(self) -> list[int]:
        """Ids of all classes but the background."""
        return [k for k in range(len(self.names)) if k != self.background]

    @property
    def places(self) -> np.ndarray:
        """Class id → place in the palette, uint8 [256]: 0 for the background and for 255, the others from 1 in their
        order. Where the background is class 0 a place is a class id; where there is none, no class is black."""
        places = np.zeros(256, np.uint8)
        places[self.objects] = np.arange(1, len(self.objects) + 1)
        return places

    def colour(self, number: int) -> np.ndarray:
        """Colour of a class, uint8 [3]."""
        return palette()[self.places[number]]

    def components(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The objects of a mask, one by one: int [H,W], 0 where there is none, from 1 in the order of their first
        pixel; and the class id of each, int [n + 1] (of 0: 255). Pixels of a class that touch at a corner belong
        together: thin slanted objects stay whole."""
        shown = np.zeros(256, np.int32)
        shown[self.objects] = np.arange(1, len(self.objects) + 1)
        parts = label(shown[labels], background=0, connectivity=2)
        classes = np.full(int(parts.max(initial=0)) + 1, VOID)
        classes[parts.ravel()] = labels.ravel()
        classes[0] = VOID
        return parts, classes
