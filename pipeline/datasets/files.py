"""Reading the small files of a data set: folders of pictures, lists, class names, tables of tags.

Bad data raises nothing here: every finding becomes a line in `problems` (file: what; what to do). No numpy, no torch.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png")  # of photographs
FOREIGN = (".bmp", ".gif", ".heic", ".tif", ".tiff", ".webp")


def identity(name: str) -> str:
    """'a.jpg' and 'a' are the same picture: people write either."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name


def printable(name: str) -> str:
    """A name as it can be shown; bytes that are no UTF-8 as \\udc.."""
    return name.encode("utf-8", "backslashreplace").decode()


def listing(path: Path, problems: list[str], suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, Path]:
    """The pictures in a folder by name without suffix, sorted. Other files are let be, unless they are pictures too."""
    if not path.is_dir():
        problems.append(f"{path}: no such folder")
        return {}
    found: dict[str, Path] = {}
    for name in sorted(entry.name for entry in os.scandir(path) if not is_folder(entry)):
        suffix = os.path.splitext(name)[1].lower()
        if name.startswith(".") or suffix not in SUFFIXES + FOREIGN:
            continue
        if printable(name) != name:
            problems.append(f"{path}/{printable(name)}: a name that is not UTF-8; rename it")
            continue
        if suffix not in suffixes:
            problems.append(f"{path / name}: {suffix} found, {' or '.join(suffixes)} expected; convert it without loss")
            continue
        first = found.setdefault(identity(name), path / name)
        if first.name != name:
            problems.append(f"{path / name}: '{identity(name)}' is also the name of {first.name}; rename one")
    return found


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def lines_of(path: Path) -> list[str]:
    """Lines without blanks at their ends. A byte order mark is dropped; other foreign bytes end as unknown names."""
    return [line.strip() for line in path.read_text("utf-8-sig", errors="replace").splitlines()]


def read_list(path: Path, problems: list[str]) -> list[str]:
    """One picture per line."""
    if not path.is_file():
        others = ", ".join(sorted(other.stem for other in path.parent.glob("*.txt"))) or "none"
        problems.append(f"{path}: no such list; lists there: {others}")
        return []
    counts = Counter(names_in(path))
    problems += [f"{path}: '{name}' is listed {n} times; keep one" for name, n in counts.items() if n > 1]
    if not counts:
        problems.append(f"{path}: empty; one image name per line expected")
    return list(counts)


def names_in(path: Path) -> list[str]:
    """The pictures a list names, as often as it does; none where it cannot be read."""
    try:
        return [identity(line) for line in lines_of(path) if line]
    except OSError:
        return []


def read_classes(path: Path, problems: list[str]) -> list[str]:
    """One class per line; the line number, from 0, is the mask value."""
    names = path.read_text("utf-8-sig", errors="replace").strip().splitlines()
    names = [name.strip() for name in names]
    for name, n in Counter(names).items():
        if not name or n > 1:
            problems.append(
                f"{path}: {f'{name!r} stands on {n} lines' if name else 'a line is empty'}; one class per line expected"
            )
    if not 2 <= len(names) <= 255:
        problems.append(f"{path}: {len(names)} classes; 2 to 255 expected, the background, if there is one, first")
    return names


def read_tags(path: Path, problems: list[str]) -> dict[str, tuple[str, ...]]:
    """tags.csv: header `image,tags`, then a line per image, tags separated by spaces. Image names come out without
    their suffix; folders in them stay."""
    if not path.is_file():
        problems.append(f"{path}: no such file; write a header `image,tags` and a line `photo1,cat dog` per image")
        return {}
    lines = lines_of(path)
    if next(csv.reader(lines[:1]), []) != ["image", "tags"]:
        problems.append(f"{path}: the first line is '{lines[0] if lines else ''}'; `image,tags` expected")
        return {}
    tags: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines[1:], 2):
        try:
            row = next(csv.reader([line], strict=True), None)
        except csv.Error as error:
            problems.append(f'{path}: line {number}: {error}; close its quotes, `name,"tag tag"` expected')
            continue
        if not row:
            continue
        name = identity(row[0].strip())
        if name in tags:
            problems.append(f"{path}: line {number}: '{name}' has a line already; keep one")
        elif len(row) != 2:
            problems.append(f"{path}: line {number}: {len(row)} columns; `name,tag tag` expected")
        tags.setdefault(name, tuple(row[1].split()) if len(row) > 1 else ())
    return tags
