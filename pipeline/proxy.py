"""Proxy tasks: pretraining a backbone on the training photographs alone, without any label.

colorization  Larsson, Maire, Shakhnarovich 2017, "Colorization as a Proxy Task for Visual Understanding",
              arXiv 1703.04044: the colour of single pixels from the gray photograph.
jigsaw        Noroozi, Favaro 2016, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles",
              arXiv 1603.09246: the order in which nine tiles of a photograph were shuffled.

Reads: photographs (split train). Makes: weights (the backbone; the head is dropped), curves of the loss and its terms.
Legend: B images, S side of the crop, P pixels or permutations, D channels of all stages, K shuffles, t side of a tile;
positions are (y, x) in pixels. Cost: epochs x images passes through the backbone, forward and backward; 256 pixels of
colorization cost as much again as resnet18 at 100 px, a fifth of it at 224.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core import cli, store, train
from pipeline.core.job import InputError, Job
from pipeline.core.loop import Losses
from pipeline.core.steps.weights import Proxy
from pipeline.kinds import photographs
from pipeline.kinds.crops import Crops
from pipeline.networks.backbones import backbone
from pipeline.networks.states import packed
from pipeline.networks.trunk import Backbone

BINS = 32  # of hue, and of chroma
TILES = 9
DECAY = 1e-6  # of the colour head's matrices, as published

Step = Callable[[nn.Module, dict[str, Tensor]], Losses]

# ------------------------------------------------------------------------------------------------- colorization


def hue_and_chroma(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Hue of HSV and chroma max − min, both 0..1, of colours 0..255 along dimension 1. Gray has hue 0."""
    red, green, blue = (rgb.float() / 255).unbind(1)
    most = torch.maximum(torch.maximum(red, green), blue)
    chroma = most - torch.minimum(torch.minimum(red, green), blue)
    width = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    hue = torch.where(
        most == red,
        ((green - blue) / width) % 6,
        torch.where(most == green, (blue - red) / width + 2, (red - green) / width + 4),
    )
    return hue / 6, chroma


def bins(value: Tensor) -> Tensor:
    """0..1 → int64 number of one of the uniform bins; 1 falls into the last."""
    return (value * BINS).long().clamp(0, BINS - 1)


