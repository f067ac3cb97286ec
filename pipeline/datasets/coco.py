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

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.core.config import shown
from pipeline.core.data import Data
from pipeline.datasets.exports import source_of, trace_of
from pipeline.datasets.marked import Exported, Marked, split_of, tags_alone
from pipeline.datasets.rings import area, number, numbers, size_of
from pipeline.datasets.source import Source, Trace
from pipeline.datasets.written import Unreadable, files_of, json_of, looks

KEYS = ("images", "categories", "annotations")


def source(data: Data) -> Source:
    return source_of(data, read)


def trace(data: Data) -> Trace:
    return trace_of(data, read)


def read(labels: Sequence[Path]) -> Exported:
    """All files; a folder stands for the COCO files in it."""
    found, categories = Exported(), dict[int, str]()
    for path, _ in files_of(labels, ".json"):
        about = load(path, found.problems)
        if about is not None:
            read_file(path, about, categories, found)
    found.classes = [categories[number] for number in sorted(categories)]
    return found


def recognised(path: Path) -> bool:
    """Whether a file, or one of those in a folder, looks like one of these."""
    return looks(path, [".json"], b"{", *(f'"{key}"'.encode() for key in KEYS))


def is_coco(about: object) -> bool:
    return isinstance(about, dict) and all(isinstance(about.get(key), list) for key in KEYS)


def load(path: Path, problems: list[str]) -> dict[str, Any] | None:
    try:
        about = json_of(path)
    except Unreadable as error:
        problems.append(f"{path}: {error}")
    else:
        if is_coco(about):
            return about
        problems.append(f"{path}: no COCO file: lists {', '.join(KEYS)} expected; export it again, or set data.format")
    return None


def read_file(path: Path, about: dict[str, Any], categories: dict[int, str], found: Exported) -> None:
    """Add what one file says. Entries that are not what the format wants are named, and left out."""
    for entry in about["categories"]:
        try:
            own, name = int(entry["id"]), " ".join(str(entry["name"]).split())
        except (KeyError, OverflowError, TypeError, ValueError):
            found.problems.append(f"{path}: category {shown(entry)} without an id or a name; export it again")
            continue
        if categories.setdefault(own, name) != name:
            found.problems.append(
                f"{path}: category {own} is '{name}' and '{categories[own]}' in an earlier file; export them together"
            )
    images, split = dict[Any, Marked](), split_of(path.stem, path.parent.name)
    for entry in about["images"]:
        try:
            key, name = entry["id"], str(entry["file_name"])
            images[key] = Marked((name,), str(path), size_of(entry.get("height"), entry.get("width")), split=split)
        except (AttributeError, KeyError, TypeError, ValueError):
            found.problems.append(f"{path}: image {shown(entry)} without an id or a file_name; export it again")
            continue
    drawn: dict[Any, list[tuple[tuple[int, float], dict[str, Any]]]] = {}
    left = Counter[str]()
    for entry in about["annotations"]:
        try:
            image, name = images[entry["image_id"]], categories[int(entry["category_id"])]
        except (KeyError, OverflowError, TypeError, ValueError):
            which = entry.get("id") if isinstance(entry, dict) else entry
            found.problems.append(f"{path}: annotation {shown(which)} of an image or a category that is not there")
            continue
        try:
            parts = shapes(entry.get("segmentation"), name, image.size)
        except ValueError:
            said = f"annotation {shown(entry.get('id'))} of '{name}'"
            found.problems.append(f"{path}: {said} has points that are no pairs of numbers; export it again")
            parts = []
        else:
            if not parts:
                left["polygons of fewer than three points" if entry.get("segmentation") else "boxes"] += 1
        if not parts:
            image.tags = tuple(dict.fromkeys([*image.tags, name]))
        order = (0 if entry.get("iscrowd") else 1, -area_of(entry, parts))
        drawn.setdefault(entry["image_id"], []).extend((order, part) for part in parts)
    for key, marked in drawn.items():
        if marked:
            images[key].shapes = [part for _, part in sorted(marked, key=lambda pair: pair[0])]
    found.photographs += images.values()
    found.notes += tags_alone(path, left)


def shapes(segmentation: Any, name: str, size: tuple[int, int] | None) -> list[dict[str, Any]]:
    """One annotation's segmentation; none of what has no inside. Raises ValueError where points are none."""
    if isinstance(segmentation, dict) and "counts" in segmentation:
        return [{"class": name, "rle": segmentation["counts"], "size": segmentation.get("size", size)}]
    if isinstance(segmentation, list):
        rings = [segmentation] if segmentation and isinstance(segmentation[0], int | float) else segmentation
        found = [numbers(ring) for ring in rings]
        if any(ring is None or len(ring) % 2 for ring in found):
            raise ValueError
        return [{"class": name, "polygon": ring} for ring in found if ring and len(ring) >= 6]
    return []


def area_of(entry: dict[str, Any], parts: list[dict[str, Any]]) -> float:
    """As the file says, or by its polygons: for the order alone."""
    said = number(entry.get("area"))
    return said if said is not None else sum(abs(area(part["polygon"])) for part in parts if "polygon" in part)
