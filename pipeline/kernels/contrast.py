"""Pixel contrast driven by labels: loss and gradients together, without a matrix of all pairs.

Zhao, Vemulapalli, Mansfield, Gong, Green, Shapira, Wu: "Contrastive Learning for Label Efficient Semantic
Segmentation", ICCV 2021, arXiv 2012.06985, section 3, and the authors' released loss. With unit features f, s_pq =
f_p·f_q / τ, e = exp(s), for an anchor p: its positives q are all candidates of its class, n_p in number; its negatives
k are the candidates of other classes *in its own image*, S_p = Σ_k e_pk. Another image brings positives only.

    released   L_p = 1/n_p Σ_q [log(e_pq + S_p) - s_pq]          a positive stands against the negatives alone
    paper      L_p = log(Σ_q e_pq + S_p) - 1/n_p Σ_q s_pq        ... and against all other positives

`released` compares pixels among themselves, so s and what is sent back through it are symmetric. Three goes over the
pairs, in square blocks that fit a core's cache, each standing for its mirror image too: S; then the positives, which
give dL/ds_pq = -1/n [S_p / (e_pq + S_p) + S_q / (e_pq + S_q)] and each pixel's c_p = 1/n_p Σ_q 1 / (e_pq + S_p); then
the negatives again, dL/ds_pk = e_pk (c_p + c_k). `paper` compares two sets: class by class, some anchors at a time,
their row of pairs is multiplied, exponentiated, turned into its own gradient in place, and multiplied back; sums of s
over positives are products with sums of features over a class.

Legend: N pixels, P anchors, Q candidates, D channels. Cost: two products of N x N x D (`released`; autograd would take
three) or three of P x Q x D (`paper`). Memory beside the features and their gradients: blocks of ROWS x ROWS, or of
ROWS x Q and one class's candidates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 512
COLDEST = 0.02  # exp(1 / τ) summed over a million pixels is still far from the end of float32


class Pixels(NamedTuple):
    """features float [N,D] of unit length, in the precision of the products (bfloat16 where the hardware has it: all
    else is float32 then too); classes int64 [N]; images int64 [N], which image each lies in. None unlabelled."""

    features: Tensor
    classes: Tensor
    images: Tensor


class _Taught(torch.autograd.Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: tuple[Tensor, ...], *features: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(grad * saved for saved in ctx.saved_tensors)


def checked(temperature: float) -> float:
    if temperature < COLDEST:
        raise ValueError(f"temperature {temperature} found; at least {COLDEST} expected, or exp(1/τ) overflows")
    return temperature


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, the product in b's precision."""
    if total.dtype == b.dtype:
        total.addmm_(a, b)
    else:
        total += a.to(b.dtype) @ b


# ------------------------------------------------------------------------------------------------------------ released


def released(pixels: Pixels, temperature: float) -> tuple[Tensor, Tensor]:
    """Sum of L_p over the pixels, each of which is its own positive, too, and how many they are; both scalars.

    Raises ValueError for a temperature below 0.02, where float32 would overflow.
    """
    total, gradient = _released(pixels, checked(temperature))
    count = torch.tensor(len(pixels.classes), device=total.device)
    return _Taught.apply(total, (gradient,), pixels.features), count


