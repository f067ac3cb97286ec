"""The network of dual image segmentation: from latents it draws a label map, and from the label map the image again.

Luo, Wang, Lin & Wang, "Deep Dual Learning for Semantic Image Segmentation", ICCV 2017 (DIS). The trunk gives two
latents; three small networks read them, and a last layer brings two of their answers together:

    u2 = u1 + v1 at every cell        u3 = 3x3 conv of u2                  the label map
    z3 = 5x5, 3x3, 3x3 conv of u3                                          the image, drawn from the label map
    v2 = mean of u1 over cells + v1   v3 = linear layer of v2              the tags
    final = 1x1 conv of u3 and v3 at every cell                            the prediction

What is known of an image (the image itself, its tags) says how wrong an answer is, so `descend` moves the latents of
that one image until the answer fits better; the weights stay.
Ours: v1 is a linear layer of the mean of u1; ReLU between the convolutions of z; the last layer begins as u3 itself.

Legend: B images, K classes with the background, C channels of the trunk's last map, H x W an image in pixels, h x w
cells of the latents: one for each `stride` pixels, the last ones of an image may be cut off by its edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core.store import Artifact
from pipeline.core.train import autocast
from pipeline.kinds import classes
from pipeline.networks.backbones import backbone_meta, trained_backbone
from pipeline.networks.looks import batch_of, gated, looks
from pipeline.networks.states import fill, state_of
from pipeline.networks.trunk import Backbone

FIRST_STEP = 0.1  # of the latent's length: the step that is tried first (ours)
HALVINGS = 8  # of a step that does not lower the loss, before an image is given up (ours)
LEAST_DROP = 1e-3  # of the loss; an image whose step brings less goes no further (ours)


class Latents(NamedTuple):
    """What the trunk says of a batch: u1 [B,C,h,w], v1 [B,C]."""

    u1: Tensor
    v1: Tensor


class Answer(NamedTuple):
    """What the heads say of latents, all float32; logits but for z3."""

    final: Tensor  # [B,K,h,w]
    u3: Tensor  # [B,K,h,w]
    z3: Tensor  # [B,3,h,w], colours in [-1,1]
    v3: Tensor  # [B,K]


class Heads(nn.Module):
    """Latents → `Answer`."""

    def __init__(self, deep: int, count: int):
        super().__init__()
        self.map = nn.Conv2d(deep, count, 3, padding=1)
        self.image = nn.Sequential(
            nn.Conv2d(count, count, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(count, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 3, 3, padding=1),
        )
        self.tags = nn.Linear(deep, count)
        self.final = nn.Conv2d(2 * count, count, 1)
        with torch.no_grad():
            self.final.weight.copy_(torch.eye(count, 2 * count)[:, :, None, None])
            nn.init.zeros_(self.final.bias)  # type: ignore[arg-type]

    def forward(self, latents: Latents) -> Answer:
        u1, v1 = latents
        u3 = self.map(u1 + v1[:, :, None, None])
        v3 = self.tags(u1.mean((2, 3)) + v1)
        both = torch.cat([u3, v3[:, :, None, None].expand_as(u3)], 1)
        return Answer(self.final(both).float(), u3.float(), self.image(u3).float(), v3.float())


class Dual(nn.Module):
    """Trunk and heads; count: of the classes, the background among them."""

    def __init__(self, trunk: Backbone, count: int, stride: int):
        super().__init__()
        deep = trunk.channels[-1]
        self.trunk, self.stride = trunk, stride
        self.second = nn.Linear(deep, deep)
        self.heads = Heads(deep, count)

    def encode(self, x: Tensor) -> Latents:
        """Images [B,3,H,W], 0..255 → their latents, of the cells that see something of the image."""
        rows, columns = (-(-side // self.stride) for side in x.shape[2:])
        u1 = self.trunk(self.trunk.whole(x))[-1][..., :rows, :columns]
        return Latents(u1, self.second(u1.mean((2, 3))))

    def forward(self, x: Tensor) -> Answer:
        answer: Answer = self.heads(self.encode(x))
        return answer


def enlarged(cells: Tensor, stride: int, size: Sequence[int]) -> Tensor:
    """Logits of cells [B,K,h,w] → of the pixels of an image of this size, [B,K,H,W]."""
    pixels = F.interpolate(cells, scale_factor=stride, mode="bilinear", align_corners=False)
    return pixels[..., : size[0], : size[1]]


def picture_of(x: Tensor, stride: int) -> Tensor:
    """What z3 is to be: images [B,3,H,W], 0..255 → the mean colour of each cell, float32 [B,3,h,w] in [-1,1]."""
    return F.avg_pool2d(x.float() / 127.5 - 1, stride, ceil_mode=True)  # of cut-off cells: the pixels there are


def image_loss(z3: Tensor, picture: Tensor) -> Tensor:
    """½ of the mean squared difference, of each image: [B]."""
    return 0.5 * (z3 - picture).square().mean((1, 2, 3))


def tag_loss(v3: Tensor, tags: Tensor) -> Tensor:
    """Σ over classes of the cross-entropy of σ(v3), of each image: [B]. tags: bool [B,K], the background among them."""
    return F.binary_cross_entropy_with_logits(v3, tags.float(), reduction="none").sum(1)


# ------------------------------------------------------------------------------------------------------- the descent


class State(NamedTuple):
    """Where a descent is. going: bool [B], the images that still move."""

    latents: Latents
    going: Tensor


def begin(latents: Latents) -> State:
    u1, v1 = latents
    going = torch.ones(len(u1), dtype=torch.bool, device=u1.device)
    return State(Latents(u1.detach().float(), v1.detach().float()), going)


def misfit(heads: Heads, latents: Latents, picture: Tensor, tags: Tensor | None) -> Tensor:
    """What `descend` lowers, of each image: [B]."""
    answer: Answer = heads(latents)
    loss = image_loss(answer.z3, picture)
    return loss if tags is None else loss + tag_loss(answer.v3, tags)


def descend(heads: Heads, state: State, picture: Tensor, steps: int, tags: Tensor | None = None) -> State:
    """At most so many steps of gradient descent on the latents, each image for itself; the weights are not touched.

    picture: float32 [B,3,h,w], as `picture_of` makes it. tags: bool [B,K], None: they are not known.
    A step costs one gradient of the heads, and one pass for each length that is tried; the trunk is not asked. To go on
    from the state after s steps by t gives what s + t steps give. Paper: the principle; the rule of steps is ours.
    """
    (u1, v1), going = Latents(*(part.clone() for part in state.latents)), state.going.clone()
    for _ in range(steps):
        moving = going.nonzero()[:, 0]
        if not len(moving):
            break
        known = None if tags is None else tags[moving]
        latents, going[moving] = step_down(heads, Latents(u1[moving], v1[moving]), picture[moving], known)
        u1[moving], v1[moving] = latents
    return State(Latents(u1, v1), going)


def step_down(heads: Heads, at: Latents, picture: Tensor, tags: Tensor | None) -> tuple[Latents, Tensor]:
    """One step of each image, and whether it was worth another: bool [B].

    The first length λ that is tried moves u1 by a tenth of its own length; it is halved until the image's loss falls.
    v1 moves by λ / (h·w): it is added at every cell, so its gradient is a sum over cells, and with λ it would leap
    so far that λ has to be halved until u1 stands nearly still.
    """
    with torch.enable_grad():
        here = Latents(*(part.detach().requires_grad_() for part in at))
        before = misfit(heads, here, picture, tags)
        slopes = torch.autograd.grad(before.sum(), here)
    u1, v1 = (part.detach().clone() for part in at)
    before, du, dv = before.detach(), slopes[0], slopes[1] / u1[0, 0].numel()
    tiny = torch.finfo(du.dtype).tiny
    rate = FIRST_STEP * u1.flatten(1).norm(dim=1) / du.flatten(1).norm(dim=1).clamp(min=tiny)
    after, left = before.clone(), torch.arange(len(before), device=before.device)
    with torch.no_grad():
        for _ in range(HALVINGS + 1):
            u, v = u1[left] - rate[left, None, None, None] * du[left], v1[left] - rate[left, None] * dv[left]
            loss = misfit(heads, Latents(u, v), picture[left], None if tags is None else tags[left])
            lower = loss < before[left]
            done = left[lower]
            u1[done], v1[done], after[done] = u[lower], v[lower], loss[lower]
            left = left[~lower]
            if not len(left):
                break
            rate = rate / 2
    return Latents(u1, v1), before - after > LEAST_DROP * before


def answers(
    model: Dual, x: Tensor, steps: Sequence[int], precision: str, device: str, tags: Tensor | None = None
) -> list[Answer]:
    """What the network says of images after each of these numbers of steps, rising: one pass of the trunk, one descent,
    which goes on from one number to the next. x: [B,3,H,W], 0..255, on the device. The descent is in float32."""
    with torch.no_grad(), autocast(device, precision):
        latents = model.encode(x)
    state, picture, taken, said = begin(latents), picture_of(x, model.stride), 0, []
    for count in steps:
        state, taken = descend(model.heads, state, picture, count - taken, tags), count
        with torch.no_grad():
            said.append(model.heads(state.latents))
    return said


# ------------------------------------------------------------------------------ from artifacts, and behind the door


def dual_meta(model: Dual, names: Sequence[str], background: int | None, max_side: int, steps: int) -> dict[str, Any]:
    """What `load_dual` and the door need to know, beside the index. max_side: of the photographs trained on."""
    about = {"stride": model.stride, "padding": model.trunk.padding, "steps": steps, "max_side": max_side}
    return {**backbone_meta(model.trunk), **about, "classes": list(names), "background": background}


def load_dual(artifact: Artifact) -> Dual:
    """The network of a `model` artifact that `dis` made, in eval mode."""
    model = Dual(trained_backbone(artifact), len(classes.names(artifact)), artifact.meta["stride"])
    fill(model, state_of(artifact), artifact)
    return model.eval()


@dataclass(frozen=True)
class DualNetwork:
    """A `Dual` behind the door (`door.Descending`): each look at a photograph descends for itself, and the softmax
    after the last of its steps is averaged over scales and mirror images."""

    model: Dual
    classes: list[str]
    background: int | None
    max_side: int | None
    device: str
    precision: str
    scales: Sequence[float]
    flip: bool
    steps: int

    def probabilities(self, rgb: np.ndarray | Tensor, possible: np.ndarray | Tensor | None = None) -> Tensor:
        return self.after(rgb, [self.steps], possible)[0]

    def after(
        self, rgb: np.ndarray | Tensor, steps: Sequence[int], possible: np.ndarray | Tensor | None = None
    ) -> list[Tensor]:
        totals, count = [torch.zeros(())] * len(steps), len(self.scales) * (1 + self.flip)
        for x, back in looks(batch_of(rgb).to(self.device), self.scales, self.flip):
            for k, answer in enumerate(answers(self.model, x, steps, self.precision, self.device)):
                totals[k] = totals[k] + back(enlarged(answer.final, self.model.stride, x.shape[2:]))
        return [gated(total / count, possible) for total in totals]

    def with_steps(self, steps: int) -> DualNetwork:
        return replace(self, steps=steps)
