"""Match: triplets over a random graph of patches, the second half of Mix-and-Match tuning.

Zhan, Liu, Luo, Tang, Loy: "Mix-and-Match Tuning for Self-Supervised Semantic Segmentation", AAAI 2018,
arXiv 1712.00661, the "match" step. Every patch of the batch is an anchor. Its positive and its negative
are drawn at random, but such that the positive links connect all patches of a class: each class is then
pulled together as a whole, where independent triplets would leave islands. No hard mining, no projection
head.

One iteration: `features = embed(trunk(patches))`, then `triplet_loss(features, *connect(classes, rng))`.

Axes: N patches of the batch; C, h, w channels, rows and columns of the last feature map; D = C·h·w. Reads: images,
patches, weights. Makes: weights (the tuned backbone) and the loss curve. Cost: epochs x images x patches per image
passes through the backbone; `connect` about 0.2 ms for N = 400, `triplet_loss` a few passes over [N, D].
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.core import cli, data, store, train
from pipeline.core.config import Triplet
from pipeline.core.models import load_backbone, pack

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
) -> tuple[Tensor, Tensor]:
    """Triplet loss of a batch in which every patch is an anchor.

        L = 1/(2N) · Σ_i max(0, margin + |f_i − f_i⁺|² − |f_i − f_i⁻|²)

    Non-negative features of unit length lie at squared distances of at most 2. With the default margin the
    hinge is then never at rest, every triplet pulls, and L = 1.05 + mean(cos(f, f⁻) − cos(f, f⁺)).

    Args:
        features: float [N, D], rows of unit length.
        positive: int64 [N], indices into the rows.
        negative: int64 [N]; −1 stands for the zero vector.
        margin: 2.1 in all released settings.

    Returns:
        The sum of the hinges, a scalar of the features' dtype, and 2N: the loss is their quotient.

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
    return (margin + gap).clamp(min=0).sum(), torch.tensor(2 * number)


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


def draws_by_image(bank: store.Artifact) -> dict[int, list[tuple[NDArray[np.int32], NDArray[np.uint8]]]]:
    """The patch bank as image row → its draws (boxes [n,4], classes [n]); empty draws are left out."""
    images, draws, boxes, classes = (bank.read(name) for name in ("image", "draw", "box", "class"))
    found: dict[int, list[tuple[NDArray[np.int32], NDArray[np.uint8]]]] = {}
    edges = np.flatnonzero(np.diff(images * (int(draws.max(initial=0)) + 1) + draws)) + 1
    for part in np.split(np.arange(len(images)), edges):
        found.setdefault(int(images[part[0]]), []).append((boxes[part], classes[part]))
    return found


def join(samples: list[data.Sample]) -> dict[str, Tensor]:
    """The patches of several images as one batch: [sum n, 3, size, size] and their classes."""
    patches = torch.from_numpy(np.concatenate([sample["patches"] for sample in samples]))
    classes = torch.from_numpy(np.concatenate([sample["classes"] for sample in samples]))
    return {"patches": patches.contiguous(memory_format=torch.channels_last), "classes": classes}


def run(job: cli.Job) -> None:
    settings: Triplet = job.settings
    images, bank, weights = job.images, job.inputs["patches"], job.inputs["weights"]
    draws, size = draws_by_image(bank), bank.meta["size"]

    def cut(i: int, rng: np.random.Generator) -> data.Sample:
        boxes, classes = draws[i][rng.integers(len(draws[i]))]
        rgb = data.image(images, i)
        patches = np.stack([data.crop(rgb, box, size) for box in boxes])
        mirrored = rng.random(len(patches)) < 0.5
        patches[mirrored] = patches[mirrored, :, ::-1]
        return {"patches": patches.transpose(0, 3, 1, 2), "classes": classes}

    model = load_backbone(weights, settings.stride)

    def step(net: nn.Module, batch: dict[str, Tensor]) -> train.Losses:
        features = embed(nn.functional.adaptive_avg_pool2d(net(batch["patches"])[-1], settings.pool))
        rng = np.random.default_rng(int(torch.randint(2**31, (1,))))
        return {"loss": triplet_loss(features, *connect(batch["classes"].cpu().numpy(), rng), settings.margin)}

    curves = train.fit(model, np.asarray(sorted(draws)), cut, step, job, collate=join)
    arrays, index = pack(model.state_dict())
    meta = {"index": index, "backbone": weights.meta["backbone"], "gray": weights.meta["gray"]}
    store.write_table(job.out, job.header, {**arrays, **curves}, meta)


if __name__ == "__main__":
    cli.main(run, Triplet)
