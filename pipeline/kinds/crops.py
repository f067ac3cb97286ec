"""Cutting training samples from photographs and what is known of their pixels.

Legend: N photographs, C classes, K slots, h x w true size of a photograph.
A sample's randomness comes from the generator it is given alone, so loaders may be resumed, split or run in processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.core.store import Artifact
from pipeline.kinds.photographs import image
from pipeline.kinds.pixels import VOID, jitter, resize_maps, resize_nearest


@dataclass(frozen=True)
class Crops:
    """Random scaled, mirrored, jittered square crops: (row, rng) → image u8 [3,crop,crop] and what else was asked for.

    tags: bool [N,C] → sample["tags"], the row's. label(i): uint8 [h,w] at the photograph's size → sample["label"] u8
    [crop,crop]. soft(i): slots u8 [K] and probabilities f32 [K,h,w] → sample["slots"] and sample["soft"] f32
    [K,crop,crop], bilinear. erase(i): bool [h,w], filled with `fill` before any augmentation, so that erased regions
    move with the image. inside: sample["inside"] bool [crop,crop], which pixels are the photograph's; a label of VOID
    does not say it. Outside the photograph: `fill`, VOID, probabilities of 0, False.
    """

    photographs: Artifact
    crop: int
    scale: tuple[float, float]
    jitter: float
    fill: np.ndarray  # uint8 [3]
    tags: np.ndarray | None = None
    label: Callable[[int], np.ndarray] | None = None
    soft: Callable[[int], tuple[np.ndarray, np.ndarray]] | None = None
    erase: Callable[[int], np.ndarray] | None = None
    inside: bool = False

    def __call__(self, i: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        rgb = image(self.photographs, i)
        if self.erase is not None:
            rgb = np.where(self.erase(i)[..., None], self.fill, rgb)
        window, resized, place = self._window(rgb.shape[0], rgb.shape[1], rng)
        canvas = np.empty((self.crop, self.crop, 3), np.uint8)
        canvas[:] = self.fill
        canvas[place] = resize_by_torch(rgb[window], *resized)
        mirror = rng.random() < 0.5
        if mirror:
            canvas = canvas[:, ::-1]
        if self.jitter:
            canvas = jitter(canvas, self.jitter, rng)
        sample = {"image": np.ascontiguousarray(canvas.transpose(2, 0, 1))}
        if self.tags is not None:
            sample["tags"] = self.tags[i]
        if self.label is not None:
            label = np.full((self.crop, self.crop), VOID, np.uint8)
            label[place] = resize_nearest(self.label(i)[window], *resized)
            sample["label"] = np.ascontiguousarray(label[:, ::-1] if mirror else label)
        if self.soft is not None:
            sample["slots"], probabilities = self.soft(i)
            soft = np.zeros((len(probabilities), self.crop, self.crop), np.float32)
            soft[:, *place] = resize_maps(probabilities[:, *window], *resized)
            sample["soft"] = np.ascontiguousarray(soft[..., ::-1] if mirror else soft)
        if self.inside:
            inside = np.zeros((self.crop, self.crop), bool)
            inside[place] = True
            sample["inside"] = np.ascontiguousarray(inside[:, ::-1] if mirror else inside)
        return sample

    def _window(
        self, h: int, w: int, rng: np.random.Generator
    ) -> tuple[tuple[slice, slice], tuple[int, int], tuple[slice, slice]]:
        """Where to cut in the photograph, to what size to bring it, and where to put it on the crop."""
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


def resize_by_torch(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """The bytes of `pixels.resize_image` in a fifth of the time: whoever trains has torch loaded anyway."""
    import torch

    tensor = torch.from_numpy(np.array(rgb, order="C")).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        tensor, (height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0].permute(1, 2, 0).contiguous().numpy()
