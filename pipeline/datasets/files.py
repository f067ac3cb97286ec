"""Folders of pictures: what lies in them, by name, and what is left out.

Bad data raises nothing here: every finding becomes a line in `problems` (file: what; what to do). No numpy, no torch.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif")  # of photographs
MASKS = (".png",)
FOREIGN = (
    *(".avif", ".gif", ".jfif", ".jp2", ".jpe", ".jxl", ".ppm", ".psd"),
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"),
)  # of pictures that are not read
JPEG = (".jpg", ".jpeg", ".jfif", ".jpe")
SHOWN = 5  # examples in a message
DEEPEST = 100  # folders in each other; more is an accident, and more than Python can follow


def identity(name: str) -> str:
    """'a.jpg' and 'a' are the same picture: people write either. So are the two Unicode forms of é, of which macOS
    writes one and most else the other."""
    stem, suffix = os.path.splitext(name)
    return unicodedata.normalize("NFC", stem if suffix.lower() in SUFFIXES else name)


def printable(name: object) -> str:
    """A name as it can be shown; bytes that are no UTF-8 as \\udc.., line breaks and the like as \\n."""
    text = str(name)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def some(names: Collection[str]) -> str:
    """The first few, as a message shows them."""
    return ", ".join([*list(names)[:SHOWN], *["…"] * (len(names) > SHOWN)])


@dataclass
class Left:
    """What a walk passes by: hidden files and folders, and folders it cannot enter, each with the reason."""

    hidden: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)


def walk(
    folder: Path, left: Left, out: Path | None = None, below: str = "", above: tuple[tuple[int, int], ...] = ()
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All files below a folder, each with its path from there, in no order. Links to folders are followed, but none in
    a circle; `out`, if it lies inside, is not entered. What is neither a file nor a folder is passed by: to open a pipe
    is to wait. Raises OSError where the folder itself cannot be read."""
    about = os.stat(folder)
    here = about.st_dev, about.st_ino
    if here in above:
        left.closed.append(f"{below[:-1]}: a link to a folder that it lies in; remove it")
        return
    if len(above) > DEEPEST:
        left.closed.append(f"{below[:-1]}: more than {DEEPEST} folders deep; move it up, or remove it")
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = below + entry.name
            if entry.name.startswith("."):
                left.hidden.append(name)
            elif not is_folder(entry):
                if is_special(entry):
                    left.closed.append(f"{name}: neither a file nor a folder, but a pipe or a device; remove it")
                else:
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


def is_special(entry: os.DirEntry[str]) -> bool:
    """A pipe, a socket or a device, or a link to one; not a link to nothing."""
    try:
        return not entry.is_file() and os.path.exists(entry.path)
    except OSError:
        return False


def is_pipe(path: Path) -> bool:
    """As `is_special`, of a path that is no folder either."""
    return path.exists() and not path.is_file() and not path.is_dir()


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
        stem = unicodedata.normalize("NFC", stem)
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
        remedy = "rename it to .jpg" if suffix in JPEG else "convert it to .jpg, .png or .tif"
    return printable(f"{path}: {path.suffix} found, {', '.join(suffixes)} expected; {remedy}")


def listing(path: Path, problems: list[str], notes: list[str], suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, Path]:
    """The pictures in a folder and its subfolders by name, their path from there without suffix, sorted. Those of other
    formats are among them, so that nothing but their format is complained of."""
    if not path.is_dir():
        problems.append(f"{path.absolute()}: no such folder")
        return {}
    try:
        seen = see(path, suffixes)
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror}); check its permissions")
        return {}
    notes += seen.notes(path)
    problems += [printable(f"{path}/{line}") for line in sorted(seen.left.closed)]
    problems += [foreign(file, suffixes) for file in seen.foreign.values()]
    problems += [
        printable(f"{file}: '{identity(file.name)}' is also the name of {first.name}; rename one")
        for file, first in seen.twins
    ]
    found = {**seen.found, **seen.foreign}
    wrong = [(name, reason) for name in found if (reason := unusable(name))]
    problems += [printable(f"{found.pop(name)}: a name that {reason}; rename it") for name, reason in wrong]
    return dict(sorted(found.items(), key=lambda item: item[1].parts))


def unusable(name: str) -> str:
    """Why no line of a table could be this name; '' where one can."""
    kinds = {unicodedata.category(letter) for letter in name} if not name.isprintable() else set[str]()
    if "Cs" in kinds:
        return "is not UTF-8"
    if kinds & {"Cc", "Zl", "Zp"}:
        return "holds a line break or the like"
    return "begins or ends with a blank" if name != name.strip() else ""


def is_read(file: object, suffixes: tuple[str, ...]) -> bool:
    """Whether a picture has a format that is read; one that is composed has none."""
    return not isinstance(file, Path) or file.suffix.lower() in suffixes
