"""Photographs and masks as they lie on disk: reading them, and finding what is wrong with one.

Photographs come out upright and in RGB whatever their file holds. Masks come out as the values in the file; `Classes`
says what these mean. Functions that decode raise what the decoder raises, and Unusable where only a person can help.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.core import demo
from pipeline.core.config import Data
from pipeline.core.data import VOID
from pipeline.core.sources import Picture, Source
from pipeline.core.store import DIGEST

NARROWEST = 16  # pixels of the shorter side, once reduced: below it there is nothing to compute saliency or maps on
REFUSED = -1  # a mask value that means nothing here
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
Size = tuple[int, int]  # height, width
Content = dict[str, tuple[bytes, bytes]]  # image → digests of its photograph and of its mask
compose = lru_cache(maxsize=256)(demo.compose)  # looked at once, written once


class Unusable(ValueError):
    """A file that can be decoded and still means nothing here. The message says why and what to do."""


# -------------------------------------------------------------------------------------------------------- classes


@dataclass(frozen=True)
class Classes:
    """What class names and mask values become: names of the result, and a table of mask value → class id."""

    names: list[str]
    known: list[str]
    values: np.ndarray  # int16 [256]

    def ids(self, values: set[int]) -> set[int]:
        """Foreground classes behind these mask values."""
        return set(self.values[list(values)].tolist()) - {0, VOID, REFUSED}


def keep_classes(known: list[str], data: Data, problems: list[str]) -> Classes:
    """Renumber: the background stays 0, `data.classes` become 1, 2, ... and the rest what `data.other` says."""
    kept = list(known[1:] if data.classes is None else data.classes)
    for name, n in Counter(kept).items():
        if name not in known[1:]:
            problems.append(f"data.classes: '{name}' is not a class here; classes: {', '.join(known[1:]) or 'none'}")
        elif n > 1 and data.classes is not None:
            problems.append(f"data.classes: '{name}' is listed {n} times; keep one")
    other = {"error": REFUSED, "background": 0, "void": VOID}[data.other]
    values = np.full(256, REFUSED, np.int16)
    values[[0, VOID]] = 0, VOID
    for value, name in enumerate(known[1:VOID], 1):
        values[value] = kept.index(name) + 1 if name in kept else other
    return Classes([*known[:1], *kept], known, values)


def tag_ids(source: Source, classes: Classes, data: Data) -> dict[str, set[int]]:
    """Class ids each image is tagged with; images whose tags are the classes in their mask are left out."""
    ids = {name: number for number, name in enumerate(classes.names[1:], 1)}
    tagged = {picture.id: picture.tags for picture in source.pictures if picture.tags is not None}
    foreign: dict[str, list[str]] = {}
    for name, tags in tagged.items():
        for tag in tags:
            if tag not in ids:
                foreign.setdefault(tag, []).append(name)
    masks = any(picture.mask for picture in source.pictures)
    for tag, names in sorted(foreign.items()):
        found = f"tags: '{tag}' ({len(names)} images, the first {names[0]})"
        if tag not in classes.known:
            source.problems.append(
                f"{found} is not a class; correct it, or add it to classes.txt: {', '.join(classes.known)}"
            )
        elif tag != classes.known[0] and data.other == "error":
            source.problems.append(f"{found} is not among data.classes; add it, or set data.other: background or void")
        elif tag == classes.known[0] and tag != "background" and not masks:
            source.problems.append(
                f"{found} stands first in classes.txt, the place of the background; put `background` first"
            )
    return {name: {ids[tag] for tag in tags if tag in ids} for name, tags in tagged.items()}


# --------------------------------------------------------------------------------------------------------- pixels


def orientation(image: Image.Image) -> int:
    # The base class's method: PNG's own decodes the whole picture to look for tags behind the pixels.
    return Image.Image.getexif(image).get(ORIENTATION, 1)


def upright_size(image: Image.Image) -> Size:
    width, height = image.size
    return (width, height) if orientation(image) >= 5 else (height, width)


def read_photograph(picture: Picture) -> np.ndarray:
    """uint8 [h0,w0,3], upright."""
    if isinstance(picture.image, tuple):
        return compose(*picture.image)[0]
    with Image.open(picture.image) as image:
        turn = UPRIGHT.get(orientation(image))
        rgb = image.convert("RGB")
        return np.asarray(rgb if turn is None else rgb.transpose(turn))


def read_mask(picture: Picture) -> np.ndarray | None:
    """Mask values as they are in the file, [h0,w0]. Unusable where the file holds colours."""
    if isinstance(picture.image, tuple):
        return compose(*picture.image)[1]
    if picture.mask is None:
        return None
    with Image.open(picture.mask) as image:
        if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
            raise Unusable(f"holds {image.mode} colours; save it as gray or palette PNG whose values are class numbers")
        return np.asarray(image).astype(np.int32 if image.mode.startswith("I") else np.uint8)


def look_at_photograph(picture: Picture, known: bool, max_side: int) -> Size:
    """Its upright size; unless known, after decoding all of it."""
    if isinstance(picture.image, tuple):
        height, width = compose(*picture.image)[1].shape
        return height, width
    with Image.open(picture.image) as image:
        size = upright_size(image)
        if not known:
            if image.mode == "F" or image.mode.startswith("I"):
                raise Unusable(f"has {image.mode} pixels; save it with 8 bits per channel")
            image.draft("RGB", (1, 1))  # JPEG: all bytes are read, few pixels computed
            image.load()
    left = min(size) * min(1, max_side / max(size))
    if left < NARROWEST:
        raise Unusable(
            f"is {_by(size)}, {left:.0f} px narrow at data.max_side {max_side}; {NARROWEST} expected, crop it"
        )
    return size


def look_at_mask(picture: Picture, size: Size, classes: Classes) -> tuple[set[int], list[str]]:
    """The values in a mask, and what is wrong with it."""
    values = read_mask(picture)
    if values is None:
        return set(), []
    problems = []
    if values.shape != size:
        remedy = (
            "it fits the photograph before its EXIF rotation; turn it"
            if values.shape == size[::-1]
            else "export it again"
        )
        problems.append(
            f"{picture.mask}: {_by(values.shape)} mask for a {_by(size)} photograph ({picture.image}); {remedy}"
        )
    seen = np.unique(values) if values.dtype == np.int32 else np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    inside = seen[(seen >= 0) & (seen <= VOID)]
    refused = [*seen[(seen < 0) | (seen > VOID)].tolist(), *inside[classes.values[inside] == REFUSED].tolist()]
    if refused:
        names = ", ".join(f"{v} ({classes.known[v]})" if 0 < v < len(classes.known) else str(v) for v in refused[:5])
        remedy = "set data.other" if all(0 < v < len(classes.known) for v in refused) else "correct it or classes.txt"
        more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
        problems.append(
            f"{picture.mask}: values {names}{more}; 0 to {len(classes.known) - 1} and 255 can be used; {remedy}"
        )
    return set(inside.tolist()), problems


def _by(size: tuple[int, ...]) -> str:
    return f"{size[1]}×{size[0]}"


def digests(source: Source) -> Content:
    """Content digests of each picture's photograph and mask. Pictures that cannot be read leave the source."""
    found = {}
    for picture in source.pictures:
        try:
            found[picture.id] = _digest(picture.image), _digest(picture.mask)
        except OSError as error:
            source.problems.append(f"{error.filename}: cannot be read ({error.strerror}); check its permissions")
    source.pictures = [picture for picture in source.pictures if picture.id in found]
    return found


def _digest(file: Path | tuple[int, int] | None) -> bytes:
    content = file.read_bytes() if isinstance(file, Path) else repr(file).encode()
    return hashlib.blake2b(content, digest_size=DIGEST).digest()
