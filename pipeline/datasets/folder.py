"""A plain folder, as people have it.

    images/, and if there: masks/, tags.csv (image,tags), classes.txt, splits/{train,val,score}.txt

images/ and masks/ may have subfolders, alike: images/day1/a.jpg is called day1/a, and its mask is masks/day1/a.png.
Where there is neither images/ nor masks/ the photographs are those of the folder itself.

Without tags.csv the tags are the classes in the masks; without classes.txt the classes are the tags. With
data.folder.tags: folders the tag of a photograph is the folder it lies in, images/cat/a.jpg.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.core.data import Data
from pipeline.datasets.files import MASKS, SUFFIXES, Left, listing, some, walk
from pipeline.datasets.source import SPLITS, Source, Trace, assemble, draw_val, fill_splits, strays
from pipeline.datasets.spelling import check_spelling
from pipeline.datasets.tables import names_in, read_classes, read_list, read_tags, unfound


def source(data: Data) -> Source:
    settings, root = data.folder, data.folder.root
    problems, warnings, notes = list[str](), list[str](), list[str]()
    if problem := absent(data):
        return Source(problems=[problem])
    photographs = listing(images_of(root), problems, notes)
    masks = listing(root / "masks", problems, notes, MASKS) if (root / "masks").is_dir() else {}
    problems += strays(masks, photographs, root / "masks", images_of(root))
    table, tags, tags_from = root / "tags.csv", None, "masks"
    known = read_classes(root / "classes.txt", problems) if (root / "classes.txt").exists() else None
    if settings.tags == "folders":
        tags, tags_from = folder_tags(photographs), "folders"
        if table.exists():
            notes.append(f"{table}: not read, as data.folder.tags is folders")
    elif table.exists() or not masks:
        tags, tags_from = read_tags(table, problems, known or (), nothing_in(data, known)), "csv"
        strangers = sorted(tags.keys() - photographs.keys())
        problems += unfound(table, strangers, photographs, "correct the name, add the file or remove the line")
    counts = Counter(tag for name, words in (tags or {}).items() if name in photographs for tag in words)
    background = ["background"] if data.background == "first" else []
    classes = [*background, *sorted(counts.keys() - {*background})] if known is None else known
    if known is None and masks:
        problems.append(
            f"{root / 'classes.txt'}: missing, so nothing says what the values in masks/ mean; "
            f"write one class per line, the first {'(background) ' if background else ''}for value 0"
        )
    elif known is None and len(data.classes or classes) > 255:
        problems.append(f"{table}: {len(classes)} classes; at most 255 can be used, keep some with data.classes")
    elif known is None:
        check_spelling({name: counts[name] for name in classes}, table, problems, warnings)
    paths = {split: root / "splits" / f"{split}.txt" for split in SPLITS}
    given = {split: read_list(path, problems) for split, path in paths.items() if path.exists()}
    splits = fill_splits(given, list(photographs), settings.val_share, settings.seed, masks, tags)
    if left := sorted(photographs.keys() - {name for listed in splits.values() for name in listed}):
        warnings.append(f"{len(left)} photographs of {images_of(root)} stand in no list and are not used: {some(left)}")
    found = Source(classes, [], splits, tags_from, problems, warnings, notes)
    where = {split: str(paths[split]) if split in given else f"{root} (drawn list {split})" for split in SPLITS}
    return assemble(found, where, photographs, masks, tags)


def folder_tags(photographs: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Photograph → the first folder of its name; one that lies in none has no tag."""
    return {name: (name.partition("/")[0],) if "/" in name else () for name in photographs}


def nothing_in(data: Data, known: Sequence[str] | None) -> str:
    """The tag of a photograph that shows none of the classes; '' where there is none."""
    return "" if data.background == "none" else known[0] if known else "background"


def images_of(root: Path) -> Path:
    """The folder of the photographs: images/, or the root where it has neither that nor masks/ and holds some."""
    inner = root / "images"
    if inner.exists() or (root / "masks").exists() or not root.is_dir():
        return inner
    try:
        return root if any(name.lower().endswith(SUFFIXES) for name, _ in walk(root, Left())) else inner
    except OSError:
        return inner


def recognised(path: Path) -> bool:
    return images_of(path).is_dir() and any((path / name).exists() for name in ("tags.csv", "masks"))


def sorted_in(path: Path) -> list[str]:
    """The folders that its photographs are sorted in, by class; none where any lies outside, or where tables or masks
    say what they show."""
    images = images_of(path)
    if not images.is_dir() or any((path / name).exists() for name in ("tags.csv", "masks")):
        return []
    names = [name for name, _ in walk(images, Left()) if name.lower().endswith(SUFFIXES)]
    return sorted({name.partition("/")[0] for name in names}) if all("/" in name for name in names) else []


def absent(data: Data) -> str:
    """That there is no folder of photographs; '' where there is one."""
    folder = images_of(data.folder.root)
    remedy = "put the photographs there or set data.folder.root"
    return "" if folder.is_dir() else f"{folder.absolute()}: no such folder; {remedy}"


def trace(data: Data) -> Trace:
    settings, root = data.folder, data.folder.root
    tables, classes, masks = root / "tags.csv", root / "classes.txt", root / "masks"
    lists = tuple(root / "splits" / f"{split}.txt" for split in SPLITS)
    train, val = ({*names_in(path)} for path in lists[:2])
    return Trace(
        drawn=(settings.val_share, settings.seed, None if lists[0].exists() or lists[1].exists() else drawn(data)),
        lists=lists,
        classes=(classes,) if classes.exists() else (tables,),
        tags=(tables,),
        photographs=images_of(root),
        masks=masks,
        tags_from="folders"
        if settings.tags == "folders"
        else "csv"
        if tables.exists() or not masks.is_dir()
        else "masks",
        count=len(train | val) if train and val else None,
    )


def drawn(data: Data) -> str:
    """Digest of the validation list that `source` draws. It may follow masks and tags, so it is drawn here, too: a tag
    that moves no photograph plans nothing but tags."""
    root, ignored = data.folder.root, list[str]()
    photographs, masks = (
        [*listing(folder, ignored, ignored, suffixes)] if folder.is_dir() else []
        for folder, suffixes in ((images_of(root), SUFFIXES), (root / "masks", MASKS))
    )
    known = read_classes(root / "classes.txt", ignored) if (root / "classes.txt").exists() else ()
    table, nothing = root / "tags.csv", nothing_in(data, known)
    tags = folder_tags(photographs) if data.folder.tags == "folders" else read_tags(table, ignored, known, nothing)
    val = draw_val(photographs, data.folder.val_share, data.folder.seed, {*masks}, tags)
    return hashlib.sha256(repr(sorted(val)).encode()).hexdigest()
