"""Pixel contrast: a backbone and its decoder learn from labels which pixels are alike, before they learn to name them.

Zhao, Vemulapalli, Mansfield, Gong, Green, Shapira, Wu: "Contrastive Learning for Label Efficient Semantic
Segmentation", ICCV 2021, arXiv 2012.06985, section 3. Every image is seen twice, I and in other colours Î; the
decoder's map goes through a projection of 1x1 convolutions to unit length, and pixels of one class are drawn together
(kernels/contrast.py). The projection is dropped; backbone and decoder go on to `segment`.

    released   within: I with I, and Î with Î.   cross: I of one image joined to Î of another, with itself.
    paper      within: I with its Î.             cross: I with its Î, and with the pixels of its class in another's Î.
    batch      the same as within, all images of the batch taken as one, of which 10,000 pixels are drawn.

The released loss is the default, because it is the authors' own code; their README calls it slightly modified. Ours:
a projection without batch normalisation as in the paper, the code's has it; `spacing` of 8 px, which is what 65 cells
of a crop of 513 come to, and a little more than asked for where it does not divide the side that the network sees.

Reads: photographs, labels, weights. Makes: weights (backbone and decoder, parameters and curve). Cost: two passes
through the network an image and epoch, and the products of all pairs of pixels that are compared.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2 as transforms

from pipeline.core import cli, store, train
from pipeline.core.job import Job
from pipeline.core.loop import Losses
from pipeline.core.steps.weights import Contrast
from pipeline.kernels.contrast import Pixels, paper, released
from pipeline.kinds import classes, photographs
from pipeline.kinds.crops import Crops
from pipeline.kinds.labels import labels_at, taught
from pipeline.kinds.pixels import VOID
from pipeline.networks.backbones import HEAD, backbone_meta, load_backbone
from pipeline.networks.segmenter import Segmenter, take_over
from pipeline.networks.states import packed
from pipeline.networks.trunk import STRIDE

LAYERS, CHANNELS = 3, 256  # of the projection
MOST = 10_000  # pixels of a batch that are compared where it is taken as one image


class Projector(nn.Module):
    """An extractor, which is a segmentation network without its class scores, and the projection over it."""

    def __init__(self, extractor: Segmenter, settings: Contrast):
        super().__init__()
        self.extractor, self.spacing = extractor, settings.spacing
        layers: list[nn.Module] = []
        wide = extractor.head.score.in_channels
        for _ in range(LAYERS - 1):
            layers += [nn.Conv2d(wide, CHANNELS, 1), nn.ReLU(True)]
            wide = CHANNELS
        self.projection = nn.Sequential(*layers, nn.Conv2d(wide, CHANNELS, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,3,H,W] → unit features float32 [B,h·w,D] at the `places` of their rows and columns."""
        trunk, head = self.extractor.trunk, self.extractor.head
        seen = trunk.whole(x)
        maps = F.interpolate(
            head.decode(trunk(seen)), [cells(side, self.spacing) for side in x.shape[2:]], mode="bilinear"
        )
        rows, columns = (len(places(side, self.spacing)) for side in x.shape[2:])
        maps = self.projection(maps[..., :rows, :columns])
        return F.normalize(maps.float(), dim=1).flatten(2).transpose(1, 2)


