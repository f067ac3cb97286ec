"""Photographs and masks as they lie on disk. Photographs come out upright and in RGB whatever their file holds, masks
as the values in the file.

A file is given by its path or by its bytes. Functions raise what the decoder raises, and Unusable where only a person
can help.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

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


class Unusable(ValueError):
    """A file that can be decoded and still means nothing here. The message says why and what to do."""


def read_photograph(file: Path | bytes) -> np.ndarray:
    """uint8 [h,w,3], upright and writable."""
    with _open(file) as image:
        _refuse_deep(image)
        image.load()
        turn = UPRIGHT.get(_orientation(image))
        rgb = image.convert("RGB")
        return np.array(rgb if turn is None else rgb.transpose(turn))


def look_at_photograph(file: Path | bytes) -> Size:
    """Its upright size, after decoding all of it."""
    with _open(file) as image:
        _refuse_deep(image)
        width, height = image.size
        image.draft("RGB", (1, 1))  # JPEG: all bytes are read, few pixels computed
        image.load()
        return (width, height) if _orientation(image) >= 5 else (height, width)


def read_mask(file: Path | bytes) -> np.ndarray:
    """Mask values as they are in the file, uint8 or int32 [h,w]. Unusable where the file holds colours."""
    with _open(file) as image:
        if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
            raise Unusable(f"holds {image.mode} colours; save it as gray or palette PNG whose values are class numbers")
        return np.asarray(image).astype(np.int32 if image.mode.startswith("I") else np.uint8)


def by(size: tuple[int, ...]) -> str:
    """A size as people say it, width first."""
    return f"{size[1]}×{size[0]}"


def _open(file: Path | bytes) -> Image.Image:
    try:
        return Image.open(BytesIO(file) if isinstance(file, bytes) else file)
    except UnidentifiedImageError:
        raise Unusable("cannot be decoded (cannot identify its format); replace it") from None


def _refuse_deep(image: Image.Image) -> None:
    if image.mode == "F" or image.mode.startswith("I"):
        raise Unusable(f"has {image.mode} pixels; save it with 8 bits per channel")


def _orientation(image: Image.Image) -> int:
    """To be asked once the picture is loaded: a PNG may say it behind its pixels."""
    return image.getexif().get(ORIENTATION, 1)
