"""One mask a class, of 0 and 1 or of 0 and 255 (of a mask with transparency: what is not transparent).

    masks/cat/a.png  masks/dog/a.png      a folder a class; or, where PNGs lie in the folder itself,
    masks/a_cat.png  masks/a_dog.png      the class behind the last `_`

    data: {name: own, format: binary, export: {root: photos, labels: [masks]}}

Classes come in the order of their names. Where masks overlap, the later class lies on top (ours). A class of which a
photograph has no file is not in it; a photograph without any is one nobody has labelled. A folder called background is
drawn first. Folders train, val named in data.export.labels are those lists: `labels: [masks/train, masks/val]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.core.data import Data
from pipeline.datasets.exports import source_of, trace_of
from pipeline.datasets.files import MASKS, listing, some
from pipeline.datasets.marked import BACKGROUND, Exported, Marked, split_of
from pipeline.datasets.source import Source, Trace


def source(data: Data) -> Source:
    return source_of(data, read)


def trace(data: Data) -> Trace:
    return trace_of(data, read)


def recognised(path: Path) -> bool:
    """A folder a class, of nothing but masks of two values: the first mask of the first three classes is opened. Masks
    that lie in one folder, the class in their names, look like any others."""
    from pipeline.datasets.pictures import open_picture

    if not path.is_dir() or any(file.is_file() for file in path.iterdir()):
        return False
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
    files = [sorted(file for file in folder.rglob("*") if file.is_file()) for folder in folders]
    if not files or not all(masks and all(mask.suffix.lower() in MASKS for mask in masks) for masks in files):
        return False
    try:
        for masks in files[:3]:
            with open_picture(masks[0]) as image:
                seen = (image if image.mode == "P" else image.convert("L")).getcolors(2) or ((0, -1),)
            if not {value for _, value in seen} <= {0, 1} and not {value for _, value in seen} <= {0, 255}:
                return False
    except Exception:
        return False
    return True


def read(labels: Sequence[Path]) -> Exported:
    found, drawn = Exported(masks=list(labels)), dict[tuple[Path, str], dict[str, Path]]()
    for folder in labels:
        if not folder.is_dir():
            found.problems.append(f"{folder}: no folder; name the folder that holds a folder of masks for each class")
            continue
        flat = any(path.suffix.lower() in MASKS for path in folder.iterdir())
        for name, path in listing(folder, found.problems, found.notes, MASKS).items():
            kind, _, photograph = name.partition("/")
            if flat:
                photograph, _, kind = name.rpartition("_")
            if not photograph or not kind or "/" in kind:
                found.problems.append(f"{path}: no class in its name; cat/a.png or a_cat.png expected, rename it")
                continue
            kind = BACKGROUND if kind.casefold() == BACKGROUND else kind
            drawn.setdefault((folder, photograph), {})[kind] = path
    found.classes = sorted({kind for masks in drawn.values() for kind in masks}, key=order)
    if len(found.classes) > 1:
        found.notes.append(f"{labels[0]}: where masks overlap the later class lies on top: {some(found.classes)}")
    for (folder, photograph), masks in drawn.items():
        shapes = [{"class": kind, "bitmap": str(masks[kind])} for kind in sorted(masks, key=order)]
        found.photographs.append(Marked((photograph,), str(folder), None, shapes, split=split_of(folder.name)))
    return found


def order(kind: str) -> tuple[bool, str]:
    return kind != BACKGROUND, kind
