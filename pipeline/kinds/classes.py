"""Classes of a data set: their names, and which of them is the background, if any. A class id is its place here.

Every artifact that speaks of classes carries both in its meta. Nobody else may take class 0 for the background.
"""

from __future__ import annotations

import numpy as np

from pipeline.core.store import Artifact, ArtifactError


def names(artifact: Artifact) -> list[str]:
    """By class id. Raises ArtifactError where they are no names."""
    found = artifact.meta["classes"]
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ArtifactError(
            f"{artifact.path}: its classes are no list of names; the artifact is damaged, make it again"
        )
    return list(found)


def background(artifact: Artifact) -> int | None:
    """Class id of the background; None where every class is an ordinary one, as in Cityscapes."""
    found: int | None = artifact.meta.get("background", 0)  # artifacts of before this was recorded had class 0
    return found


def foreground(artifact: Artifact) -> np.ndarray:
    """int64: ids of all classes but the background."""
    ids = np.arange(len(names(artifact)))
    return ids[ids != background(artifact)]


def meta(artifact: Artifact) -> dict[str, object]:
    """What an artifact made from this one says of classes in its own meta."""
    return {"classes": names(artifact), "background": background(artifact)}
