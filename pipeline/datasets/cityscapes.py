"""Cityscapes: the 19 classes that are trained; all else is void, and there is no background.

    leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png
    gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png       or gtCoarse

    data: {name: streets, format: cityscapes, export: {root: leftImg8bit, labels: [gtFine]}}

Of the files beside them, _color, _instanceIds and _polygons, nothing is read. test/, whose masks say nothing, is left
out. Numbers and names: labels.py of https://github.com/mcordts/cityscapesScripts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.data import Data
from pipeline.datasets.exports import source_of, trace_of
from pipeline.datasets.files import Left, walk
from pipeline.datasets.marked import Exported, Rows, split_of, whole_mask
from pipeline.datasets.source import Source, Trace

# Label id → name, in the order of the train ids.
TRAINED = {7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light"}
TRAINED |= {20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car"}
TRAINED |= {27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}
LAST = 33
ROWS: Rows = [[value, TRAINED.get(value)] for value in (*range(LAST + 1), 255)]  # 255: -1 in eight bits
MASK = re.compile(r"(.+)_gt(Fine|Coarse)_labelIds\.png")
ANY = re.compile(r".+_gt(Fine|Coarse)_[A-Za-z]+\.png")


def source(data: Data) -> Source:
    return source_of(data, read)


def trace(data: Data) -> Trace:
    return trace_of(data, read)


def recognised(path: Path) -> bool:
    looks = ("", "gtFine", "gtCoarse")
    return any(next((path / look).glob("*/*/*_gt*_labelIds.png"), None) is not None for look in looks)


def read(labels: Sequence[Path]) -> Exported:
    found = Exported(list(TRAINED.values()), no_background="Cityscapes has no background, all but its classes is void")
    for top in labels:
        try:
            names = sorted(name for name, _ in walk(top, Left()) if ANY.fullmatch(name)) if top.is_dir() else []
        except OSError as error:
            found.problems.append(f"{top}: cannot be read ({error.strerror}); check its permissions")
            continue
        found.masks += [top / name for name in names]
        masks = [(name, parts[1]) for name in names if (parts := MASK.fullmatch(name))]
        if not masks:
            found.problems.append(
                f"{top}: no file *_gtFine_labelIds.png or *_gtCoarse_labelIds.png in it; name the folder gtFine"
            )
        for name, stem in masks:
            list_of = split_of(*reversed(name.split("/")[:-1]))
            below = stem.removeprefix("gtFine/").removeprefix("gtCoarse/")
            found.photographs.append(whole_mask((f"{below}_leftImg8bit", below), top / name, ROWS, list_of))
    return found
