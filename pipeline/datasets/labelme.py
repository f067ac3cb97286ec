"""labelme: a JSON file per photograph, in a folder of their own or beside the photographs.

    data:
      name: pets
      format: labelme
      export: {root: photos, labels: [photos]}

    photos/p0.json:
    {"version": "5.5.0", "flags": {"indoors": true},
     "shapes": [{"label": "cat", "shape_type": "polygon", "points": [[10, 4], [30, 4], [30, 24]]},
                {"label": "dog", "shape_type": "mask", "points": [[12, 6], [16, 7]], "mask": "iVBORw0KGgo..."}],
     "imagePath": "p0.jpg", "imageHeight": 480, "imageWidth": 640}

Drawn in the order of the file: polygons, rectangles, circles (the centre and a point of the circle), and masks, a PNG
whose corner is the first of the points. Lines and points are tags, and so are flags of the photograph that are true.
The label `__ignore__` is void and `_background_` the background, as in labelme's own converters. A file with neither
shapes nor true flags says that the photograph shows none of the classes; a photograph without a file is not used.
Classes are the labels found, sorted.

Source: labelme's utils/shape.py, and files written by it.
"""

from __future__ import annotations

import math
import posixpath
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.core.config import shown
from pipeline.core.data import Data
from pipeline.datasets.exports import source_of, trace_of
from pipeline.datasets.marked import BACKGROUND, VOID, Exported, Marked, split_of, tags_alone
from pipeline.datasets.rings import ellipse, rectangle, ring, size_of
from pipeline.datasets.source import Source, Trace
from pipeline.datasets.written import Unreadable, files_of, json_of, looks

LINES = {"line": "lines", "linestrip": "lines", "point": "points", "points": "points"}  # in notes
IGNORED = "__ignore__"


def source(data: Data) -> Source:
    return source_of(data, read)


def trace(data: Data) -> Trace:
    return trace_of(data, read)


def read(labels: Sequence[Path]) -> Exported:
    """All files; a folder stands for the JSON files in it and its subfolders."""
    found, left, classes = Exported(), Counter[str](), set[str]()
    for path, named in files_of(labels, ".json", below=True):
        where = f"{named}: '{path.relative_to(named).as_posix()}'" if path != named else f"{path}: the file"
        try:
            about = json_of(path)
            if not isinstance(about, dict) or not isinstance(about.get("shapes"), list):
                raise Unreadable("is no labelme file: a list `shapes` expected; export it again, or move it away")
        except Unreadable as error:
            found.problems.append(f"{where} {error}")
            continue
        marked = read_file(path, about, where, left, found.problems)
        classes.update(marked.tags, (shape["class"] for shape in marked.shapes or () if "class" in shape))
        found.photographs.append(marked)
    found.classes = sorted(classes)
    found.notes += tags_alone(labels[0], left)
    return found


def recognised(path: Path) -> bool:
    """Whether a file, or one of the first in a folder, looks like one of these."""
    return looks(path, [".json"], b"{", b'"shapes"', b'"imagePath"', below=True)


def read_file(path: Path, about: dict[str, Any], where: str, left: Counter[str], problems: list[str]) -> Marked:
    """What one file says. Shapes that are not as labelme writes them are named, and left out."""
    image = about.get("imagePath")
    own = path.with_suffix("").as_posix()  # where nobody says, or the photograph was renamed with its file
    names = [own]
    if isinstance(image, str) and image.strip():
        image = image.replace("\\", "/")
        names = [posixpath.normpath(f"{path.parent.as_posix()}/{image}"), own, posixpath.normpath(image)]
    marked = Marked(tuple(names), str(path), size_of(about.get("imageHeight"), about.get("imageWidth")))
    marked.split = split_of(path.parent.name)
    flags = about.get("flags")
    tags = {plain(name): None for name, on in (flags.items() if isinstance(flags, dict) else ()) if on is True}
    drawn = list[dict[str, Any]]()
    for shape in about["shapes"]:
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not label.strip():
            problems.append(f"{where} has a shape without a label ({shown(shape)}); export it again")
            continue
        name, kind = plain(label), str(shape.get("shape_type") or "polygon")
        meant = {"v": VOID} if name == IGNORED else {"class": BACKGROUND if name == "_background_" else name}
        if kind not in OUTLINES:
            left[LINES.get(kind, f"shapes of type {shown(kind)}")] += 1
        elif (outline := OUTLINES[kind](shape)) is None:
            problems.append(f"{where} has a {kind} of '{name}' without the points it needs; export it again")
        elif len(outline.get("polygon", range(6))) < 6:
            left["polygons of fewer than three points"] += 1
        else:
            drawn.append({**meant, **outline})
            continue
        tags |= {name: None for name in meant.values() if isinstance(name, str)}
    marked.tags = tuple(tags)
    if drawn or not (tags or about["shapes"]):
        marked.shapes = drawn
    return marked


# -------------------------------------------------------------------------------------------------------- outlines


def polygon(shape: dict[str, Any]) -> dict[str, Any] | None:
    points = ring(shape.get("points"))
    return None if points is None else {"polygon": points}


def box(shape: dict[str, Any]) -> dict[str, Any] | None:
    """Two corners, or all four."""
    points = ring(shape.get("points"))
    if points is None or len(points) not in (4, 8):
        return None
    return {"polygon": rectangle(*points) if len(points) == 4 else points}


def circle(shape: dict[str, Any]) -> dict[str, Any] | None:
    points = ring(shape.get("points"))
    if points is None or len(points) != 4:
        return None
    x, y, u, v = points
    radius = math.hypot(u - x, v - y)
    return {"polygon": ellipse((x, y, radius, radius))}


def crop(shape: dict[str, Any]) -> dict[str, Any] | None:
    points, content = ring(shape.get("points")), shape.get("mask")
    if not points or not isinstance(content, str) or not content:
        return None
    return {"png": content, "at": [round(value) for value in points[:2]]}


OUTLINES = {"polygon": polygon, "rectangle": box, "circle": circle, "mask": crop}


def plain(name: object) -> str:
    """Names of classes, with single blanks."""
    return " ".join(str(name).split())
