"""What annotation tools write about photographs, whatever the tool → a data set.

Each tool has one module with a function `read` from its files to `Exported`; here that meets the photographs: names are
matched, classes become mask values, shapes become sketches (datasets/shapes.py). No numpy, no torch: Snakemake asks on
every dry run.

A photograph of which the export says nothing is one of which nothing is known: it is no negative.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from pipeline.core.data import Data
from pipeline.datasets.files import MASKS, Left, identity, listing, some, walk
from pipeline.datasets.marked import BACKGROUND, UPLOADED, VOID, Exported, Marked, Read, odd, tabled, whole
from pipeline.datasets.source import SPLITS, Sketch, Source, Trace, assemble, draw_val, fill_splits
from pipeline.datasets.spelling import check_spelling
from pipeline.datasets.tables import unfound


def source_of(data: Data, read: Read, also: Sequence[Path] = ()) -> Source:
    """The data set of an export and its photographs. also: files and folders that decide it beside those named."""
    settings, root = data.export, data.export.root
    if problem := absent(data):
        return Source(problems=[problem])
    export = read_once(read, settings.labels, also)
    problems, warnings, notes = ([*part] for part in (export.problems, export.warnings, export.notes))
    photographs = photographs_of(root, export, problems, notes)
    if export.problems and not export.photographs:  # which explain all else that would be found
        return Source(problems=problems)
    marked, strangers = matched(export.photographs, photographs, problems)
    label = str(settings.labels[0])
    if export.no_background and data.background == "first":
        problems.append(f"{label}: {export.no_background}; set data.background: none")
    problems += unfound(label, strangers, photographs, "add the file, set data.export.root, or remove it there")
    counts = Counter(own_name(name, data) for one in marked.values() for name in {*one.tags, *drawn_classes(one)})
    used = {*counts, BACKGROUND, *(name for one in marked.values() for name in tabled(one))}
    classes = [name for name in class_names(export, data) if name in used]
    if unused := [name for name in class_names(export, data) if name not in classes]:
        notes.append(f"{label}: {len(unused)} classes that no photograph shows left out: {some(unused)}")
    check_spelling({name: counts[name] for name in classes}, Path(label), problems, warnings)
    problems += [f"{label}: class '{name}', a name that {why}; rename it" for name in classes if (why := odd(name))]
    if len(classes) > 255:
        problems.append(f"{label}: {len(classes)} classes; at most 255 can be used")
        return Source(problems=problems)
    masks, tags = dict[str, Sketch](), dict[str, tuple[str, ...] | None]()
    for name, one in marked.items():
        if one.shapes is not None:
            masks[name] = sketch(one, photographs[name], classes, data)
        said = one.tags if one.shapes is None else (*one.tags, *drawn_classes(one)) if one.tags else None
        tags[name] = None if said is None or whole(one) else tuple(dict.fromkeys(own_name(tag, data) for tag in said))
    splits = lists(marked, settings.val_share, settings.seed)
    if left := sorted(photographs.keys() - marked.keys()):
        warnings.append(f"{len(left)} photographs of {root} are not in {label} and are not used: {some(left)}")
    if empty := [name for name, one in marked.items() if one.shapes is None and not one.tags]:
        warnings.append(
            f"{label}: says nothing about {len(empty)} photographs ({some(empty)}); they are unlabelled, not empty"
        )
    found = Source(classes, [], splits, "export", problems, warnings, notes)
    listed = {name for split in ("train", "val") for name in splits[split]}
    if unlisted := [name for name in marked if name not in listed]:
        notes.append(
            f"{label}: {len(unlisted)} photographs are in no list, train or val, and are not used: {some(unlisted)}"
        )
    where = {split: f"{label} ({split})" for split in SPLITS}
    return assemble(found, where, photographs, masks, tags)


def trace_of(data: Data, read: Read, also: Sequence[Path] = ()) -> Trace:
    """The files that decide it, and the lists as they come out."""
    settings = data.export
    names, ignored = dict[str, Path](), list[str]()
    export = read_once(read, settings.labels, also)
    if settings.root.is_dir():
        names = photographs_of(settings.root, export, ignored, ignored)
    marked, _ = matched(export.photographs, names, ignored)
    splits = lists(marked, settings.val_share, settings.seed)
    chosen = repr([(split, splits[split]) for split in SPLITS])
    return Trace(
        drawn=(settings.val_share, settings.seed, hashlib.sha256(chosen.encode()).hexdigest()),
        photographs=settings.root,
        exported=(*settings.labels, *also),
        tags_from="export",
        wanted=frozenset(names) if export.masks else None,
        count=len(marked),
        masked=sum(one.shapes is not None for one in marked.values()),
    )


def absent(data: Data) -> str:
    """That the photographs or what was written about them are not there; '' where both are."""
    if not data.export.root.is_dir():
        return f"{data.export.root.absolute()}: no such folder; set data.export.root to that of the photographs"
    if not data.export.labels:
        return "data.export.labels: nothing given; name the file, or the folder, that the annotation tool wrote"
    missing = [path for path in data.export.labels if not path.exists()]
    return f"{missing[0].absolute()}: no such file or folder; set data.export.labels" if missing else ""


# ---------------------------------------------------------------------------------------------------------- parts


def read_once(read: Read, labels: Sequence[Path], also: Sequence[Path] = ()) -> Exported:
    """An export is read once by whoever asks for its trace and its source, as long as its files stay the same."""
    return _read(read, tuple(labels), tuple(_stamp(path) for path in (*labels, *also)))


@lru_cache(maxsize=4)
def _read(read: Read, labels: tuple[Path, ...], _: object) -> Exported:
    return read(labels)


def _stamp(path: Path) -> object:
    try:
        if path.is_dir():
            return tuple(sorted((name, *_times(entry)) for name, entry in walk(path, Left())))
    except OSError:
        return ()
    return _times(path)


def _times(file: Path | os.DirEntry[str]) -> tuple[int, ...]:
    try:
        about = file.stat()
    except OSError:
        return ()
    return about.st_mtime_ns, about.st_size


def photographs_of(root: Path, export: Exported, problems: list[str], notes: list[str]) -> dict[str, Path]:
    """The photographs in a folder, without what the export knows to be masks."""
    found = listing(root, problems, notes)
    if not export.masks:
        return found
    real = lru_cache(maxsize=None)(os.path.realpath)  # of folders, which are few
    folders, files = set[str](), dict[str, set[str]]()
    for path in export.masks:
        if path.suffix.lower() in MASKS or not path.is_dir():
            above, name = os.path.split(path)
            files.setdefault(real(above), set()).add(name)
        else:
            folders.add(real(path))

    @cache
    def inside(folder: str) -> bool:
        return any(f"{real(folder)}/".startswith(f"{masks.rstrip('/')}/") for masks in folders)

    if inside(str(root)):
        problems.append(f"{root}: photographs and masks in one folder; keep masks in one of their own")
    kept = {}
    for name, path in found.items():
        above, file = os.path.split(path)
        if not inside(above) and file not in files.get(real(above), ()):
            kept[name] = path
    return kept


def matched(
    photographs: Iterable[Marked], files: Mapping[str, Path], problems: list[str]
) -> tuple[dict[str, Marked], list[str]]:
    """Photograph → what is said about it, in the order of the files; and the names that none has.

    A tool may know a photograph by more folders than lie here, or by fewer: what is the same from the end counts, as
    long as it is one photograph's. Where none has a name, what Label Studio's upload puts before one is left out, in
    whatever format it exports.
    """
    ends: dict[str, list[str]] = {}
    for name in files:
        ends.setdefault(name.rpartition("/")[2], []).append(name)
    found, strangers = dict[str, Marked](), list[str]()
    for one in photographs:
        candidates = [*one.names, *(UPLOADED.sub("", name) for name in one.names if UPLOADED.match(name))]
        name = next((meant for candidate in candidates if (meant := like(candidate, files, ends))), "")
        if not name and whole(one):
            remedy = "add the file, set data.export.root, or remove the mask"
            problems.append(f"{one.where}: '{identity(one.name)}' has no photograph; {remedy}")
        elif not name:
            strangers.append(identity(one.name))
        elif name not in found:
            found[name] = one
        elif whole(found[name]) or whole(one):
            problems.append(f"{one.where}: '{name}' has a mask already ({found[name].where}); keep one")
        elif found[name].size not in (None, one.size) or one.split != found[name].split:
            problems.append(f"{one.where}: '{name}' is there twice, and differs in size or list; keep one")
        else:
            found[name] = joined(found[name], one)
    return {name: found[name] for name in files if name in found}, strangers


def like(name: str, files: Mapping[str, Path], ends: Mapping[str, list[str]]) -> str:
    """The photograph an export means by this name, '' for none or several."""
    name = identity(name.replace("\\", "/"))
    if name in files:
        return name
    same = ends.get(name.rpartition("/")[2], [])
    close = [file for file in same if f"/{name}".endswith(f"/{file}") or f"/{file}".endswith(f"/{name}")]
    return close[0] if len(close) == 1 else same[0] if len(same) == 1 else ""


def joined(one: Marked, other: Marked) -> Marked:
    """What two files of an export say about a photograph."""
    shapes = None if one.shapes is None and other.shapes is None else [*(one.shapes or ()), *(other.shapes or ())]
    tags = tuple(dict.fromkeys([*one.tags, *other.tags]))
    return Marked(one.names, one.where, one.size, shapes, tags, one.split)


def class_names(export: Exported, data: Data) -> list[str]:
    """Names of the mask values: the background first, where the data set has one."""
    names = dict.fromkeys(own_name(name, data) for name in export.classes)
    return list(names) if data.background == "none" else list(dict.fromkeys([BACKGROUND, *names]))


def own_name(name: str, data: Data) -> str:
    """Tools write the background in any capitals."""
    return BACKGROUND if data.background == "first" and name.casefold() == BACKGROUND else name


def drawn_classes(one: Marked) -> list[str]:
    return [shape["class"] for shape in one.shapes or () if "class" in shape]


def sketch(one: Marked, photograph: Path, classes: Sequence[str], data: Data) -> Sketch:
    """The mask of a photograph. Where the tool knew it before its EXIF rotation, the mask is turned with it."""
    values = {name: value for value, name in enumerate(classes)}
    if whole(one) and one.shapes:
        file, rows = one.shapes[0]["colours"], one.shapes[0]["classes"]
        table = [[*seen, values.get(own_name(name, data), VOID) if name else VOID] for *seen, name in rows]
        return Sketch(as_text({"shapes": [{"colours": file, "table": table}]}), file)
    shapes = []
    for shape in one.shapes or ():
        drawn = {key: what for key, what in shape.items() if key != "class"}
        if "class" in shape:
            drawn["v"] = values[own_name(shape["class"], data)]
        shapes.append(drawn)
    size, turn = placed(one.size, photograph)
    about: dict[str, Any] = {"size": size, "shapes": shapes}
    about |= {"turn": turn} if turn != 1 else {}
    about |= {"fill": 255} if data.background == "none" else {}
    return Sketch(as_text(about), f"{one.where}, {one.name}")


def as_text(about: dict[str, Any]) -> str:
    return json.dumps(about, separators=(",", ":"), sort_keys=True)


def placed(size: tuple[int, int] | None, photograph: Path) -> tuple[tuple[int, int], int]:
    """Height and width to draw at, and the EXIF orientation to turn the mask by: 1 where it is upright already.

    A photograph that cannot be read is found when it is looked at.
    """
    from pipeline.datasets.pictures import raw_size

    try:
        (height, width), orientation = raw_size(photograph)
    except Exception:
        return size or (1, 1), 1
    upright = (width, height) if orientation >= 5 else (height, width)
    if size is None or size == upright:
        return upright, 1
    return (size, orientation) if size == (height, width) else (size, 1)


def lists(marked: Mapping[str, Marked], val_share: float, seed: int) -> dict[str, list[str]]:
    """The lists the export has, or a draw that keeps a photograph of every class in training."""
    given = {split: [name for name, one in marked.items() if one.split == split] for split in ("train", "val")}
    if all(given.values()):
        return {**given, "score": given["train"]}
    known = {name: (*one.tags, *drawn_classes(one)) for name, one in marked.items()}
    masked = {name for name, one in marked.items() if one.shapes is not None}
    labelled = [name for name in marked if known[name] or name in masked]  # the others would score nothing
    val = draw_val(labelled, val_share, seed, masked, known)
    return fill_splits({"val": [name for name in marked if name in val]}, list(marked), val_share, seed)