def random_positions(count: int, pixels: int, side: int, border: int, device: torch.device) -> Tensor:
    """int64 [count,pixels,2], at least `border` from the edge, or a quarter of the side where that is less."""
    border = min(border, side // 4)
    return torch.randint(border, side - border, (count, pixels, 2), device=device)


def colours(image: Tensor, position: Tensor) -> Tensor:
    """[B,3,H,W] at [B,P,2] → [B,3,P]."""
    index = position[..., 0] * image.shape[3] + position[..., 1]
    return image.flatten(2).gather(2, index[:, None].expand(-1, 3, -1))


def hypercolumn(features: list[Tensor], position: Tensor, side: int) -> Tensor:
    """All stages' features at [B,P,2] of a square image of this side, bilinear: float32 [B,D,P].

    A map whose side is not a whole share of the image's reaches beyond it, so positions count in cells of the stride.
    """
    columns = []
    for feature in features:
        cells = feature.shape[-1]
        stride = 2 ** math.ceil(math.log2(side / cells))
        grid = (position.flip(-1) + 0.5) * (2 / (stride * cells)) - 1  # half-pixel centres, (x, y), −1..1
        # float32: in bfloat16 a position would be known to a few pixels only.
        column = F.grid_sample(feature.float(), grid[:, None], align_corners=False, padding_mode="border")
        columns.append(column[:, :, 0])
    return torch.cat(columns, 1)


class Colorizer(nn.Module):
    """Backbone → hypercolumn → hidden layer → one softmax each over chroma and hue.

    The hypercolumn's channels are brought to one scale first, without parameters: VGG has no normalisation of its own,
    and levels of unlike size learn at unlike speed. In a first test resnet18's loss fell alike with and without.
    """

    def __init__(self, trunk: Backbone, hidden: int):
        super().__init__()
        self.trunk = trunk
        self.level = nn.BatchNorm1d(sum(trunk.channels), affine=False)
        self.hidden = nn.Linear(sum(trunk.channels), hidden)
        self.dropout = nn.Dropout(0.5)
        self.chroma, self.hue = nn.Linear(hidden, BINS), nn.Linear(hidden, BINS)
        nn.init.normal_(self.hidden.weight, std=1e-4)
        nn.init.zeros_(self.hidden.bias)

    def forward(self, image: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """[B,3,S,S] and [B,P,2] → scores of chroma and of hue, [B,P,32] each."""
        column = self.level(hypercolumn(self.trunk(image), position, image.shape[-1]))
        code = self.dropout(self.hidden(column.transpose(1, 2)).relu())
        return self.chroma(code), self.hue(code)


def colour_loss(chroma_scores: Tensor, hue_scores: Tensor, rgb: Tensor) -> Losses:
    """CE(chroma) and 5·chroma·CE(hue), summed over B·P pixels: the hue of a nearly gray pixel hardly matters.
    Larsson et al., 3.1."""
    hue, chroma = hue_and_chroma(rgb)
    pixels = torch.tensor(chroma.numel())
    chroma_error = F.cross_entropy(chroma_scores.float().transpose(1, 2), bins(chroma), reduction="sum")
    hue_error = F.cross_entropy(hue_scores.float().transpose(1, 2), bins(hue), reduction="none")
    return {"chroma": (chroma_error, pixels), "hue": ((5 * chroma * hue_error).sum(), pixels)}


# ------------------------------------------------------------------------------------------------------- jigsaw


def permutations(count: int) -> np.ndarray:
    """int64 [count,9]: orders of nine tiles as far apart as possible, always the same ones.

    Greedy, from the identity on: next comes the order whose nearest chosen one is farthest by Hamming distance; among
    equals the one farthest from all together, then the first in lexicographic order.
    """
    orders = np.array(list(itertools.permutations(range(TILES))), np.int8)
    nearest, total = np.full(len(orders), TILES + 1, np.int32), np.zeros(len(orders), np.int32)
    chosen = [0]
    while len(chosen) < count:
        distance = (orders != orders[chosen[-1]]).sum(1, dtype=np.int32)
        nearest, total = np.minimum(nearest, distance), total + distance
        chosen.append(int(np.argmax(nearest * (TILES * count + 1) + total)))
    return orders[chosen].astype(np.int64)


def cut_tiles(image: Tensor, side: int) -> Tensor:
    """Split squares [B,C,S,S] in 3x3 windows and cut a random tile from each: [B,9,C,t,t], row by row.

    The gap between tiles keeps the network from matching edges that run on.
    """
    count, window = len(image), image.shape[-1] // 3
    shift = torch.randint(0, window - side + 1, (count, TILES, 2), device=image.device)
    place = torch.arange(3, device=image.device) * window
    corner = torch.cartesian_prod(place, place) + shift
    along = torch.arange(side, device=image.device)
    rows, columns = (corner[..., axis, None] + along for axis in (0, 1))
    which = torch.arange(count, device=image.device).view(-1, 1, 1, 1)
    return image.permute(0, 2, 3, 1)[which, rows[..., None], columns[..., None, :]].permute(0, 1, 4, 2, 3)


def normalise(tiles: Tensor, trunk: Backbone) -> Tensor:
    """Tiles with the mean and deviation the trunk takes off, per channel: it then sees 0 and 1, and no colour cast
    or brightness by which neighbours could be told."""
    deviation, mean = torch.std_mean(tiles.float(), (-2, -1), keepdim=True)
    return (tiles.float() - mean) / deviation.clamp(min=1) * trunk.std + trunk.mean


def shuffle(things: Tensor, order: Tensor) -> Tensor:
    """[B,9,...] put into the orders int64 [B,K,9]: place j of [B,K,9,...] holds the thing of window order[j]."""
    return things[torch.arange(len(things), device=things.device).view(-1, 1, 1), order]


class Jigsaw(nn.Module):
    """Backbone per tile → code per tile; the codes, shuffled → hidden layer → one softmax over the orders.

    The hidden layer, which the code the tasks follow leaves out, is the paper's fc7: scores linear in the nine codes
    would judge each tile by itself, never one by its neighbours.
    """

    def __init__(self, trunk: Backbone, orders: int, code: int, hidden: int):
        super().__init__()
        self.trunk = trunk
        self.code = nn.Linear(trunk.channels[-1], code)
        self.hidden = nn.Linear(TILES * code, hidden)
        self.order = nn.Linear(hidden, orders)

    def forward(self, tiles: Tensor, order: Tensor) -> Tensor:
        """[B,9,3,t,t] and int64 [B,K,9] → scores [B,K,P]. What is shuffled are the codes: tiles share the trunk."""
        pooled = self.trunk(tiles.flatten(0, 1))[-1].mean((2, 3))
        code = self.code(pooled).relu().view(len(tiles), TILES, -1)
        return self.order(self.hidden(shuffle(code, order).flatten(2)).relu())


# -------------------------------------------------------------------------------------------------------- story


def photograph_only(crops: Crops) -> train.Cut:
    """Crops enlarged where a photograph is too small, so that nothing is filled in.

    The fill has no colour worth learning, and its place tells the jigsaw where a tile was.
    """

    def cut(i: int, rng: np.random.Generator) -> train.Sample:
        scale = float(np.exp(rng.uniform(*np.log(crops.scale))))
        source = int(min(*crops.photographs["size"][i], max(1, round(crops.crop / scale))))
        exact = crops.crop / source
        return replace(crops, scale=(exact, exact))(i, rng)

    return cut


def colorization(trunk: Backbone, settings: Proxy) -> tuple[nn.Module, Step]:
    """The network and what one iteration minimises."""
    trunk.gray = True

    def step(net: nn.Module, batch: dict[str, Tensor]) -> Losses:
        image = batch["image"]
        position = random_positions(len(image), settings.pixels, image.shape[-1], settings.border, image.device)
        chroma, hue = net(image, position)
        terms = colour_loss(chroma, hue, colours(image, position))
        decay = DECAY / 2 * torch.stack([w.square().sum() for w in head(net) if w.ndim == 2]).sum()
        return terms | {"decay": (decay, torch.tensor(1))}

    return Colorizer(trunk, settings.hidden), step


def jigsaw(trunk: Backbone, settings: Proxy) -> tuple[nn.Module, Step]:
    """The network and what one iteration minimises."""
    side = tile_side(settings)
    orders = torch.from_numpy(permutations(settings.permutations))

    def step(net: nn.Module, batch: dict[str, Tensor]) -> Losses:
        tiles = normalise(cut_tiles(batch["image"], side), trunk)
        answer = torch.randint(len(orders), (len(tiles), settings.shuffles), device=tiles.device)
        scores = net(tiles, orders.to(tiles.device)[answer])
        total = F.cross_entropy(scores.float().flatten(0, 1), answer.flatten(), reduction="sum")
        return {"order": (total, torch.tensor(answer.numel()))}

    return Jigsaw(trunk, len(orders), settings.code, settings.hidden), step


def tile_side(settings: Proxy) -> int:
    """The side of a tile that was asked for, or 75 of 85 pixels of a window."""
    window = settings.crop // 3
    side = settings.tile or window * 75 // 85
    if side > window:
        raise InputError(
            f"tile: {side} found, but a window is a third of crop {settings.crop}, {window} px; "
            f"expected at most that. Leave `tile` out for {window * 75 // 85}"
        )
    return side


def head(net: nn.Module) -> list[nn.Parameter]:
    """Parameters outside the backbone."""
    return [parameter for name, parameter in net.named_parameters() if not name.startswith("trunk.")]


def run(job: Job) -> None:
    settings: Proxy = job.settings
    rows = photographs.split(job.photographs, "train")
    torch.manual_seed(job.seed)
    trunk = backbone(settings.backbone)
    net, step = (colorization if settings.task == "colorization" else jigsaw)(trunk, settings)
    crops = Crops(job.photographs, settings.crop, settings.scale, settings.jitter, fill=np.zeros(3, np.uint8))
    curves = train.fit(net, rows, photograph_only(crops), step, job, heads=head)
    curves["curve_loss"] = np.sum(list(curves.values()), axis=0)
    arrays, index = packed(trunk.state_dict())
    gray = settings.gray and settings.task == "colorization"
    store.write_table(job.out, job.header, {**arrays, **curves}, {"index": index, "backbone": trunk.name, "gray": gray})


if __name__ == "__main__":
    cli.main(run, Proxy)
