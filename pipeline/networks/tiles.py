"""Label maps of pictures too large for one pass, in overlapping tiles: memory holds a tile, not the picture.

Tiles begin at multiples of 128 pixels, the largest cell, so the cells of their maps are those of the whole picture; of
each only the middle is kept, `overlap` away from edges that are not the picture's. Where `overlap` is no less than how
far the network looks (`reach`), a pixel's scores come from the same numbers as in one pass over the whole picture, and
are the same but for rounding. A network that pools over all it sees (DeepLab-v3+, the gate of `psl`, the latents of
`dis`) has no such reach: to it a tile is a picture of its own. Nothing is blended: where tiles agree there is nothing
to blend, and where not, a mean of two answers is a third one.

Legend: C classes, h x w a tile, H x W a picture in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from pipeline.core.job import InputError
from pipeline.kinds.pixels import VOID, resize_nearest
from pipeline.networks.door import Network, SegmenterNetwork, labels_of, predict_batch
from pipeline.networks.trunk import STRIDE

LIMIT = 2**22  # pixels that go through a network at once: of VGG16 some 4 GB (PIXEL_BYTES in networks/pictures.py)
UNIT = 4 * STRIDE  # pixels of the largest cell of any head: the hypercolumn pools twice more
TILE = 1536  # pixels: a little over half of LIMIT
OVERLAP = 128  # of networks without a reach: beyond it their context is a mean over the tile anyway
FARTHEST = 32 * UNIT  # pixels that are searched for a reach
# top, bottom, left, right → uint8 [h,w,3]; None where nothing is known of any pixel
Read = Callable[[int, int, int, int], np.ndarray | None]


@dataclass(frozen=True)
class Tiling:
    """Sides of tiles and how far they overlap on each side, multiples of 128; whether the answer is the whole
    picture's."""

    tile: int
    overlap: int
    exact: bool

    @property
    def cost(self) -> float:
        """How often a pixel is computed, far from edges."""
        return (self.tile / (self.tile - 2 * self.overlap)) ** 2

    def __str__(self) -> str:
        how = "as in one pass" if self.exact else "near their seams not quite as in one pass"
        return f"tiles of {self.tile} px that overlap by {self.overlap} ({self.cost:.1f} times the work), {how}"


def tiling(network: Network, tile: int | None = None, overlap: int | None = None) -> Tiling:
    """The tiles to use with a network, in multiples of 128, three at least. None: tiles of 1536 pixels; an overlap as
    far as the network looks, but at most a quarter of the tile.

    Raises InputError when nothing of a tile would be kept.
    """
    seen = reach(network)
    tile = TILE if tile is None else max(3, round(tile / UNIT)) * UNIT
    if overlap is None:
        overlap = OVERLAP if seen is None else seen
        overlap = min(overlap, max(OVERLAP, tile // 4 // UNIT * UNIT))
    overlap = -(-overlap // UNIT) * UNIT
    if tile <= 2 * overlap:
        raise InputError(
            f"--tile {tile}: nothing is left of a tile without its overlap of {overlap} pixels on each side; more than "
            f"{2 * overlap} expected, or a smaller --overlap (both are rounded to multiples of {UNIT})"
        )
    return Tiling(tile, overlap, seen is not None and overlap >= seen)


def reach(network: Network) -> int | None:
    """How far from a pixel the network looks, pixels; a multiple of 128. None where it looks at everything, and where
    pixels of a tile are not those of the whole (several scales, mirror images).

    Measured, once: in a strip with one block that is not a number, whatever depends on it is none either. Layers are
    alike along rows and columns.
    """
    if not isinstance(network, SegmenterNetwork) or tuple(network.scales) != (1.0,) or network.flip:
        return None
    middle = FARTHEST // 2
    strip = torch.zeros(1, 3, STRIDE, FARTHEST, device=network.device)
    strip[..., middle : middle + UNIT] = torch.nan
    with torch.no_grad():
        touched = network.model(strip)[0].isnan().any(0).any(0).nonzero().flatten().tolist()
    first, last = touched[0], touched[-1] + 1
    if first == 0 or last == FARTHEST:
        return None
    return -(-max(middle - first, last - middle - UNIT) // UNIT) * UNIT


def label_rows(
    network: Network, how: Tiling, size: tuple[int, int], read: Read, possible: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """The label map of a picture of this size (H, W), in bands of rows from the top: uint8 [n,W] each.

    read: gives a part of it; where it gives nothing the labels are 255. possible: bool [C], None: all.
    """
    mask = None if possible is None else np.asarray(possible)[None]
    height, width = size
    for top, bottom, upper, lower in _parts(height, how):
        band = np.empty((lower - upper, width), np.uint8)
        for left, right, first, last in _parts(width, how):
            rgb = read(top, bottom, left, right)
            if rgb is None:
                band[:, first:last] = VOID
                continue
            scores = network.probabilities(rgb[None], mask)[0]
            kept: Tensor = scores[:, upper - top : lower - top, first - left : last - left]
            band[:, first:last] = labels_of(kept, lower - upper, last - first)
        yield band


def _parts(length: int, how: Tiling) -> Iterator[tuple[int, int, int, int]]:
    """Along one side: where each tile begins and ends, and what of it is kept. The last is as long as the others."""
    first, latest = 0, max(0, -(-(length - how.tile) // UNIT) * UNIT)
    while first < length:
        begin = min(max(0, first - how.overlap), latest)
        end = min(length, begin + how.tile)
        last = length if end == length else end - how.overlap
        yield begin, end, first, last
        first = last


def large(size: tuple[int, ...], tile: int | None, crf: bool = False) -> bool:
    """Whether a picture (h, w) is predicted in tiles. tile: 0: never; None: above LIMIT, if no CRF wants it whole."""
    if tile is None:
        return size[0] * size[1] > LIMIT and not crf
    return 0 < tile < max(size)


def label_maps(
    network: Network, tile: int | None, overlap: int | None, crf: bool
) -> Callable[[np.ndarray, Sequence[tuple[int, int]], np.ndarray | None], list[np.ndarray]]:
    """`door.predict_batch` for pictures of any size: large ones in tiles. Their labels, not their scores, are brought
    to the size that is wanted, where it is another."""
    how = cache(lambda: told(tiling(network, tile, overlap)))

    def label(
        rgb: np.ndarray, sizes: Sequence[tuple[int, int]], possible: np.ndarray | None = None
    ) -> list[np.ndarray]:
        if not large(rgb.shape[1:3], tile, crf):
            return predict_batch(network, rgb, sizes, possible, crf)
        masks = [None] * len(rgb) if possible is None else list(possible)
        found = []
        for one, size, mask in zip(rgb, sizes, masks, strict=True):
            bands = label_rows(network, how(), (one.shape[0], one.shape[1]), part_of(one), mask)
            found.append(resize_nearest(np.concatenate(list(bands)), *size))
        return found

    return label


def part_of(rgb: np.ndarray) -> Read:
    return lambda top, bottom, left, right: rgb[top:bottom, left:right]


def rows(
    network: Network, tile: int | None, overlap: int | None
) -> Callable[[tuple[int, int], Read], Iterator[np.ndarray]]:
    """`label_rows` of pictures that are read in parts, always in tiles."""
    how = told(tiling(network, tile or None, overlap))
    return lambda size, read: label_rows(network, how, size, read)


def told(how: Tiling) -> Tiling:
    print(f"large pictures: {how}", flush=True)
    return how
