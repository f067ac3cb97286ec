"""Mix: labelled patches drawn from labelled images, the raw material of Mix-and-Match tuning.

Zhan, Liu, Luo, Tang, Loy: "Mix-and-Match Tuning for Self-Supervised Semantic Segmentation", AAAI 2018,
arXiv 1712.00661, the "mix" step. A network pretrained by a proxy task knows textures and parts but not
the classes of the target set. Mix turns the few label maps of that set into many square patches, each
with one class, so that the "match" step (`triplet.py`) can pull a class together and push classes apart.

The rules are those of the authors' released sampler; where we depart from it, the text says "ours".

Axes: H, W image rows and columns; n patches. A box is (y0, x0, y1, x1), end exclusive.
Reads: photographs, labels. Makes: patches = image i64 [P], draw i32 [P], box i32 [P,4], class u8 [P].
Cost: about 1 ms to draw ten patches from a 512-pixel image, and 0.3 ms to crop each of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.core import cli, store
from pipeline.core.job import InputError, Job
from pipeline.core.steps.weights import Patches
from pipeline.kinds import classes
from pipeline.kinds.labels import labels_at
from pipeline.kinds.pixels import VOID

CANDIDATES_PER_PATCH = 5  # foreground candidates for each patch wanted, so that repeats can be dropped


def draw_patches(
    labels: NDArray[np.uint8],
    rng: np.random.Generator,
    *,
    count: int,
    sides: tuple[int, int],
    background_share: float = 0.1,
    max_overlap: float = 0.6,
    reference: str = "own",
    background: int | None = 0,
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Draw square patches of random place and size, each with the class of its centre pixel.

    Of the `count` patches, floor(`background_share` · count), but at least one, are centred on background
    and the others on foreground, so that the large plain background cannot drown the objects. Where an
    image lacks one of the two, the other supplies all patches. Foreground patches that mostly repeat
    earlier ones are avoided (`distinct`); background patches may repeat.

    Args:
        labels: uint8 [H, W], 255 = unlabelled.
        rng: source of all randomness; the same state gives the same patches.
        count: patches wanted. A single patch is a foreground patch.
        sides: smallest and largest side in pixels; a side is uniform over the even numbers between them.
        background_share: share of background patches, in [0, 1).
        max_overlap: largest share of a foreground patch that earlier ones may cover.
        reference: the area of which that is a share, see `distinct`.
        background: the background class; None (ours) where no class is one, as in Cityscapes and CamVid,
            whose label 0 is an ordinary class: then every labelled pixel is foreground.

    Returns:
        boxes int32 [n, 4], which may leave the image, and classes uint8 [n]; foreground patches first.
        n = `count`, or 0 if nothing is labelled (ours: the released code then samples void).

    Raises:
        ValueError: a label map that is not uint8 [H, W], or a setting outside its range.

    Source: the paper's patch sampling, with the constants of the released code.
    """
    _check_settings(labels, count, sides, background_share, background)
    foreground_pixels, background_pixels = _scopes(labels, background)
    if foreground_pixels.size == 0:
        return np.zeros((0, 4), np.int32), np.zeros(0, np.uint8)

    # The minimum with count − 1 matters only for a single patch, which would otherwise be all background.
    plain = 0 if background is None else min(count - 1, max(1, int(background_share * count)))
    wanted = count - plain
    candidates, classes = _draw(labels, foreground_pixels, rng, CANDIDATES_PER_PATCH * wanted, sides)
    chosen = distinct(candidates, (labels.shape[0], labels.shape[1]), wanted, max_overlap, reference)
    # Background is not compared with anything, so it needs no spare candidates. Ours: where foreground
    # stands in for a missing background it keeps its class; the released code calls it background.
    plain_boxes, plain_classes = _draw(labels, background_pixels, rng, plain, sides)
    return np.concatenate([candidates[chosen], plain_boxes]), np.concatenate([classes[chosen], plain_classes])


