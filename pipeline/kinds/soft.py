"""The kind `soft`: per photograph the classes that may be in it, and their probabilities on a grid.

Arrays: `probabilities` f16 [N,K,g,g], one cell per grid x grid pixels of the canvas; `slots` u8 [N,K], the class id of
each slot, the background among them, 255 = empty; `covered` bool [N]. A cell whose probabilities are all 0 is
unlabelled, as is a photograph that is not covered. meta: grid, classes, background.

Legend: N photographs, K slots, g cells of the canvas' side, h x w true size of a photograph in pixels, gh x gw cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.core import store
from pipeline.core.job import Job
from pipeline.kinds import classes
from pipeline.kinds.pixels import VOID, from_grid, resize_maps

Soft = tuple[Sequence[int] | np.ndarray, np.ndarray]


def write_soft(
    job: Job,
    rows: np.ndarray,
    grid: int,
    slots_per_image: int,
    label: Callable[[list[int]], Iterator[Soft]],
    of: store.Artifact,
    **meta: Any,
) -> None:
    """Write the soft labels of these rows; all other photographs stay uncovered.

    label(indices) yields per index the class ids [k] and their probabilities float [k,gh,gw], the photograph's own
    cells, k at most slots_per_image. of: the artifact whose classes the labels speak of; its class names and
    background go into meta, beside what else is given.
    Raises ValueError when the ids and probabilities of a photograph do not fit it or each other.
    """
    photographs, chosen = job.inputs["photographs"], set(rows.tolist())
    side = -(-photographs["rgb"].shape[1] // grid)
    shape = (slots_per_image, side, side)

    def compute(indices: list[int]) -> Iterator[store.Row]:
        for i, (ids, maps) in zip(indices, label(indices), strict=True):
            cells = _cells(photographs, i, grid)
            if not len(set(ids)) == len(ids) <= slots_per_image or maps.shape != (len(ids), *cells) or VOID in ids:
                raise ValueError(
                    f"soft labels of photograph {i}: classes {list(ids)} with probabilities {list(maps.shape)} found; "
                    f"expected at most {slots_per_image} different classes below {VOID} and a map {list(cells)} of each"
                )
            row = {
                "probabilities": np.zeros(shape, np.float16),
                "slots": np.full(slots_per_image, VOID, np.uint8),
                "covered": np.array(True),
            }
            row["probabilities"][: len(ids), : cells[0], : cells[1]] = maps
            row["slots"][: len(ids)] = ids
            yield row

    store.write_rows(
        job.out,
        job.header,
        {
            "probabilities": (shape, np.float16),
            "slots": ((slots_per_image,), np.uint8),
            "covered": ((), np.bool_),
        },
        [key if i in chosen else None for i, key in enumerate(store.row_keys(job.header, job.inputs))],
        compute,
        meta={
            "grid": grid,
            **classes.meta(of),
            **meta,
        },
        axes="image, class slot, row, column",
        fill={"slots": VOID},
    )


def soft_at(soft: store.Artifact, photographs: store.Artifact, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Soft labels of photograph i at its stored size: slots u8 [K], probabilities float32 [K,h,w], bilinear."""
    grid = soft.meta["grid"]
    (h, w), (gh, gw) = photographs["size"][i], _cells(photographs, i, grid)
    maps = np.asarray(soft["probabilities"][i, :, :gh, :gw])
    return np.asarray(soft["slots"][i]), resize_maps(maps, gh * grid, gw * grid)[:, :h, :w]


def labelled_at(soft: store.Artifact, photographs: store.Artifact, i: int) -> np.ndarray:
    """Which pixels of photograph i lie in a cell with any probability, bool [h,w]."""
    (h, w), (gh, gw) = photographs["size"][i], _cells(photographs, i, soft.meta["grid"])
    known = np.any(soft["probabilities"][i, :, :gh, :gw] > 0, axis=0, keepdims=True)
    return np.asarray(from_grid(known, soft.meta["grid"], h, w)[0])


def most_probable(slots: np.ndarray, maps: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Slots u8 [K], probabilities [K,h,w], bool [h,w] → the most probable class of each pixel, u8 [h,w]; 255 where not
    labelled."""
    found = np.asarray(slots[maps.argmax(0)], np.uint8)
    found[~labelled] = VOID
    return found


def _cells(photographs: store.Artifact, i: int, grid: int) -> tuple[int, int]:
    h, w = (-(-int(side) // grid) for side in photographs["size"][i])
    return h, w
