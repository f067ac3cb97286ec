"""Masks that were corrected elsewhere, laid over a data set of any layout: what an annotation tool wrote about some of
its photographs, or masks of `pipeline.predict` after they were edited.

They replace the data set's own masks, and add to them; lists, tags and classes stay as they are, so that nothing runs
again but what learns from masks. A later file counts before an earlier one. Predictions that nobody has corrected are
no corrections: of an export of tasks only what people drew is taken, of a folder of masks every mask in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pipeline.core.data import Data
from pipeline.datasets.exports import drawn_classes, matched, own_name, read_once, sketch
from pipeline.datasets.files import MASKS, some
from pipeline.datasets.marked import BACKGROUND, Exported, Marked, Read
from pipeline.datasets.source import Source
from pipeline.datasets.tables import unfound

RECORD = "predict.json"  # of a folder of masks: which value is which class


class Reader(NamedTuple):
    recognised: Callable[[Path], bool]
    read: Read


def corrected(source: Source, data: Data, readers: Sequence[Reader]) -> Source:
    """The data set with these masks. What is wrong with them goes to its problems."""
    pictures = {picture.id: picture for picture in source.pictures}
    files = {name: picture.image for name, picture in pictures.items() if isinstance(picture.image, Path)}
    for path in data.corrections:
        export = corrections_in(path, readers)
        source.problems += export.problems
        source.notes += export.notes
        marked, strangers = matched(export.photographs, files, source.problems)
        drawn = {name: one for name, one in marked.items() if one.shapes is not None}
        source.problems += unfound(path, strangers, files, "it is no photograph of the data set; remove it there")
        named = {own_name(name, data) for one in drawn.values() for name in [*drawn_classes(one), *rows_of(one)]}
        if unknown := sorted(named - {*source.classes, BACKGROUND}):
            known = ", ".join(source.classes)
            source.problems.append(
                f"{path}: class {some(unknown)} is none of the data set's ({known}); "
                "rename it there, if these are its corrections"
            )
            continue
        for name, one in drawn.items():
            pictures[name] = replace(pictures[name], mask=sketch(one, files[name], source.classes, data))
        if not export.problems:
            source.notes.append(f"{path}: {len(drawn)} corrected masks")
    source.pictures = [pictures[picture.id] for picture in source.pictures]
    return source


def counted(data: Data, readers: Sequence[Reader]) -> int:
    """How many masks the corrections hold."""
    found = (corrections_in(path, readers) for path in data.corrections)
    return sum(one.shapes is not None for export in found for one in export.photographs)


def corrections_in(path: Path, readers: Sequence[Reader]) -> Exported:
    for recognised, read in (Reader(is_predicted, read_predicted), *readers):
        if path.exists() and recognised(path):
            return read_once(read, [path])
    finding = (
        "nothing that somebody drew in an annotation tool (predictions nobody submitted are none), and no folder of "
    )
    finding = f"{finding}masks with its predict.json" if path.exists() else "no such file or folder"
    return Exported(problems=[f"{path}: {finding}; correct data.corrections (of `start`: --corrections)"])


def rows_of(one: Marked) -> list[str]:
    """The classes in the table of a whole mask."""
    return [row[-1] for shape in one.shapes or () for row in shape.get("classes", ()) if row[-1]]


# ---------------------------------------------------------------------------------------------- predicted, and edited


def is_predicted(path: Path) -> bool:
    return (path / RECORD).is_file()


def read_predicted(paths: Sequence[Path]) -> Exported:
    """Folders of masks as `pipeline.predict` writes them: mode P or L, the values are class ids."""
    found = Exported()
    for path in paths:
        try:
            names = json.loads((path / RECORD).read_text())["classes"]
            rows = [[number, str(name)] for number, name in enumerate(names)] + [[255, None]]
        except (KeyError, OSError, RecursionError, TypeError, ValueError) as error:
            found.problems.append(f"{path / RECORD}: does not say which classes there are ({error}); predict again")
            continue
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in MASKS and "overlays" not in file.relative_to(path).parts:
                shape = {"colours": str(file), "classes": rows}
                found.photographs.append(Marked((file.relative_to(path).as_posix(),), str(file), None, [shape]))
    return found