def distinct(
    boxes: NDArray[np.int32], shape: tuple[int, int], wanted: int, max_overlap: float, reference: str = "own"
) -> NDArray[np.intp]:
    """Choose `wanted` boxes that do not mostly repeat each other: greedily, in the order given.

    A box is dropped when boxes kept before it cover more than `max_overlap` of its area; a coverage, not an
    IoU, so a large box around a small one stays. If too few are kept, the dropped ones fill the gap, in
    their order.

    Args:
        boxes: int32 [n, 4], each touching the image.
        shape: (H, W) of the image; what lies outside counts as part of a box's area, but is never covered.
        wanted: how many to choose.
        max_overlap: largest covered share that is still kept.
        reference: 'own' (ours): share of the box's own area. 'first': of the first box's, as released, which drops a
            large box because of a small one and keeps a small box that is covered entirely. Measured on VOC masks, our
            rule draws foreground patches with sides 28 % larger, and so less pure.

    Returns:
        Indices into `boxes` [min(wanted, n)]: the kept ones in order, then the refill.

    Source: the released sampler.
    """
    painted = np.zeros(shape, np.bool_)
    kept: list[int] = []
    dropped: list[int] = []
    y0, x0, y1, x1 = boxes[0].tolist() if len(boxes) else (0, 0, 0, 0)
    first = (y1 - y0) * (x1 - x0)
    for index, (y0, x0, y1, x1) in enumerate(boxes.tolist()):
        if len(kept) == wanted:
            break
        inside = painted[max(y0, 0) : y1, max(x0, 0) : x1]
        area = (y1 - y0) * (x1 - x0) if reference == "own" else first
        if np.count_nonzero(inside) > max_overlap * area:
            dropped.append(index)
        else:
            inside[...] = True
            kept.append(index)
    return np.array((kept + dropped)[:wanted], np.intp)


def _check_settings(
    labels: NDArray[np.uint8],
    count: int,
    sides: tuple[int, int],
    background_share: float,
    background: int | None,
) -> None:
    """Refuse what `draw_patches` cannot honour, saying what was found and what was expected."""
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise ValueError(f"labels are {labels.dtype} {list(labels.shape)}; expected a uint8 map [H, W]")
    if count < 1:
        raise ValueError(f"count is {count}; expected at least 1 patch per image")
    if not 2 <= sides[0] + sides[0] % 2 <= sides[1]:
        raise ValueError(f"sides are {sides}; expected (smallest, largest) with a positive even number between them")
    if not 0 <= background_share < 1:
        raise ValueError(f"background_share is {background_share}; expected a share from 0 to below 1")
    if background is not None and not 0 <= background < VOID:
        raise ValueError(f"background is {background}; expected a class from 0 to {VOID - 1}, or None")


def _scopes(labels: NDArray[np.uint8], background: int | None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Flat indices of foreground and of background pixels; one replaces the other where that one is empty."""
    flat = labels.ravel()
    if background is None:
        labelled = np.flatnonzero(flat != VOID)
        return labelled, labelled
    plain = flat == background
    background_pixels = np.flatnonzero(plain)
    foreground_pixels = np.flatnonzero(~plain & (flat != VOID))
    if foreground_pixels.size == 0:
        return background_pixels, background_pixels
    return foreground_pixels, background_pixels if background_pixels.size else foreground_pixels


def _draw(
    labels: NDArray[np.uint8],
    pixels: NDArray[np.intp],
    rng: np.random.Generator,
    number: int,
    sides: tuple[int, int],
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Boxes [number, 4] of random even side around pixels drawn with replacement, and their classes."""
    centres = pixels[rng.integers(0, pixels.size, number)]
    # An even side makes both halves equal, so the centre of a box is exactly its pixel (y0 + y1) / 2.
    half = rng.integers((sides[0] + 1) // 2, sides[1] // 2, number, endpoint=True)
    y, x = np.divmod(centres, labels.shape[1])
    boxes = np.stack([y - half, x - half, y + half, x + half], axis=1).astype(np.int32)
    return boxes, labels[y, x]


def run(job: Job) -> None:
    settings: Patches = job.settings
    pictures, labels = job.photographs, job.inputs["labels"]
    found: dict[str, list[NDArray]] = {"image": [], "draw": [], "box": [], "class": []}
    for i in labels.read("covered").nonzero()[0].tolist():
        label = labels_at(labels, pictures, i)
        for draw in range(settings.draws):
            boxes, ids = draw_patches(
                label,
                np.random.default_rng((job.seed, i, draw)),
                count=settings.per_image,
                sides=settings.sides,
                background_share=settings.background_share,
                max_overlap=settings.overlap,
                reference=settings.reference,
                background=classes.background(labels),
            )
            found["image"].append(np.full(len(boxes), i, np.int64))
            found["draw"].append(np.full(len(boxes), draw, np.int32))
            found["box"].append(boxes)
            found["class"].append(ids)
    bank = {name: np.concatenate(parts) for name, parts in found.items() if parts}
    if not bank or not len(bank["class"]):
        raise InputError(f"{labels.path}: no pixel is labelled, so no patch can be drawn")
    names = classes.names(labels)
    counts = np.bincount(bank["class"], minlength=len(names))
    print(", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True)), flush=True)
    meta = {"size": settings.size, **classes.meta(labels)}
    store.write_table(job.out, job.header, bank, meta, axes="patch")


if __name__ == "__main__":
    cli.main(run, Patches)
