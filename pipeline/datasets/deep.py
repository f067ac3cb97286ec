"""Pictures of more than 8 bits, or of more bands than red, green and blue: from PNG and TIFF to 8 bits a channel.

The rule (ours), of each picture by itself, one scale for all its bands, so that colours stay what they are:

    fills its range   its 99th percentile lies above half of it, 65535 of 16-bit numbers and 1 of fractions (floats of
                      0 to 1 alone): divided by it; a photograph looks as its 8-bit copy does
    all others        sensors of 10 to 14 bits, reflectances, temperatures, heights: stretched, the 1st percentile to
                      black and the 99th to white, as microscopy does (Stringer et al., Cellpose, Nature Methods 2021)

What is no number (NaN, infinite) is black. Percentiles are of the pixels' values by rank, without interpolation: the
same on every machine. Bands are counted from 1; three of them are named where a picture has more than red, green, blue.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

RULE = "over half of its range: divided by it; else 1st to 99th percentile stretched"  # noted with what is made by it
FULL = 65535
TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WIDTH, HEIGHT, BITS, TURN, SAMPLES, KIND = 256, 257, 258, 274, 277, 339  # tags of TIFF
RGB = 2  # its photometric interpretation


class Unusable(ValueError):
    """A file that can be decoded and still means nothing here. The message says why and what to do."""


def is_tiff(content: bytes) -> bool:
    return content[:4] in TIFFS


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in the file: of a TIFF Pillow says those of the upright picture."""
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        return tags[WIDTH], tags[HEIGHT]
    return image.size


def is_deep(image: Image.Image) -> bool:
    """Whether Pillow would cut a picture down to 8 bits, or to bands that it knows. Asked before it is loaded."""
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits, kinds = (tags.get(tag, (1,)) for tag in (BITS, KIND))
        return max(bits) > 8 or max(kinds) > 1 or tags.get(SAMPLES, 1) > 4 or image.mode == "F" or image.mode[0] == "I"
    return image.mode == "F" or image.mode.startswith("I") or _is_deep_png(image)


def _is_deep_png(image: Image.Image) -> bool:
    tiles: Any = getattr(image, "tile", ())
    return image.format == "PNG" and bool(tiles) and str(tiles[0][3]) in ("RGB;16B", "RGBA;16B")


def pixels_of(image: Image.Image, content: bytes, bands: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray | None]:
    """A deep picture as Pillow opened it, not loaded → rgb uint8 [h,w,3], and opacity uint8 [h,w] if it has one. Not
    turned upright."""
    if _is_deep_png(image):
        high, low = (_loaded(content, f"{image.mode};16{end}") for end in "BL")
        deep = high.astype(np.uint16) << 8 | low
        return rgb_of(deep[..., :3], bands), high[..., 3] if deep.shape[2] == 4 else None
    if image.format == "TIFF":
        return tiff_pixels(content, bands, image)
    image.load()
    return rgb_of(np.asarray(image), bands), None


def _loaded(content: bytes, raw: str) -> np.ndarray:
    """A PNG of 16 bits by one byte of each number: the high one of `;16B`, the low one of `;16L`, which are swapped in
    the other order of bytes."""
    with Image.open(BytesIO(content), formats=["PNG"]) as image:
        tile: Any = image.tile[0]
        image.tile = [(*tile[:3], raw)]  # type: ignore[list-item]
        image.load()
        return np.asarray(image)


