"""A plain folder, as people have it.

    images/, and if there: masks/, tags.csv (image,tags), classes.txt, splits/{train,val,score}.txt

images/ and masks/ may have subfolders, alike: images/day1/a.jpg is called day1/a, and its mask is masks/day1/a.png.

Without tags.csv the tags are the classes in the masks; without classes.txt the classes are the tags.
"""

from __future__ import annotations

from pipeline.core.config import Data
from pipeline.datasets.files import MASKS, listing, names_in, read_classes, read_list, read_tags
from pipeline.datasets.source import SPLITS, Source, Trace, assemble, fill_splits, strays


def source(data: Data) -> Source:
    settings, root, problems, notes = data.folder, data.folder.root, list[str](), list[str]()
    if problem := absent(data):
        return Source(problems=[problem])
    photographs = listing(root / "images", problems, notes)
    masks = listing(root / "masks", problems, notes, MASKS) if (root / "masks").is_dir() else {}
    problems += strays(masks, photographs, root / "masks", root / "images")
    tags, tags_from = None, "masks"
    if (root / "tags.csv").exists() or not masks:
        tags, tags_from = read_tags(root / "tags.csv", problems), "csv"
        problems += [
            f"{root / 'tags.csv'}: '{name}' has no photograph in images/; correct the name or remove the line"
            for name in sorted(tags.keys() - photographs.keys())
        ]
    background = ["background"] if data.background == "first" else []
    classes = [*background, *sorted({tag for words in (tags or {}).values() for tag in words} - {*background})]
    if (root / "classes.txt").exists():
        classes = read_classes(root / "classes.txt", problems)
    elif masks:
        problems.append(
            f"{root / 'classes.txt'}: missing, so nothing says what the values in masks/ mean; "
            f"write one class per line, the first {'(background) ' if background else ''}for value 0"
        )
    elif len(data.classes or classes) > 255:
        problems.append(
            f"{root / 'tags.csv'}: {len(classes)} classes; at most 255 can be used, keep some with data.classes"
        )
    paths = {split: root / "splits" / f"{split}.txt" for split in SPLITS}
    given = {split: read_list(path, problems) for split, path in paths.items() if path.exists()}
    splits = fill_splits(given, list(photographs), settings.val_share, settings.seed)
    found = Source(classes, [], splits, tags_from, problems, notes)
    where = {split: str(paths[split]) if split in given else f"{root} (drawn list {split})" for split in SPLITS}
    return assemble(found, where, photographs, masks, tags)


def absent(data: Data) -> str:
    """That there is no folder of photographs; '' where there is one."""
    folder = data.folder.root / "images"
    remedy = "put the photographs there or set data.folder.root"
    return "" if folder.is_dir() else f"{folder.absolute()}: no such folder; {remedy}"


def trace(data: Data) -> Trace:
    settings, root = data.folder, data.folder.root
    tables, classes, masks = root / "tags.csv", root / "classes.txt", root / "masks"
    lists = tuple(root / "splits" / f"{split}.txt" for split in SPLITS)
    train, val = ({*names_in(path)} for path in lists[:2])
    return Trace(
        drawn=(settings.val_share, settings.seed),
        lists=lists,
        classes=(classes,) if classes.exists() else (tables,),
        tags=(tables,),
        photographs=root / "images",
        masks=masks,
        tags_from="csv" if tables.exists() or not masks.is_dir() else "masks",
        count=len(train | val) if train and val else None,
    )
