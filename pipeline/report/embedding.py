"""How well features (features.py) tell labelled patches apart: which patches, two scores, and a flat map.

Legend: P patches, D features of a patch.
"""

from __future__ import annotations

import numpy as np

from pipeline.core.store import Artifact
from pipeline.kinds import photographs
from pipeline.kinds.pixels import crop


def choose_patches(bank: Artifact, most: int, seed: int = 0) -> np.ndarray:
    """At most `most` patches of a bank, as evenly over the classes as the bank allows: sorted row numbers."""
    classes = bank.read("class")
    order = np.random.default_rng(seed).permutation(len(classes))
    queues = [order[classes[order] == k].tolist() for k in np.unique(classes)]
    chosen: list[int] = []
    while len(chosen) < most and any(queues):
        chosen += [queue.pop() for queue in queues if queue]
    return np.sort(np.asarray(chosen[:most], np.int64))


def patch_images(pictures: Artifact, bank: Artifact, rows: np.ndarray, size: int) -> np.ndarray:
    """These patches, cut out, uint8 [P,size,size,3]."""
    sources, boxes = bank.read("image"), bank.read("box")
    return np.stack([crop(photographs.image(pictures, int(sources[row])), boxes[row], size) for row in rows])


def neighbour_accuracy(vectors: np.ndarray, classes: np.ndarray, images: np.ndarray) -> float:
    """Share of patches whose nearest neighbour from *another image* has their class (patches of one image overlap)."""
    likeness = vectors @ vectors.T
    likeness[images[:, None] == images[None]] = -np.inf
    usable = np.isfinite(likeness).any(1)
    if not usable.any():
        return float("nan")
    return float((classes[likeness.argmax(1)] == classes)[usable].mean())


def silhouette(vectors: np.ndarray, classes: np.ndarray) -> float:
    """Mean silhouette (Rousseeuw 1987) of unit vectors, Euclidean distance; a patch alone in its class counts 0."""
    names, index = np.unique(classes, return_inverse=True)
    if len(names) < 2:
        return float("nan")
    distance = np.sqrt(np.clip(2 - 2 * vectors @ vectors.T, 0, None))
    np.fill_diagonal(distance, 0)
    member = (index[:, None] == np.arange(len(names))).astype(np.float64)
    count, rows = member.sum(0), np.arange(len(index))
    total = distance @ member
    own = total[rows, index] / np.maximum(count[index] - 1, 1)
    other = total / count
    other[rows, index] = np.inf
    nearest = other.min(1)
    score = (nearest - own) / np.maximum(np.maximum(nearest, own), 1e-12)
    return float(np.where(count[index] > 1, score, 0).mean())


def flatten(vectors: np.ndarray) -> tuple[np.ndarray, str]:
    """Vectors → points [P,2] and the name of the method: t-SNE, for fewer than ten points the principal axes."""
    centred = vectors - vectors.mean(0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    axes = (left * scale)[:, :50]
    if axes.shape[1] < 2:
        axes = np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))
    axes *= np.where(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])] < 0, -1, 1)  # SVD leaves the sign open
    if len(axes) < 10:
        return axes[:, :2], "PCA"
    from sklearn.manifold import TSNE  # takes seconds, and few pages have a map

    perplexity = min(30.0, (len(axes) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(axes), "t-SNE"
