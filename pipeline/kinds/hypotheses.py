"""The kind `hypotheses`: per photograph, of every split, where an object may be: boxes, and a segment in each.

Ragged rows, M hypotheses of a photograph, best first:
boxes     i16 [M,4]  y0, x0, y1, x1 in stored pixels, ends exclusive
cluster   u8 [M]     which cluster of similar hypotheses, 0 … meta.clusters - 1
segments  u8 [B]     the masks inside the boxes, one after the other, row by row, eight pixels a byte; each begins with
                     a new byte, so where it lies follows from the boxes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.core import store
from pipeline.core.job import Job
from pipeline.kinds import photographs

ARRAYS: store.Shapes = {"boxes": ((None, 4), np.int16), "cluster": ((None,), np.uint8), "segments": ((None,), np.uint8)}


class Hypotheses(NamedTuple):
    """The hypotheses of one photograph, best first."""

    boxes: np.ndarray  # integers [M,4]
    clusters: np.ndarray  # integers [M]
    segments: Sequence[np.ndarray]  # M of bool, each of its box's size


def boxes(artifact: store.Artifact, i: int) -> np.ndarray:
    """Boxes of photograph i, best first: int64 [M,4]; y0, x0, y1, x1, ends exclusive."""
    return artifact.row("boxes", i).astype(np.int64)


def clusters(artifact: store.Artifact, i: int) -> np.ndarray:
    """The cluster of each hypothesis of photograph i, int64 [M]."""
    return artifact.row("cluster", i).astype(np.int64)


def segments(artifact: store.Artifact, i: int) -> list[np.ndarray]:
    """The masks of photograph i's hypotheses, bool, each of its box's size."""
    return unpack(boxes(artifact, i), artifact.row("segments", i))


def pack(segments: Sequence[np.ndarray]) -> np.ndarray:
    """Masks → the bytes of `segments`, u8 [B]."""
    return np.concatenate([np.zeros(0, np.uint8), *(np.packbits(mask) for mask in segments)])


def unpack(boxes: np.ndarray, packed: np.ndarray) -> list[np.ndarray]:
    """The masks that `pack` was given. Raises ValueError when the bytes are not those of these boxes."""
    sides = boxes[:, 2:].astype(np.int64) - boxes[:, :2]
    ends = np.cumsum(-(-sides.prod(1) // 8))
    if len(packed) != (ends[-1] if len(ends) else 0):
        raise ValueError(f"segments of {len(packed)} bytes, which are not those of {len(boxes)} boxes")
    return [
        np.unpackbits(packed[end - -(-height * width // 8) : end], count=height * width)
        .view(bool)
        .reshape(height, width)
        for end, (height, width) in zip(ends.tolist(), sides.tolist(), strict=True)
    ]


def as_row(pictures: store.Artifact, i: int, found: Hypotheses, clusters: int) -> store.Row:
    """The hypotheses of photograph i as they are stored. clusters: as many as there may be.

    Raises ValueError where they do not fit the photograph or each other.
    """
    corners, numbers, size = np.asarray(found.boxes), np.asarray(found.clusters), photographs.size(pictures, i)
    about = f"hypotheses of photograph {i}"
    if not corners.shape == (len(numbers), 4) == (len(found.segments), 4):
        raise ValueError(
            f"{about}: boxes {list(corners.shape)}, {len(numbers)} clusters and {len(found.segments)} segments found; "
            "as many of each expected, four numbers a box"
        )
    if (corners[:, :2] < 0).any() or (corners[:, 2:] > size).any() or (corners[:, 2:] <= corners[:, :2]).any():
        raise ValueError(f"{about}: boxes within its {size[0]} x {size[1]} pixels expected")
    if not np.isin(numbers, np.arange(clusters)).all():
        raise ValueError(f"{about}: clusters {np.unique(numbers).tolist()} found; 0 to {clusters - 1} expected")
    for box, mask in zip(corners, found.segments, strict=True):
        if mask.dtype != np.bool_ or mask.shape != tuple(box[2:] - box[:2]):
            raise ValueError(
                f"{about}: a segment {mask.dtype} {list(mask.shape)} found; bool of its box {box.tolist()} expected"
            )
    return {"boxes": corners, "cluster": numbers, "segments": pack(found.segments)}


def write_hypotheses(
    job: Job, rows: Sequence[int] | np.ndarray, find: Callable[[list[int]], Iterator[store.Row]], clusters: int
) -> None:
    """Write the hypotheses of these photographs; any other has none.

    find(indices) yields `as_row` of each index: who spreads photographs over processes packs the masks there.
    clusters: as many as there may be in a photograph.
    """
    chosen = {int(i) for i in rows}
    store.write_rows(
        job.out,
        job.header,
        ARRAYS,
        [key if i in chosen else None for i, key in enumerate(store.row_keys(job.header, job.inputs))],
        find,
        meta={"clusters": clusters},
        axes="hypothesis, side",
    )
