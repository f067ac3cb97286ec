"""A plain folder, as people have it.

    images/, and if there: masks/, tags.csv (image,tags), classes.txt, splits/{train,val,score}.txt

Without tags.csv the tags are the classes in the masks; without classes.txt the classes are the tags.
"""

from __future__ import annotations

import hashlib
from collections import Counter

from pipeline.core.config import Data
from pipeline.datasets.files import SUFFIXES, listing, names_in, read_classes, read_list, read_tags, some, unknown
from pipeline.datasets.source import SPLITS, Source, Trace, assemble, draw_val, fill_splits
from pipeline.datasets.spelling import check_spelling


def source(data: Data) -> Source:
    settings, root, problems, warnings = data.folder, data.folder.root, list[str](), list[str]()
    if not (root / "images").is_dir():
        return Source(
            problems=[f"{root / 'images'}: no such folder; put the photographs there or set data.folder.root"]
        )
    photographs = listing(root / "images", problems)
    masks = listing(root / "masks", problems, (".png",)) if (root / "masks").is_dir() else {}
    problems += [
        f"{masks[name]}: no photograph of this name in images/; rename it"
        for name in sorted(masks.keys() - photographs.keys())
    ]
    table, tags, tags_from = root / "tags.csv", None, "masks"
    known = read_classes(root / "classes.txt", problems) if (root / "classes.txt").exists() else None
    if table.exists() or not masks:
        tags, tags_from = read_tags(table, problems, known or ()), "csv"
        strangers = sorted(tags.keys() - photographs.keys())
        problems += unknown(table, strangers, photographs, "correct the name, add the file or remove the line")
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
        check_spelling({name: counts[name] for name in classes[len(background) :]}, table, problems, warnings)
    paths = {split: root / "splits" / f"{split}.txt" for split in SPLITS}
    given = {split: read_list(path, problems) for split, path in paths.items() if path.exists()}
    splits = fill_splits(given, list(photographs), settings.val_share, settings.seed, masks, tags)
    if left := sorted(photographs.keys() - {name for listed in splits.values() for name in listed}):
        warnings.append(f"{len(left)} photographs of {root / 'images'} stand in no list and are not used: {some(left)}")
    found = Source(classes, [], splits, tags_from, problems, warnings=warnings)
    where = {split: str(paths[split]) if split in given else f"{root} (drawn list {split})" for split in SPLITS}
    return assemble(found, where, photographs, masks, tags)


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
        photographs=root / "images",
        masks=masks,
        tags_from="csv" if tables.exists() or not masks.is_dir() else "masks",
        count=len(train | val) if train and val else None,
    )


def drawn(data: Data) -> str:
    """Digest of the validation list that `source` draws. It may follow masks and tags, so it is drawn here, too: a tag
    that moves no photograph plans nothing but tags."""
    root, ignored = data.folder.root, list[str]()
    photographs, masks = (
        [*listing(root / name, ignored, suffixes)] if (root / name).is_dir() else []
        for name, suffixes in (("images", SUFFIXES), ("masks", (".png",)))
    )
    known = read_classes(root / "classes.txt", ignored) if (root / "classes.txt").exists() else ()
    tags = read_tags(root / "tags.csv", ignored, known)
    val = draw_val(photographs, data.folder.val_share, data.folder.seed, {*masks}, tags)
    return hashlib.sha256(repr(sorted(val)).encode()).hexdigest()
