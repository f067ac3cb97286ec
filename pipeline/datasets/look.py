"""One look at every photograph and mask of a data set, and what is wrong with it as a whole."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from errno import ELOOP, ENOENT
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.store import DIGEST
from pipeline.datasets import pictures, shapes
from pipeline.datasets.classes import REFUSED, Classes
from pipeline.datasets.files import MASKS, SUFFIXES, is_read, printable
from pipeline.datasets.pictures import Size, Unusable, by
from pipeline.datasets.source import Drawn, Picture, Sketch, Source, with_train
from pipeline.kinds.photographs import too_narrow
from pipeline.kinds.pixels import VOID

NO_MASK = bytes(DIGEST)
Content = bytes | Drawn | shapes.Sketched  # of a file
Passing = Callable[[list[Picture]], Iterator[Picture]]


@dataclass
class Look:
    """What was found of each picture, by id: digests of what its files hold, its key (what the look depends on), its
    upright size, the values in its mask, and the classes behind them. Sizes are missing where a file could not be
    used, values and classes also where there is no mask."""

    digests: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)
    sizes: dict[str, Size] = field(default_factory=dict)
    values: dict[str, set[int]] = field(default_factory=dict)
    drawn: dict[str, set[int]] = field(default_factory=dict)


# What an earlier look found: key → size, and the values in the mask.
Known = Mapping[bytes, tuple[Size, set[int]]]


def look(
    source: Source,
    classes: Classes,
    max_side: int,
    known: Known,
    code: str,
    passing: Passing = iter,
    bands: Sequence[int] | None = None,
) -> Look:
    """Look at every picture; findings go to source.problems. Files that are known are read and not decoded.

    Pictures that cannot be read leave the source. passing: what they go through on their way, to be counted.
    """
    found = Look()
    meaning = classes.names, classes.background, classes.values.tolist(), source.tags_from == "masks"
    common = repr((code, meaning, max_side, *(bands or ()))).encode()
    for picture in passing(source.pictures):
        if not is_read(picture.image, SUFFIXES) or not is_read(picture.mask, MASKS):
            continue  # found when the folder was listed
        try:
            photograph = content(picture.image)
            mask = None if picture.mask is None else content(picture.mask)
        except OSError as error:
            source.problems.append(unreadable(error))
            continue
        both = digest(photograph), NO_MASK if mask is None else digest(mask)
        found.digests[picture.id] = both
        key = found.keys[picture.id] = hashlib.blake2b(common + b"".join(both), digest_size=DIGEST).digest()
        if key in known:
            found.sizes[picture.id], values = known[key]
            if mask is not None:
                found.values[picture.id], found.drawn[picture.id] = values, classes.ids(values)
            continue
        file: object = picture.image
        try:
            size = size_of(photograph, bands)
            if reason := too_narrow(size, max_side):
                raise Unusable(f"is {by(size)}, {reason}")
            found.sizes[picture.id], file = size, picture.mask
            if mask is not None:
                values, problems = look_at_mask(picture, mask, size, classes)
                source.problems += problems
                found.values[picture.id], found.drawn[picture.id] = values, classes.ids(values)
        except Exception as error:
            source.problems.append(f"{file}: {pictures.reason(error)}")
    source.pictures = [picture for picture in source.pictures if picture.id in found.digests]
    return found


def look_at_mask(picture: Picture, mask: Content, size: Size, classes: Classes) -> tuple[set[int], list[str]]:
    """The values in a mask, and what is wrong with it."""
    values, problems, known = mask_values(mask), list[str](), classes.known
    if values.shape != size:
        remedy = (
            "it fits the photograph before its EXIF rotation; turn it"
            if values.shape == size[::-1]
            else "export it again"
        )
        problems.append(
            f"{picture.mask}: {by(values.shape)} mask for a {by(size)} photograph ({picture.image}); {remedy}"
        )
    seen = np.unique(values) if values.dtype == np.int32 else np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    inside = seen[(seen >= 0) & (seen <= VOID)]
    refused = [*seen[(seen < 0) | (seen > VOID)].tolist(), *inside[classes.values[inside] == REFUSED].tolist()]
    if refused:
        objects = range(classes.first, len(known))
        names = ", ".join(f"{v} ({known[v]})" if v in objects else str(v) for v in refused[:5])
        remedy = "set data.other" if all(v in objects for v in refused) else "correct it or classes.txt"
        more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
        problems.append(f"{picture.mask}: values {names}{more}; 0 to {len(known) - 1} and 255 can be used; {remedy}")
    return set(inside.tolist()), problems


# ---------------------------------------------------------------------------------------------------------- files


@cache
def _composer() -> Callable[[int, int], tuple[np.ndarray, np.ndarray, list[str]]]:
    from pipeline.datasets import collage  # scikit-image and scipy, which files do not need

    return lru_cache(maxsize=256)(collage.compose)  # photograph and mask are asked for one after the other


def content(file: Path | Drawn | Sketch) -> Content:
    if isinstance(file, Sketch):
        return shapes.sketched(file.text)
    return file.read_bytes() if isinstance(file, Path) else file


def digest(content: Content) -> bytes:
    if isinstance(content, shapes.Sketched):
        raw = content.raw
    else:
        raw = content if isinstance(content, bytes) else repr(content).encode()
    return hashlib.blake2b(raw, digest_size=DIGEST).digest()


def photograph(content: Content, bands: Sequence[int] | None = None) -> np.ndarray:
    """uint8 [h,w,3], upright."""
    assert not isinstance(content, shapes.Sketched)
    return pictures.read_photograph(content, bands) if isinstance(content, bytes) else _composer()(*content)[0]


def size_of(content: Content, bands: Sequence[int] | None) -> Size:
    """Of the upright photograph, after decoding all of it."""
    if isinstance(content, bytes):
        return pictures.look_at_photograph(content, bands)
    height, width = mask_values(content).shape
    return height, width


def mask_values(content: Content) -> np.ndarray:
    """uint8 or int32 [h,w]."""
    if isinstance(content, shapes.Sketched):
        return shapes.draw(content)
    return pictures.read_mask(content) if isinstance(content, bytes) else _composer()(*content)[1]


def unreadable(error: OSError) -> str:
    remedy = "mend the link, or remove it" if error.errno in (ENOENT, ELOOP) else "check its permissions"
    return printable(f"{error.filename}: cannot be read ({error.strerror}); {remedy}")


# ---------------------------------------------------------------------------------------------------- consistency


def leaks(source: Source, found: Look) -> Iterator[str]:
    """Photographs of the validation list that are, byte for byte, in the training list under another name. Not those
    that cannot be read."""
    files = {picture.id: picture.image for picture in source.pictures}
    digests = {name: both[0] for name, both in found.digests.items() if name in found.sizes}
    train = {digests[name]: name for name in source.splits["train"] if name in digests}
    for name in source.splits["val"]:
        twin = train.get(digests[name]) if name in digests else None
        if twin and twin != name:
            yield f"{files[name]} (val): the same photograph as {files[twin]} (train); remove one"


def negatives(source: Source, classes: Classes, found: Look) -> set[str]:
    """Photographs known to show none of the classes: tagged with the background alone, or without a tag and with a mask
    that shows the background alone. Not those that only `data.classes` leaves without a class."""
    if classes.background is None or not classes.known:
        return set()
    nothing = {classes.known[classes.background]}
    return {
        picture.id
        for picture in source.pictures
        if (set(picture.tags) == nothing if picture.tags else found.values.get(picture.id, set()) - {VOID} == {0})
    }


def unknown(source: Source, tags: Mapping[str, set[int]], negative: set[str]) -> list[str]:
    """Training images that have no class and are no negatives."""
    return [name for name in source.splits["train"] if tags.get(name) == set() and name not in negative]


def untagged(source: Source, classes: Classes, tags: Mapping[str, set[int]], negative: set[str]) -> Iterator[str]:
    """Training images of which nothing is known. Silent where no image has a tag, for a cause that was found already,
    as an unreadable tags.csv."""
    pictures = {picture.id: picture for picture in source.pictures}
    train = [name for name in source.splits["train"] if name in pictures]
    if source.problems and not any(tags.get(name) for name in train):
        return
    for name in unknown(source, tags, negative):
        if name in pictures:
            yield f"{pictures[name].image}: {_no_class(pictures[name], source.tags_from, classes)}"


def _no_class(picture: Picture, tags_from: str, classes: Classes) -> str:
    """Why nothing is known of a photograph, and what to do."""
    others = "remove it from the training list, or set data.untagged: drop"
    if tags_from in ("masks", "export") and picture.mask is None and not picture.tags:
        if tags_from == "export":
            return f"nothing in the export; annotate it, {others}"
        return f"no mask, from which its tags are taken; add it, {others}"
    where = {"csv": "tags.csv", "xml": "its annotation", "masks": "its mask", "export": "the export"}.get(tags_from)
    if tags_from == "folders":
        return f"lies in no folder that says what it shows, as images/cat/a.jpg; move it there, {others}"
    if classes.background is None or not classes.known:
        return f"no class in {where}; tag it, {others}"
    shows = f"`{classes.known[classes.background]}` where it shows none"
    empty = "an empty mask" if tags_from != "csv" else shows
    return f"no class in {where}; tag it ({empty}), {others}"


def without_unknown(source: Source, tags: Mapping[str, set[int]], negative: set[str]) -> Source:
    """The data set without the training images of which nothing is known."""
    gone = set(unknown(source, tags, negative))
    train, score = ([name for name in source.splits[split] if name not in gone] for split in ("train", "score"))
    print(f"{len(gone)} training photographs without a tag left out", flush=True)
    return with_train(source, train, score)


def count(source: Source, classes: Classes, tags: Mapping[str, set[int]], negative: set[str]) -> dict[str, Any]:
    """Photographs, masks and negatives of each split, and training images of each class."""
    masked = {picture.id for picture in source.pictures if picture.mask is not None}
    tagged = Counter(number for name in source.splits["train"] for number in tags[name])
    return {
        **{split: len(listed) for split, listed in source.splits.items()},
        "with_mask": {split: len(masked.intersection(listed)) for split, listed in source.splits.items()},
        "negative": {split: len(negative.intersection(listed)) for split, listed in source.splits.items()},
        "tags": {name: tagged[i] for i, name in enumerate(classes.names) if i != classes.background},
    }
