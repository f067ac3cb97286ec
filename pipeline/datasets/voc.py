"""The layout of the PASCAL VOC devkit, which many other data sets share.

JPEGImages/, SegmentationClass/ or another folder of masks, ImageSets/Segmentation/*.txt,
Annotations/ or tags.csv where the tags come from there, classes.txt where the classes are not VOC's twenty
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlparse
from xml.etree import ElementTree

from pipeline.core.data import Data, Voc
from pipeline.datasets.files import MASKS, listing
from pipeline.datasets.source import Source, Trace, assemble, strays
from pipeline.datasets.tables import names_in, read_classes, read_list, read_tags

# fmt: off
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on


def source(data: Data) -> Source:
    settings, root, problems, notes = data.voc, data.voc.root, list[str](), list[str]()
    if settings.download and not root.exists():
        problems += fetch(settings)
    if problem := absent(data):
        return Source(problems=problems or [problem])
    paths = lists(settings)
    splits = {split: read_list(paths[split], problems) for split in ("train", "val")}
    splits["score"] = splits["train"] if paths["score"] == paths["train"] else read_list(paths["score"], problems)
    photographs = listing(root / "JPEGImages", problems, notes)
    masks = listing(root / settings.masks, problems, notes, MASKS)
    stray = strays(masks, photographs, root / settings.masks, root / "JPEGImages")
    if stray and len(stray) == len(masks):
        problems += stray
    elif stray:  # a part of a devkit may keep all its masks
        notes.append(f"{root / settings.masks}: {len(stray)} masks of no photograph left out, the first {stray[0]}")
    classes = read_classes(root / "classes.txt", problems) if (root / "classes.txt").exists() else list(CLASSES)
    tags: Mapping[str, tuple[str, ...]] | None = None
    if settings.tags == "csv":
        tags = read_tags(root / "tags.csv", problems, classes)
    elif settings.tags == "xml":
        ids = dict.fromkeys([*splits["train"], *splits["val"]])
        tags = {name: read_objects(root / "Annotations" / f"{name}.xml", classes, problems) for name in ids}
    found = Source(classes, [], splits, settings.tags, problems, notes=notes)
    return assemble(found, {split: str(path) for split, path in paths.items()}, photographs, masks, tags)


def recognised(path: Path) -> bool:
    return (path / "JPEGImages").is_dir() and (path / "ImageSets" / "Segmentation").is_dir()


def absent(data: Data) -> str:
    """That there is no devkit, and none to be fetched; '' where there is one."""
    remedy = "set data.voc.root, or data.voc.download: true to fetch it"
    return "" if data.voc.root.is_dir() else f"{data.voc.root.absolute()}: no such folder; {remedy}"


def trace(data: Data) -> Trace:
    settings, root = data.voc, data.voc.root
    paths = lists(settings)
    wanted = frozenset(name for split in ("train", "val") for name in names_in(paths[split]))
    return Trace(
        lists=tuple(paths.values()),
        classes=(root / "classes.txt",),
        tags=(root / "tags.csv",) if settings.tags == "csv" else (),
        photographs=root / "JPEGImages",
        masks=root / settings.masks,
        annotations=root / "Annotations" if settings.tags == "xml" else None,
        tags_from=settings.tags,
        wanted=wanted,
        count=len(wanted),
    )


def lists(settings: Voc) -> dict[str, Path]:
    """Split → the file that lists it."""
    names = {"train": settings.train, "val": settings.val, "score": settings.score or settings.train}
    return {split: settings.root / "ImageSets" / "Segmentation" / f"{name}.txt" for split, name in names.items()}


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
