"""Photographs and masks as they lie on disk. Photographs come out upright and in RGB of 8 bits whatever their file has
(datasets/deep.py: more bits, more bands), what is transparent on white, as viewers show it; masks as the values in the
file.

A file is given by its path or by its bytes. Functions raise what the decoder raises, and Unusable where only a person
can help.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.datasets import deep
from pipeline.datasets.deep import Unusable

# What may be in a file, whatever its suffix. Pillow knows more, and hands some of it (PostScript) to other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
LOSSY = ("JPEG", "MPO", "WEBP", "HEIF")  # no masks: they blur class numbers
warnings.filterwarnings("ignore", module="PIL")  # of EXIF, or a size, that it doubts: errors are what counts here

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
SCALED = {"L;2": 85, "L;4": 17}  # gray of 2 and 4 bits, which Pillow spreads over 0 to 255
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands of its files
POINTER = b"version https://git-lfs"
Size = tuple[int, int]  # height, width


def read_photograph(file: Path | bytes, bands: Sequence[int] | None = None) -> np.ndarray:
    """uint8 [h,w,3], upright and writable. bands: which of a picture's bands are red, green and blue, counted from 1;
    without it a picture has one or three, or says itself which are colours."""
    content = file if isinstance(file, bytes) else file.read_bytes()
    try:
        image = open_picture(content)
    except Unusable:
        if not deep.is_tiff(content):
            raise
        pixels, turn = deep.tiff_pixels(content, bands), UPRIGHT.get(deep.tiff_orientation(content))
        return _upright(*pixels, turn)
    with image:
        if deep.is_deep(image) or (bands and image.format == "TIFF"):
            pixels = deep.pixels_of(image, content, bands)
            return _upright(*pixels, UPRIGHT.get(_orientation(image)))
        image.load()
        turn = UPRIGHT.get(_orientation(image))
        rgb = _on_white(image) if image.has_transparency_data else image.convert("RGB")
        found = np.array(rgb if turn is None else rgb.transpose(turn))
        return deep.rgb_of(found, bands) if bands else found


def look_at_photograph(file: Path | bytes, bands: Sequence[int] | None = None) -> Size:
    """Its upright size, after decoding all of it."""
    content = file if isinstance(file, bytes) else file.read_bytes()
    if bands or deep.is_tiff(content):
        height, width, _ = read_photograph(content, bands).shape
        return height, width
    with open_picture(content) as image:
        if deep.is_deep(image):
            height, width, _ = read_photograph(content).shape
            return height, width
        width, height = image.size
        image.draft("RGB", (1, 1))  # JPEG: all bytes are read, few pixels computed
        image.load()
        return (width, height) if _orientation(image) >= 5 else (height, width)


def raw_size(file: Path | bytes) -> tuple[Size, int]:
    """Its size as stored, and its EXIF orientation, from the head of the file alone: a PNG that says it behind its
    pixels is taken as upright."""
    try:
        with open_picture(file) as image:
            width, height = deep.stored_size(image)
            return (height, width), _orientation(image)
    except Unusable:
        content = file if isinstance(file, bytes) else file.read_bytes()
        if not deep.is_tiff(content):
            raise
        with deep.first_page(content) as page:
            return (page.imagelength, page.imagewidth), deep.tiff_orientation(content)


def read_mask(file: Path | bytes) -> np.ndarray:
    """Mask values as they are in the file, uint8 or int32 [h,w]. Unusable where the file holds colours."""
    with open_picture(file) as image:
        refuse_lossy(image)
        if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
            raise Unusable(f"holds {image.mode} colours; save it as gray or palette PNG whose values are class numbers")
        tiles = getattr(image, "tile", ())  # asked first: what is loaded has none
        scaled = SCALED.get(str(tiles[0][3]), 1) if tiles else 1
        return np.asarray(image).astype(np.int32 if image.mode.startswith("I") else np.uint8) // scaled


def refuse_lossy(image: Image.Image) -> None:
    if image.format in LOSSY:
        raise Unusable(f"is {image.format}, whatever its suffix; JPEG blurs class numbers, export it again as PNG")


def reason(error: Exception) -> str:
    """Why a file is not used, from what reading it raised, and what to do."""
    if isinstance(error, Unusable):
        return str(error)
    if isinstance(error, MemoryError):
        return "too large for this machine's memory; make it smaller"
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot be read ({error.strerror}); check its permissions"
    return f"cannot be decoded ({error}); replace it"  # decoders raise almost anything at damaged bytes


def by(size: tuple[int, ...]) -> str:
    """A size as people say it, width first."""
    return f"{size[1]}×{size[0]}"


def open_picture(file: Path | bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    try:
        return Image.open(BytesIO(file) if isinstance(file, bytes) else file, formats=formats)
    except UnidentifiedImageError:
        content = file if isinstance(file, bytes) else file.read_bytes()
        if content[4:8] == b"ftyp" and content[8:12] in HEIC and "HEIF" not in formats:
            _learn_heic()
            return open_picture(file, (*formats, "HEIF"))
        raise Unusable(_no_picture(content)) from None
    except Image.DecompressionBombError as error:
        found, limit, *_ = [*re.findall(r"\d+", str(error)), "?", "?"]
        raise Unusable(f"has {found} pixels, at most {limit} are read; make it smaller, or cut it in parts") from None


def _no_picture(content: bytes) -> str:
    """Why nothing in here can be shown."""
    if not content:
        return "is empty; copy it again"
    if content.startswith(POINTER):
        return "is a pointer of Git LFS, not the picture; fetch it with `git lfs pull`"
    if content[4:8] == b"ftyp":
        return "is AVIF or a film, whatever its suffix; convert it to JPEG or PNG"
    return "cannot be decoded (cannot identify its format); replace it"


def _learn_heic() -> None:
    """Teach Pillow the format of telephones, once one is met."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise Unusable(
            "is HEIC, which needs pillow-heif: pip install 'tagmask[heic]', or convert it to JPEG or PNG"
        ) from None
    register_heif_opener()


def _on_white(image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")


def _upright(rgb: np.ndarray, opacity: np.ndarray | None, turn: Image.Transpose | None) -> np.ndarray:
    """rgb uint8 [h,w,3], what is not opaque on white, turned."""
    image = Image.fromarray(rgb)
    if opacity is not None:
        image.putalpha(Image.fromarray(opacity))
        image = _on_white(image)
    return np.array(image if turn is None else image.transpose(turn))


def _orientation(image: Image.Image) -> int:
    """1 to 8, 1 where the file says nothing that EXIF knows. To be asked once the picture is loaded: a PNG may say it
    behind its pixels."""
    said = image.getexif().get(ORIENTATION)
    return said if said in UPRIGHT else 1
