"""The kinds `weights`, `classifier` and `model`: named arrays, stored as one flat array per dtype and their index.

`index` in the manifest's meta: per array its name, dtype, shape, and offset into the flat array of its dtype. Opening
such an artifact executes nothing. What else meta says (backbone, stride, head) is for the networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pipeline.core.store import Artifact, ArtifactError


class Entry(NamedTuple):
    """An array of the index. offset: of its first number in the flat array of its dtype."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


def pack(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Named arrays → one flat array per dtype, and the index of names and shapes that undoes it."""
    flat: dict[str, list[np.ndarray]] = {}
    index: list[dict[str, Any]] = []
    offsets: dict[str, int] = {}
    for name, array in state.items():
        kind = str(array.dtype)
        offset = offsets.get(kind, 0)
        index.append({"name": name, "dtype": kind, "shape": list(array.shape), "offset": offset})
        flat.setdefault(kind, []).append(np.ravel(array))
        offsets[kind] = offset + array.size
    return {kind: np.concatenate(parts) for kind, parts in flat.items()}, index


def unpack(artifact: Artifact) -> dict[str, np.ndarray]:
    """The named arrays that `pack` stored, each a copy of its own.

    Raises ArtifactError when the artifact holds no index, one that is none, or less than its index says.
    """
    if "index" not in artifact.meta:
        raise ArtifactError(
            f"{artifact.path}: this {artifact.kind} holds no network: its manifest has no index; make it again"
        )
    try:
        said = artifact.meta["index"]
        index = [Entry(item["name"], item["dtype"], tuple(item["shape"]), item["offset"]) for item in said]
        sound = all(isinstance(n, int) and n >= 0 for entry in index for n in (*entry.shape, entry.offset))
        flat = {kind: artifact.read(kind) for kind in sorted({str(entry.dtype) for entry in index})}
    except (KeyError, TypeError):
        sound = False
    if not sound:
        raise ArtifactError(
            f"{artifact.path}: its index is no list of names, dtypes, shapes and offsets; "
            "the artifact is damaged, delete it and make it again"
        )
    state = {}
    for item in index:
        size = math.prod(item.shape)
        values = flat[item.dtype][item.offset : item.offset + size]
        if len(values) != size:
            raise ArtifactError(
                f"{artifact.path}: {item.name} has {len(values)} numbers in the store, {size} in the index; "
                "the artifact is damaged, delete it and make it again"
            )
        state[item.name] = values.reshape(item.shape).copy()
    return state
