"""The kind `labels`: one class per pixel.

Arrays: `labels` u8 [N,S,S] on the photographs' canvas, 255 = unlabelled; `covered` bool [N]. A photograph that is not
covered holds 255 throughout, so nobody can take it for background. meta: classes, background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pipeline.core import store
from pipeline.core.job import InputError, Job
from pipeline.kinds import classes
from pipeline.kinds.pixels import VOID


def write_labels(
    job: Job, rows: np.ndarray, label: Callable[[list[int]], Iterator[np.ndarray]], of: store.Artifact, **meta: Any
) -> None:
    """Write the label maps of these rows; all other photographs stay uncovered.

    label(indices) yields one uint8 [h,w] per index, at the stored photograph's size. of: the artifact whose classes the
    labels speak of; its class names and background go into meta, beside what else is given.
    """
    chosen = set(rows.tolist())
    side = job.inputs["photographs"]["rgb"].shape[1]

    def compute(indices: list[int]) -> Iterator[store.Row]:
        for part in label(indices):
            canvas = np.full((side, side), VOID, np.uint8)
            canvas[: part.shape[0], : part.shape[1]] = part
            yield {"labels": canvas, "covered": np.array(True)}

    store.write_rows(
        job.out,
        job.header,
        {"labels": ((side, side), np.uint8), "covered": ((), np.bool_)},
        [key if i in chosen else None for i, key in enumerate(store.row_keys(job.header, job.inputs))],
        compute,
        meta={**classes.meta(of), **meta},
        axes="image, row, column",
        fill={"labels": VOID},
    )


def taught(labels: store.Artifact) -> np.ndarray:
    """The rows that labels, hard or soft, teach from: those that are covered, int64 [n].

    Raises InputError where none is covered, or none has a labelled pixel: a training would see no loss and learn
    nothing.
    """
    rows = labels.read("covered").nonzero()[0]
    if not len(rows):
        raise InputError(f"{labels.path}: these labels cover no image")
    hard = labels.kind == "labels"
    array, nothing = (labels["labels"], VOID) if hard else (labels["probabilities"], 0)
    if all((array[i] == nothing).all() for i in rows.tolist()):  # one file at a time, until something is found
        step = labels.manifest["settings"].get("method", labels.manifest["stage"])
        remedy = (
            "write class numbers into the masks: 255 is void" if step == "masks" else f"loosen the settings of '{step}'"
        )
        empty = "all are 255, void" if hard else "no class has any probability"
        raise InputError(f"{labels.path}: 0 of {len(rows)} photographs have a labelled pixel ({empty}); {remedy}")
    return rows


def labels_at(labels: store.Artifact, photographs: store.Artifact, i: int) -> np.ndarray:
    """The label map of photograph i at its stored size, uint8 [h,w]."""
    h, w = photographs["size"][i]
    return np.asarray(labels["labels"][i, :h, :w])
