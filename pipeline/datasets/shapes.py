"""Masks that no file holds, drawn from what annotation tools say: polygons, run lengths, bitmaps, coloured pictures.

A sketch is JSON, so that it can stand in the inventory and that its text decides whether a row is made again:

    {"size": [h, w], "turn": 6, "fill": 0, "shapes": [...]}    shapes in the order they are drawn: later ones lie on top
    {"v": 3, "polygon": [x, y, x, y, ...]}                     in pixels; (0, 0) is the corner of the first pixel
    {"v": 3, "polygon": [x, y, ...], "unit": true}             in fractions of width and height
    {"v": 3, "rle": "..." or [...], "size": [h, w]}            COCO's, column by column
    {"v": 3, "runs": [...], "box": [left, top, w, h]}          CVAT's, row by row in its box, the first run is outside
    {"v": 3, "brush": base64, "size": [h, w]}                  Label Studio's
    {"v": 3, "bitmap": file}                                   what is not 0 (of RGBA: not transparent)
    {"v": 3, "png": base64, "at": [x, y]}                      labelme's
    {"table": [[r, g, b, v], ...] or [[value, v], ...], "colours": file}    a whole mask, its size that of the file

v: the mask value. fill: of what no shape covers, 0 or 255 (void). turn: the EXIF orientation of the photograph, where
the shapes are in its pixels before it is turned upright.

Rasterising (ours): a pixel belongs to a polygon when its centre does, by the even-odd rule, so that a ring that is led
along a bridge into a hole leaves the hole out. What leaves the picture is cut off. COCO's own rule, which samples edges
at a fifth of a pixel, differs from it along edges alone.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.datasets.pictures import UPRIGHT, Unusable, by, open_picture, read_mask, reason, refuse_lossy

FILES = ("bitmap", "colours")  # keys of shapes that name a file
LARGEST = 2**28  # pixels; no photograph that can be read has as many
FAR = 1e7  # pixels; no point that a person set lies farther away


@dataclass(frozen=True)
class Sketched:
    """A sketch and all it is drawn from. raw: the text but for names of files, and what those hold: its digest is the
    sketch's own, wherever they lie."""

    about: dict[str, Any]
    files: dict[str, bytes]
    raw: bytes


def sketched(text: str) -> Sketched:
    """Read the files a sketch names. Raises OSError where one cannot be read."""
    about = json.loads(text)
    names = [shape[key] for shape in about["shapes"] for key in FILES if key in shape]
    files = {name: Path(name).read_bytes() for name in names}
    for name in names:
        text = text.replace(json.dumps(name), '""', 1)
    parts = [text.encode(), *(files[name] for name in names)]
    return Sketched(about, files, b"".join(len(part).to_bytes(8, "big") + part for part in parts))


def draw(sketch: Sketched) -> np.ndarray:
    """The mask, uint8 [h,w], upright. Raises Unusable where a shape is not what its tool writes."""
    shapes = sketch.about["shapes"]
    if len(shapes) == 1 and "colours" in shapes[0]:
        return translated(sketch.files[shapes[0]["colours"]], shapes[0]["table"])
    height, width = drawable(*sketch.about["size"])
    mask = np.full((height, width), sketch.about.get("fill", 0), np.uint8)
    for shape in shapes:
        paint(mask, shape, sketch.files)
    turn = UPRIGHT.get(sketch.about.get("turn", 1))
    return mask if turn is None else np.array(Image.fromarray(mask).transpose(turn))


def paint(mask: np.ndarray, shape: dict[str, Any], files: dict[str, bytes]) -> None:
    """Add one shape to a mask uint8 [h,w]."""
    if "polygon" in shape:
        from skimage.draw import polygon

        points = np.asarray(shape["polygon"], np.float64).reshape(-1, 2)
        if shape.get("unit"):
            points = points * mask.shape[::-1]
        if len(points) < 3 or not (abs(points) < FAR).all():
            raise Unusable("a polygon of fewer than three points, or with one that no picture has; export it again")
        inside = polygon(points[:, 1] - 0.5, points[:, 0] - 0.5, mask.shape)
        mask[inside] = shape["v"]
    elif "rle" in shape:
        put_whole(mask, coco_bitmap(shape["rle"], shape["size"]), "run lengths", shape["v"])
    elif "runs" in shape:
        left, top, width, height = shape["box"]
        put(mask, run_bitmap(shape["runs"], height, width), left, top, shape["v"])
    elif "brush" in shape:
        from pipeline.annotations.brush import decode

        height, width = drawable(*shape["size"])
        try:
            stream = np.frombuffer(base64.b64decode(shape["brush"]), np.uint8)
            found = decode(stream, height, width) > 0
        except ValueError as error:
            raise Unusable(f"a brush region: {error}") from None
        put_whole(mask, found, "a brush region", shape["v"])
    elif "png" in shape:
        left, top = shape["at"]
        try:
            content = base64.b64decode(shape["png"])
        except ValueError as error:
            raise Unusable(f"a mask that is no base64 ({error}); export it again") from None
        put(mask, bitmap(content), left, top, shape["v"])
    else:
        try:
            found = bitmap(files[shape["bitmap"]])
        except Exception as error:
            raise Unusable(f"{shape['bitmap']}: {reason(error)}") from None
        put_whole(mask, found, shape["bitmap"], shape["v"])


