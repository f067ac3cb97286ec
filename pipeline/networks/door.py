"""One door from a model to its masks.

`open_network` gives an object that takes photographs and the classes possible in them, whatever method made the model.
`predict_batch` goes from photographs of one size to what is scored, shown and written, and `predict_labels` from one:
everybody uses them, so what the report shows is what was scored. On a GPU all is computed there, but the CRF.

Legend: B photographs of one size, C classes, K of them possible, h x w the photograph in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.core.store import Artifact, ArtifactError
from pipeline.core.train import autocast
from pipeline.kernels.densecrf import DeepLabKernels, dense_crf
from pipeline.kinds.classes import background, names
from pipeline.networks.dual import DualNetwork, load_dual
from pipeline.networks.looks import batch_of, gated, looks
from pipeline.networks.prohibitive import Prohibitive, load_prohibitive
from pipeline.networks.segmenter import Segmenter, load_segmenter
from pipeline.networks.states import for_inference

BAND_BYTES = 2**27


class Network(Protocol):
    """A model opened for use. background: a class id, None where there is none. max_side: of its training
    photographs, in pixels, None where unknown."""

    @property
    def classes(self) -> list[str]: ...
    @property
    def background(self) -> int | None: ...
    @property
    def max_side(self) -> int | None: ...
    @property
    def device(self) -> str: ...

    def probabilities(self, rgb: np.ndarray | Tensor, possible: np.ndarray | Tensor | None = None) -> Tensor:
        """Photographs of one size, uint8 [B,h,w,3] (array) or [B,3,h,w] (tensor) → float32 [B,C,h,w] on the device.

        possible: bool [B,C]; the others get 0 and the rest is divided by its sum. None: all are possible.
        Raises ValueError for other dtypes or shapes.
        """


@runtime_checkable
class Descending(Network, Protocol):
    """A network that goes on from its first answer, step by step. steps: how many, where nobody says."""

    @property
    def steps(self) -> int: ...
    def with_steps(self, steps: int) -> Network: ...
    def after(
        self, rgb: np.ndarray | Tensor, steps: Sequence[int], possible: np.ndarray | Tensor | None = None
    ) -> list[Tensor]:
        """`probabilities` after each of these numbers of steps, rising, in one descent."""


@dataclass(frozen=True)
class SegmenterNetwork:
    """A `Segmenter` behind the door: softmax averaged over scales and mirror images."""

    model: Segmenter
    classes: list[str]
    background: int | None
    max_side: int | None
    device: str
    precision: str
    scales: Sequence[float]
    flip: bool

    def probabilities(self, rgb: np.ndarray | Tensor, possible: np.ndarray | Tensor | None = None) -> Tensor:
        total, count = torch.zeros(()), len(self.scales) * (1 + self.flip)
        with torch.no_grad():
            for x, back in looks(batch_of(rgb).to(self.device), self.scales, self.flip):
                with autocast(self.device, self.precision):
                    logits = self.model(x)
                total = total + back(logits)
            return gated(total / count, possible)


@dataclass(frozen=True)
class ProhibitiveNetwork:
    """A `Prohibitive` behind the door: as a `Segmenter`, but it says itself which classes are possible.

    v, the probability that a class is in the photograph, is averaged over scales and mirror images like those of its
    pixels. Where v is below the gate the class is impossible (Wei et al., CVPR 2017, arXiv 1703.08448, section 3.2);
    the background never is. Where there is no background, the most probable class never is (ours).
    """

    model: Prohibitive
    classes: list[str]
    background: int | None
    max_side: int | None
    device: str
    precision: str
    scales: Sequence[float]
    flip: bool
    gate: float

    def probabilities(self, rgb: np.ndarray | Tensor, possible: np.ndarray | Tensor | None = None) -> Tensor:
        """As `Network.probabilities`. Classes that are given as possible replace the gate: they are known, and what the
        network thinks of them no longer counts (the paper's result with ground-truth tags at test time)."""
        total, sure, count = torch.zeros(()), torch.zeros(()), len(self.scales) * (1 + self.flip)
        with torch.no_grad():
            for x, back in looks(batch_of(rgb).to(self.device), self.scales, self.flip):
                with autocast(self.device, self.precision):
                    answer = self.model(x)
                total, sure = total + back(answer.logits), sure + answer.scores.sigmoid()
            return gated(total / count, self.let_pass(sure / count) if possible is None else possible)

    def let_pass(self, sure: Tensor) -> Tensor:
        """v float [B,F] of the foreground → the classes that stay possible, bool [B,C]."""
        likely = sure >= self.gate
        if self.background is None:
            likely = likely.scatter(1, sure.argmax(1, keepdim=True), True)
        passed = torch.ones(len(sure), len(self.classes), dtype=torch.bool, device=sure.device)
        passed[:, list(self.model.foreground)] = likely
        return passed


def open_segmenter(artifact: Artifact, device: str, precision: str, scales: Sequence[float], flip: bool) -> Network:
    model = for_inference(load_segmenter(artifact), device)
    side = artifact.meta.get("max_side")
    return SegmenterNetwork(model, names(artifact), background(artifact), side, device, precision, tuple(scales), flip)


def open_psl(artifact: Artifact, device: str, precision: str, scales: Sequence[float], flip: bool) -> Network:
    model = for_inference(load_prohibitive(artifact), device)
    about = names(artifact), background(artifact), artifact.meta.get("max_side")
    return ProhibitiveNetwork(model, *about, device, precision, tuple(scales), flip, artifact.meta["gate"])


def open_dis(artifact: Artifact, device: str, precision: str, scales: Sequence[float], flip: bool) -> Network:
    model = for_inference(load_dual(artifact), device)
    about = names(artifact), background(artifact), artifact.meta.get("max_side")
    return DualNetwork(model, *about, device, precision, tuple(scales), flip, artifact.meta["steps"])


# By the method that made the model. A literal, so that a stage's code digest follows the methods by name.
DOORS: dict[str, Callable[[Artifact, str, str, Sequence[float], bool], Network]] = {
    "segment": open_segmenter,
    "psl": open_psl,
    "dis": open_dis,
}


def open_network(
    artifact: Artifact,
    device: str = "cpu",
    precision: str = "f32",
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    steps: int | None = None,
) -> Network:
    """A `model` artifact, ready to use. scales, flip: what its probabilities are averaged over. steps: of a network
    that descends, instead of its own number.

    Raises ArtifactError when it is no model, one of a method that has no door, one whose manifest describes no network,
    or does not descend but is to.
    """
    if artifact.kind != "model":
        raise ArtifactError(f"{artifact.path}: this is {artifact.kind}, a model is expected")
    method = artifact.manifest["settings"].get("method")
    if method not in DOORS:
        raise ArtifactError(
            f"{artifact.path}: made by method '{method}'; models of {', '.join(DOORS)} can be opened. "
            "Was it made by a later version?"
        )
    try:
        network = DOORS[method](artifact, device, precision, scales, flip)
    except (ArtifactError, torch.OutOfMemoryError):
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        about = {key: artifact.meta.get(key) for key in ("backbone", "head", "width", "stride")}
        raise ArtifactError(
            f"{artifact.path}: no network can be built from what its manifest says, {about} "
            f"({type(error).__name__}: {error}); is it damaged, or made by a later version?"
        ) from error
    if steps is None:
        return network
    if not isinstance(network, Descending):
        raise ArtifactError(f"{artifact.path}: a model of '{method}' does not descend; `steps` is for models of 'dis'")
    return network.with_steps(steps)


# ----------------------------------------------------------------------- from photographs to their label maps


def predict_batch(
    network: Network,
    rgb: np.ndarray,
    sizes: Sequence[tuple[int, int]],
    possible: np.ndarray | None = None,
    crf: bool = False,
) -> list[np.ndarray]:
    """The label map of each photograph, class ids uint8 [height,width] at its entry of `sizes`.

    rgb: uint8 [B,h,w,3], as stored: the CRF runs at that size. sizes: where the labels are wanted, e.g. the original's.
    possible: bool [B,C], None: all.
    """
    return labels_from(network.probabilities(rgb, possible), rgb, sizes, possible, crf)


def labels_from(
    probabilities: Tensor,
    rgb: np.ndarray,
    sizes: Sequence[tuple[int, int]],
    possible: np.ndarray | None = None,
    crf: bool = False,
) -> list[np.ndarray]:
    """`predict_batch` from what the network said, float32 [B,C,h,w]."""
    if not crf:
        return [labels_of(scores, *size) for scores, size in zip(probabilities, sizes, strict=True)]
    found = []
    for one, size, (ids, scores) in zip(rgb, sizes, ranked(probabilities, possible), strict=True):
        places = labels_of(torch.from_numpy(refine(one, scores)), *size)
        found.append(ids.astype(np.uint8)[places])
    return found


def predict_labels(
    network: Network,
    rgb: np.ndarray,
    size: tuple[int, int],
    possible: np.ndarray | None = None,
    crf: bool = False,
) -> np.ndarray:
    """The same for one photograph uint8 [h,w,3]. possible: bool [C], None: all."""
    mask = None if possible is None else np.asarray(possible)[None]
    return predict_batch(network, rgb[None], [size], mask, crf)[0]


def likely(
    network: Network, rgb: np.ndarray, possible: np.ndarray | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Photographs uint8 [B,h,w,3] → of each the ids of its possible classes, int64 [K], and their probabilities,
    float32 [K,h,w], on the CPU: for the CRF. possible: bool [B,C], None: all that the network gives any probability."""
    return ranked(network.probabilities(rgb, possible), possible)


def ranked(probabilities: Tensor, possible: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """`likely` from what the network said, float32 [B,C,h,w]."""
    chosen = []
    for b, scores in enumerate(probabilities.cpu().numpy()):
        ids = np.flatnonzero(scores.any((1, 2)) if possible is None else possible[b])
        chosen.append((ids, scores if len(ids) == len(scores) else scores[ids]))
    return chosen


def refined_probabilities(
    network: Network, rgb: np.ndarray, possible: np.ndarray | None = None, crf: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """`likely` for one photograph uint8 [h,w,3]. possible: bool [C], None: all. crf: refined by it."""
    ids, scores = likely(network, rgb[None], None if possible is None else np.asarray(possible)[None])[0]
    return ids, refine(rgb, scores) if crf else scores


def refine(rgb: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The CRF that `crf: true` means for a network, DeepLab-v2's: uint8 [h,w,3], float32 [K,h,w] → float32 [K,h,w]."""
    return dense_crf(rgb, probabilities, DeepLabKernels())


def labels_of(scores: Tensor, height: int, width: int) -> np.ndarray:
    """Scores float32 [C,h,w] → labels uint8 [height,width]: bilinear, then argmax, on the scores' device.

    Done in bands of rows: the scores of a 12-megapixel photograph would not fit into memory.
    """
    classes, h, _ = scores.shape
    out = torch.empty((height, width), dtype=torch.uint8, device=scores.device)
    at = np.clip((np.arange(height) + 0.5) * h / height - 0.5, 0, h - 1)
    top = at.astype(np.int64)
    bottom, share = np.minimum(top + 1, h - 1), (at - top).astype(np.float32)[:, None]
    upper, lower, part = (torch.from_numpy(values).to(scores.device) for values in (top, bottom, share))
    band = max(1, BAND_BYTES // (4 * classes * width))
    for start in range(0, height, band):
        rows = slice(start, start + band)
        mixed = scores[:, upper[rows]] * (1 - part[rows]) + scores[:, lower[rows]] * part[rows]
        wide = F.interpolate(mixed, width, mode="linear", align_corners=False)
        out[rows] = wide.argmax(0)
    return out.cpu().numpy()
