"""CVAT's Segmentation mask 1.1, unpacked: coloured masks, and what the colours mean. Where the photographs are in it
(save images), data.export.root is its JPEGImages.

    labelmap.txt                      # label:color_rgb:parts:actions
                                      background:0,0,0::
                                      cat:250,50,83::
    SegmentationClass/day1/a.png      of the photograph day1/a.jpg
    SegmentationObject/               one colour an object: not read
    ImageSets/Segmentation/*.txt      default.txt, or the subsets of a project: train.txt, val.txt

    data: {name: own, format: cvat-mask, export: {root: photos, labels: [task_7]}}

`background` is what nobody has drawn; with data.background: none it is void. A photograph that is listed without a mask
is one nobody has labelled. Format: https://docs.cvat.ai/docs/dataset_management/formats/format-smask.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.data import Data
from pipeline.datasets.exports import source_of, trace_of
from pipeline.datasets.files import MASKS, identity, listing
from pipeline.datasets.marked import BACKGROUND, Exported, Marked, Rows, classes_of, split_of, twice, whole_mask
from pipeline.datasets.source import Source, Trace
from pipeline.datasets.tables import lines_of

LABELS, CLASSES, OBJECTS = "labelmap.txt", "SegmentationClass", "SegmentationObject"
LINE = re.compile(r"(.+?)\s*:\s*([0-9]{1,3})\s*,\s*([0-9]{1,3})\s*,\s*([0-9]{1,3})\s*:[^:]*:[^:]*")


def source(data: Data) -> Source:
    return source_of(data, read)


def trace(data: Data) -> Trace:
    return trace_of(data, read)


def recognised(path: Path) -> bool:
    return (path / LABELS).is_file() and (path / CLASSES).is_dir()


def read(labels: Sequence[Path]) -> Exported:
    """All of these folders, each an export."""
    found = Exported()
    for folder in labels:
        if not folder.is_dir():
            found.problems.append(
                f"{folder}: no folder; unpack what CVAT wrote, and name the folder with {LABELS} in it"
            )
        elif not (folder / LABELS).is_file():
            found.problems.append(
                f"{folder / LABELS}: no such file, and nothing else says what colours mean; export it again from CVAT "
                "as Segmentation mask 1.1, or set data.format"
            )
        else:
            read_folder(folder, found)
    found.classes = list(dict.fromkeys(found.classes))
    return found


def read_folder(folder: Path, found: Exported) -> None:
    rows = labelmap(folder / LABELS, found.problems)
    found.classes += classes_of(rows)
    if all(row[-1] != BACKGROUND for row in rows):
        found.no_background = f"{LABELS} has no line `{BACKGROUND}`"
    found.masks += [folder / name for name in (CLASSES, OBJECTS) if (folder / name).is_dir()]
    masks = listing(folder / CLASSES, found.problems, found.notes, MASKS)
    splits = lists(folder, found.problems)
    for name, path in masks.items():
        found.photographs.append(whole_mask((name,), path, rows, splits.pop(name, "")))
    found.photographs += [Marked((name,), str(folder), split=split) for name, split in splits.items()]


def labelmap(path: Path, problems: list[str]) -> Rows:
    """Rows r, g, b, class."""
    rows: Rows = []
    for number, line in enumerate(lines_of(path, problems), 1):
        if not line or line.startswith("#"):
            continue
        parts = LINE.fullmatch(line)
        colour = [int(value) for value in parts.groups()[1:]] if parts else [256]
        if parts is None or max(colour) > 255:
            problems.append(
                f"{path}: line {number}: '{line[:60]}' found, `class:red,green,blue::` expected; export it again"
            )
            continue
        name = " ".join(parts[1].split())
        rows.append([*colour, BACKGROUND if name.casefold() == BACKGROUND else name])
    if not rows:
        problems.append(f"{path}: no line `class:red,green,blue::`; export it again")
    problems += twice(rows, path)
    return rows


def lists(folder: Path, problems: list[str]) -> dict[str, str]:
    """Photograph → its list, train or val; '' for one that stands in another, as default.txt."""
    found: dict[str, str] = {}
    for path in sorted((folder / "ImageSets/Segmentation").glob("*.txt")):
        split = split_of(path.stem)
        for line in lines_of(path, problems):
            name = identity(line.strip('"'))
            if name and found.get(name) not in (None, "", split) and split:
                problems.append(f"{path}: '{name}' is in the list {found[name]} too; keep one")
            elif name:
                found[name] = split or found.get(name, "")
    return found
