"""Final segmentation network on label maps, true or pseudo, hard or soft.

DeepLab-LargeFOV (Chen et al. 2015) or DeepLab-v3+ (Chen et al. 2018) head over any backbone; pixel cross-entropy that
ignores 255 for hard labels, multi-label cross-entropy (Wei et al. 2017, STC) for soft ones. Starts from any `weights`,
and takes over a decoder that they bring.

Reads: photographs, labels (labels or soft), weights. Makes: model (parameters, curve). Cost: epochs x covered images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.core import cli, store, train
from pipeline.core.job import Job
from pipeline.core.loop import Losses
from pipeline.core.steps.models import Segment
from pipeline.kernels.pixel_losses import pixel_loss, soft_pixel_loss
from pipeline.kinds import classes, photographs
from pipeline.kinds.crops import Crops
from pipeline.kinds.labels import labels_at, taught
from pipeline.kinds.soft import soft_at
from pipeline.networks.backbones import load_backbone
from pipeline.networks.segmenter import Segmenter, segmenter_meta, take_over
from pipeline.networks.states import packed


def hard_step(net: nn.Module, batch: dict[str, Tensor]) -> Losses:
    return {"loss": pixel_loss(net(batch["image"]), batch["label"])}


def soft_step(net: nn.Module, batch: dict[str, Tensor]) -> Losses:
    return {"loss": soft_pixel_loss(net(batch["image"]), batch["slots"], batch["soft"])}


def run(job: Job) -> None:
    settings: Segment = job.settings
    pictures, labels, weights = job.photographs, job.inputs["labels"], job.inputs["weights"]
    rows = taught(labels)
    names = classes.names(labels)
    torch.manual_seed(job.seed)
    trunk = load_backbone(weights, settings.stride)
    model = Segmenter(trunk, settings.head, len(names), settings.width, settings.stride)
    taken = take_over(model, weights, names)
    print(taken.said, flush=True)
    soft = labels.kind == "soft"
    cut = Crops(
        pictures,
        settings.crop,
        settings.scale,
        settings.jitter,
        fill=photographs.mean_colour(pictures, rows),
        label=None if soft else lambda i: labels_at(labels, pictures, i),
        soft=(lambda i: soft_at(labels, pictures, i)) if soft else None,
    )
    step = soft_step if soft else hard_step
    curves = train.fit(model, rows, cut, step, job, heads=lambda net: taken.fresh(net.head))  # type: ignore[arg-type]
    arrays, index = packed(model.state_dict())
    side = int(pictures["rgb"].shape[1])
    meta = {**segmenter_meta(model, names, classes.background(labels), side), "index": index}
    store.write_table(job.out, job.header, {**arrays, **curves}, meta)


if __name__ == "__main__":
    cli.main(run, Segment)
