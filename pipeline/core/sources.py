"""What a data set consists of: photographs, masks, lists, class names and tags. Pixels are for pipeline/prepare.py.

Each layout has one function that returns a `Source`. Bad data raises nothing here: every finding becomes a line in
`problems` (file: what; what to do), so that all of them can be reported at once.

    VOC devkit   JPEGImages/, SegmentationClass/, ImageSets/Segmentation/*.txt, Annotations/ or tags.csv, classes.txt
    folder       images/, and if there: masks/, tags.csv (image,tags), classes.txt, splits/{train,val,score}.txt

This module must not import numpy or torch: Snakemake asks for `fingerprint` on every dry run.
"""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlparse
from xml.etree import ElementTree

from pipeline.core.config import Data, Folder, Voc

SUFFIXES = (".jpg", ".jpeg", ".png")
FOREIGN = (".bmp", ".gif", ".heic", ".tif", ".tiff", ".webp")
# fmt: off
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
SPLITS = ("train", "val", "score")
Lists = Mapping[str, list[str]]


@dataclass(frozen=True)
class Picture:
    """One photograph and what is said about it. The built-in demo set has (seed, index) in place of a file."""

    id: str
    image: Path | tuple[int, int]
    mask: Path | None = None
    tags: tuple[str, ...] | None = None  # None: the classes in the mask


@dataclass
class Source:
    """A data set without its pixels. `classes` are the names of mask values 0, 1, ...; splits name pictures."""

    classes: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    splits: dict[str, list[str]] = field(default_factory=dict)
    tags_from: str = ""
    problems: list[str] = field(default_factory=list)


def voc(settings: Voc) -> Source:
    """The layout of the PASCAL VOC devkit, which many other data sets share."""
    root, problems = settings.root, list[str]()
    if settings.download and not root.exists():
        problems += fetch(settings)
    if not root.is_dir():
        remedy = "set data.voc.root, or data.voc.download: true to fetch it"
        return Source(problems=problems or [f"{root}: no such folder; {remedy}"])
    names = {"train": settings.train, "val": settings.val, "score": settings.score or settings.train}
    paths = {split: root / "ImageSets" / "Segmentation" / f"{name}.txt" for split, name in names.items()}
    splits = {split: read_list(paths[split], problems) for split in ("train", "val")}
    splits["score"] = splits["train"] if paths["score"] == paths["train"] else read_list(paths["score"], problems)
    photographs = listing(root / "JPEGImages", problems)
    masks = listing(root / settings.masks, problems, (".png",))
    classes = read_classes(root / "classes.txt", problems) if (root / "classes.txt").exists() else list(VOC_CLASSES)
    tags: Mapping[str, tuple[str, ...]] | None = None
    if settings.tags == "csv":
        tags = read_tags(root / "tags.csv", problems)
    elif settings.tags == "xml":
        ids = dict.fromkeys([*splits["train"], *splits["val"]])
        tags = {name: read_objects(root / "Annotations" / f"{name}.xml", classes, problems) for name in ids}
    source = Source(classes, [], splits, settings.tags, problems)
    return _assemble(source, {split: str(path) for split, path in paths.items()}, photographs, masks, tags)


def folder(settings: Folder) -> Source:
    """A plain folder, as people have it."""
    root, problems = settings.root, list[str]()
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
    tags, tags_from = None, "masks"
    if (root / "tags.csv").exists() or not masks:
        tags, tags_from = read_tags(root / "tags.csv", problems), "csv"
        problems += [
            f"{root / 'tags.csv'}: '{name}' has no photograph in images/; correct the name or remove the line"
            for name in sorted(tags.keys() - photographs.keys())
        ]
    classes = ["background", *sorted({tag for words in (tags or {}).values() for tag in words} - {"background"})]
    if (root / "classes.txt").exists():
        classes = read_classes(root / "classes.txt", problems)
    elif masks:
        problems.append(
            f"{root / 'classes.txt'}: missing, so nothing says what the values in masks/ mean; "
            "write one class per line, the first (background) for value 0"
        )
    paths = {split: root / "splits" / f"{split}.txt" for split in SPLITS}
    given = {split: read_list(path, problems) for split, path in paths.items() if path.exists()}
    splits = fill_splits(given, list(photographs), settings)
    source = Source(classes, [], splits, tags_from, problems)
    where = {split: str(paths[split]) if split in given else f"{root} (drawn list {split})" for split in SPLITS}
    return _assemble(source, where, photographs, masks, tags)


def fill_splits(given: Lists, ids: list[str], settings: Folder) -> dict[str, list[str]]:
    """The lists that are there; a missing train or val is what the other leaves; without both, a seeded draw.

    A photograph's side of the draw depends on its name and the seed alone: adding others does not move it.
    """
    splits = dict(given)
    if "train" not in given and "val" not in given:
        draw = {name: hashlib.sha256(f"{settings.seed} {name}".encode()).digest() for name in ids}
        limit = int(settings.val_share * 2**64).to_bytes(8, "big")
        splits["val"] = [name for name in ids if draw[name] < limit] or sorted(ids, key=draw.__getitem__)[:1]
    for split, other in (("train", "val"), ("val", "train")):
        if split not in splits:
            taken = set(splits[other])
            splits[split] = [name for name in ids if name not in taken]
    splits.setdefault("score", splits["train"])
    return splits


