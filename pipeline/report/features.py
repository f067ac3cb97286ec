"""Features of patches, which embedding.py compares. A page without a network need not wait for torch."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.core.train import autocast
from pipeline.kernels.triplets import embed
from pipeline.networks.trunk import Backbone


@torch.inference_mode()
def features(net: Backbone, patches: np.ndarray, pool: int, device: str, precision: str) -> np.ndarray:
    """What triplet tuning compares: the embedding, pooled to pool x pool, flattened, of length 1. f32 [P,D]."""
    net.to(device).eval()
    out = []
    for start in range(0, len(patches), 32):
        x = torch.from_numpy(np.ascontiguousarray(patches[start : start + 32].transpose(0, 3, 1, 2)))
        with autocast(device, precision):
            maps = net.embedding(x.to(device))
        out.append(embed(F.adaptive_avg_pool2d(maps.float(), pool)).cpu())
    return torch.cat(out).numpy()
