"""Pictures of label maps, scores and claimed regions, and the forms in which they leave the program.

A pixel of a label map is a class id, or 255 = void/unlabelled. Photographs are uint8 [h,w,3]; what is drawn over one
has its size. background: class id, or None where the data set has none.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipeline.core.metrics import VOID

# From black over red to pale yellow: equal steps look equal, and it prints in grey. Scores from 0 to 1.
HEAT = ((8, 6, 26), (66, 14, 104), (135, 36, 106), (203, 62, 79), (243, 112, 44), (250, 180, 60), (252, 250, 170))
ROUNDS = ((255, 214, 10), (255, 120, 40), (226, 62, 128), (126, 87, 222), (30, 150, 220), (20, 180, 140))
RIGHT, WRONG, MISSED = (70, 170, 110), (214, 60, 60), (240, 180, 60)


def palette(classes: int = 256) -> np.ndarray:
    """The VOC colour map, uint8 [classes,3]: the bits of the class id, dealt out to red, green, blue from the top."""
    ids = np.arange(classes)
    colours = np.zeros((classes, 3), np.uint8)
    for level in range(8):
        for channel in range(3):
            colours[:, channel] |= (((ids >> (3 * level + channel)) & 1) << (7 - level)).astype(np.uint8)
    return colours


def css(colour: Sequence[int] | np.ndarray) -> str:
    """A colour as CSS writes it: '#80c0ff'."""
    return "#" + "".join(f"{int(value):02x}" for value in colour)


def palette_png(labels: np.ndarray) -> bytes:
    """Label map uint8 [h,w] → bytes of a PNG of mode P: pixel values are class ids, colours are VOC's."""
    picture = Image.fromarray(np.ascontiguousarray(labels))
    picture.putpalette(palette().tobytes())
    return _encode(picture, format="PNG", optimize=True)


def jpeg(rgb: np.ndarray, quality: int = 90) -> bytes:
    """uint8 [h,w,3] → bytes of a JPEG. Colours keep their resolution, or thin outlines would fade."""
    return _encode(Image.fromarray(np.ascontiguousarray(rgb)), format="JPEG", quality=quality, subsampling=0)


def data_uri(rgb: np.ndarray, quality: int = 80) -> str:
    """uint8 [h,w,3] → a JPEG that can stand in an HTML page."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(rgb, quality)).decode()


def _encode(picture: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def edges(labels: np.ndarray, width: int = 1) -> np.ndarray:
    """Borders between different labels, `width` pixels to either side, bool [h,w]."""
    out = np.zeros(labels.shape, bool)
    for step in range(1, width + 1):
        for a, b in ((np.s_[step:, :], np.s_[:-step, :]), (np.s_[:, step:], np.s_[:, :-step])):
            differs = labels[a] != labels[b]
            out[a] |= differs
            out[b] |= differs
    return out


def _plain(labels: np.ndarray, background: int | None) -> np.ndarray:
    """Where a label map says background, bool [h,w]."""
    return np.zeros(labels.shape, bool) if background is None else labels == background


def overlay(rgb: np.ndarray, labels: np.ndarray, strength: float = 0.55, *, background: int | None) -> np.ndarray:
    """Label map over its photograph, uint8 [h,w,3]: classes tinted and outlined, void hatched, background greyish."""
    colours = palette()[labels].astype(np.float32)
    plain = _plain(labels, background)
    share = np.where(plain, 0, strength).astype(np.float32)
    base = rgb.astype(np.float32)
    base = np.where(plain[..., None], base * 0.45 + base.mean(2, keepdims=True) * 0.4 + 12, base)
    stripe = max(2, max(rgb.shape) // 80)
    slanted = (np.add.outer(np.arange(labels.shape[0]), np.arange(labels.shape[1])) // stripe) % 2
    share = np.where(labels == VOID, np.where(slanted == 1, 0.7, 0.25), share)
    mixed = base * (1 - share[..., None]) + colours * share[..., None]
    line = edges(labels, max(1, round(max(rgb.shape) / 500)))
    mixed[line] = (mixed[line] + 255) / 2
    return mixed.round().astype(np.uint8)


def heat(rgb: np.ndarray, scores: np.ndarray, strength: float = 0.75) -> np.ndarray:
    """Scores float [h,w] in [0,1] as a heat map over the (grey) photograph of the same size, uint8 [h,w,3]."""
    stops = np.linspace(0, 1, len(HEAT))
    colours = np.stack([np.interp(scores, stops, channel) for channel in zip(*HEAT, strict=True)], -1)
    grey = rgb.mean(2, keepdims=True)
    return (grey * (1 - strength) + colours * strength).round().astype(np.uint8)


def round_colour(number: int) -> tuple[int, int, int]:
    """Colour of an erasing round, from 1."""
    return ROUNDS[(number - 1) % len(ROUNDS)]


def by_round(rgb: np.ndarray, claimed: np.ndarray, strength: float = 0.65) -> np.ndarray:
    """Claimed region over the grey photograph, coloured by the round that claimed it. claimed: u8 [h,w], 0 = none."""
    rounds = range(1, max(2, int(claimed.max()) + 1))
    table = np.array([(0, 0, 0), *map(round_colour, rounds)], np.float32)
    share = np.where(claimed > 0, strength, 0)[..., None]
    grey = np.repeat(rgb.mean(2, keepdims=True), 3, 2) * 0.8
    mixed = grey * (1 - share) + table[claimed] * share
    mixed[edges(claimed)] = 255
    return mixed.round().astype(np.uint8)


def outline(rgb: np.ndarray, regions: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Draw the borders of regions bool [K,h,w] in the colours of their classes, lightened. Returns a copy."""
    out, colours = rgb.copy(), palette()
    for region, number in zip(regions, classes, strict=True):
        out[edges(region)] = (colours[number].astype(np.int64) + 255) // 2
    return out


def errors(rgb: np.ndarray, predicted: np.ndarray, truth: np.ndarray, *, background: int | None) -> np.ndarray:
    """Where a label map is right (green), has a wrong class (red) or misses an object (amber); void is left out."""
    mixed = np.repeat(rgb.mean(2, keepdims=True), 3, 2)
    wrong, none = (truth != VOID) & (predicted != truth), _plain(predicted, background) | (predicted == VOID)
    for where, colour in (
        ((truth != VOID) & (predicted == truth) & ~_plain(truth, background), RIGHT),
        (wrong & ~none, WRONG),
        (wrong & none & ~_plain(truth, background), MISSED),
    ):
        mixed[where] = mixed[where] * 0.4 + np.array(colour) * 0.6
    return mixed.round().astype(np.uint8)


def sheet(tiles: list[np.ndarray], gap: int = 4) -> np.ndarray:
    """Tiles uint8 [s,s,3] of one size side by side on white, uint8 [s, n·(s + gap) − gap, 3]."""
    side = tiles[0].shape[0]
    out = np.full((side, len(tiles) * (side + gap) - gap, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        out[:, number * (side + gap) : number * (side + gap) + side] = tile
    return out
