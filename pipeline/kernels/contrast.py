"""Pixel contrast driven by labels: loss and gradients in one sweep, without a matrix of all pairs.

Zhao, Vemulapalli, Mansfield, Gong, Green, Shapira, Wu: "Contrastive Learning for Label Efficient Semantic
Segmentation", ICCV 2021, arXiv 2012.06985, section 3, and the authors' released loss. With unit features f, s_pq =
f_p·f_q / τ, e = exp(s), for an anchor p: its positives q are all candidates of its class, n_p in number; its negatives
k are the candidates of other classes *in its own image*, S_p = Σ_k e_pk. Another image brings positives only.

    released   L_p = 1/n_p Σ_q [log(e_pq + S_p) - s_pq]          a positive stands against the negatives alone
    paper      L_p = log(Σ_q e_pq + S_p) - 1/n_p Σ_q s_pq        ... and against all other positives

Anchors are taken class by class, some rows at a time: their row of pairs is multiplied, exponentiated, turned into its
own gradient in place, and multiplied back. Sums of s over positives are products with sums of features over a class.

Legend: P anchors, Q candidates, D channels. Cost: three products of P x Q x D and some six passes over P x Q numbers,
in blocks of ROWS x Q; beside the features and their gradients, one such block and one class's candidates are in memory.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Form = Literal["released", "paper"]
ROWS = 512
COLDEST = 0.02  # exp(1 / τ) summed over a million pixels is still far from the end of float32


class Pixels(NamedTuple):
    """features float [N,D] of unit length, in the precision of the products (bfloat16 where the hardware has it: all
    else is float32 then too); classes int64 [N]; images int64 [N], which image each lies in."""

    features: Tensor
    classes: Tensor
    images: Tensor


def pixel_contrast(anchors: Pixels, candidates: Pixels, temperature: float, form: Form) -> tuple[Tensor, Tensor]:
    """Sum of L_p over the anchors that have a positive, and how many they are; both scalars, 0 and 0 if there are none.

    Unlabelled pixels are to be left out of both. An anchor that is a candidate too is its own positive, as released.
    Raises ValueError for a temperature below 0.02, where float32 would overflow.
    """
    if temperature < COLDEST:
        raise ValueError(f"temperature {temperature} found; at least {COLDEST} expected, or exp(1/τ) overflows")
    total, count = _Contrast.apply(
        anchors.features,
        candidates.features,
        (anchors.classes, anchors.images, candidates.classes, candidates.images),
        temperature,
        form,
    )
    return total, count


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, candidates: Tensor, known: tuple[Tensor, ...], temperature: float, form: Form
    ) -> tuple[Tensor, Tensor]:
        total, count, for_anchors, for_candidates = sweep(anchors, candidates, known, temperature, form)
        ctx.save_for_backward(for_anchors, for_candidates)
        ctx.mark_non_differentiable(count)
        return total, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        for_anchors, for_candidates = ctx.saved_tensors
        return grad * for_anchors, grad * for_candidates, None, None, None


def sweep(
    anchors: Tensor, candidates: Tensor, known: tuple[Tensor, ...], temperature: float, form: Form
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum of the losses, number of anchors with a positive, and the sum's gradients [P,D] and [Q,D]."""
    classes, images, other_classes, other_images = known
    anchors, candidates = anchors.detach(), candidates.detach()
    low, exact = anchors.dtype, torch.promote_types(anchors.dtype, torch.float32)
    for_anchors, for_candidates = (torch.zeros_like(side, dtype=exact) for side in (anchors, candidates))
    total, count = for_anchors.new_zeros(()), 0
    groups, group = torch.unique(torch.stack([images, classes], 1), dim=0, return_inverse=True)
    for number, (image, name) in enumerate(groups.tolist()):
        positive = other_classes == name
        negatives, positives = (~positive & (other_images == image)).nonzero()[:, 0], positive.nonzero()[:, 0]
        if not len(positives):
            continue
        order = torch.cat([negatives, positives])
        rows = (group == number).nonzero()[:, 0]
        near = candidates[order]
        middle = near[len(negatives) :].mean(0, dtype=exact)  # of the positives
        taught = torch.zeros_like(near, dtype=exact)
        for part in rows.split(ROWS):
            block = anchors[part].to(exact) / temperature
            pairs = (block.to(low) @ near.T).to(exact)
            total += _losses(pairs.exp_(), len(negatives), form).sum() - (block @ middle).sum()
            lowered = pairs.to(low)
            for_anchors[part] = (lowered @ near).to(exact) / temperature
            taught += (lowered.T @ block.to(low)).to(exact)
            if form == "paper":
                for_anchors[part] -= middle / temperature
                taught[len(negatives) :] -= block.sum(0) / len(positives)
        for_candidates.index_add_(0, order, taught)
        count += len(rows)
    return total, torch.tensor(count, device=anchors.device), for_anchors.to(low), for_candidates.to(low)


def _losses(pairs: Tensor, negatives: int, form: Form) -> Tensor:
    """e [R, negatives then positives] → L_p + mean s [R]; pairs becomes dL_p/ds (`paper`: but for its - 1/n_p)."""
    bad, good = pairs[:, :negatives], pairs[:, negatives:]
    against = bad.sum(1, keepdim=True)
    if form == "paper":
        whole = against + good.sum(1, keepdim=True)
        pairs /= whole
        return whole.log()[:, 0]
    good += against
    losses = good.log().mean(1)
    good.reciprocal_()
    bad *= good.mean(1, keepdim=True)
    good *= -against / good.shape[1]
    return losses
