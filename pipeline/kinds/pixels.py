"""Pixels of photographs and maps: resizing, jittering, cutting boxes out. No torch, which takes long to load.

Legend: h x w a photograph, K maps, g cells a side of a stored map.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

VOID = 255  # unlabelled or void: never counted, never trained on
LARGEST_CROP = 1024  # beyond it the integer sums of `crop` would leave int32
BAND = 128  # rows that are resized at once


def resize_image(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [h,w,3] → uint8 [height,width,3], bilinear with antialiasing.

    In whole numbers, first along rows, then along columns: the bytes torch gives (Pillow's, whose weights are finer,
    differ by one level in up to a fifth of the pixels). Bands of rows bound the memory.
    """
    if rgb.shape[:2] == (height, width):
        return rgb
    planes = rgb.transpose(1, 2, 0)  # the axis to resize first; long runs are what numpy is quick at
    if rgb.shape[1] != width:
        starts = range(0, rgb.shape[0], BAND)
        planes = np.concatenate([_resize_first(planes[..., at : at + BAND], width) for at in starts], 2)
    planes = planes.transpose(2, 1, 0)
    if rgb.shape[0] != height:
        planes = _resize_first(planes, height)
    return np.ascontiguousarray(planes.transpose(0, 2, 1))


def _resize_first(array: np.ndarray, size: int) -> np.ndarray:
    """uint8 [n,...] → uint8 [size,...]."""
    index, weight, bits = _triangles(len(array), size)
    wide = array.astype(np.int32, order="C").reshape(len(array), -1)
    total = np.full((size, wide.shape[1]), 1 << (bits - 1), np.int32)  # a half, for rounding
    part = np.empty_like(total)
    for sources, shares in zip(index, weight, strict=True):
        np.take(wide, sources, 0, out=part, mode="clip")
        part *= shares[:, None]
        total += part
    total >>= bits
    return total.astype(np.uint8).reshape(size, *array.shape[1:])


def _triangles(length: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int32], int]:
    """The sources of each of `size` output pixels along an axis of this length, [taps,size], their weights in units of
    2^-bits, and bits: as many as let every weight fit 16 bits.

    A weight falls linearly from the pixel's centre to 0 one output pixel away, or one source pixel where it enlarges.
    """
    scale = length / size
    reach = max(scale, 1.0)
    centre = scale * (np.arange(size) + 0.5)
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + reach + 0.5).astype(np.int64), length) - first
    step = np.arange(min(count.max(), 2 * int(np.ceil(reach)) + 1))[:, None]
    share = np.maximum(1 - np.abs((step + first - centre + 0.5) * (1 / reach)), 0)
    share[step >= count] = 0
    share /= np.add.accumulate(share)[-1]  # one after the other: a sum in another order may round otherwise
    bits = max(bits for bits in range(23) if int(0.5 + share.max() * (1 << bits)) < 1 << 15)
    return np.minimum(first + step, length - 1), (share * (1 << bits) + 0.5).astype(np.int32), bits


def reduced(rgb: np.ndarray, max_side: int) -> np.ndarray:
    """The photograph with its longer side at most max_side pixels."""
    longer = max(rgb.shape[:2])
    if longer <= max_side:
        return rgb
    return resize_image(rgb, *(max(1, round(side * max_side / longer)) for side in rgb.shape[:2]))


