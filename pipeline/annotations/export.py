"""From a folder of masks to what annotation tools read: each format is written from the masks as they lie there.

So what was interrupted and resumed gives the same bytes as what was not, and memory holds one photograph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.annotations import coco, cvat, labelstudio
from pipeline.annotations.labelled import About, Labelled
from pipeline.core.job import InputError
from pipeline.core.metrics import VOID

WRITERS: dict[str, Callable[[Path, Iterable[Labelled], About], str]] = {
    "coco": coco.write,
    "label-studio": labelstudio.write,
    "cvat": cvat.write,
}
FILES = {"coco": coco.FILES, "label-studio": labelstudio.FILES, "cvat": cvat.FILES}  # what they write


class Masked(NamedTuple):
    """A photograph, its path below the folder given, where its mask lies if there is one, and `Labelled.score`."""

    path: Path
    file: str
    mask: Path
    score: float | None = None


def check(to: Sequence[str], out: Path, about: About, ours: bool) -> None:
    """Refuse before anything is computed what could not be written. ours: whether what lies in `out` is from here."""
    names = [about.names[k] for k in about.objects]
    for name, refused in (("label-studio", labelstudio.refused(names)), ("cvat", cvat.refused(names))):
        if name in to and refused:
            raise InputError(
                f"--to {name}: it cannot hold {refused}; rename it in the data and train again, or leave {name} out"
            )
    there = [out / file for name in to if name in FILES for file in FILES[name] if (out / file).exists()]
    if there and not ours:
        raise InputError(f"--out {out}: {there[0].name} is there already, and not from here; choose another folder")


def discard(out: Path) -> None:
    """Remove the exports of a folder: the masks they were written from are to be made anew."""
    for files in FILES.values():
        for file in files:
            (out / file).unlink(missing_ok=True)


def assemble(
    to: Sequence[str], out: Path, photos: Sequence[Masked], about: About, read: Callable[[Path], np.ndarray]
) -> tuple[list[str], dict[Path, str]]:
    """Write each of the formats from the masks that are there, read by `read` (which raises ValueError with a reason).
    Returns lines that say what was written, and the files left out with the reason."""
    said, failed = list[str](), dict[Path, str]()

    def labelled(name: str) -> Iterator[Labelled]:
        for photo in photos:
            if not photo.mask.is_file():
                continue
            if reason := unwritable(name, photo.file):
                failed[photo.path] = reason
                continue
            try:
                labels = read(photo.mask)
                if (strange := (labels >= len(about.names)) & (labels != VOID)).any():
                    raise ValueError(
                        f"holds {labels[strange].min()}, class ids from 0 to {len(about.names) - 1} or {VOID} "
                        "expected; correct it, or delete it and predict again"
                    )
            except ValueError as error:
                failed[photo.mask] = str(error)
                continue
            yield Labelled(photo.path, photo.file, labels.astype(np.uint8), photo.score)

    for name in [name for name in WRITERS if name in to]:
        said += f"{out / FILES[name][0]}: {WRITERS[name](out, labelled(name), about)}".splitlines()
    return said, failed


def unwritable(to: str, file: str) -> str:
    """Why a format cannot name a photograph; '' where it can."""
    if not file.isprintable() and any("\ud800" <= c <= "\udfff" for c in file):
        return "a name that is not UTF-8; rename it"
    if to == "cvat" and cvat.unlisted(file):
        return "a name that CVAT's list of photographs cannot hold; rename it"
    return ""