def tiff_pixels(
    content: bytes, bands: Sequence[int] | None, image: Image.Image | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """As `pixels_of`, of the first page of a TIFF. image: as Pillow opened it, None where it could not: it reads more
    compressions, and fewer kinds of numbers."""
    with first_page(content) as page:
        size = page.imagewidth * page.imagelength
        limit = 2 * (Image.MAX_IMAGE_PIXELS or size)
        if size > limit:
            raise Unusable(f"has {size} pixels, at most {limit} are read; make it smaller, or cut it in parts")
        if image is not None and page.samplesperpixel == 1:
            image.load()
            return rgb_of(np.asarray(image), bands), None
        try:
            found = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            form = page.compression.name
            raise Unusable(f"is packed by {form}; install imagecodecs, or save it unpacked or by DEFLATE") from None
        if page.axes.startswith("S"):
            found = np.moveaxis(found, 0, -1)
        if found.ndim > 3 or found.ndim < 2:
            raise Unusable(f"has the axes {page.axes}; save it as one picture of height, width and bands")
        alpha = bool(page.extrasamples) and page.extrasamples[0] in (1, 2) and found.ndim == 3 and not bands
        colours = 3 if page.photometric == RGB else 1
        opacity = opacity_of(found[..., colours]) if alpha and found.shape[2] > colours else None
        if bands is None and found.ndim == 3 and (page.photometric == RGB or alpha):
            found = found[..., :colours]
        return rgb_of(found, bands), opacity


@contextmanager
def first_page(content: bytes) -> Iterator[Any]:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it doubts: errors are what counts here
    with tifffile.TiffFile(BytesIO(content)) as file:
        yield file.pages[0]


def tiff_orientation(content: bytes) -> int:
    with first_page(content) as page:
        return int(page.tags[TURN].value) if TURN in page.tags else 1


def rgb_of(pixels: np.ndarray, bands: Sequence[int] | None) -> np.ndarray:
    """Numbers of any kind, [h,w] or [h,w,c] → uint8 [h,w,3]."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    count = pixels.shape[2]
    if bands is not None:
        if asked := [band for band in bands if not 1 <= band <= count]:
            raise Unusable(f"has {count} band{'s' * (count > 1)}, and band {asked[0]} is asked for; correct the bands")
        pixels = pixels[..., [band - 1 for band in bands]]
    elif count not in (1, 3):
        raise Unusable(
            f"has {count} bands; name those of red, green and blue, `data: {{bands: [3, 2, 1]}}` (or --bands)"
        )
    eight = as_bytes(pixels)
    return eight if eight.shape[2] == 3 else eight.repeat(3, 2)


def opacity_of(values: np.ndarray) -> np.ndarray:
    """Alpha of any kind of numbers, by the whole of its range → uint8."""
    full = 1.0 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
    return np.round(np.clip(np.nan_to_num(values.astype(np.float64)) / full, 0, 1) * 255).astype(np.uint8)


def as_bytes(values: np.ndarray) -> np.ndarray:
    """uint8 of the same shape, by the rule above."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if not np.issubdtype(values.dtype, np.number) or np.issubdtype(values.dtype, np.complexfloating):
        raise Unusable(f"holds {values.dtype} numbers; save it with 8 or 16 bits per channel")
    low, high, full = limits(values)
    if values.dtype == np.uint16 and values.size > FULL:
        return scaled(np.arange(FULL + 1), low, high, full)[values]
    return scaled(values, low, high, full)


def scaled(values: np.ndarray, low: float, high: float, full: float) -> np.ndarray:
    """low, high: percentiles of the picture; full: its range, 0 for none."""
    if full and high > full / 2:
        low, high = 0.0, full
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    known = np.nan_to_num(values.astype(np.float64), nan=low, posinf=low, neginf=low)
    return np.round((np.clip(known, low, high) - low) * (255 / (high - low))).astype(np.uint8)


def limits(values: np.ndarray) -> tuple[float, float, float]:
    """1st and 99th percentile, by rank, and the range of such numbers: 0 where nothing says it."""
    if values.dtype == np.uint16:
        ranks = np.cumsum(np.bincount(values.ravel(), minlength=FULL + 1))
        places = [min(FULL, int(np.searchsorted(ranks, values.size * share, "right"))) for share in (0.01, 0.99)]
        return float(places[0]), float(places[1]), FULL
    known = values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()
    if not known.size:
        raise Unusable("holds no number, only NaN; leave it out")
    ranks_of = [min(known.size - 1, int(known.size * share)) for share in (0.01, 0.99)]
    low, high = (float(value) for value in np.partition(known, ranks_of)[ranks_of])
    least, most = known.min(), known.max()
    fraction = values.dtype.kind == "f" and least >= 0 and most <= 1
    sixteen = values.dtype.kind != "f" and least >= 0 and most <= FULL
    return low, high, 1.0 if fraction else FULL if sixteen else 0
