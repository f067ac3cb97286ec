"""Losses of label maps, hard and soft, as (sum, count) for `train.Losses`.

Legend: B images, C classes, H x W pixels, K slots of classes that an image may hold.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pipeline.kinds.pixels import VOID


def pixel_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over the labelled pixels, and how many they are.

    logits float [B,C,H,W]; labels u8 [B,H,W], 255 = unlabelled. Both scalars; 0 and 0 when nothing is labelled.
    """
    total = F.cross_entropy(logits, labels.long(), ignore_index=VOID, reduction="sum")
    return total, (labels != VOID).sum()


def soft_pixel_loss(logits: Tensor, slots: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Multi-label cross-entropy −Σ_u Σ_k p̂_k(u) · log p_k(u), and how many pixels have any p̂ > 0.

    logits float [B,C,H,W]; slots u8 [B,K], the class of each slot, 255 = empty; probabilities float [B,K,H,W], the p̂.
    What an empty slot holds is not looked at. Where the p̂ of a pixel sum to 1, the gradient is softmax − p̂; where
    they are 0, it is 0. Only the slots' channels are gathered: no target [B,C,H,W] is built.

    Source: the MCE loss of Wei et al., "STC: A Simple to Complex Framework for Weakly-Supervised Semantic
    Segmentation", TPAMI 2017, arXiv 1509.03150, which divides by all pixels of the image.
    """
    filled = (slots != VOID)[:, :, None, None]
    log = F.log_softmax(logits, 1)
    target = probabilities.to(log.dtype).masked_fill(~filled, 0)
    index = slots.long()[:, :, None, None].where(filled, 0).expand_as(target)
    total = -(target * log.gather(1, index)).sum()
    return total, (target > 0).any(1).sum()