def cells(side: int, spacing: int) -> int:
    """How many cells of about `spacing` pixels there are along a side, with what the network adds to it."""
    return max(1, -(-side // STRIDE) * STRIDE // spacing)


def places(side: int, spacing: int) -> Tensor:
    """The pixels in the middle of those cells, as far as they are the image's: int64, rising; one at least."""
    count, seen = cells(side, spacing), -(-side // STRIDE) * STRIDE
    middle = (2 * torch.arange(count) + 1) * seen // (2 * count)
    return middle[middle < side]


def distort(images: Tensor) -> Tensor:
    """Other colours for each image u8 [B,3,H,W]: SimCLR's distortion at full strength (Chen et al. 2020, A)."""
    jitter = transforms.RandomApply([transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8)
    change = transforms.Compose([jitter, transforms.RandomGrayscale(0.2)])
    return torch.stack([change(image) for image in images])


def compared(
    views: tuple[Tensor, Tensor], labels: Tensor, partner: Tensor, settings: Contrast
) -> list[tuple[Pixels, ...]]:
    """Which pixels are compared, unlabelled ones left out: among themselves (`released`), or anchors with candidates.

    views: unit features [B,N,D] of I and Î; labels u8 [B,N]; partner int64 [B]: `cross`, the other image of each.
    """
    first, second = views

    def pixels(*parts: tuple[Tensor, int]) -> Pixels:
        """Of views and images. Two of one call are told apart; other calls' are not: they are the same image."""
        found = [(view[i][known[i]], labels[i][known[i]].long()) for view, i in parts]
        where = [torch.full_like(names, number) for number, (_, names) in enumerate(found)]
        return Pixels(torch.cat([f for f, _ in found]), torch.cat([names for _, names in found]), torch.cat(where))

    known, images = labels != VOID, range(len(labels))
    if settings.variant == "batch":
        bags = [pixels(*((view, i) for i in images)) for view in views]
        drawn = torch.randperm(len(bags[0].classes))[:MOST].to(labels.device)
        one, two = (Pixels(bag.features[drawn], bag.classes[drawn], torch.zeros_like(drawn)) for bag in bags)
        return [(one,), (two,)] if settings.form == "released" else [(one, two)]
    out: list[tuple[Pixels, ...]] = []
    for i, j in zip(images, partner.tolist(), strict=True):
        match settings.variant, settings.form:
            case "within", "released":
                out += [(pixels((first, i)),), (pixels((second, i)),)]
            case "within", _:
                out.append((pixels((first, i)), pixels((second, i))))
            case _, "released":
                out.append((pixels((first, i), (second, j)),))
            case _:
                out.append((pixels((first, i)), pixels((second, i), (second, j))))
    return out


def run(job: Job) -> None:
    settings: Contrast = job.settings
    pictures, labels, weights = job.photographs, job.inputs["labels"], job.inputs["weights"]
    rows = taught(labels)
    names = classes.names(labels)
    torch.manual_seed(job.seed)
    trunk = load_backbone(weights, settings.stride)
    extractor = Segmenter(trunk, settings.head, len(names), settings.width, settings.stride)
    taken = take_over(extractor, weights, names)
    print(taken.said, flush=True)
    model = Projector(extractor, settings)
    cut = Crops(
        pictures,
        settings.crop,
        settings.scale,
        settings.jitter,
        fill=photographs.mean_colour(pictures, rows),
        label=lambda i: labels_at(labels, pictures, i),
    )

    def step(net: nn.Module, batch: dict[str, Tensor]) -> Losses:
        images, count = batch["image"], len(batch["image"])
        partner = torch.randperm(count)
        if settings.distortion:
            features = net(torch.cat([images, distort(images).contiguous(memory_format=torch.channels_last)]))
        else:
            features = torch.cat([net(images)] * 2)
        at = places(settings.crop, settings.spacing).to(images.device)
        spaced = batch["label"][:, at[:, None], at]
        features = features.to(torch.bfloat16 if job.precision == "bf16" else torch.float32)
        together = compared((features[:count], features[count:]), spaced.flatten(1), partner, settings)
        tau = settings.temperature
        if settings.form == "released":
            found = [released(sets[0], tau) for sets in together]
        else:
            found = [paper(sets[0], sets[1], tau) for sets in together]
        means = torch.stack([total / number.clamp(min=1) for total, number in found])
        each = len(together) // (1 if settings.variant == "batch" else count)  # the two views' losses are added up
        return {"loss": (means.sum(), torch.stack([number > 0 for _, number in found]).sum() / each)}

    def new(net: nn.Module) -> list[nn.Parameter]:
        return [*taken.fresh(net.extractor.head), *net.projection.parameters()]  # type: ignore[union-attr,arg-type]

    curves = train.fit(model, rows, cut, step, job, heads=new)
    decoder = {f"{HEAD}{name}": value for name, value in extractor.head.state_dict().items()}
    decoder = {name: value for name, value in decoder.items() if not name.startswith(f"{HEAD}score.")}
    arrays, index = packed({**trunk.state_dict(), **decoder})
    meta = {**backbone_meta(trunk), "index": index, "head": settings.head, "width": settings.width}
    store.write_table(job.out, job.header, {**arrays, **curves}, {**meta, "stride": settings.stride})


if __name__ == "__main__":
    cli.main(run, Contrast)
