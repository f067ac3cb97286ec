"""The data set of a run: three artifacts with the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core.store import Artifact
from pipeline.kinds import classes, masks
from pipeline.kinds.pixels import VOID


@dataclass(frozen=True)
class Dataset:
    photographs: Artifact
    tags: Artifact
    masks: Artifact

    @classmethod
    def open(cls, photographs: Path, tags: Path, masks: Path) -> Dataset:
        return cls(Artifact(photographs, "photographs"), Artifact(tags, "tags"), Artifact(masks, "masks"))

    @property
    def classes(self) -> list[str]:
        return classes.names(self.tags)

    @property
    def background(self) -> int | None:
        return classes.background(self.tags)

    def truth(self, i: int) -> np.ndarray | None:
        """The true mask of photograph i at original resolution; None where nothing is known of any pixel."""
        mask = masks.true_mask(self.masks, i)
        return None if (mask == VOID).all() else mask
