"""Triplets over a random graph of patches: the "match" step of Mix-and-Match tuning.

Zhan, Liu, Luo, Tang, Loy: "Mix-and-Match Tuning for Self-Supervised Semantic Segmentation", AAAI 2018,
arXiv 1712.00661. Every patch of the batch is an anchor. Its positive and its negative are drawn at random, but such
that the positive links connect all patches of a class: each class is then pulled together as a whole, where
independent triplets would leave islands. No hard mining, no projection head.

One iteration: `features = embed(trunk.embedding(patches))`, then `triplet_terms(features, *connect(classes, rng))`.

Axes: N patches of the batch; C, h, w channels, rows and columns of a feature map; D = C·h·w. Cost: `connect` about
0.2 ms for N = 400, `triplet_loss` and `all_triplet_terms` a few passes over [N, D].
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MARGIN = 2.1
ZERO_NORM = 1e-8  # features shorter than this have no direction to keep


def connect(labels: NDArray[np.integer], rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give every patch a positive and a negative such that each class becomes one random tree.

    Patches are visited in random order, drawn first. A patch takes as positive a random patch of its class,
    and as negative a random one of another class, among those visited before it. Patches that find none, the
    first of each class and the opening run of the first class, choose from the whole batch instead. The
    N − (#classes) positive links of the ordinary kind are the trees.

    Args:
        labels: integers [N], the class of each patch.
        rng: source of all randomness.

    Returns:
        positive int64 [N], another patch of the same class, or the patch itself if its class has no other;
        negative int64 [N], a patch of another class, or −1 throughout if the batch has one class only.

    Raises:
        ValueError: labels that are not one integer per patch.

    Source: the paper's class-wise connected graph, with the completion rules of the released code.
    """
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype} {list(labels.shape)}; expected one integer per patch [N]")
    number = len(labels)
    order = rng.permutation(number)  # the patch of each moment; from here on, moments stand for patches
    moment = np.arange(number)
    classes, kind = np.unique(labels[order], return_inverse=True)
    size = np.bincount(kind, minlength=len(classes))
    start = np.cumsum(size) - size
    members = np.argsort(kind, kind="stable")  # moments sorted by class; those of class k begin at start[k]
    rank = np.empty(number, np.int64)
    rank[members] = moment - start[kind[members]]  # how many of its class came before

    # The first of its class draws from the members after it; alone in its class, it draws itself.
    first = rank == 0
    pick = rng.integers(0, np.where(first, np.maximum(size[kind] - 1, 1), rank))
    positive_moment = members[start[kind] + pick + (first & (size[kind] > 1))]

    foreign = moment - rank
    pick = rng.integers(0, np.maximum(np.where(foreign > 0, foreign, number - size[kind]), 1))
    negative_moment = _nth_foreign(pick, kind, members, start, foreign)

    positive = np.empty(number, np.int64)
    negative = np.empty(number, np.int64)
    positive[order] = order[positive_moment]
    # In a batch of one class the search runs past the end, to the −1.
    negative[order] = np.append(order, -1)[negative_moment]
    return positive, negative


def embed(feature_map: Tensor) -> Tensor:
    """Flatten feature maps with their layout and scale each to unit length.

    Nothing is pooled: the place within the patch is part of the feature. Half precision becomes float32,
    since bfloat16 keeps two digits of a distance. A map of zeros stays zero, with finite gradients.

    Args:
        feature_map: float [N, C, h, w], non-negative if it follows a ReLU.

    Returns:
        float32 [N, C·h·w] (float64 stays float64), each row of length 1 or 0.

    Source: the released networks, which normalise the flattened last pooling layer.
    """
    flat = feature_map.flatten(1)
    if flat.dtype != torch.float64:
        flat = flat.float()
    norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    # Clamping the norm at a tiny number would multiply the gradients of zero rows by its inverse.
    return flat / torch.where(norm > ZERO_NORM, norm, torch.ones_like(norm))


def triplet_loss(
    features: Tensor,
    positive: Tensor | NDArray[np.int64],
    negative: Tensor | NDArray[np.int64],
    margin: float = MARGIN,
) -> Tensor:
    """Triplet loss of a batch in which every patch is an anchor: `triplet_terms`, sum over count."""
    total, count = triplet_terms(features, positive, negative, margin)
    return total / count


