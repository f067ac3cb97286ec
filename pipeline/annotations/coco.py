"""COCO's object annotations: `coco.json`, with polygons where they say the same as the mask, else run lengths.

An annotation is a connected component of a class. Its polygon follows the edges of pixels, so that readers that fill it
pixel by pixel get the mask back. COCO's polygons have no holes, as several in one annotation are united: a component
with a hole, or one whose polygon pycocotools would fill differently, is stored as compressed run lengths (column by
column, `iscrowd` 0, which pycocotools and the tools take). Sizes and coordinates are those of the upright photograph;
whoever reads the file without its EXIF must turn it first.

Source: cocodataset.org/#format-data, and pycocotools for what it does with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from pipeline.annotations.labelled import About, Labelled
from pipeline.core.durable import writing

FILES = ("coco.json",)


def write(out: Path, photos: Iterable[Labelled], about: About) -> str:
    """Write coco.json into a folder; returns what is in it. Images and annotations are numbered from 1 in the order
    given. A category's id is the class id, one more where there is no background: to datumaro, and so to CVAT, category
    0 is none. One photograph is held at a time."""
    images, number, polygons = list[dict[str, Any]](), 0, 0
    head = {
        "info": {"description": "masks of a tagmask model", "version": about.model},
        "licenses": [],
        "categories": [
            {"id": int(about.places[k]), "name": about.names[k], "supercategory": ""} for k in about.objects
        ],
    }
    with writing(out / FILES[0]) as file:
        file.write(json.dumps(head)[:-1].encode() + b', "annotations": [')
        for photo in photos:
            height, width = photo.labels.shape
            images.append({"id": len(images) + 1, "file_name": photo.file, "height": height, "width": width})
            for annotation in objects(photo.labels, about):
                number += 1
                polygons += isinstance(annotation["segmentation"], list)
                line = json.dumps({"id": number, "image_id": len(images), **annotation})
                file.write((",\n" * (number > 1) + line).encode())
        file.write(b'],\n"images": ' + json.dumps(images).encode() + b"}\n")
    return f"{len(images)} photographs, {number} objects, {number - polygons} of them as run lengths"


def objects(labels: np.ndarray, about: About) -> Iterator[dict[str, Any]]:
    """The annotations of a mask uint8 [H,W] without their ids, in the order of their first pixel."""
    parts, classes = about.components(labels)
    rings: list[list[np.ndarray]] = [[] for _ in classes]
    for number in np.unique(classes[1:]):
        for part, ring in outlines(np.where(labels == number, parts, 0)):
            rings[part].append(ring)
    for part, found in list(enumerate(rings))[1:]:
        left, top = np.min([ring.min(0) for ring in found], 0).tolist()
        right, bottom = np.max([ring.max(0) for ring in found], 0).tolist()
        inside = parts[top:bottom, left:right] == part
        exact = len(found) == 1 and (filled(found[0] - (left, top), *inside.shape) == inside).all()
        yield {
            "category_id": int(about.places[classes[part]]),
            "segmentation": [found[0].ravel().tolist()] if exact else run_lengths(inside, left, top, labels.shape),
            "area": int(inside.sum()),
            "bbox": [left, top, right - left, bottom - top],
            "iscrowd": 0,
        }


def outlines(parts: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The closed outlines of the regions of a map int [H,W] (0: outside; two regions touch nowhere, a region may touch
    itself at corners of pixels): the region, and the corners x, y of one of its outlines, int [n,2]. A region with
    holes has an outline more for each.

    Taken row by row, two corners in succession are the ends of a horizontal edge, taken column by column of a vertical
    one. A corner where four edges meet counts twice; its edges are joined so that the pixels inside that touch there
    are not parted.
    """
    padded = np.pad(parts > 0, 1)
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    corner = ((a != c) | (b != d)) & ((a != b) | (c != d))
    twice = (a == d) & (b == c) & (a != b)
    y, x = np.nonzero(corner)
    often = 1 + twice[y, x]
    first = np.cumsum(often) - often
    falling = np.repeat(a[y, x] & d[y, x] & twice[y, x], often)  # inside at the upper left and the lower right
    second = np.arange(len(falling)) != np.repeat(first, often)
    y, x = np.repeat(y, often), np.repeat(x, often)
    column = np.lexsort((second != falling, y, x))
    below = np.empty(len(x), np.int64)
    below[column] = column[np.arange(len(x)) ^ 1]
    corners, follow, seen = np.stack([x, y], 1), below.tolist(), bytearray(len(x))
    for start in range(len(follow)):
        if seen[start]:
            continue
        ring, here = [], start
        while not seen[here]:
            ring += [here, here ^ 1]
            seen[here] = seen[here ^ 1] = 1
            here = follow[here ^ 1]
        # The first corner of its highest edge: what is inside lies below it, or above where the outline is a hole's.
        left, top = corners[start]
        yield int(parts[top if padded[top + 1, left + 1] else top - 1, left]), corners[ring]


def filled(ring: np.ndarray, height: int, width: int) -> np.ndarray:
    """What pycocotools makes of a polygon int [n,2], uint8 [height,width]."""
    return rle.decode(rle.frPyObjects([ring.ravel().tolist()], height, width))[..., 0]


def run_lengths(inside: np.ndarray, left: int, top: int, size: tuple[int, ...]) -> dict[str, Any]:
    """COCO's compressed run lengths of a region, bool [h,w] at this place of a picture [H,W]."""
    x, y = np.nonzero(inside.T)
    at = (x + left) * size[0] + y + top
    breaks = np.flatnonzero(np.diff(at) != 1)
    starts, ends = at[np.append(0, breaks + 1)], at[np.append(breaks, -1)] + 1
    counts = np.diff(np.stack([starts, ends], 1).ravel(), prepend=0, append=size[0] * size[1])
    found = rle.frPyObjects({"size": list(size), "counts": counts.tolist()}, *size)
    return {"size": list(size), "counts": found["counts"].decode()}