@torch.no_grad()
def _released(pixels: Pixels, temperature: float) -> tuple[Tensor, Tensor]:
    """The loss and its gradient [N,D]."""
    groups, group = torch.unique(torch.stack([pixels.images, pixels.classes], 1), dim=0, return_inverse=True)
    order = group.argsort(stable=True)
    features = pixels.features[order]
    exact = torch.promote_types(features.dtype, torch.float32)
    scaled = (features.to(exact) / temperature).to(features.dtype)
    against, weight = (torch.zeros(len(order), dtype=exact, device=features.device) for _ in range(2))  # S, and c
    total, gradient = against.new_zeros(()), torch.zeros_like(features, dtype=exact)

    def e(one: slice, two: slice) -> Tensor:
        return (scaled[one] @ features[two].T).to(exact).exp_()

    def send_back(pairs: Tensor, one: slice, two: slice) -> None:
        add_product(gradient[one], pairs, features[two])
        if one != two:
            add_product(gradient[two], pairs.T, features[one])

    ends = torch.bincount(group, minlength=len(groups)).cumsum(0).tolist()
    parts = list(zip(groups.tolist(), map(slice, [0, *ends], ends), strict=False))
    positives, negatives, size = [], [], dict.fromkeys((name for (_, name), _ in parts), 0)
    for number, ((image, name), part) in enumerate(parts):
        size[name] += part.stop - part.start
        for (other_image, other_name), other in parts[number:]:
            if name == other_name:
                positives += [(name, *block) for block in blocks(part, other)]
            elif image == other_image:
                negatives += blocks(part, other)

    for one, two in negatives:
        pairs = e(one, two)
        against[one] += pairs.sum(1)
        against[two] += pairs.sum(0)
    for name, one, two in positives:
        pairs = e(one, two)
        taught = torch.zeros_like(pairs)
        # of p in the rows towards q in the columns, and of q towards p; in a block on the diagonal they are the same
        for side, mine, along in ((one, against[one, None], 1), (two, against[two], 0))[: 1 + (one != two)]:
            whole = pairs + mine
            total += whole.log().sum() / size[name]
            weight[side] += whole.reciprocal_().sum(along) / size[name]
            taught += whole.mul_(mine)
        taught = taught if one != two else taught + taught.T
        send_back(taught.mul_(-1 / size[name]), one, two)
    for one, two in negatives:
        send_back(e(one, two).mul_(weight[one, None] + weight[two]), one, two)

    for name, number in size.items():
        middle = pixels.features[pixels.classes == name].sum(0, dtype=exact)
        total -= middle.square().sum() / (temperature * number)
    out = torch.empty_like(gradient)
    out[order] = gradient / temperature
    return total, out.to(features.dtype)


def blocks(one: slice, two: slice) -> list[tuple[slice, slice]]:
    """Blocks of rows and columns that cover these pairs; of a slice with itself those on the diagonal and above."""
    rows, columns = ([slice(i, min(i + ROWS, s.stop)) for i in range(s.start, s.stop, ROWS)] for s in (one, two))
    return [(r, c) for r in rows for c in columns if one != two or r.start <= c.start]


# --------------------------------------------------------------------------------------------------------------- paper


def paper(anchors: Pixels, candidates: Pixels, temperature: float) -> tuple[Tensor, Tensor]:
    """Sum of L_p over the anchors that have a positive, and how many they are; both scalars, 0 and 0 if there are none.

    Raises ValueError for a temperature below 0.02, where float32 would overflow.
    """
    total, count, gradients = _paper(anchors, candidates, checked(temperature))
    return _Taught.apply(total, gradients, anchors.features, candidates.features), count


@torch.no_grad()
def _paper(anchors: Pixels, candidates: Pixels, temperature: float) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The loss, the number of anchors with a positive, and the gradients [P,D] and [Q,D]."""
    low, exact = anchors.features.dtype, torch.promote_types(anchors.features.dtype, torch.float32)
    for_anchors, for_candidates = (torch.zeros_like(side.features, dtype=exact) for side in (anchors, candidates))
    total, count = for_anchors.new_zeros(()), 0
    groups, group = torch.unique(torch.stack([anchors.images, anchors.classes], 1), dim=0, return_inverse=True)
    for number, (image, name) in enumerate(groups.tolist()):
        positive = candidates.classes == name
        negatives, positives = (~positive & (candidates.images == image)).nonzero()[:, 0], positive.nonzero()[:, 0]
        if not len(positives):
            continue
        order = torch.cat([negatives, positives])
        rows = (group == number).nonzero()[:, 0]
        near = candidates.features[order]
        middle = near[len(negatives) :].mean(0, dtype=exact)  # of the positives
        taught = torch.zeros_like(near, dtype=exact)
        for part in rows.split(ROWS):
            block = anchors.features[part].to(exact) / temperature
            pairs = (block.to(low) @ near.T).to(exact).exp_()
            whole = pairs.sum(1, keepdim=True)
            total += whole.log().sum() - (block.sum(0) * middle).sum()
            pairs /= whole
            mine = -middle.repeat(len(part), 1)
            add_product(mine, pairs, near)
            for_anchors[part] = mine / temperature
            add_product(taught, pairs.T, block.to(low))
            taught[len(negatives) :] -= block.sum(0) / len(positives)
        for_candidates.index_add_(0, order, taught)
        count += len(rows)
    return total, torch.tensor(count, device=total.device), (for_anchors.to(low), for_candidates.to(low))
