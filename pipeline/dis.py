"""Dual image segmentation: a segmentation network that also draws the image and its tags from what it says of them.

Luo, Wang, Lin & Wang, "Deep Dual Learning for Semantic Image Segmentation", ICCV 2017 (DIS). networks/dual.py has the
network and its descent; here its weights learn, by

    L = CE(L̂, L) + 0.4 CE(u3, L) + Σ_k BCE(σ(v3_k), T_k) + 0.1 · ½ mean (z3 − I)²

Two stages in the paper: first on the images whose masks are true, then on those and on weak ones, whose label maps were
inferred (`infer`). The second is this step once more: it goes on from the network of the step before, and draws its
samples as often from the one kind of images as from the other. Paper: the three losses and the two stages.
Ours: the weights of the losses, and the second term; label maps are compared at full size, the image cell by cell; the
tags of a crop are those of its image and the classes that its label map shows, so that what was inferred cleans them.

Reads: photographs, tags, labels, weights; true (the labels that are true, where others are inferred) and model (of an
earlier `dis`, to go on from), both optional. Makes: model (parameters, curves). Cost: epochs x covered images; where
they are of both kinds, epochs x twice the more frequent.
Legend: B images, K classes with the background, H x W a crop in pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.core import cli, store, train
from pipeline.core.job import InputError, Job
from pipeline.core.loop import Losses
from pipeline.core.steps.models import Dis
from pipeline.kernels.pixel_losses import pixel_loss
from pipeline.kinds import classes, photographs
from pipeline.kinds import tags as said
from pipeline.kinds.crops import Crops
from pipeline.kinds.labels import labels_at, taught
from pipeline.networks.backbones import load_backbone
from pipeline.networks.dual import Dual, dual_meta, enlarged, image_loss, picture_of, tag_loss
from pipeline.networks.states import fill, packed, state_of

DEEP, IMAGE = 0.4, 0.1  # weights of CE(u3, L) and of the image


def evenly(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Rows of both, in turns, each as often as the other: the fewer are repeated. Where one is empty, the other."""
    if not len(some) or not len(others):
        return np.concatenate([some, others])
    count = max(len(some), len(others))
    return np.stack([np.resize(some, count), np.resize(others, count)], 1).ravel()


def shown(label: Tensor, count: int) -> Tensor:
    """Which classes a label map shows: u8 [B,H,W], 255 = unlabelled → bool [B,count]."""
    found = torch.zeros(len(label), 256, dtype=torch.bool, device=label.device)
    return found.scatter_(1, label.flatten(1).long(), True)[:, :count]


def dis_step(background: int | None) -> Callable[[Dual, dict[str, Tensor]], Losses]:
    """The step of the training loop. batch: image u8 [B,3,H,W], label u8 [B,H,W], tags bool [B,K]."""

    def step(net: Dual, batch: dict[str, Tensor]) -> Losses:
        x, label = batch["image"], batch["label"]
        answer = net(x)
        tags = batch["tags"] | shown(label, answer.v3.shape[1])
        if background is not None:
            tags = tags | (torch.arange(tags.shape[1], device=tags.device) == background)
        images = torch.tensor(len(x), device=x.device)
        deep, pixels = pixel_loss(enlarged(answer.u3, net.stride, x.shape[2:]), label)
        return {
            "loss": pixel_loss(enlarged(answer.final, net.stride, x.shape[2:]), label),
            "deep": (DEEP * deep, pixels),
            "tags": (tag_loss(answer.v3, tags).sum(), images),
            "image": (IMAGE * image_loss(answer.z3, picture_of(x, net.stride)).sum(), images),
        }

    return step


def training_rows(labels: store.Artifact, true: store.Artifact | None) -> np.ndarray:
    """The rows to train on. Where some labels are true and others inferred, as many of the ones as of the others."""
    covered = labels.read("covered")
    known = covered if true is None else covered & true.read("covered")
    taught(labels)
    print(f"{int(known.sum())} images with labels as given, {int((covered & ~known).sum())} with inferred ones")
    return evenly(known.nonzero()[0], (covered & ~known).nonzero()[0])


def run(job: Job) -> None:
    settings: Dis = job.settings
    pictures, labels, weights, tags = (job.inputs[role] for role in ("photographs", "labels", "weights", "tags"))
    rows, before = training_rows(labels, job.inputs.get("true")), job.inputs.get("model")
    names, background = classes.names(labels), classes.background(labels)
    for other in (tags, before):
        if other is not None and classes.meta(labels) != classes.meta(other):
            raise InputError(f"{labels.path} has {classes.meta(labels)}, {other.path} {classes.meta(other)}")
    torch.manual_seed(job.seed)
    model = Dual(load_backbone(weights, settings.stride), len(names), settings.stride)
    if before is not None:
        fill(model, state_of(before), before)
        print(f"going on from {before.path}", flush=True)
    cut = Crops(
        pictures,
        settings.crop,
        settings.scale,
        settings.jitter,
        fill=photographs.mean_colour(pictures, np.unique(rows)),
        tags=said.tags(tags),
        label=lambda i: labels_at(labels, pictures, i),
    )
    curves = train.fit(model, rows, cut, dis_step(background), job, heads=None if before else new_layers)  # type: ignore[arg-type]
    arrays, index = packed(model.state_dict())
    meta = dual_meta(model, names, background, int(pictures["rgb"].shape[1]), settings.steps)
    store.write_table(job.out, job.header, {**arrays, **curves}, {**meta, "index": index})


def new_layers(net: nn.Module) -> list[nn.Parameter]:
    return [parameter for name, parameter in net.named_parameters() if not name.startswith("trunk.")]


if __name__ == "__main__":
    cli.main(run, Dis)