def drawable(height: int, width: int) -> tuple[int, int]:
    """The size, if a picture can have it."""
    if not (0 < height < LARGEST and 0 < width < LARGEST and height * width <= LARGEST):
        raise Unusable(f"is {width}×{height} by what the tool says, at most {LARGEST} pixels expected; export it again")
    return height, width


def put_whole(mask: np.ndarray, found: np.ndarray, what: str, value: int) -> None:
    """Set value where the bitmap bool [h,w] of a photograph is set. Raises Unusable where it is of another size."""
    if found.shape != mask.shape:
        raise Unusable(f"{what}: a {by(found.shape)} mask for a {by(mask.shape)} photograph; export it again")
    mask[found] = value


def put(mask: np.ndarray, found: np.ndarray, left: int, top: int, value: int) -> None:
    """Set value where the bitmap bool [h,w], its corner at (left, top), lies; what leaves the mask is cut off."""
    y, x = max(top, 0), max(left, 0)
    part = found[y - top : max(mask.shape[0] - top, 0), x - left : max(mask.shape[1] - left, 0)]
    mask[y : y + part.shape[0], x : x + part.shape[1]][part] = value


def coco_bitmap(counts: str | list[int], size: list[int]) -> np.ndarray:
    """COCO's run lengths, column by column, compressed or not → bool [h,w].

    Read here and not by pycocotools, which takes runs that end too early for a mask and fills the rest with whatever
    lies in memory.
    """
    height, width = size
    return run_bitmap(unpacked(counts) if isinstance(counts, str) else counts, width, height).T


def unpacked(counts: str) -> list[int]:
    """COCO's compressed run lengths: numbers in groups of five bits, the lowest first, a sixth bit where more follow,
    as characters from '0' on; from the fourth number on they are differences to the last but one."""
    runs, value, shift = list[int](), 0, 0
    for letter in counts:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise Unusable(f"run lengths with '{letter}' in them, which COCO's never have; export it again")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def run_bitmap(runs: list[int], height: int, width: int) -> np.ndarray:
    """Run lengths row by row, of outside and inside in turn → bool [h,w]."""
    drawable(height, width)
    if not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) != height * width:
        raise Unusable(f"run lengths that do not make a picture of {width}×{height}; export it again")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)


def bitmap(content: bytes) -> np.ndarray:
    """What is not 0 in a picture; of one with transparency what is not transparent. bool [h,w]. Raises Unusable where a
    picture without transparency holds more than 0 and another value: it says something else than in or out."""
    with open_picture(content) as image:
        refuse_lossy(image)
        if image.has_transparency_data:
            return np.asarray(image.convert("RGBA"))[..., 3] > 0
        colour = image.mode == "RGB"
        values = np.asarray(image).astype(np.int32) @ (65536, 256, 1) if colour else read_mask(content)
    seen = np.unique(values)
    if (seen != 0).sum() > 1:
        shown = ", ".join(named(code, colour) for code in seen[:5].tolist())
        raise Unusable(f"holds {shown}{', …' * (len(seen) > 5)}; the mask of one class holds 0 and 1, or 0 and 255")
    return np.asarray(values != 0)


def translated(content: bytes, table: list[list[int]]) -> np.ndarray:
    """A mask whose colours, or numbers, mean something else → its mask values, uint8 [h,w].

    table: rows r, g, b, v of colours, or value, v of numbers. Raises Unusable with what stands in no row of it.
    """
    if len(table[0]) == 4:
        with open_picture(content) as image:
            refuse_lossy(image)
            rgb = np.asarray(image.convert("RGB")).astype(np.uint32)
        codes = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
        rows = {r << 16 | g << 8 | b: v for r, g, b, v in table}
    else:
        codes, rows = read_mask(content).astype(np.int64), dict(map(tuple, table))  # type: ignore[arg-type]
    seen, places = np.unique(codes, return_inverse=True)
    unknown = [code for code in seen.tolist() if code not in rows]
    if unknown:
        names = [named(code, len(table[0]) == 4) for code in unknown[:5]]
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise Unusable(
            f"holds {', '.join(names)}{more}, which the table of classes does not have; add a line for it "
            "(called void, if it means nothing)"
        )
    values = np.array([rows[code] for code in seen.tolist()], np.uint8)
    return values[places].reshape(codes.shape)


def named(code: int, colour: bool) -> str:
    return f"colour {code >> 16},{code >> 8 & 255},{code & 255}" if colour else f"value {code}"
