"""Reading images and cutting training samples from them.

Legend: N images, C classes (background included), H x W canvas (padded), h x w true size of an image.
A sample's randomness comes from (seed, epoch, position) alone, so loaders may be resumed, split or run in processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pipeline.core.store import Artifact

VOID = 255  # unlabelled or void: never counted, never trained on
LARGEST_CROP = 1024  # beyond it the integer sums of `crop` would leave int32


def image(images: Artifact, i: int) -> np.ndarray:
    """One photograph, uint8 [h,w,3], without its padding."""
    h, w = images["size"][i]
    return np.asarray(images["rgb"][i, :h, :w])


def true_mask(images: Artifact, i: int) -> np.ndarray:
    """The true mask at original resolution, uint8 [h0,w0]; all VOID where the image has none."""
    h, w = images["full_size"][i]
    return np.asarray(images["mask"][i, :h, :w])


def split(images: Artifact, name: str) -> np.ndarray:
    """Row numbers of a split, int64."""
    return images.read(f"split_{name}").astype(np.int64)


def class_names(images: Artifact) -> list[str]:
    """Background first, where there is one."""
    return images.meta["classes"]


def image_tags(images: Artifact) -> np.ndarray:
    """bool [N,C-1]: tags of the foreground classes."""
    return images.read("tags")


def tag_slots(images: Artifact) -> np.ndarray:
    """uint8 [N,K]: class ids of each image's tags, padded with VOID. K is at least 4, so that it rarely grows."""
    tags = image_tags(images)
    slots = max(4, int(tags.sum(1).max(initial=0)))
    out = np.full((len(tags), slots), VOID, np.uint8)
    for i, row in enumerate(tags):
        ids = np.flatnonzero(row) + 1
        out[i, : len(ids)] = ids
    return out


def resize_nearest(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """[h,w,...] → [height,width,...] by the nearest cell centre: for labels."""
    rows = ((np.arange(height) + 0.5) * array.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * array.shape[1] / width).astype(np.int64)
    return array[rows[:, None], columns[None, :]]


def to_tensor(rgb: np.ndarray) -> torch.Tensor:
    """uint8 [h,w,3] → uint8 [3,h,w]."""
    return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))


def resize_image(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [h,w,3] → uint8 [height,width,3], bilinear with antialiasing."""
    if rgb.shape[:2] == (height, width):
        return rgb
    tensor = torch.from_numpy(np.array(rgb, order="C")).permute(2, 0, 1)[None]
    resized = F.interpolate(tensor, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


Sample = dict[str, np.ndarray]
Cut = Callable[[int, np.random.Generator], Sample]


@dataclass(frozen=True)
class Crops:
    """Random scaled, mirrored, jittered square crops: (row, rng) → image u8 [3,crop,crop], tags, and label if given.

    `label(i)` returns uint8 [h,w] at the image's size. `erase(i)` returns bool [h,w], filled with `fill` before any
    augmentation, so that erased regions move with the image. Outside the image: `fill` and VOID.
    """

    images: Artifact
    crop: int
    scale: tuple[float, float]
    jitter: float
    fill: np.ndarray  # uint8 [3]
    label: Callable[[int], np.ndarray] | None = None
    erase: Callable[[int], np.ndarray] | None = None

    def __call__(self, i: int, rng: np.random.Generator) -> Sample:
        rgb = image(self.images, i)
        if self.erase is not None:
            rgb = np.where(self.erase(i)[..., None], self.fill, rgb)
        window, resized, place = self._window(rgb.shape[0], rgb.shape[1], rng)
        canvas = np.empty((self.crop, self.crop, 3), np.uint8)
        canvas[:] = self.fill
        canvas[place] = resize_image(rgb[window], *resized)
        mirror = rng.random() < 0.5
        if mirror:
            canvas = canvas[:, ::-1]
        if self.jitter:
            canvas = jitter(canvas, self.jitter, rng)
        sample = {"image": np.ascontiguousarray(canvas.transpose(2, 0, 1)), "tags": self.images["tags"][i]}
        if self.label is not None:
            label = np.full((self.crop, self.crop), VOID, np.uint8)
            label[place] = resize_nearest(self.label(i)[window], *resized)
            sample["label"] = np.ascontiguousarray(label[:, ::-1] if mirror else label)
        return sample

    def _window(
        self, h: int, w: int, rng: np.random.Generator
    ) -> tuple[tuple[slice, slice], tuple[int, int], tuple[slice, slice]]:
        """Where to cut in the image, to what size to bring it, and where to put it on the crop."""
        scale = float(np.exp(rng.uniform(*np.log(self.scale))))
        windows, sizes, places = [], [], []
        for length in (h, w):
            source = min(length, max(1, round(self.crop / scale)))
            start = int(rng.integers(0, length - source + 1))
            size = min(self.crop, max(1, round(source * scale)))
            at = int(rng.integers(0, self.crop - size + 1))
            windows.append(slice(start, start + source))
            sizes.append(size)
            places.append(slice(at, at + size))
        return (windows[0], windows[1]), (sizes[0], sizes[1]), (places[0], places[1])


def jitter(rgb: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Random brightness and contrast of uint8 [h,w,3], factors within 1 ± strength."""
    brightness, contrast = 1 + strength * rng.uniform(-1, 1, 2)
    table = (np.arange(256) * brightness - 128) * contrast + 128
    return np.clip(table, 0, 255).astype(np.uint8)[rgb]


def mean_colour(images: Artifact, rows: np.ndarray) -> np.ndarray:
    """Mean colour of these photographs, uint8 [3]; of every n-th where there are thousands, which agree closely."""
    total, pixels = np.zeros(3), 0
    for i in rows[:: max(1, len(rows) // 1000)]:
        rgb = image(images, int(i))
        total += rgb.sum((0, 1), dtype=np.float64)
        pixels += rgb.shape[0] * rgb.shape[1]
    return np.round(total / max(pixels, 1)).astype(np.uint8)


def only_split(images: Artifact, name: str, keys: list[bytes]) -> list[bytes | None]:
    """Row keys with None for the images outside a split: those rows stay empty."""
    chosen = set(split(images, name).tolist())
    return [key if i in chosen else None for i, key in enumerate(keys)]


def from_grid(maps: np.ndarray, grid: int, h: int, w: int) -> np.ndarray:
    """Maps [K,g,g] with one cell per grid x grid pixels → [K,h,w]: bilinear for scores, nearest for integers."""
    maps = np.asarray(maps)[:, : -(-h // grid), : -(-w // grid)]
    if maps.dtype.kind == "f":
        tensor = torch.from_numpy(maps.astype(np.float32))[None]
        full = F.interpolate(tensor, scale_factor=grid, mode="bilinear", align_corners=False)[0]
        return full[:, :h, :w].numpy()
    return np.repeat(np.repeat(maps, grid, 1), grid, 2)[:, :h, :w]


def labels_at(labels: Artifact, images: Artifact, i: int) -> np.ndarray:
    """The label map of image i at the stored image's size, uint8 [h,w]."""
    h, w = images["size"][i]
    return np.asarray(labels["labels"][i, :h, :w])


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
