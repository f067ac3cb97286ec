"""ADE20K as of the scene parsing challenge (ADEChallengeData2016): 150 classes, 0 is void, and there is no background.

    images/training/ADE_train_00000001.jpg
    annotations/training/ADE_train_00000001.png      annotations/validation/...
    objectInfo150.txt      Idx  Ratio   Train  Val   Stuff  Name         (tabs between them)
                           1    0.1576  11664  1172  1      wall
                           2    0.1072  6046   612   1      building, edifice

    data: {name: scenes, format: ade20k, export: {root: ADE/images, labels: [ADE]}}

A class is called by the first of its names, or by all where two share the first. Value 0 is what nobody has named.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.data import Data
from pipeline.datasets.exports import source_of, trace_of
from pipeline.datasets.files import MASKS, listing
from pipeline.datasets.marked import Exported, Rows, classes_of, split_of, twice, whole_mask
from pipeline.datasets.source import Source, Trace
from pipeline.datasets.tables import lines_of

NUMBER = re.compile("[0-9]{1,3}")
INFO, MASKED = "objectInfo150.txt", "annotations"


def source(data: Data) -> Source:
    return source_of(data, read)


def trace(data: Data) -> Trace:
    return trace_of(data, read)


def recognised(path: Path) -> bool:
    top = path.parent if path.name == MASKED else path
    return (top / INFO).is_file() and (top / MASKED).is_dir()


def read(labels: Sequence[Path]) -> Exported:
    found = Exported(no_background="ADE20K has no background, 0 is void")
    for path in labels:
        top = path.parent if path.name == MASKED else path
        if not (top / MASKED).is_dir():
            found.problems.append(f"{top / MASKED}: no such folder; name the one with {MASKED}/ and {INFO} in it")
        elif not (top / INFO).is_file():
            found.problems.append(
                f"{top / INFO}: no such file, which names the classes; copy it there, it is in the archive"
            )
        else:
            rows = info(top / INFO, found.problems)
            found.classes += classes_of(rows)
            found.masks.append(top / MASKED)
            for name, mask in listing(top / MASKED, found.problems, found.notes, MASKS).items():
                found.photographs.append(whole_mask((name,), mask, rows, split_of(*reversed(name.split("/")[:-1]))))
    found.classes = list(dict.fromkeys(found.classes))
    return found


def info(path: Path, problems: list[str]) -> Rows:
    """Rows value, class."""
    named: list[tuple[int, list[str]]] = []
    for number, line in enumerate(lines_of(path, problems), 1):
        cells = [cell.strip() for cell in line.split("\t")]
        names = [" ".join(name.split()) for name in cells[-1].split(",") if name.strip()]
        if not line or (number == 1 and cells[0].lower() == "idx"):
            continue
        if len(cells) < 2 or not NUMBER.fullmatch(cells[0]) or not 0 < int(cells[0]) < 255 or not names:
            problems.append(
                f"{path}: line {number}: '{line[:60]}' found, a number and names with tabs between expected"
            )
            continue
        named.append((int(cells[0]), names))
    if not named:
        problems.append(f"{path}: no class; copy it again")
    shared = Counter(names[0] for _, names in named)
    rows: Rows = [[value, names[0] if shared[names[0]] == 1 else " / ".join(names)] for value, names in named]
    problems += twice(rows, path)
    return [[0, None], *rows]
