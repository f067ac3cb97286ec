"""Coloured masks and a table of their colours, as CamVid has them: data.export.labels names the table and the folders.

    label_colors.txt                  64 128 64   Animal           or class_dict.csv     name,r,g,b
                                      128 0 0     Building                               Animal,64,128,64
    labels/0001TP_006690_L.png        of the photograph 0001TP_006690.png

    data: {name: camvid, format: colours, background: none, export: {root: images, labels: [label_colors.txt, labels]}}

A line is red, green, blue and name, or name, red, green, blue, separated by blanks, commas, semicolons or tabs; with a
header of r, g, b and name the columns may be others, too. Several colours of one name are one class. A line called
`background` is the background (with data.background: none void); one called void, ignore or unlabelled is void. What
the names of all masks end with, from a `_`, `-` or `.` on, may be missing from those of the photographs. Masks in
folders train, val (train_labels, ...) are those lists.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.data import Data
from pipeline.datasets.exports import source_of, trace_of
from pipeline.datasets.files import MASKS, listing, some
from pipeline.datasets.marked import BACKGROUND, Exported, Rows, classes_of, split_of, twice, whole_mask
from pipeline.datasets.source import Source, Trace
from pipeline.datasets.tables import lines_of

GAP = r"[\s,;]+"
COLOUR = rf"([0-9]{{1,3}}){GAP}([0-9]{{1,3}}){GAP}([0-9]{{1,3}})"
FIRST = re.compile(rf"{COLOUR}{GAP}(\S.*)")
LAST = re.compile(rf"(?:[0-9]+\s*[,;\t]\s*)?(\S.*?){GAP}{COLOUR}")  # a number may stand before the name
NUMBER = re.compile("[0-9]{1,3}")
COLUMNS = ({"r", "red"}, {"g", "green"}, {"b", "blue"}, {"name", "class", "class_name", "label"})
VOIDS = {"void", "ignore", "ignored", "unlabelled", "unlabeled"}


def source(data: Data) -> Source:
    return source_of(data, read)


def trace(data: Data) -> Trace:
    return trace_of(data, read)


def recognised(path: Path) -> bool:
    """A table of colours, or a folder in which one lies."""
    files = [path] if path.is_file() else [*path.glob("*.txt"), *path.glob("*.csv")] if path.is_dir() else []
    return any(file.stat().st_size < 100_000 and is_table(file) for file in files)


def is_table(file: Path) -> bool:
    problems = list[str]()
    return len(table(file, problems)) > 1 and not problems


def read(labels: Sequence[Path]) -> Exported:
    found = Exported()
    tables, folders = ([path for path in labels if path.is_dir() == is_folder] for is_folder in (False, True))
    if len(tables) != 1 or not folders:
        found.problems.append(
            f"{labels[0]}: data.export.labels names {len(tables)} files and {len(folders)} folders; one table of "
            "colours and the folders of masks expected, `labels: [label_colors.txt, labels]`"
        )
        return found
    rows, notes = table(tables[0], found.problems), list[str]()
    voids = sorted({name for *_, name in rows if name.casefold() in VOIDS})
    rows = [[*seen, None if name in voids else name] for *seen, name in rows]
    if voids:
        found.notes.append(f"{tables[0]}: {some(voids)}: taken for void, no class")
    found.problems += twice(rows, tables[0])
    found.classes, found.masks = classes_of(rows), folders
    if all(name != BACKGROUND for *_, name in rows):
        found.no_background = f"no line is called `{BACKGROUND}`"
    masks = {folder: listing(folder, found.problems, notes, MASKS) for folder in folders}
    ends = endings([name for names in masks.values() for name in names])
    for folder, names in masks.items():
        for name, path in names.items():
            meant = [name, *(name.removesuffix(end) for end in ends)]
            found.photographs.append(whole_mask(meant, path, rows, split_of(path.parent.name, folder.name)))
    found.notes += notes
    return found


def table(path: Path, problems: list[str]) -> Rows:
    """Rows r, g, b, name."""
    lines, rows, columns = lines_of(path, problems), list[list[object]](), list[int]()
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        gap = next((sign for sign in ",;\t" if sign in line), None)
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter=gap))] if gap else line.split()
        if not rows and not columns and not any(NUMBER.fullmatch(cell) for cell in cells):
            places = [[n for n, cell in enumerate(cells) if cell.casefold() in names] for names in COLUMNS]
            if all(places):
                columns = [place[0] for place in places]
                continue
        *colour, name = values(line, cells, columns)
        if not name or any(value > 255 for value in colour):
            problems.append(
                f"{path}: line {number}: '{line[:60]}' found, `64 128 64 Animal` or `Animal,64,128,64` expected"
            )
            continue
        rows.append([*colour, BACKGROUND if name.casefold() == BACKGROUND else " ".join(name.split())])
    if not rows:
        problems.append(f"{path}: no line as `64 128 64 Animal` or `Animal,64,128,64`; write one for each colour")
    return rows


def values(line: str, cells: list[str], columns: list[int]) -> tuple[int, int, int, str]:
    """Red, green, blue and name; '' for a line that does not hold them."""
    if columns:
        known = [cells[place] if place < len(cells) else "" for place in columns]
        r, g, b, name = known if all(NUMBER.fullmatch(value) for value in known[:3]) else ("0", "0", "0", "")
    elif parts := FIRST.fullmatch(line):
        r, g, b, name = parts.groups()
    elif parts := LAST.fullmatch(line):
        name, r, g, b = parts.groups()
    else:
        r = g = b = "0"
        name = ""
    return int(r), int(g), int(b), name.strip('" ')


def endings(names: Sequence[str]) -> list[str]:
    """What all of these names, of two masks or more, end with from a separator on; the shortest first."""
    if len(names) < 2:
        return []
    backwards = sorted(name.rpartition("/")[2][::-1] for name in names)
    first, last = backwards[0], backwards[-1]  # what these two share all share
    alike = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    common = first[:alike][::-1]
    return [common[place:] for place in range(len(common) - 1, -1, -1) if common[place] in "_-."]
