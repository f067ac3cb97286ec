"""What an export says, as its module reads it: of each photograph the shapes and tags, or one mask of all classes.

No numpy, no torch: Snakemake asks on every dry run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.datasets.files import unusable

BACKGROUND = "background"
UPLOADED = re.compile(r"(?:.*[/\\])?[0-9a-f]{8}-(?=[^/\\]+$)")  # what Label Studio puts before the names of uploads
VOID = 255  # as in kinds/pixels.py, which takes numpy
LISTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}  # as tools name them


@dataclass
class Marked:
    """What an export says about one photograph. names: what its file may be called, the surest first; messages show the
    shortest. size: height and width as the tool knew them, None where it does not say. shapes: as in
    datasets/shapes.py, with a key `class` in place of `v`, or with `v` where no class is meant, in the order they are
    drawn, or a single whole mask (`whole`); None where nobody has drawn any. tags: said in so many words. split: train,
    val or '' where the export does not say."""

    names: tuple[str, ...]
    where: str
    size: tuple[int, int] | None = None
    shapes: list[dict[str, Any]] | None = None
    tags: tuple[str, ...] = ()
    split: str = ""

    @property
    def name(self) -> str:
        return min(self.names, key=len)


@dataclass
class Exported:
    """An export as read. classes: in the tool's own order, the background among them if it has one. masks: files, and
    folders of files, that are no photographs though they may lie among them. no_background: why no pixel can be the
    background; '' where some can."""

    classes: list[str] = field(default_factory=list)
    photographs: list[Marked] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)
    no_background: str = ""
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Read = Callable[[Sequence[Path]], Exported]


def tags_alone(where: object, left: Mapping[str, int]) -> list[str]:
    """Notes of what draws no mask. left: kind, in the plural → how many there are."""
    return [f"{where}: {count} {kind} draw no mask and count as tags" for kind, count in left.items()]


def odd(name: str) -> str:
    """Why this is no name of a class; '' where it is one."""
    return unusable(name) if name else "is empty"


# ---------------------------------------------------------------------------------------------------- whole masks

Rows = list[list[Any]]  # of a table in datasets/shapes.py, with the name of a class in place of v, None for void


def whole_mask(names: Sequence[str], file: Path, rows: Rows, split: str = "") -> Marked:
    """A photograph with one mask of all classes. BACKGROUND in its rows is what nobody has drawn: void where the data
    set has no background."""
    return Marked(tuple(names), str(file), None, [{"colours": str(file), "classes": rows}], split=split)


def whole(one: Marked) -> bool:
    return one.shapes is not None and len(one.shapes) == 1 and "colours" in one.shapes[0]


def tabled(one: Marked) -> list[str]:
    """The classes in the table of a whole mask: it may show any of them."""
    return classes_of(one.shapes[0]["classes"]) if whole(one) and one.shapes else []


def classes_of(rows: Rows) -> list[str]:
    """The classes a table names, without the background."""
    return [name for name in dict.fromkeys(row[-1] for row in rows) if name not in (None, BACKGROUND)]


def twice(rows: Rows, where: Path) -> list[str]:
    """Findings: colours, or numbers, that a table gives two meanings."""
    first: dict[tuple[int, ...], Any] = {}
    clashes = [(seen, name) for *seen, name in rows if first.setdefault(tuple(seen), name) != name]
    return [
        f"{where}: {','.join(map(str, seen))} is '{first[tuple(seen)] or 'void'}' and '{name or 'void'}'; keep one"
        for seen, name in clashes
    ]


def split_of(*names: str) -> str:
    """The list that a file or a folder is of, by the names tools give them, the likeliest first; '' for none."""
    for name in names:
        words = "".join(letter if letter.isalpha() else " " for letter in name.lower()).split()
        for word, split in LISTS.items():
            if word in words:
                return split
    return ""
