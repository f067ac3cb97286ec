"""True masks of a few images over the pseudo-labels of the rest.

The step between two trainings of semi-supervised methods (Zhao et al. 2021, section 4: pseudo-labels of the unlabelled
images together with the labelled ones), and a way to add a few masks to a recipe that learns from tags. No pixel of an
object in a true mask is ever lost: where a true mask shows one, the result does.

Reads: true (labels made of true masks), pseudo (labels). Makes: labels u8 [N,S,S], covered bool [N]: the images that
either covers. Cost: copying.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.core import cli
from pipeline.core.job import InputError, Job
from pipeline.core.steps.labels import Merge
from pipeline.kinds import classes, labels
from pipeline.kinds.pixels import VOID


def merge_by_class(true: np.ndarray, pseudo: np.ndarray, background: int | None) -> np.ndarray:
    """A true mask that was drawn for some classes only, over pseudo-labels: uint8 [h,w] each.

    Objects of the true mask stay. Elsewhere the pseudo-labels do, but for the classes that the true mask shows: a pixel
    they give to one of those is what the true mask says there.
    """
    drawn = np.setdiff1d(np.unique(true), [VOID, *([] if background is None else [background])])
    return np.where(np.isin(true, drawn) | np.isin(pseudo, drawn), true, pseudo)


def run(job: Job) -> None:
    settings: Merge = job.settings
    true, pseudo = job.inputs["true"], job.inputs["pseudo"]
    if classes.meta(true) != classes.meta(pseudo):
        raise InputError(
            f"{true.path} has {classes.meta(true)}, {pseudo.path} {classes.meta(pseudo)}; the same expected"
        )
    has_true, has_pseudo = true.read("covered"), pseudo.read("covered")
    background = classes.background(true)

    def label(indices: list[int]) -> Iterator[np.ndarray]:
        for i in indices:
            if not has_true[i]:
                yield np.asarray(pseudo["labels"][i])
            elif settings.by == "class" and has_pseudo[i]:
                yield merge_by_class(np.asarray(true["labels"][i]), np.asarray(pseudo["labels"][i]), background)
            else:
                yield np.asarray(true["labels"][i])

    rows = np.flatnonzero(has_true | has_pseudo)
    print(f"{int(has_true.sum())} true masks, {len(rows) - int(has_true.sum())} images with pseudo-labels", flush=True)
    labels.write_labels(job, rows, label, of=true, true=int(has_true.sum()))


if __name__ == "__main__":
    cli.main(run, Merge)