def resize_nearest(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """[h,w,...] → [height,width,...] by the nearest cell centre: for labels."""
    rows = ((np.arange(height) + 0.5) * array.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * array.shape[1] / width).astype(np.int64)
    return array[rows[:, None], columns[None, :]]


def touching(labels: np.ndarray) -> np.ndarray:
    """Pairs of regions that share an edge, each once and the smaller label first: integers [h,w] → [E,2]."""
    one = np.concatenate([labels[:, :-1].ravel(), labels[:-1].ravel()])
    other = np.concatenate([labels[:, 1:].ravel(), labels[1:].ravel()])
    low, high, count = np.minimum(one, other), np.maximum(one, other), labels.max() + 1
    return np.stack(np.divmod(np.unique((low * count + high)[low < high]), count), axis=1)


def resize_maps(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Float [K,h,w] → float32 [K,height,width]: plain bilinear between half-pixel centres, without antialiasing.

    Weights are non-negative and sum to 1, so probabilities stay probabilities.
    """
    maps = maps.astype(np.float32, copy=False)
    if maps.shape[1:] == (height, width):
        return maps
    low, high, share = _neighbours(maps.shape[1], height)
    maps = maps[:, low] * (1 - share)[:, None] + maps[:, high] * share[:, None]
    low, high, share = _neighbours(maps.shape[2], width)
    return maps[..., low] * (1 - share) + maps[..., high] * share


def _neighbours(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two sources of each of `size` places along an axis of this length, and the second one's weight."""
    at = np.clip((np.arange(size) + 0.5) * (length / size) - 0.5, 0, length - 1)
    low = at.astype(np.int64)
    return low, np.minimum(low + 1, length - 1), (at - low).astype(np.float32)


def from_grid(maps: np.ndarray, grid: int, h: int, w: int) -> np.ndarray:
    """Maps [K,g,g] with one cell per grid x grid pixels → [K,h,w]: bilinear for scores, nearest for integers."""
    maps = np.asarray(maps)[:, : -(-h // grid), : -(-w // grid)]
    if maps.dtype.kind == "f":
        return resize_maps(maps, maps.shape[1] * grid, maps.shape[2] * grid)[:, :h, :w]
    return np.repeat(np.repeat(maps, grid, 1), grid, 2)[:, :h, :w]


def jitter(rgb: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Random brightness and contrast of uint8 [h,w,3], factors within 1 ± strength."""
    brightness, contrast = 1 + strength * rng.uniform(-1, 1, 2)
    table = (np.arange(256) * brightness - 128) * contrast + 128
    return np.clip(table, 0, 255).astype(np.uint8)[rgb]


def crop(rgb: NDArray[np.uint8], box: Sequence[int] | NDArray[np.int32], size: int) -> NDArray[np.uint8]:
    """Cut a box out of an image and resize it; what lies outside the image is black.

    Plain bilinear interpolation between half-pixel centres, without smoothing before a reduction, as in the
    released code. Computed in whole numbers and rounded once, so every machine gives the same bytes.

    Args:
        rgb: uint8 [H, W, 3].
        box: (y0, x0, y1, x1); may leave the image.
        size: side of the result in pixels, at most 1024.

    Returns:
        uint8 [size, size, 3].

    Raises:
        ValueError: an empty box, or a size outside 1..1024.
    """
    y0, x0, y1, x1 = (int(edge) for edge in box)
    if y1 <= y0 or x1 <= x0 or not 1 <= size <= LARGEST_CROP:
        raise ValueError(
            f"cannot crop box {(y0, x0, y1, x1)} to {size} px: "
            f"expected y0 < y1, x0 < x1 and a size of 1 to {LARGEST_CROP}"
        )
    rows, row_weights = _taps(y0, y1, size, rgb.shape[0])
    columns, column_weights = _taps(x0, x1, size, rgb.shape[1])
    left, right = int(columns.min()), int(columns.max()) + 1
    strip = rgb[:, left:right]
    tall = strip[rows[0]] * row_weights[0][:, None, None] + strip[rows[1]] * row_weights[1][:, None, None]
    # A row as plain numbers instead of pixels: picking single numbers is what numpy is quick at.
    near, far = ((columns - left)[:, :, None] * 3 + np.arange(3)).reshape(2, -1)
    near_weight, far_weight = np.repeat(column_weights, 3, axis=1)
    flat = tall.reshape(size, -1)
    total: NDArray[np.int32] = flat.take(near, axis=1) * near_weight + flat.take(far, axis=1) * far_weight
    whole = (2 * size) ** 2
    return ((total + whole // 2) // whole).astype(np.uint8).reshape(size, size, 3)


def _taps(low: int, high: int, size: int, limit: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """The two source pixels of each of `size` output pixels along one axis, [2, size], and their weights.

    Weights are whole numbers that sum to 2·`size`: output pixel i sits at (i + ½)·side/size − ½, a multiple
    of 1/(2·size). Sources outside [0, `limit`) weigh nothing, which is the zero padding.
    """
    side, unit = high - low, 2 * size
    place = np.clip((2 * np.arange(size) + 1) * side - size, 0, (side - 1) * unit)
    near, share = np.divmod(place, unit)
    index = low + np.stack([near, np.minimum(near + 1, side - 1)])
    weight = np.stack([unit - share, share]).astype(np.int32)
    weight[(index < 0) | (index >= limit)] = 0
    return np.clip(index, 0, limit - 1), weight
