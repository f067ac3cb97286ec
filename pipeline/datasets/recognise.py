"""What a folder is, for `pipeline.start`: which layout, where its photographs lie, how large they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.core.data import EXPORTS, LARGEST
from pipeline.core.job import InputError
from pipeline.datasets import folder
from pipeline.datasets.files import SUFFIXES, printable, see, some
from pipeline.datasets.layouts import LAYOUTS

LOOKED_AT = 200  # photographs whose size decides how large they are stored
ON_CPU, ON_GPU = 320, 512  # pixels, of the longer side as stored, at most


def found_layout(photographs: Path, labels: Sequence[Path], stated: str | None) -> tuple[str, dict[str, Any]]:
    """The layout and its block of settings.

    Raises InputError where nothing says what the photographs show.
    """
    if missing := [path for path in (photographs, *labels) if not path.exists()]:
        raise InputError("\n  ".join(["not there:", *(printable(path.absolute()) for path in missing)]))
    if not photographs.is_dir():
        raise InputError(f"{printable(photographs)}: a file; name the folder that the photographs lie in")
    candidates = labels or [photographs, *sorted(photographs.iterdir()), *sorted(photographs.glob("*/*.json"))]
    tried = [stated] if stated else [name for name in LAYOUTS if name in EXPORTS or not labels]
    if not labels:
        if photographs.name == "images" and "folder" in tried and LAYOUTS["folder"].recognised(photographs.parent):
            photographs = photographs.parent
        for name in ("voc", "folder"):
            if name in tried and (stated or LAYOUTS[name].recognised(photographs)):
                return name, {"root": str(photographs), **(lists_of(photographs) if name == "voc" else {})}
    for name in tried:
        found = [path for path in candidates if LAYOUTS[name].recognised(path)] if name in EXPORTS else []
        found = [path for path in found if not {*path.parents} & {*found}] or ([*labels] if stated in EXPORTS else [])
        if found:
            return name, {"root": str(pictures_of(photographs)), "labels": [str(path) for path in labels or found]}
    if not labels and len(classes := folder.sorted_in(photographs)) > 1:
        print(f"The folders are taken for tags: {some(classes)}")
        return "folder", {"root": str(photographs), "tags": "folders"}
    if not see(pictures_of(photographs)).found:
        raise InputError(f"{printable(photographs)}: no photographs here ({', '.join(SUFFIXES)} expected)")
    expected = f"an export of {', '.join(EXPORTS)}" if labels else "tags.csv beside images/, masks/, or an export"
    where = ", ".join(map(str, labels)) or str(photographs)
    raise InputError(
        f"{printable(where)}: nothing here says what the photographs show; {expected} expected. Point to what your "
        "annotation tool wrote with --labels, put a table beside them, or sort them into a folder a class "
        "(docs/tutorials/photographs.md)"
    )


def pictures_of(photographs: Path) -> Path:
    """The folder of the photographs themselves, where labels lie beside it."""
    return photographs / "images" if (photographs / "images").is_dir() else photographs


def lists_of(devkit: Path) -> dict[str, Any]:
    """Which of a devkit's lists and labels there are: its own names are those of VOC 2012."""
    lists = {path.stem for path in (devkit / "ImageSets" / "Segmentation").glob("*.txt")}
    found: dict[str, Any] = {"train": "train_aug" if "train_aug" in lists else "train"}
    if "train" not in lists:
        found["score"] = None
    if not (devkit / "Annotations").is_dir():
        found["tags"] = "csv" if (devkit / "tags.csv").exists() else "masks"
    return found


def stored_side(photographs: Path, gpu: bool) -> tuple[int, str]:
    """How large photographs are stored, and why."""
    from pipeline.datasets.pictures import raw_size

    sides = []
    for path in list(see(photographs).found.values())[:LOOKED_AT]:
        try:
            sides.append(max(raw_size(path)[0]))
        except Exception:  # found, with all else that is wrong, when they are looked at
            continue
    limit = ON_GPU if gpu else ON_CPU
    if not sides:
        return limit, "of no photograph the size could be read"
    middle = int(median(sides))
    side = min(limit, LARGEST, max(64, -(-middle // 32) * 32))
    why = f"their longer side is {middle} pixels in the middle, {max(sides)} at most"
    return side, f"{why}; more shows finer outlines and takes longer by its square"
