"""The table of layouts: how each is read, and which files decide it. Another layout is one module and one line here.

No numpy, no torch: Snakemake asks on every dry run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pipeline.core.data import Data, block_of
from pipeline.datasets import (
    ade20k,
    binary,
    cityscapes,
    coco,
    colours,
    cvat,
    cvat_mask,
    demo,
    exports,
    folder,
    label_studio,
    labelme,
    roboflow,
    voc,
    yolo,
)
from pipeline.datasets.corrections import Reader, corrected
from pipeline.datasets.source import Drawn, Sketch, Source, Trace, thin


class Layout(NamedTuple):
    """recognised: whether a file or folder looks like one, by names and the first bytes."""

    source: Callable[[Data], Source]
    trace: Callable[[Data], Trace]
    recognised: Callable[[Path], bool]


# The order they are tried in, where nobody says which it is: the first that recognises a folder reads it.
LAYOUTS: dict[str, Layout] = {
    "demo": Layout(demo.source, demo.trace, lambda _: False),
    "voc": Layout(voc.source, voc.trace, voc.recognised),
    "folder": Layout(folder.source, folder.trace, folder.recognised),
    "coco": Layout(coco.source, coco.trace, coco.recognised),
    "cvat": Layout(cvat.source, cvat.trace, cvat.recognised),
    "label-studio": Layout(label_studio.source, label_studio.trace, label_studio.recognised),
    "labelme": Layout(labelme.source, labelme.trace, labelme.recognised),
    "yolo": Layout(yolo.source, yolo.trace, yolo.recognised),
    "cvat-mask": Layout(cvat_mask.source, cvat_mask.trace, cvat_mask.recognised),
    "roboflow": Layout(roboflow.source, roboflow.trace, roboflow.recognised),
    "cityscapes": Layout(cityscapes.source, cityscapes.trace, cityscapes.recognised),
    "ade20k": Layout(ade20k.source, ade20k.trace, ade20k.recognised),
    "colours": Layout(colours.source, colours.trace, colours.recognised),
    "binary": Layout(binary.source, binary.trace, binary.recognised),
}
TOOLS = (coco, cvat, label_studio, labelme, yolo, cvat_mask, roboflow)  # that write corrections
READERS = tuple(Reader(tool.recognised, tool.read) for tool in TOOLS)
SKETCH = "sketch {"  # how a note of a mask begins that no file holds: JSON, so that it ends as no mask's name does


def read_source(data: Data) -> Source:
    """The data set these settings describe, with its corrections, reduced to data.share of its training images."""
    source = LAYOUTS[data.format].source(data)
    if data.corrections:
        source = corrected(source, data, READERS)
    return thin(source, data.share) if data.share < 1 and source.splits else source


def absent(data: Data) -> str:
    """That the folder a data set lies in is not there; '' where it is, or will be fetched."""
    if data.format == "voc":
        return "" if data.voc.download and not data.voc.root.exists() else voc.absent(data)
    if data.format == "folder":
        return folder.absent(data)
    return exports.absent(data) if block_of(data.format) == "export" else ""


def root_of(data: Data) -> Path | None:
    """The folder a data set lies in; the built-in one lies in none."""
    return getattr(getattr(data, block_of(data.format)), "root", None)


def place(file: Path | Drawn | Sketch | None, root: Path | None) -> str:
    """A file as the inventory notes it: its path below the root, '' for none."""
    if file is None:
        return ""
    if isinstance(file, Sketch):
        return f"sketch {file.text}"
    if isinstance(file, tuple):
        return "{}/{}".format(*file)
    return file.relative_to(root).as_posix() if root is not None and file.is_relative_to(root) else file.as_posix()


def at(place: str, root: Path | None) -> Path | Drawn | Sketch | None:
    """The file behind a note of the inventory."""
    if not place:
        return None
    if place.startswith(SKETCH) and place.endswith("}"):
        return Sketch(place.removeprefix("sketch "), "a drawn mask")
    if root is None:
        seed, index = map(int, place.split("/"))
        return seed, index
    return root / place