def thin(source: Source, share: float) -> Source:
    """The same data set with a share of its training images, and all of those that a list of its own scores.

    A photograph stays or goes by its name alone, as in `fill_splits`.
    """
    limit = int(share * 2**64).to_bytes(8, "big")
    scored = source.splits["score"]
    keep = set() if scored == source.splits["train"] else set(scored)
    train = [
        name
        for name in source.splits["train"]
        if name in keep or hashlib.sha256(f"share {name}".encode()).digest() < limit
    ]
    return with_train(source, train, scored if keep else train)


def with_train(source: Source, train: list[str], score: list[str]) -> Source:
    """The same data set with these lists, and no pictures but theirs and the validation list's."""
    splits = {**source.splits, "train": train, "score": score}
    left = {*train, *splits["val"]}
    return replace(source, splits=splits, pictures=[picture for picture in source.pictures if picture.id in left])


def _assemble(
    source: Source,
    where: Mapping[str, str],
    photographs: Mapping[str, Path],
    masks: Mapping[str, Path],
    tags: Mapping[str, tuple[str, ...]] | None,
) -> Source:
    """Check the lists against the photographs and each other; add the pictures, in the order train, val."""
    train, found = set(source.splits["train"]), source.problems
    shared = source.splits["score"] is source.splits["train"]
    for split in SPLITS[: 2 if shared else 3]:
        names = source.splits[split]
        if not names and Path(where[split]).suffix != ".txt":
            found.append(f"{where[split]}: empty; add photographs, or write the list in splits/{split}.txt")
        found += [
            f"{where[split]}: '{name}' has no photograph; remove it from the list or add the file"
            for name in names
            if name not in photographs
        ]
    found += [
        f"{where['val']}: '{name}' is in {where['train']} too; keep one"
        for name in source.splits["val"]
        if name in train
    ]
    found += [
        f"{where['score']}: '{name}' is not a training image; label quality is scored on those, so remove it"
        for name in source.splits["score"]
        if name not in train
    ]
    ids = [name for name in dict.fromkeys([*source.splits["train"], *source.splits["val"]]) if name in photographs]
    source.pictures = [
        Picture(name, photographs[name], masks.get(name), None if tags is None else tags.get(name, ())) for name in ids
    ]
    return source


# ---------------------------------------------------------------------------------------------------- small files


