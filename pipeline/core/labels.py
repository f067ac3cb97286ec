"""Writing a `labels` artifact, as crf, masks and relabel do: labels u8 [N,S,S], 255 = unlabelled; covered bool [N]."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pipeline.core import data, store
from pipeline.core.cli import Job


def write_labels(job: Job, rows: np.ndarray, label: Callable[[list[int]], Iterator[np.ndarray]], **meta: Any) -> None:
    """Write the label maps of `rows`; all other images stay uncovered.

    label(indices) yields one uint8 [h,w] per index, at the stored image's size. meta is added to the class names.
    """
    images, chosen = job.images, set(rows.tolist())
    side = images["rgb"].shape[1]

    def compute(indices: list[int]) -> Iterator[store.Row]:
        for part in label(indices):
            canvas = np.full((side, side), data.VOID, np.uint8)
            canvas[: part.shape[0], : part.shape[1]] = part
            yield {"labels": canvas, "covered": np.array(True)}

    keys = store.row_keys(job.header, job.inputs)
    store.write_rows(
        job.out,
        job.header,
        {"labels": ((side, side), np.uint8), "covered": ((), np.bool_)},
        [key if i in chosen else None for i, key in enumerate(keys)],
        compute,
        meta={"classes": data.class_names(images), **meta},
        axes="image, row, column",
    )
