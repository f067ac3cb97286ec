"""Reading the small files of a data set: folders of pictures, lists, class names, tables of tags.

Bad data raises nothing here: every finding becomes a line in `problems` (file: what; what to do). No numpy, no torch.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png")  # of photographs
MASKS = (".png",)
FOREIGN = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl", ".ppm", ".psd", ".tif", ".tiff"),
    *(".webp", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"),
)  # of pictures that are not read
JPEG = (".jpg", ".jpeg", ".jfif", ".jpe")


def identity(name: str) -> str:
    """'a.jpg' and 'a' are the same picture: people write either."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name


def printable(name: object) -> str:
    """A name as it can be shown; bytes that are no UTF-8 as \\udc.."""
    return str(name).encode("utf-8", "backslashreplace").decode()


@dataclass
class Left:
    """What a walk passes by: hidden files and folders, and folders it cannot enter, each with the reason."""

    hidden: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)


def walk(
    folder: Path, left: Left, out: Path | None = None, below: str = "", above: tuple[tuple[int, int], ...] = ()
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All files below a folder, each with its path from there, in no order. Links to folders are followed, but none in
    a circle; `out`, if it lies inside, is not entered. Raises OSError where the folder itself cannot be read."""
    about = os.stat(folder)
    here = about.st_dev, about.st_ino
    if here in above:
        left.closed.append(f"{below[:-1]}: a link to a folder that it lies in; remove it")
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = below + entry.name
            if entry.name.startswith("."):
                left.hidden.append(name)
            elif not is_folder(entry):
                yield name, entry
            elif out is None or not out.exists() or not out.samefile(entry.path):
                try:
                    yield from walk(Path(entry.path), left, out, f"{name}/", (*above, here))
                except OSError as error:
                    left.closed.append(f"{name}: cannot be read ({error.strerror}); check its permissions")


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


@dataclass
class Seen:
    """What lies in a folder of pictures and its subfolders. Pictures by name: their path from there without suffix."""

    found: dict[str, Path] = field(default_factory=dict)
    foreign: dict[str, Path] = field(default_factory=dict)  # pictures that are not read, of names not found
    twins: list[tuple[Path, Path]] = field(default_factory=list)  # second, and first, of a name
    other: list[Path] = field(default_factory=list)  # no pictures, or of a name found
    left: Left = field(default_factory=Left)

    def notes(self, folder: Path) -> list[str]:
        """What is left out without harm, a line a kind."""
        kinds: dict[str, list[str]] = {"hidden files and folders": sorted(self.left.hidden)}
        for path in self.other:
            suffix = path.suffix.lower()
            kind = f"{suffix} files" if suffix else "files without a suffix"
            kinds.setdefault(kind, []).append(path.relative_to(folder).as_posix())
        return [
            printable(f"{folder}: {len(names)} {kind} left out ({', '.join(names[:3])}{', …' * (len(names) > 3)})")
            for kind, names in kinds.items()
            if names
        ]


def see(folder: Path, suffixes: tuple[str, ...] = SUFFIXES, out: Path | None = None) -> Seen:
    """Look through a folder of pictures, sorted by name: what `prepare` and `predict` know of it."""
    seen = Seen()
    names = sorted(name for name, _ in walk(folder, seen.left, out))
    for name in names:
        if os.path.splitext(name)[1].lower() not in suffixes:
            continue
        first = seen.found.setdefault(identity(name), folder / name)
        if first != folder / name:
            seen.twins.append((folder / name, first))
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in suffixes:
            continue
        if suffix.lower() in SUFFIXES + FOREIGN and stem not in seen.found:
            seen.foreign.setdefault(stem, folder / name)
        else:
            seen.other.append(folder / name)
    return seen


def foreign(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> str:
    """What to do about a picture of a format that is not read."""
    suffix = path.suffix.lower()
    if suffixes == MASKS:
        remedy = "JPEG blurs class numbers, export it again" if suffix in JPEG else "convert it without loss"
    else:
        remedy = "rename it to .jpg" if suffix in JPEG else "convert it to .jpg or .png"
    return printable(f"{path}: {path.suffix} found, {' or '.join(suffixes)} expected; {remedy}")


def listing(path: Path, problems: list[str], notes: list[str], suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, Path]:
    """The pictures in a folder and its subfolders by name, their path from there without suffix, sorted. Those of other
    formats are among them, so that nothing but their format is complained of."""
    if not path.is_dir():
        problems.append(f"{path.absolute()}: no such folder")
        return {}
    seen = see(path, suffixes)
    notes += seen.notes(path)
    problems += [printable(f"{path}/{line}") for line in sorted(seen.left.closed)]
    problems += [foreign(file, suffixes) for file in seen.foreign.values()]
    problems += [
        printable(f"{file}: '{identity(file.name)}' is also the name of {first.name}; rename one")
        for file, first in seen.twins
    ]
    nameless = [name for name in (*seen.found, *seen.foreign) if printable(name) != name]
    found = {**seen.found, **seen.foreign}
    problems += [printable(f"{found.pop(name)}: a name that is not UTF-8; rename it") for name in nameless]
    return dict(sorted(found.items(), key=lambda item: item[1]))


def is_read(file: object, suffixes: tuple[str, ...]) -> bool:
    """Whether a picture has a format that is read; one that is composed has none."""
    return not isinstance(file, Path) or file.suffix.lower() in suffixes


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
