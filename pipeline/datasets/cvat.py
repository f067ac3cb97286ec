"""CVAT for images 1.1: annotations.xml, the folder it lies in, or the .zip as CVAT hands it out.

    data:
      name: street
      format: cvat
      export: {root: photos, labels: [annotations.xml]}

    <annotations>
      <version>1.1</version>
      <meta><task><labels><label><name>cat</name></label><label><name>dog</name></label></labels></task></meta>
      <image id="0" name="p0.jpg" subset="Train" width="640" height="480">
        <tag label="dog"/>
        <polygon label="cat" points="10.0,4.0;30.0,4.0;30.0,24.0" z_order="0"/>
        <mask label="dog" rle="3, 5, 2" left="12" top="6" width="5" height="2" z_order="1"/>
        <ellipse label="cat" cx="40" cy="20" rx="9" ry="4" rotation="30" z_order="0"/>
      </image>
    </annotations>

Polygons, masks and ellipses are drawn by their z_order, then in the order of the file, as CVAT shows them. The run
lengths of a mask go row by row through its box, the first is outside. Boxes, polylines, points and the like are tags.
An image without any element is one nobody has labelled. Classes come in the order of the task's labels.

Source: docs.cvat.ai, "XML annotation format"; datumaro's reader of it for run lengths.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from pipeline.core.config import shown
from pipeline.core.data import Data
from pipeline.datasets.exports import source_of, trace_of
from pipeline.datasets.files import some
from pipeline.datasets.marked import Exported, Marked, split_of, tags_alone
from pipeline.datasets.rings import ellipse, number, numbers, ring, size_of
from pipeline.datasets.source import Source, Trace
from pipeline.datasets.written import Unreadable, content_of, files_of, looks, packed, xml_of

FILE = "annotations.xml"
DRAWN = ("polygon", "mask", "ellipse")
ALONE = {"box": "boxes", "polyline": "polylines", "points": "sets of points", "cuboid": "cuboids"}  # in notes
ELLIPSE = ("cx", "cy", "rx", "ry")


def source(data: Data) -> Source:
    return source_of(data, read)


def trace(data: Data) -> Trace:
    return trace_of(data, read)


def read(labels: Sequence[Path]) -> Exported:
    """All files; a folder stands for the XML files in it, or else for the archives."""
    found = Exported()
    for path in files(labels):
        try:
            content = packed(path, FILE) if path.suffix.lower() == ".zip" else content_of(path)
            read_file(path, xml_of(content), found)
        except Unreadable as error:
            found.problems.append(f"{path}: {error}")
    return found


def files(labels: Sequence[Path]) -> Iterator[Path]:
    for path in labels:
        inside = [file for file, _ in files_of([path], ".xml")] or [file for file, _ in files_of([path], ".zip")]
        yield from inside


def recognised(path: Path) -> bool:
    """Whether a file, or one of those in a folder, looks like one of these."""
    return looks(path, [".xml"], b"<", b"<annotations", b"<image") or any(packs(file) for file in files([path]))


def packs(path: Path) -> bool:
    if path.suffix.lower() != ".zip" or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] == FILE for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def read_file(path: Path, root: Element, found: Exported) -> None:
    """Add what one file says. What is not as CVAT writes it is named, and left out. Raises Unreadable where all of it
    is something else."""
    images = root.findall("image")
    if root.find("track") is not None:
        raise Unreadable("is CVAT for video; export it again as 'CVAT for images 1.1'")
    if root.tag != "annotations" or not images:
        raise Unreadable("no CVAT file: images in a block <annotations> expected; export it as 'CVAT for images 1.1'")
    named = [node for node in root.iterfind("meta//labels/label") if node.find("parent") is None]  # not parts of others
    labels = [plain(node.findtext("name")) for node in named]
    left, used = Counter[str](), set[str]()
    for image in images:
        name = image.get("name", "")
        if not name.strip():
            found.problems.append(f"{path}: image {shown(image.get('id'))} without a name; export it again")
            continue
        size = size_of(image.get("height"), image.get("width"))
        if size is None:
            said = f"width {shown(image.get('width'))} and height {shown(image.get('height'))}"
            found.problems.append(f"{path}: '{name}' has {said}, numbers above 0 expected; export it again")
            continue
        subset = image.get("subset", "default")
        split = split_of(path.stem, path.parent.name) if subset == "default" else split_of(subset)
        marked = Marked((name,), str(path), size, split=split)
        read_image(image, marked, labels, left, found.problems)
        used.update(marked.tags, (shape["class"] for shape in marked.shapes or ()))
        found.photographs.append(marked)
    found.classes = list(dict.fromkeys([*found.classes, *(labels or sorted(used))]))
    found.notes += tags_alone(path, left)


def read_image(image: Element, marked: Marked, labels: list[str], left: Counter[str], problems: list[str]) -> None:
    """What the elements of an image say."""
    drawn, tags = list[tuple[float, dict[str, Any]]](), dict[str, None]()
    where = f"{marked.where}: '{marked.name}'"
    for element in image:
        label = plain(element.get("label"))
        if not label or (labels and label not in labels):
            known = f"one of {some(labels)}" if labels else "a name"
            problems.append(f"{where} has a <{element.tag}> of the label '{label}', {known} expected; export it again")
        elif element.tag in DRAWN:
            shape = outline(element)
            if shape is None:
                problems.append(f"{where} has a <{element.tag}> of '{label}' whose numbers are none; export it again")
                tags[label] = None
            elif len(shape.get("polygon", range(6))) < 6:
                left["polygons of fewer than three points"] += 1
                tags[label] = None
            else:
                drawn.append((number(element.get("z_order")) or 0, {"class": label, **shape}))
        else:
            if element.tag != "tag":
                left[ALONE.get(element.tag, f"elements <{element.tag}>")] += 1
            tags[label] = None
    marked.tags = tuple(tags)
    if drawn:
        marked.shapes = [shape for _, shape in sorted(drawn, key=lambda pair: pair[0])]


def outline(element: Element) -> dict[str, Any] | None:
    """The shape of an element, as in datasets/shapes.py; None where its numbers are none."""
    if element.tag == "polygon":
        points = ring([pair.split(",") for pair in element.get("points", "").split(";")])
        return None if points is None else {"polygon": points}
    if element.tag == "ellipse":
        sizes = numbers([element.get(key) for key in ELLIPSE])
        return None if sizes is None else {"polygon": ellipse(sizes, number(element.get("rotation")) or 0)}
    runs = numbers(element.get("rle", "").split(","))
    box = numbers([element.get(key) for key in ("left", "top", "width", "height")])
    if runs is None or box is None or not all(value.is_integer() for value in (*runs, *box)):
        return None
    return {"runs": [int(run) for run in runs], "box": [int(value) for value in box]}


def plain(name: str | None) -> str:
    """Names of classes, with single blanks."""
    return " ".join((name or "").split())
