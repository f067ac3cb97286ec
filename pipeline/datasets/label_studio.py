"""Label Studio: JSON (all of it), JSON-MIN, CSV or TSV.

    data:
      name: ward
      format: label-studio
      export: {root: photos, labels: [project-1.json]}

    [{"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-p0.jpg"},
      "annotations": [{"id": 5, "was_cancelled": false, "ground_truth": false, "updated_at": "2026-01-01T10:00:00Z",
        "result": [{"type": "choices", "from_name": "kind", "to_name": "image", "value": {"choices": ["dog"]}},
                   {"type": "polygonlabels", "original_width": 640, "original_height": 480, "image_rotation": 0,
                    "value": {"points": [[1.5, 0.8], [4.7, 0.8], [4.7, 5.0]], "polygonlabels": ["cat"]}}]}]}]

Polygons, ellipses (both in percent of the size), brush regions and bitmasks are drawn in the order of the results.
Choices are tags, and so are boxes and key points. Of several annotations of a task the ground truth counts, or else the
latest that was not skipped. One without any result says that the photograph shows none of the classes; a task without
an annotation is one nobody has labelled; predictions are no annotations. Classes are the labels found, sorted.

JSON-MIN and CSV do not say which columns controls have written: here those with regions or choices, and those of words
of which some return, but not one throughout (ours); which were taken is noted. Nor do they keep the order of regions of
several controls, which are drawn in that of the columns.

Photographs: what an upload puts before a name is left out where no file has it; `?d=` of local files and the percent
signs of addresses are resolved. Source: labelstud.io/guide/export and /tags; label-studio-sdk,
converter/exports/csv2.py and brush.py.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.core.config import shown
from pipeline.core.data import Data
from pipeline.datasets.exports import source_of, trace_of
from pipeline.datasets.marked import Exported, Marked, split_of, tags_alone
from pipeline.datasets.rings import ellipse, number, numbers, ring, size_of
from pipeline.datasets.source import Source, Trace
from pipeline.datasets.studio_tasks import LABELS, TABLES, Results, tasks
from pipeline.datasets.written import Unreadable, files_of, looks

COLUMNS = (b"annotation_id", b"annotator", b"lead_time")  # of every table
DRAWN = {"points", "rle", "imageDataURL", "radiusX"}  # in a value that draws a mask


def source(data: Data) -> Source:
    return source_of(data, read)


def trace(data: Data) -> Trace:
    return trace_of(data, read)


def read(labels: Sequence[Path]) -> Exported:
    """All files; a folder stands for the JSON and CSV files in it."""
    found, classes = Exported(), set[str]()
    for path, _ in files_of(labels, ".json", *TABLES):
        alone, left, split = Counter[str](), Counter[str](), split_of(path.stem, path.parent.name)
        try:
            for task, names, results in tasks(path, found):
                marked = Marked(names, str(path), split=split)
                if results is not None:
                    where = f"{path}: task {task}, '{marked.name}',"
                    read_results(results, marked, where, alone, left, found.problems)
                classes.update(marked.tags, (shape["class"] for shape in marked.shapes or ()))
                found.photographs.append(marked)
        except Unreadable as error:
            found.problems.append(f"{path}: {error}")
        found.notes += tags_alone(path, alone)
        found.notes += [f"{path}: {count} {kind} left out" for kind, count in left.items()]
    found.classes = sorted(classes)
    return found


def recognised(path: Path) -> bool:
    """Whether a file, or one of those in a folder, looks like one of these."""
    full = looks(path, [".json"], b"[", b'"data"', b'"annotations"')
    return full or looks(path, [".json"], b"[", b'"annotation_id"') or looks(path, TABLES, b"", *COLUMNS)


# --------------------------------------------------------------------------------------------------------- results


def read_results(
    results: Results, marked: Marked, where: str, alone: Counter[str], left: Counter[str], problems: list[str]
) -> None:
    """What an annotation says of a photograph. Regions that are not as the tool writes them are named, and left out."""
    tags, drawn = dict[str, None](), list[dict[str, Any]]()
    named = {result.get("id") for result in results if labels_of(result)}
    for result in results:
        kind, value, names = str(result.get("type")), result.get("value"), labels_of(result)
        if not isinstance(value, dict) or not names:
            if result.get("id") not in named or result.get("id") is None:
                left[f"results of type {shown(kind)} without a label"] += 1
            continue
        shape = {key for key in DRAWN if key in value}
        if kind == "choices" and (shape or "x" in value):
            left["choices of single regions"] += 1
        elif not shape:
            if kind != "choices":
                alone[{"rectanglelabels": "boxes", "keypointlabels": "points"}.get(kind, f"regions of {kind}")] += 1
            tags |= dict.fromkeys(names)
        else:
            size = size_of(result.get("original_height"), result.get("original_width"))
            if marked.size is None:
                marked.size = size
            try:
                if (number(result.get("image_rotation")) or 0) % 360:
                    raise ValueError("was drawn on a turned picture (image_rotation); turn the photograph itself")
                if size is not None and size != marked.size:
                    raise ValueError("is of another size of the photograph; export it again")
                outline = outlined(value, size)
            except ValueError as error:
                problems.append(f"{where} has a {kind} of '{names[0]}' that {error}")
                tags |= dict.fromkeys(names)
                continue
            tags |= dict.fromkeys(names[1:])
            if len(outline.get("polygon", range(6))) < 6:
                alone["polygons of fewer than three points"] += 1
                tags[names[0]] = None
            else:
                drawn.append({"class": names[0], **outline})
    marked.tags = tuple(tags)
    if drawn or not results:
        marked.shapes = drawn


def labels_of(result: dict[str, Any]) -> list[str]:
    """The labels of a region, or the choices of a photograph."""
    value, kind = result.get("value"), result.get("type")
    names = value.get(kind) if isinstance(value, dict) and kind in ("choices", *LABELS) else None
    return [" ".join(name.split()) for name in strings(names) if name.strip()]


def strings(values: Any) -> Iterable[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else ()


def outlined(value: dict[str, Any], size: tuple[int, int] | None) -> dict[str, Any]:
    """A region as in datasets/shapes.py. Raises ValueError where it is none."""
    again = "; export it again"
    if "points" in value:
        points = ring(value["points"])
        if points is None:
            raise ValueError(f"has points that are none{again}")
        return {"polygon": [part / 100 for part in points], "unit": True}
    if "imageDataURL" in value:
        head, _, content = str(value["imageDataURL"]).partition(",")
        if not head.endswith("base64") or not content:
            raise ValueError(f"has no picture in its imageDataURL{again}")
        return {"png": content, "at": [0, 0]}
    if size is None:
        raise ValueError(f"lacks original_width and original_height, numbers above 0{again}")
    if "radiusX" in value:
        sizes = numbers([value.get(key) for key in ("x", "y", "radiusX", "radiusY")])
        if sizes is None:
            raise ValueError(f"has radii that are none{again}")
        scaled = [part * size[1 - place % 2] / 100 for place, part in enumerate(sizes)]
        return {"polygon": ellipse(scaled, number(value.get("rotation")) or 0)}
    try:
        stream = bytes([*value["rle"]])
    except (TypeError, ValueError):
        raise ValueError(f"has run lengths that are no numbers from 0 to 255{again}") from None
    return {"brush": base64.b64encode(stream).decode(), "size": list(size)}