def identity(name: str) -> str:
    """'a.jpg' and 'a' are the same picture: people write either."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name


def listing(path: Path, problems: list[str], suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, Path]:
    """The pictures in a folder by name without suffix, sorted. Other files are let be, unless they are pictures too."""
    if not path.is_dir():
        problems.append(f"{path}: no such folder")
        return {}
    found: dict[str, Path] = {}
    for name in sorted(entry.name for entry in os.scandir(path) if not entry.is_dir()):
        suffix = os.path.splitext(name)[1].lower()
        if name.startswith(".") or suffix not in SUFFIXES + FOREIGN:
            continue
        if suffix not in suffixes:
            problems.append(f"{path / name}: {suffix} found, {' or '.join(suffixes)} expected; convert it without loss")
            continue
        first = found.setdefault(identity(name), path / name)
        if first.name != name:
            problems.append(f"{path / name}: '{identity(name)}' is also the name of {first.name}; rename one")
    return found


def lines_of(path: Path) -> list[str]:
    """Lines without blanks at their ends. A byte order mark is dropped; other foreign bytes end as unknown names."""
    return [line.strip() for line in path.read_text("utf-8-sig", errors="replace").splitlines()]


def read_list(path: Path, problems: list[str]) -> list[str]:
    """One picture per line."""
    if not path.is_file():
        others = ", ".join(sorted(other.stem for other in path.parent.glob("*.txt"))) or "none"
        problems.append(f"{path}: no such list; lists there: {others}")
        return []
    counts = Counter(identity(line) for line in lines_of(path) if line)
    problems += [f"{path}: '{name}' is listed {n} times; keep one" for name, n in counts.items() if n > 1]
    if not counts:
        problems.append(f"{path}: empty; one image name per line expected")
    return list(counts)


def read_classes(path: Path, problems: list[str]) -> list[str]:
    """One class per line; the line number, from 0, is the mask value."""
    names = path.read_text("utf-8-sig", errors="replace").strip().splitlines()
    names = [name.strip() for name in names]
    for name, n in Counter(names).items():
        if not name or n > 1:
            problems.append(
                f"{path}: {f'{name!r} stands on {n} lines' if name else 'a line is empty'}; one class per line expected"
            )
    if not 2 <= len(names) <= 255:
        problems.append(f"{path}: {len(names)} classes; 2 to 255 expected, the background first")
    return names


def read_tags(path: Path, problems: list[str]) -> dict[str, tuple[str, ...]]:
    """tags.csv: header `image,tags`, then a line per image, tags separated by spaces."""
    if not path.is_file():
        problems.append(f"{path}: no such file; write a header `image,tags` and a line `photo1,cat dog` per image")
        return {}
    lines = lines_of(path)
    if next(csv.reader(lines[:1]), []) != ["image", "tags"]:
        problems.append(f"{path}: the first line is '{lines[0] if lines else ''}'; `image,tags` expected")
        return {}
    tags: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines[1:], 2):
        try:
            row = next(csv.reader([line], strict=True), None)
        except csv.Error as error:
            problems.append(f'{path}: line {number}: {error}; close its quotes, `name,"tag tag"` expected')
            continue
        if not row:
            continue
        name = identity(row[0].strip())
        if name in tags:
            problems.append(f"{path}: line {number}: '{name}' has a line already; keep one")
        elif len(row) != 2:
            problems.append(f"{path}: line {number}: {len(row)} columns; `name,tag tag` expected")
        tags.setdefault(name, tuple(row[1].split()) if len(row) > 1 else ())
    return tags


def read_objects(path: Path, classes: Iterable[str], problems: list[str]) -> tuple[str, ...]:
    """Names of the objects in a VOC annotation that are classes; it may name parts and things that are not."""
    try:
        names = {node.text for node in ElementTree.parse(path).iterfind("object/name")}
    except FileNotFoundError:
        return ()
    except (ElementTree.ParseError, OSError) as error:
        problems.append(f"{path}: cannot be read ({error}); replace it")
        return ()
    return tuple(name for name in classes if name in names)


def fetch(settings: Voc) -> list[str]:
    """Download and unpack a devkit to settings.root, which appears only when it is whole. Returns what went wrong."""
    from torchvision.datasets.utils import download_and_extract_archive
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    public = DATASET_YEAR_DICT["2012"]
    url, md5 = (settings.url, None) if settings.url else (public["url"], public["md5"])
    part = settings.root.with_name(f".{settings.root.name}.part")
    if md5 is None:  # nothing could tell an archive that a kill cut short
        shutil.rmtree(part, ignore_errors=True)
    try:
        name = Path(urlparse(url).path).name
        download_and_extract_archive(url, str(part), str(part / "unpacked"), name, md5, remove_finished=True)
        found = sorted(part.rglob("JPEGImages"))
        if not found:
            raise RuntimeError("no folder JPEGImages in the archive")
        found[0].parent.rename(settings.root)
    except Exception as error:  # network, disk, archive: torchvision hands on whatever they raise
        if md5 is None:
            shutil.rmtree(part, ignore_errors=True)
        remedy = f"try again, set data.voc.url, or unpack the devkit to {settings.root}"
        return [f"{url}: could not be fetched ({error}); {remedy}"]
    shutil.rmtree(part)
    return []


# -------------------------------------------------------------------------------------------------- has it changed?


def fingerprint(data: Data) -> str:
    """A cheap digest of a data set: names and sizes of its pictures, contents of its lists.

    It tells Snakemake when to look again. Times are left out, as copying changes them; an edit that keeps a file's size
    goes unnoticed until prepare runs, which compares contents.
    """
    digest = hashlib.sha256(data.format.encode())
    texts: list[Path] = []
    folders: list[Path] = []
    wanted: set[str] | None = None
    if data.format == "voc":
        root = data.voc.root
        lists = [name for name in (data.voc.train, data.voc.val, data.voc.score) if name]
        texts = [root / "ImageSets" / "Segmentation" / f"{name}.txt" for name in lists]
        wanted = {identity(line) for path in texts if path.is_file() for line in lines_of(path)}
        texts += [root / "classes.txt", *([root / "tags.csv"] if data.voc.tags == "csv" else [])]
        folders = [root / "JPEGImages", root / data.voc.masks]
        folders += [root / "Annotations"] if data.voc.tags == "xml" else []
    elif data.format == "folder":
        root = data.folder.root
        texts = [root / "tags.csv", root / "classes.txt", *(root / "splits" / f"{split}.txt" for split in SPLITS)]
        folders = [root / "images", root / "masks"]
    for path in texts:
        if path.is_file():
            digest.update(f"{path.name}\n".encode() + path.read_bytes())
    for path in folders:
        if path.is_dir():
            digest.update(f"{path.name}\n".encode())
            for line in sorted(_sizes(path, wanted)):
                digest.update(line)
    return digest.hexdigest()[:16]


def _sizes(path: Path, wanted: set[str] | None) -> Iterable[bytes]:
    for entry in os.scandir(path):
        stem, suffix = os.path.splitext(entry.name)
        if suffix.lower() in (*SUFFIXES, ".xml") and (wanted is None or stem in wanted):
            yield f"{entry.name} {entry.stat().st_size}\n".encode()
