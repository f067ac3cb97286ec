"""The network of prohibitive segmentation learning: a segmenter whose backbone also says what is in the image.

Wei et al., "Object Region Mining with Adversarial Erasing", CVPR 2017, arXiv 1703.08448, section 3.2.
Legend: B images, C classes, F of them foreground, H x W an image in pixels, g x g the cells of the head's map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core.store import Artifact
from pipeline.kinds import classes
from pipeline.networks.backbones import trained_backbone
from pipeline.networks.segmenter import Segmenter
from pipeline.networks.states import fill, state_of


class TagBranch(nn.Module):
    """Tags from the backbone's last map: 3x3 convolution, ReLU, global average pooling, linear layer."""

    def __init__(self, deep: int, width: int, tags: int):
        super().__init__()
        self.conv = nn.Conv2d(deep, width, 3, padding=1)
        self.score = nn.Linear(width, tags)

    def forward(self, features: Tensor) -> Tensor:
        """[B,deep,h,w] → scores [B,tags]; their sigmoid is the paper's v."""
        return self.score(self.conv(features).relu().mean((2, 3))).float()


class Answer(NamedTuple):
    """What a `Prohibitive` says of a batch, from one pass through its backbone."""

    logits: Tensor  # float32 [B,C,H,W], at the images' size
    cells: Tensor  # float32 [B,C,g,g], the same before it is enlarged
    scores: Tensor  # float32 [B,F], of the tags


class Prohibitive(nn.Module):
    """A segmenter and a branch of tags on one backbone. foreground: the ids of the classes with a tag, in order.

    The branch is half as wide as the segmenter's head, and no narrower than 64 channels (ours): it must not cost more
    than a fifth of the training. iterations: how many it has learnt in, a part of its state, so that a training that
    was killed knows where it is.
    """

    iterations: Tensor

    def __init__(self, segmenter: Segmenter, foreground: Sequence[int] | np.ndarray):
        super().__init__()
        self.segmenter = segmenter
        self.foreground = tuple(int(k) for k in foreground)
        self.branch = TagBranch(segmenter.trunk.channels[-1], max(64, segmenter.width // 2), len(self.foreground))
        self.register_buffer("iterations", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Answer:
        size, x = x.shape[2:], self.segmenter.trunk.whole(x)
        features = self.segmenter.trunk(x)
        cells = self.segmenter.head(features).float()
        logits = F.interpolate(cells, x.shape[2:], mode="bilinear", align_corners=False)
        # Cells that see nothing of the image would thin out the mean, differently for each size.
        grid = features[-1].shape[2:]
        rows, columns = (-(-n * k // whole) for n, k, whole in zip(size, grid, x.shape[2:], strict=True))
        scores = self.branch(features[-1][..., :rows, :columns])
        return Answer(logits[..., : size[0], : size[1]], cells, scores)


def load_prohibitive(artifact: Artifact) -> Prohibitive:
    """The network of a `model` artifact that `psl` made, in eval mode."""
    meta = artifact.meta
    segmenter = Segmenter(trained_backbone(artifact), meta["head"], len(meta["classes"]), meta["width"], meta["stride"])
    model = Prohibitive(segmenter, classes.foreground(artifact))
    fill(model, state_of(artifact), artifact)
    return model.eval()
