"""Simple images, and what their saliency says of them: where STC begins.

Wei et al., "STC: A Simple to Complex Framework for Weakly-Supervised Semantic Segmentation", TPAMI 2017 (arXiv
1509.03150). In an image of one thing before a plain ground, what is salient is the thing: at saliency s in [0,1] its
one tag has the probability s, the background 1 - s. The paper finds 40,000 such images on Flickr, by keyword; ours are
the training images that pass three filters, each a setting of its name:

  tags    one tag and no other
  area    what is salient by Otsu's threshold is no speck, and not nearly all of the image
  border  little is salient along the border: the thing is not cut off, and the ground not busy

Saliency is stretched to [0,1] image by image, so every image has a most salient place: the filters look at how the rest
is spread. All other photographs stay uncovered.

Reads: photographs, tags, saliency. Makes: soft (probabilities f16 [N,K,g,g], slots u8 [N,K], covered bool [N]).
Cost: reading the saliency of the images with few enough tags.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from skimage.filters import threshold_otsu

from pipeline.core import cli
from pipeline.core.job import InputError, Job
from pipeline.core.processes import over_processes
from pipeline.core.steps.labels import Simple
from pipeline.kinds import classes, photographs
from pipeline.kinds import tags as said
from pipeline.kinds.soft import Soft, write_soft

BORDER = 0.05  # width of the border, as a share of each side (ours)


def salient_area(saliency: np.ndarray) -> float:
    """Share of an image, uint8 [h,w], above Otsu's threshold; 0 where all is equally salient."""
    return float((saliency > threshold_otsu(saliency)).mean())


def border_saliency(saliency: np.ndarray) -> float:
    """Mean saliency, in [0,1], of the border of an image, uint8 [h,w]: BORDER of each side wide, a pixel at least."""
    h, w = saliency.shape
    y, x = (max(1, round(BORDER * side)) for side in (h, w))
    inside = saliency[y : h - y, x : w - x]
    total = saliency.sum(dtype=np.int64) - inside.sum(dtype=np.int64)
    return float(total / (255 * (saliency.size - inside.size)))


def stopped(saliency: np.ndarray, settings: Simple) -> str:
    """The first filter that an image with this saliency, uint8 [h,w], does not pass; '' where it passes both."""
    low, high = settings.area
    if not low <= salient_area(saliency) <= high:
        return "area"
    return "" if border_saliency(saliency) < settings.border else "border"


def cell_means(saliency: np.ndarray, grid: int) -> np.ndarray:
    """uint8 [h,w] → float32 [gh,gw] in [0,1], the mean of each grid x grid cell, or of what the image has of it."""
    h, w = saliency.shape
    rows, columns = np.arange(0, h, grid), np.arange(0, w, grid)
    sums = np.add.reduceat(np.add.reduceat(saliency.astype(np.float32), rows, 0), columns, 1)
    return sums / np.float32(255 * np.outer(np.diff(rows, append=h), np.diff(columns, append=w)))


def run(job: Job) -> None:
    settings: Simple = job.settings
    pictures, tags, saliency = job.photographs, job.inputs["tags"], job.inputs["saliency"]
    table, background = said.tags(tags), classes.background(tags)
    if background is None:
        raise InputError(
            f"{tags.path}: none of these classes is the background, which 'simple' takes what is not salient for; "
            "begin with seeds (classify, cam) instead of simple images"
        )

    def salient(i: int) -> np.ndarray:
        h, w = photographs.size(pictures, i)
        return np.asarray(saliency["saliency"][i, :h, :w])

    train, count = photographs.split(pictures, "train"), table.sum(1)
    few = train[(count[train] > 0) & (count[train] <= settings.tags)]
    by = list(over_processes(lambda i: stopped(salient(i), settings), few.tolist(), job.threads))
    rows = few[[name == "" for name in by]]
    removed = {"tags": len(train) - len(few), "area": by.count("area"), "border": by.count("border")}
    report = ", ".join(f"{name} {number}" for name, number in removed.items())
    print(f"{len(rows)} of {len(train)} training images are simple; removed by {report}", flush=True)
    if not len(rows):
        most = max(removed, key=lambda name: removed[name])
        raise InputError(
            f"{saliency.path}: no image of {len(train)} is simple enough, at least one expected; removed by {report}. "
            f"Loosen '{most}', now {getattr(settings, most)}, in the settings of 'simple'"
        )

    names = classes.names(tags)
    simple = {names[k]: int(table[rows, k].sum()) for k in classes.foreground(tags)}
    print("simple images: " + ", ".join(f"{name} {number}" for name, number in simple.items()), flush=True)
    for name in (name for name, number in simple.items() if not number):
        shown = int(table[train, names.index(name)].sum())
        print(f"warning: no simple image of '{name}', which {shown} training images are tagged with", flush=True)

    def label(indices: list[int]) -> Iterator[Soft]:
        for i in indices:
            share, own = cell_means(salient(i), settings.grid), np.flatnonzero(table[i])
            # With settings.tags above 1 saliency cannot tell the tags of an image apart (ours: each gets as much).
            yield [background, *own], np.stack([1 - share, *[share / len(own)] * len(own)])

    meta = {"train": len(train), "removed": removed, "simple": simple}
    write_soft(job, rows, settings.grid, 1 + settings.tags, label, of=tags, **meta)


if __name__ == "__main__":
    cli.main(run, Simple)
