"""COCO JSON: one file, or several that stand beside each other (instances_train.json, instances_val.json; or of one
list, say things and stuff, whose shapes are joined).

    images       id, file_name, height, width
    categories   id, name
    annotations  image_id, category_id, segmentation: polygons, run lengths as a list or compressed; iscrowd

Categories come in the order of their ids. Objects are drawn from the largest to the smallest, so that what lies on
another is seen (ours; the format has no order), and crowds before all. An annotation without a segmentation, a mere
box, is a tag. An image without annotations is one nobody has labelled. Format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.core.data import Data
from pipeline.datasets.exports import source_of, trace_of
from pipeline.datasets.marked import Exported, Marked, split_of
from pipeline.datasets.source import Source, Trace

KEYS = ("images", "categories", "annotations")


def source(data: Data) -> Source:
    return source_of(data, read)


def trace(data: Data) -> Trace:
    return trace_of(data, read)


def read(labels: Sequence[Path]) -> Exported:
    """All files; a folder stands for the COCO files in it."""
    found, categories = Exported(), dict[int, str]()
    for path in files_of(labels):
        about = load(path, found.problems)
        if about is not None:
            read_file(path, about, categories, found)
    found.classes = [categories[number] for number in sorted(categories)]
    return found


def recognised(path: Path) -> bool:
    """Whether a file, or one of a folder's, is COCO's: its three lists stand in any order, however large it is."""
    for file in files_of([path]):
        if file.suffix.lower() == ".json" and file.is_file():
            raw = file.read_bytes()
            if all(f'"{key}"'.encode() in raw for key in KEYS) and is_coco(load(file, [])):
                return True
    return False


def files_of(labels: Sequence[Path]) -> list[Path]:
    return [file for path in labels for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]


def is_coco(about: object) -> bool:
    return isinstance(about, dict) and all(isinstance(about.get(key), list) for key in KEYS)


def load(path: Path, problems: list[str]) -> dict[str, Any] | None:
    try:
        about = json.loads(path.read_bytes())
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror}); check what it is and its permissions")
    except (RecursionError, ValueError) as error:
        problems.append(f"{path}: is no JSON ({error}); export it again")
    else:
        if is_coco(about):
            return about
        problems.append(f"{path}: no COCO file: lists {', '.join(KEYS)} expected; export it again, or set data.format")
    return None


def read_file(path: Path, about: dict[str, Any], categories: dict[int, str], found: Exported) -> None:
    """Add what one file says. Entries that are not what the format wants are named, and left out."""
    for entry in about["categories"]:
        try:
            number, name = int(entry["id"]), " ".join(str(entry["name"]).split())
        except (KeyError, TypeError, ValueError):
            found.problems.append(f"{path}: category {entry!r} without an id or a name; export it again")
            continue
        if categories.setdefault(number, name) != name:
            found.problems.append(
                f"{path}: category {number} is '{name}' and '{categories[number]}' in an earlier file; "
                "export them together"
            )
    images, split = dict[Any, Marked](), split_of(path.stem, path.parent.name)
    for entry in about["images"]:
        try:
            key, name = entry["id"], str(entry["file_name"])
            size = (int(entry["height"]), int(entry["width"])) if entry.get("height") and entry.get("width") else None
        except (AttributeError, KeyError, TypeError, ValueError):
            found.problems.append(f"{path}: image {entry!r} without an id or a file_name; export it again")
            continue
        images[key] = Marked((name,), str(path), size, split=split)
    drawn: dict[Any, list[tuple[tuple[int, float], dict[str, Any]]]] = {}
    for entry in about["annotations"]:
        try:
            image, name = images[entry["image_id"]], categories[int(entry["category_id"])]
        except (KeyError, TypeError, ValueError):
            own = entry.get("id") if isinstance(entry, dict) else entry
            found.problems.append(f"{path}: annotation {own!r} of an image or a category that is not there")
            continue
        parts = list(shapes(entry.get("segmentation"), name, image.size))
        if not parts:
            image.tags = tuple(dict.fromkeys([*image.tags, name]))
        order = (0 if entry.get("iscrowd") else 1, -area_of(entry, parts))
        drawn.setdefault(entry["image_id"], []).extend((order, part) for part in parts)
    for key, marked in drawn.items():
        if marked:
            images[key].shapes = [part for _, part in sorted(marked, key=lambda pair: pair[0])]
    found.photographs += images.values()


def shapes(segmentation: Any, name: str, size: tuple[int, int] | None) -> list[dict[str, Any]]:
    """One annotation's segmentation; none of what is neither polygons nor run lengths."""
    if isinstance(segmentation, dict) and "counts" in segmentation:
        return [{"class": name, "rle": segmentation["counts"], "size": segmentation.get("size", size)}]
    if isinstance(segmentation, list):
        rings = [segmentation] if segmentation and isinstance(segmentation[0], int | float) else segmentation
        return [
            {"class": name, "polygon": ring}
            for ring in rings
            if isinstance(ring, list) and len(ring) >= 6 and len(ring) % 2 == 0
        ]
    return []


def area_of(entry: dict[str, Any], parts: list[dict[str, Any]]) -> float:
    """As the file says, or by its polygons: for the order alone."""
    try:
        return float(entry["area"])
    except (KeyError, TypeError, ValueError):
        return sum(abs(ring_area(part["polygon"])) for part in parts if "polygon" in part)


def ring_area(ring: list[float]) -> float:
    points = list(zip(ring[::2], ring[1::2], strict=True))
    return sum(x * v - u * y for (x, y), (u, v) in zip(points, [*points[1:], points[0]], strict=True)) / 2
