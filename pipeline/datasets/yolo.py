"""YOLO segmentation: data.yaml, and for each photograph a text file in labels/ in place of images/.

    data:
      name: leaves
      format: yolo
      export: {root: leaves/images, labels: [leaves/data.yaml]}

    leaves/data.yaml                                      leaves/labels/train/p0.txt
    path: .                                               0 0.1 0.2 0.5 0.2 0.5 0.6
    train: images/train                                   1 0.3 0.3 0.4 0.3 0.4 0.5 0.3 0.5
    val: [images/val, more/val.txt]
    names: {0: leaf, 1: stone}

A row is a class and the points of a polygon, in fractions of the width and height of the upright photograph; they are
drawn from the largest to the smallest (ours; the format has no order). A row of a class and four numbers is a box: a
tag. An empty file says that the photograph shows none of the classes, no file that nobody has labelled it. `test` is
not read. Folders that are not where data.yaml says are looked for beside it, as YOLO does.

Source: docs.ultralytics.com/datasets/segment; how paths are found: `check_det_dataset` and `img2label_paths` there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.config import shown
from pipeline.core.data import Data
from pipeline.datasets.exports import source_of, trace_of
from pipeline.datasets.files import FOREIGN, SUFFIXES, some
from pipeline.datasets.marked import Exported, Marked, tags_alone
from pipeline.datasets.rings import area, numbers
from pipeline.datasets.source import Source, Trace
from pipeline.datasets.tables import lines_of
from pipeline.datasets.written import Unreadable, content_of, files_of, looks

SPLITS = ("train", "val")
FAR = 1.0  # how far a point may lie outside a photograph, of its width or height
YAML = (".yaml", ".yml")


@dataclass
class Where:
    """What data.yaml names. classes: name by number. photographs: path without suffix → its label file and its list, of
    folders and lists in their order. decides: folders and files that decide what the data set is."""

    classes: dict[int, str] = field(default_factory=dict)
    photographs: dict[Path, tuple[Path, str]] = field(default_factory=dict)
    decides: list[Path] = field(default_factory=list)


def source(data: Data) -> Source:
    return source_of(data, read, deciding(data.export.labels))


def trace(data: Data) -> Trace:
    return trace_of(data, read, deciding(data.export.labels))


def deciding(labels: Sequence[Path]) -> list[Path]:
    """The folders and lists that the files named here name in turn."""
    found = list[Path]()
    for path, _ in descriptions(labels):
        try:
            found += where(path, []).decides
        except Unreadable:
            continue  # `read` says so
    return list(dict.fromkeys(found))


def read(labels: Sequence[Path]) -> Exported:
    """All files; a folder stands for the YAML files in it."""
    found, classes = Exported(), dict[int, str]()
    for path, _ in descriptions(labels):
        try:
            named = where(path, found.problems)
        except Unreadable as error:
            found.problems.append(f"{path}: {error}")
            continue
        for number, name in named.classes.items():
            if classes.setdefault(number, name) != name:
                found.problems.append(f"{path}: class {number} is '{name}' and '{classes[number]}' in an earlier file")
        left = Counter[str]()
        for photograph, (file, split) in named.photographs.items():
            marked = Marked((photograph.as_posix(), photograph.name), str(path), split=split)
            if file.is_file():
                about = f"{path}: '{file.parent.name}/{file.name}'"
                read_rows(file, named.classes, marked, about, left, found.problems)
            found.photographs.append(marked)
        found.notes += tags_alone(path, left)
    found.classes = [classes[number] for number in sorted(classes)]
    return found


def descriptions(labels: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """The files named, and of those in folders the ones that look like a data.yaml: others may lie beside it."""
    for path in labels:
        inside = [*files_of([path], *YAML)]
        yield from [one for one in inside if recognised(one[0])] or inside


def recognised(path: Path) -> bool:
    """Whether a file, or one of those in a folder, looks like one of these."""
    return looks(path, YAML, b"", b"names:", b"train:")


# ------------------------------------------------------------------------------------------------------- data.yaml


def where(path: Path, problems: list[str]) -> Where:
    """What data.yaml names. Raises Unreadable."""
    try:
        about = yaml.load(content_of(path), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (RecursionError, UnicodeError, ValueError, yaml.YAMLError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"is no YAML ({' '.join(str(error).split())[:200]}); correct it") from None
    if not isinstance(about, dict) or "names" not in about:
        raise Unreadable("no data.yaml of YOLO: `names`, `train` and `val` expected; export it again")
    found = Where(classes_of(about["names"]))
    if "nc" in about and about["nc"] != len(found.classes):
        problems.append(f"{path}: nc is {shown(about['nc'])} and `names` has {len(found.classes)}; correct one of them")
    base = Path(str(about.get("path") or "."))
    bases = [path.parent / base, path.parent]
    for split in SPLITS:
        entries = about.get(split)
        for entry in entries if isinstance(entries, list) else [entries]:
            if not isinstance(entry, str) or not entry:
                if entry is not None:
                    problems.append(f"{path}: {split} is {shown(entry)}; a folder, or a .txt list, expected")
                continue
            place = next((there for there in places(bases, entry) if is_there(there)), None)
            if place is None:
                problems.append(f"{path}: {split}: no folder or list '{entry}'; correct it, or `path`")
            else:
                add(path, place, split, found, bases, problems)
    if not found.photographs and not problems:
        problems.append(f"{path}: names no photograph in train or val; correct it, or `path`")
    return found


def classes_of(names: Any) -> dict[int, str]:
    """Class names by number, from a list or a block. Raises Unreadable."""
    pairs = list(enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, dict) else ())
    for number, name in pairs:
        if not isinstance(number, int) or isinstance(number, bool) or isinstance(name, bool | list | dict | None):
            raise Unreadable(
                f"`names` has {shown(number)}: {shown(name)}, a number and a word expected; write it in quotes"
            )
    if not pairs or min(number for number, _ in pairs) < 0:
        raise Unreadable(f"`names` is {shown(names)}; a list of the classes expected")
    return {number: " ".join(str(name).split()) for number, name in pairs}


def places(bases: Sequence[Path], entry: str) -> Iterator[Path]:
    """Where a folder or list may be meant to lie, as YOLO looks for it."""
    entry = entry.replace("\\", "/")
    for base in bases:
        yield base / entry
        if entry.startswith("../"):
            yield base / entry[3:]


def is_there(place: Path) -> bool:
    """A list; or a folder of photographs, or that of their labels."""
    try:
        return place.is_file() or place.is_dir() or labels_at(place).is_dir()
    except (OSError, ValueError):  # a name that no disk has
        return False


def labels_at(place: Path) -> Path:
    """The last folder `images` in a path is `labels` where labels lie; one without lies beside."""
    parts = list(place.parts)
    if "images" not in parts:
        return place
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def add(path: Path, place: Path, split: str, found: Where, bases: Sequence[Path], problems: list[str]) -> None:
    """The photographs of a folder, whether they lie there or only their labels do, or of a list."""
    if place.is_file():
        found.decides.append(place)
        names, folders = list[Path](), dict[Path, Path | None]()
        for line in lines_of(place, problems):
            own = Path(line.replace("\\", "/"))
            if own.parent not in folders:
                below = str(own.parent).rpartition("images/")
                tried = [base / own.parent for base in (place.parent, *bases)]
                tried += [base / "images" / below[2] for base in bases]
                folders[own.parent] = next((there for there in tried if is_there(there)), None)
            folder = folders[own.parent]
            if folder is not None and own.name:
                names.append(folder / own.name)
            elif own.name:
                problems.append(
                    f"{path}: '{line}' of {place.name} lies in no folder that is here; correct it, or `path`"
                )
        found.decides += [labels_at(folder) for folder in folders.values() if folder is not None]
    else:
        labels = labels_at(place)
        found.decides.append(labels)
        here = [there for there in (place, labels) if there.is_dir()]
        pictures = [file for file, _ in files_of(here[:1], *SUFFIXES, *FOREIGN, below=True)]
        texts = [file for file, _ in files_of(here[-1:], ".txt", below=True) if file.is_relative_to(labels)]
        names = sorted({*pictures, *(place / file.relative_to(labels) for file in texts)})
    for name in names:
        bare = name.with_suffix("")
        _, first = found.photographs.setdefault(bare, (labels_at(name).with_suffix(".txt"), split))
        if first != split:
            problems.append(f"{path}: '{bare.name}' is in {first} and in {split}; keep one")


# ------------------------------------------------------------------------------------------------------------ rows


def read_rows(
    file: Path, classes: dict[int, str], marked: Marked, where: str, left: Counter[str], problems: list[str]
) -> None:
    """What the label file of a photograph says. Rows that are not as YOLO writes them are named, and left out."""
    unread, tags, drawn = list[str](), dict[str, None](), list[dict[str, Any]]()
    rows = [(number, line.split()) for number, line in enumerate(lines_of(file, unread), 1) if line]
    problems += [f"{where} {line.removeprefix(f'{file}: ')}" for line in unread]
    for line, row in rows if not unread else ():
        values = numbers(row[1:])
        whole = row[0].removesuffix(".0")
        name = classes.get(int(whole)) if whole.isdecimal() and len(whole) < 9 else None
        if name is None:
            known = some([f"{number} {one}" for number, one in classes.items()])
            problems.append(f"{where} line {line}: class {shown(row[0])}, one of {known} expected; correct it")
            continue
        pairs = values is not None and len(values) % 2 == 0
        if pairs and values and len(values) > 4 and -FAR <= min(values) <= max(values) <= 1 + FAR:
            drawn.append({"class": name, "polygon": values, "unit": True})
            continue
        tags[name] = None
        if not pairs or not values or len(values) < 4:
            expected = "a class and pairs of numbers"
            problems.append(f"{where} line {line}: {len(row)} entries, {expected} expected; export it again")
        elif len(values) > 4:
            far = shown(max(values, key=abs))
            problems.append(f"{where} line {line}: a point at {far}, fractions of the size expected; export it again")
        else:
            left["boxes"] += 1
    marked.tags = tuple(tags)
    if drawn or not (rows or unread):
        marked.shapes = sorted(drawn, key=lambda shape: -abs(area(shape["polygon"])))
