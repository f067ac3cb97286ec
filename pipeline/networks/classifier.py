"""The tag classifier: its loss, its class activation maps, and what it recognises.

Zhou et al. 2016 (CAM, section 2) in the fully convolutional form of Ahn & Kwak 2018.
Legend: B images, C classes, F of them foreground, h x w a photograph in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core.processes import in_batches
from pipeline.core.store import Artifact
from pipeline.core.train import autocast
from pipeline.kinds import classes as kinds
from pipeline.networks.backbones import backbone_meta, load_backbone, trained_backbone
from pipeline.networks.pictures import resized, to_tensor
from pipeline.networks.states import fill, state_of
from pipeline.networks.trunk import SMALLEST, Backbone


class Classifier(nn.Module):
    """Tags from an image: backbone → 1x1 convolution without bias → global average pooling.

    Pooling after the linear layer makes its maps the class activation maps (Zhou et al. 2016; Ahn & Kwak 2018).
    foreground: the ids of the classes it tells apart, one score column each, in order.
    """

    def __init__(self, trunk: Backbone, foreground: Sequence[int] | np.ndarray):
        super().__init__()
        self.trunk = trunk
        self.foreground = tuple(int(k) for k in foreground)
        self.score = nn.Conv2d(trunk.channels[-1], len(self.foreground), 1, bias=False)
        nn.init.normal_(self.score.weight, std=0.01)

    def maps(self, x: Tensor) -> Tensor:
        """[B,3,H,W] → class maps [B,F,h,w] before pooling, without ReLU."""
        return self.score(self.trunk(x)[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x).float().mean((2, 3))

    def columns(self, ids: Sequence[int] | np.ndarray) -> list[int]:
        """Score columns of these class ids. Raises ValueError for one that this classifier does not know."""
        unknown = sorted({int(k) for k in ids} - set(self.foreground))
        if unknown:
            raise ValueError(f"class {unknown} asked for; this classifier knows {list(self.foreground)}")
        return [self.foreground.index(int(k)) for k in ids]


# --------------------------------------------------------------------------------------------------- training


def classification_loss(scores: Tensor, tags: Tensor) -> tuple[Tensor, Tensor]:
    """Multi-label soft margin (as Ahn & Kwak 2018): the sum over images of the mean over classes, and their number.

    scores: float [B,F]. tags: bool [B,F].
    """
    per_image = F.multilabel_soft_margin_loss(scores, tags.float(), reduction="none")
    return per_image.sum(), torch.tensor(len(per_image), device=scores.device)


def classifier_step(
    foreground: Sequence[int] | np.ndarray,
) -> Callable[[nn.Module, dict[str, Tensor]], dict[str, tuple[Tensor, Tensor]]]:
    """The step of the training loop: batch = image u8 [B,3,H,W], tags bool [B,C] over all class ids."""
    ids = [int(k) for k in foreground]

    def step(net: nn.Module, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        return {"loss": classification_loss(net(batch["image"]), batch["tags"][:, ids])}

    return step


def new_classifier(weights: Artifact, tags: Artifact, stride: int) -> Classifier:
    """An untrained classifier of the foreground classes of `tags` over the backbone of `weights`."""
    return Classifier(load_backbone(weights, stride), kinds.foreground(tags))


def classifier_meta(model: Classifier, tags: Artifact, stride: int) -> dict[str, Any]:
    """What `load_classifier` needs to know, beside the index."""
    return {
        **backbone_meta(model.trunk),
        "stride": stride,
        "padding": model.trunk.padding,
        "classes": kinds.names(tags),
        "background": kinds.background(tags),
    }


def load_classifier(artifact: Artifact) -> Classifier:
    """The network of a `classifier` artifact, in eval mode."""
    model = Classifier(trained_backbone(artifact), kinds.foreground(artifact))
    fill(model, state_of(artifact), artifact)
    return model.eval()


# --------------------------------------------------------------------------------------------------- answers


@torch.no_grad()
def activation(
    model: Classifier,
    rgb: np.ndarray,
    classes: Sequence[Sequence[int] | np.ndarray],
    *,
    grid: int,
    scales: Sequence[float],
    flip: bool,
    device: str,
    precision: str,
) -> list[np.ndarray]:
    """Class activation maps of each photograph's class ids, float32 [K, ceil(h/grid), ceil(w/grid)] in [0,1].

    Zhou et al. 2016, in the multi-scale form of Ahn & Kwak 2018: ReLU maps of all scales and their mirror images are
    summed and divided by each class's maximum. rgb: uint8 [B,h,w,3]. classes: K ids for each of the B. All is computed
    on the device.
    """
    height, width = rgb.shape[1:3]
    counts = [len(ids) for ids in classes]
    if not any(counts):
        return [np.zeros((0, -(-height // grid), -(-width // grid)), np.float32) for _ in classes]
    owner = torch.tensor([b for b, count in enumerate(counts) for _ in range(count)], dtype=torch.long, device=device)
    column = torch.tensor([k for ids in classes for k in model.columns(ids)], dtype=torch.long, device=device)
    total = torch.zeros(len(owner), height, width, device=device)
    photographs = to_tensor(rgb).to(device)
    for scale in scales:
        h, w = (max(SMALLEST, round(side * scale)) for side in (height, width))
        x = resized(photographs, h, w)
        if flip:
            x = torch.cat([x, x.flip(3)])
        x = model.trunk.whole(x)
        with autocast(device, precision):
            maps = model.maps(x)
        maps = maps.unflatten(0, (-1, len(rgb)))[:, owner, column].float().relu()  # [views, maps, h', w']
        # Cells → the padded pixels they were made from → the photograph's pixels: no step shifts the map.
        maps = F.interpolate(maps, x.shape[2:], mode="bilinear", align_corners=False)[..., :h, :w]
        if flip:
            maps = torch.stack([maps[0], maps[1].flip(2)])
        total += F.interpolate(maps, (height, width), mode="bilinear", align_corners=False).sum(0)
    total = F.avg_pool2d(total[None], grid, ceil_mode=True, count_include_pad=False)[0]
    total = total / (total.amax((1, 2), keepdim=True) + 1e-5)
    return np.split(total.cpu().numpy(), np.cumsum(counts)[:-1])


@torch.no_grad()
def tag_scores(model: Classifier, rgb: np.ndarray, *, device: str, precision: str) -> Tensor:
    """Scores of the foreground classes in photographs of one size, uint8 [B,h,w,3] → float32 [B,F] on the device."""
    with autocast(device, precision):
        return model(to_tensor(rgb).to(device)).float()


def tag_probabilities(
    model: Classifier,
    rgb: np.ndarray,
    classes: Sequence[Sequence[int] | np.ndarray],
    *,
    device: str,
    precision: str,
) -> list[np.ndarray]:
    """How sure the classifier is of each photograph's class ids: uint8 [B,h,w,3], K ids for each → float32 [K] each."""
    sure = tag_scores(model, rgb, device=device, precision=precision).sigmoid().cpu().numpy()
    return [row[model.columns(ids)] for row, ids in zip(sure, classes, strict=True)]


def recall(
    model: Classifier,
    image: Callable[[int], np.ndarray],
    tags: np.ndarray,
    rows: np.ndarray,
    *,
    device: str,
    precision: str,
    batch: int = 1,
) -> float:
    """Share of the tagged images whose best-scoring class is one of their tags: how much is still recognised.

    image: row → uint8 [h,w,3]. tags: bool [N,C] over all class ids. batch: how many images are looked at together.
    """
    known = tags[:, list(model.foreground)]
    tagged = [int(i) for i in rows if known[i].any()]

    def best(pictures: list[np.ndarray]) -> list[int]:
        return tag_scores(model, np.stack(pictures), device=device, precision=precision).argmax(1).cpu().tolist()

    found = in_batches(best, map(image, tagged), np.shape, batch, ahead=4 * batch)
    hits = sum(bool(known[i, k]) for i, k in zip(tagged, found, strict=True))
    return hits / max(len(tagged), 1)
