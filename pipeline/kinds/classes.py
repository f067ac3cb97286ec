"""The classes an artifact speaks of, and which of them is the background, if any."""

from __future__ import annotations

import numpy as np

from pipeline.core.store import Artifact


def names(artifact: Artifact) -> list[str]:
    """Class names; the position of a name is its id."""
    return artifact.meta["classes"]


def background(artifact: Artifact) -> int | None:
    """Id of the background, None where the data set has none. Artifacts from before this was asked for have 0."""
    return artifact.meta.get("background", 0)


def foreground(artifact: Artifact) -> np.ndarray:
    """Ids of all classes but the background, int64 ascending."""
    ids = np.arange(len(names(artifact)), dtype=np.int64)
    return ids[ids != background(artifact)]
