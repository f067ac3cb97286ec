"""Pixels of photographs and maps: resizing, jittering, cutting boxes out. No torch but where a line says so.

Legend: h x w a photograph, K maps, g cells a side of a stored map.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

VOID = 255  # unlabelled or void: never counted, never trained on
LARGEST_CROP = 1024  # beyond it the integer sums of `crop` would leave int32


def resize_image(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [h,w,3] → uint8 [height,width,3], bilinear with antialiasing."""
    if rgb.shape[:2] == (height, width):
        return rgb
    import torch  # Pillow rounds otherwise: one level in up to a fifth of the pixels

    tensor = torch.from_numpy(np.array(rgb, order="C")).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        tensor, (height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0].permute(1, 2, 0).contiguous().numpy()


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


def from_grid(maps: np.ndarray, grid: int, h: int, w: int) -> np.ndarray:
    """Maps [K,g,g] with one cell per grid x grid pixels → [K,h,w]: bilinear for scores, nearest for integers."""
    maps = np.asarray(maps)[:, : -(-h // grid), : -(-w // grid)]
    if maps.dtype.kind == "f":
        if not len(maps):  # an image without tags
            return np.zeros((0, h, w), np.float32)
        import torch  # rounds as its vector unit does, which numpy does not follow to the last bit

        tensor = torch.from_numpy(maps.astype(np.float32))[None]
        full = torch.nn.functional.interpolate(tensor, scale_factor=grid, mode="bilinear", align_corners=False)[0]
        return full[:, :h, :w].numpy()
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