def triplet_terms(
    features: Tensor,
    positive: Tensor | NDArray[np.int64],
    negative: Tensor | NDArray[np.int64],
    margin: float = MARGIN,
) -> tuple[Tensor, Tensor]:
    """Sum and count of the triplet loss of a batch in which every patch is an anchor.

        L = 1/(2N) · Σ_i max(0, margin + |f_i − f_i⁺|² − |f_i − f_i⁻|²)

    Non-negative features of unit length lie at squared distances of at most 2. With the default margin the
    hinge is then never at rest, every triplet pulls, and L = 1.05 + mean(cos(f, f⁻) − cos(f, f⁺)).

    Args:
        features: float [N, D], rows of unit length.
        positive: int64 [N], indices into the rows.
        negative: int64 [N]; −1 stands for the zero vector.
        margin: 2.1 in all released settings.

    Returns:
        N·L, a scalar of the features' dtype, and N, both on the features' device.

    Raises:
        ValueError: an empty batch, or not one positive and one negative per row.

    Source: the paper's loss; the factor ½ and the zero vector are those of the released code.
    """
    positive = torch.as_tensor(positive, device=features.device)
    negative = torch.as_tensor(negative, device=features.device)
    number = features.shape[0]
    if number == 0 or positive.shape != (number,) or negative.shape != (number,):
        raise ValueError(
            f"{number} features with positives {list(positive.shape)} and negatives {list(negative.shape)}; "
            "expected one of each per feature, and at least one feature"
        )
    # index_select, not features[positive]: its gradient is summed in a fixed order on the CPU, and faster.
    same = features.index_select(0, positive)
    other = features.index_select(0, negative.clamp(min=0)) * (negative >= 0)[:, None]
    gap = (features - same).square().sum(1) - (features - other).square().sum(1)
    return (margin + gap).clamp(min=0).sum() / 2, torch.tensor(number, device=features.device)


def all_triplet_terms(features: Tensor, labels: Tensor, margin: float = MARGIN) -> tuple[Tensor, Tensor]:
    """The loss over every triplet of the batch instead of a drawn one per patch, in time linear in the patches.

        L = 1/(2T) · Σ_(a, p ≠ a of its class, n of another) margin + |f_a − f_p|² − |f_a − f_n|²

    Where the hinge never rests, a sum of squared distances is one of class sums s_c = Σ f and Q_c = Σ |f|²; for a
    class of m of the N patches, Σ |f_a − f_p|² = 2 m Q_c − 2 |s_c|², and the negatives likewise.

    Args:
        features: float [N, D], non-negative, rows of unit length (or 0).
        labels: integers [N], the class of each patch.
        margin: at least 2, the largest squared distance of such features: only then is L the hinge's.

    Returns:
        N·L and N, as `triplet_terms` does; 0 and 0 where no triplet exists.

    Raises:
        ValueError: a margin below 2, or not one label per feature.

    Source: ours; the exact mean of what the paper's triplets are drawn from.
    """
    if margin < 2:
        raise ValueError(f"margin {margin} found; at least 2 expected, where no triplet's hinge is ever at rest")
    if labels.shape != features.shape[:1]:
        raise ValueError(f"{len(features)} features with labels {list(labels.shape)}; expected one of each")
    kind = torch.unique(labels.to(features.device), return_inverse=True)[1]
    size = torch.bincount(kind).double()
    number = size.sum()
    triplets = size * (size - 1) * (number - size)
    if not triplets.any():
        return features.sum() * 0, torch.zeros((), device=features.device)
    sums = features.new_zeros(len(size), features.shape[1]).index_add(0, kind, features).double()
    squares = features.new_zeros(len(size)).index_add(0, kind, features.square().sum(1)).double()
    own = sums.square().sum(1)
    near = 2 * size * squares - 2 * own
    across = sums @ sums.sum(0) - own
    far = (number - size) * squares + size * (squares.sum() - squares) - 2 * across
    gaps = (number - size) * near - (size - 1) * far
    mean = (margin + gaps.sum() / triplets.sum()) / 2
    return (number * mean).to(features.dtype), number


def _nth_foreign(
    nth: NDArray[np.int64],
    kind: NDArray[np.intp],
    members: NDArray[np.intp],
    start: NDArray[np.intp],
    foreign: NDArray[np.int64],
) -> NDArray[np.intp]:
    """For each patch, the moment of the nth (from 0) patch of another class, without listing the others.

    The wanted moment is nth plus the members of the own class that come before it: those preceded by at
    most nth foreign patches. `foreign[members]` never falls within a class, so one search in pairs of
    (class, foreign), packed into single integers, serves all patches at once.
    """
    stride = len(kind) + 1
    pairs = kind[members] * stride + foreign[members]
    return nth + np.searchsorted(pairs, kind * stride + nth, side="right") - start[kind]
