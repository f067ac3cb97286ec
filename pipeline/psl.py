"""Prohibitive segmentation learning: a segmentation network that also learns from its own masks, of possible classes.

Wei et al., "Object Region Mining with Adversarial Erasing: A Simple Classification to Semantic Segmentation Approach",
CVPR 2017, arXiv 1703.08448 (AE-PSL), section 3.2. A branch on the same backbone says which classes are in the image,
v in [0,1]^F. With softmax(f) what the network says of a pixel, the mask it should have drawn is

    Ŝ(u) = argmax_k [1, v]_k · softmax(f)_k(u)            the background's weight is 1
    L = CE(f, S) + CE(f, Ŝ) + L_cls(v, tags)

computed anew in every iteration. S are the labels given, where 255 teaches nothing; Ŝ teaches there too. At test time
classes with v below `gate` are impossible (networks/door.py).
Ours: in training v is multiplied by the known tags, so that Ŝ never shows a class the image does not have; CE(f, Ŝ)
begins after `prohibit_after` epochs and is taken on the head's own map, as the paper's 41 x 41 cells are; L_cls is the
multi-label soft margin; where no class is the background, all classes have a v and none the weight 1.

Reads: photographs, tags, labels (hard), weights. Makes: model (parameters, curves). Cost: little more than `segment`.
Legend: B images, C classes, F of them foreground, H x W a crop in pixels, g x g the cells of the head's map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.core import cli, store, train
from pipeline.core.job import InputError, Job
from pipeline.core.loop import Losses
from pipeline.core.steps.models import Psl
from pipeline.kernels.pixel_losses import pixel_loss
from pipeline.kinds import classes, photographs
from pipeline.kinds import tags as said
from pipeline.kinds.crops import Crops
from pipeline.kinds.labels import labels_at, taught
from pipeline.kinds.pixels import VOID
from pipeline.networks.backbones import load_backbone
from pipeline.networks.classifier import classification_loss
from pipeline.networks.prohibitive import Prohibitive
from pipeline.networks.segmenter import Segmenter, segmenter_meta, take_over
from pipeline.networks.states import packed
from pipeline.networks.trunk import STRIDE


@torch.no_grad()
def prohibitive_mask(cells: Tensor, scores: Tensor, tags: Tensor, inside: Tensor, foreground: Sequence[int]) -> Tensor:
    """Ŝ, u8 [B,g,g]: the most probable of the classes an image has, each weighted by how sure it is to be there.

    cells: logits float [B,C,g,g]. scores: float [B,F], whose sigmoid is v. tags: bool [B,F], the known ones. inside:
    bool [B,g,g], elsewhere 255. foreground: class ids of the F; a class that is not among them has the weight 1.
    Taken as the argmax of log v + f, which is the same: what softmax divides by is common to all classes. An image of
    which no class is possible, because it has no tag and there is no background, gets 255 throughout.
    """
    weight = torch.zeros(cells.shape[:2], device=cells.device)
    weight[:, list(foreground)] = F.logsigmoid(scores.float()).masked_fill(~tags, -torch.inf)
    best = (cells.float() + weight[:, :, None, None]).argmax(1)
    some = weight.isfinite().any(1)[:, None, None]
    return torch.where(inside & some, best, VOID).byte()


def whole_cells(inside: Tensor, grid: Sequence[int]) -> Tensor:
    """Cells all of whose pixels are the photograph's: bool [B,H,W] → bool [B,g,g].

    What the network adds to an image to make it a multiple of its stride is not the photograph's.
    """
    below, right = (-side % STRIDE for side in inside.shape[1:])
    outside = F.pad((~inside).float(), (0, right, 0, below), value=1.0)
    return F.max_pool2d(outside, [side // cells for side, cells in zip(outside.shape[1:], grid, strict=True)]) == 0


def psl_step(foreground: Sequence[int], first: int) -> Callable[[Prohibitive, dict[str, Tensor]], Losses]:
    """The step of the training loop. first: the iteration from which Ŝ teaches.

    batch: image u8 [B,3,H,W], label u8 [B,H,W], tags bool [B,C], inside bool [B,H,W].
    """
    ids = [int(k) for k in foreground]

    def step(net: Prohibitive, batch: dict[str, Tensor]) -> Losses:
        logits, cells, scores = net(batch["image"])
        tags = batch["tags"][:, ids]
        losses = {"loss": pixel_loss(logits, batch["label"]), "tags": classification_loss(scores, tags)}
        if net.iterations >= first:
            mask = prohibitive_mask(cells, scores, tags, whole_cells(batch["inside"], cells.shape[2:]), ids)
            losses["prohibitive"] = pixel_loss(cells, mask)
        net.iterations += 1
        return losses

    return step


def run(job: Job) -> None:
    settings: Psl = job.settings
    pictures, labels, weights, tags = (job.inputs[role] for role in ("photographs", "labels", "weights", "tags"))
    rows = taught(labels)
    if classes.meta(labels) != classes.meta(tags):
        raise InputError(f"{labels.path} has {classes.meta(labels)}, {tags.path} {classes.meta(tags)}")
    names, foreground = classes.names(labels), classes.foreground(labels)
    torch.manual_seed(job.seed)
    trunk = load_backbone(weights, settings.stride)
    segmenter = Segmenter(trunk, settings.head, len(names), settings.width, settings.stride)
    taken = take_over(segmenter, weights, names)
    print(taken.said, flush=True)
    cut = Crops(
        pictures,
        settings.crop,
        settings.scale,
        settings.jitter,
        fill=photographs.mean_colour(pictures, rows),
        tags=said.tags(tags),
        label=lambda i: labels_at(labels, pictures, i),
        inside=True,
    )
    first = round(settings.prohibit_after * max(1, len(rows) // settings.batch))
    print(f"the network's own masks teach from iteration {first + 1} on", flush=True)
    model, step = Prohibitive(segmenter, foreground), psl_step(foreground.tolist(), first)

    def new(net: torch.nn.Module) -> list[torch.nn.Parameter]:
        return [*taken.fresh(net.segmenter.head), *net.branch.parameters()]  # type: ignore[union-attr,arg-type]

    curves = train.fit(model, rows, cut, step, job, heads=new)  # type: ignore[arg-type]
    arrays, index = packed(model.state_dict())
    side = int(pictures["rgb"].shape[1])
    meta = {**segmenter_meta(segmenter, names, classes.background(labels), side), "gate": settings.gate, "index": index}
    store.write_table(job.out, job.header, {**arrays, **curves}, meta)


if __name__ == "__main__":
    cli.main(run, Psl)
