"""What every backbone is: five stages, and images taken as they are stored.

Every network takes RGB, 0..255, [B,3,H,W] and normalises it itself, so no stage can feed a backbone the wrong
statistics. Any `nn.Module` with `channels` and a list of feature maps can stand in for `Backbone`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # torchvision's statistics in 0..255
STRIDE = 32  # of the coarsest feature map
SMALLEST = 32  # pixels of a side; below it the coarsest feature map would be empty


class Backbone(nn.Module):
    """Five stages; `forward` returns the feature map of each, fine to coarse.

    channels: width of each feature map. gray: the network sees the mean of the colour channels. padding: where layers
    pad once strides are undone (networks/padding.py). embedded: how many layers of the last stage make the embedding;
    None: all.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        stages: Sequence[nn.Module],
        channels: Sequence[int],
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
        padding: str = "aligned",
        embedded: int | None = None,
    ):
        super().__init__()
        self.name, self.channels, self.padding, self.embedded = name, tuple(channels), padding, embedded
        self.gray = False
        self.stages = nn.ModuleList(stages)
        self.register_buffer("mean", torch.tensor(statistics[0]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(statistics[1]).view(1, 3, 1, 1), persistent=False)

    def whole(self, x: Tensor) -> Tensor:
        """Images with mean colour added below and to the right, up to multiples of the largest stride.

        Then every stage has exactly its stride's share of cells, at the same places as in a training crop. Otherwise
        they shift by up to half a cell from one image size to the next, and maps brought to pixels shift with them.
        """
        below, right = (-side % STRIDE for side in x.shape[2:])
        return F.pad(x.float() - self.mean, (0, right, 0, below)) + self.mean if below or right else x

    def normalised(self, x: Tensor) -> Tensor:
        """What the first stage takes."""
        x = x.float()
        if self.gray:
            x = x.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.normalised(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features

    def embedding(self, x: Tensor) -> Tensor:
        """The map that patches are compared by, [B,C,h,w]: the last one; for VGG16 what pool5 gives.

        VGG16's last map follows two layers with dropout, which would compare a patch with a random part of itself.
        """
        if self.embedded is None:
            return self.forward(x)[-1]
        x = self.normalised(x)
        for stage in self.stages[:-1]:
            x = stage(x)
        for layer in self.stages[-1][: self.embedded]:  # type: ignore[index]
            x = layer(x)
        return x
