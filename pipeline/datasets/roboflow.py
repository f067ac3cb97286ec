"""Roboflow's Semantic Segmentation Masks, unpacked: masks beside their photographs, one table in each folder.

    train/a_jpg.rf.0f3a.jpg  train/a_jpg.rf.0f3a_mask.png  train/_classes.csv     Pixel Value, Class
    valid/...  test/...                                                          0, background
                                                                                 1, cat

    data: {name: own, format: roboflow, export: {root: cats.v1, labels: [cats.v1]}}

The hash is a part of the name: copies that Roboflow augmented are photographs of their own. Value 0, what nobody has
drawn, is the background, also where its line says `unlabeled`; with data.background: none it is void. test/ is the
validation list where there is no valid/, and is left out where there is one. Read from files it wrote.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.data import Data
from pipeline.datasets.exports import source_of, trace_of
from pipeline.datasets.files import Left, some, walk
from pipeline.datasets.marked import BACKGROUND, Exported, Rows, classes_of, split_of, twice, whole_mask
from pipeline.datasets.source import Source, Trace
from pipeline.datasets.tables import lines_of

TABLE, MASK = "_classes.csv", "_mask.png"
HEADER = re.compile(r'"?pixel value"?\s*[,;\t]\s*"?class"?', re.IGNORECASE)
LINE = re.compile(r'"?\s*([0-9]{1,3})\s*"?\s*[,;\t]\s*"?(.*?)"?')
UNDRAWN = {BACKGROUND, "unlabeled", "unlabelled"}


def source(data: Data) -> Source:
    return source_of(data, read)


def trace(data: Data) -> Trace:
    return trace_of(data, read)


def recognised(path: Path) -> bool:
    tables = (path / folder / TABLE for folder in ("", "train", "valid", "test"))
    return any(HEADER.fullmatch(next(iter(lines_of(table, [])), "")) for table in tables if table.is_file())


def read(labels: Sequence[Path]) -> Exported:
    """Each folder below these that holds a table; one without masks says nothing."""
    found = Exported()
    for top in labels:
        if not top.is_dir():
            found.problems.append(
                f"{top}: no folder; unpack what Roboflow wrote, and name the folder with train/ in it"
            )
            continue
        try:
            names = sorted(name for name, _ in walk(top, Left()) if name.endswith((MASK, TABLE)))
        except OSError as error:
            found.problems.append(f"{top}: cannot be read ({error.strerror}); check its permissions")
            continue
        tables = {os.path.dirname(name) for name in names if name.rpartition("/")[2] == TABLE}
        masks = [name for name in names if name.endswith(MASK)]
        if lost := [name for name in masks if os.path.dirname(name) not in tables]:
            found.problems.append(
                f"{top}: {len(lost)} masks without a {TABLE} beside them ({some(lost)}), so nothing says what their "
                "values mean; export it again as Semantic Segmentation Masks, or set data.format"
            )
        elif not masks:
            found.problems.append(f"{top}: no file *{MASK}; export it again as Semantic Segmentation Masks")
        splits = {folder: split_of(os.path.basename(folder) or top.name) for folder in tables}
        if "val" not in splits.values():
            splits |= {folder: "val" for folder in tables if os.path.basename(folder) == "test"}
        rows = {folder: table(top / folder / TABLE, found) for folder in sorted(tables)}
        for name in masks:
            folder = os.path.dirname(name)
            if folder in tables:
                found.masks.append(top / name)
                marked = whole_mask((name.removesuffix(MASK),), top / name, rows[folder], splits[folder])
                found.photographs.append(marked)
    found.classes = list(dict.fromkeys(found.classes))
    return found


def table(path: Path, found: Exported) -> Rows:
    """Rows value, class."""
    rows: Rows = []
    for number, line in enumerate(lines_of(path, found.problems), 1):
        parts = LINE.fullmatch(line)
        if not line or (number == 1 and HEADER.fullmatch(line)):
            continue
        name = " ".join(parts[2].split()) if parts else ""
        if parts is None or not name or int(parts[1]) > 255:
            found.problems.append(f"{path}: line {number}: '{line[:60]}' found, `1, cat` expected, of values up to 255")
            continue
        value = int(parts[1])
        undrawn = name.casefold() == BACKGROUND or (value == 0 and name.casefold() in UNDRAWN)
        rows.append([value, BACKGROUND if undrawn else name])
    if not rows:
        found.problems.append(f"{path}: no line as `1, cat`; export it again")
    found.problems += twice(rows, path)
    found.classes += classes_of(rows)
    if all(name != BACKGROUND for _, name in rows):
        found.no_background = f"{path} has no line `0, {BACKGROUND}`"
    return rows
