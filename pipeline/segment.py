"""Final segmentation network on label maps, true or pseudo.

DeepLab-LargeFOV (Chen et al. 2015) or DeepLab-v3+ (Chen et al. 2018) head over any backbone; pixel cross-entropy that
ignores 255; starts from any `weights`.

Reads: images, labels, weights. Makes: model (parameters, curve). Cost: epochs x covered images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.core import cli, data, store, train
from pipeline.core.config import Segment
from pipeline.core.models import Segmenter, load_backbone, pack
from pipeline.kernels.pixel_losses import pixel_loss


def run(job: cli.Job) -> None:
    settings: Segment = job.settings
    images, labels, weights = job.images, job.inputs["labels"], job.inputs["weights"]
    rows = labels.read("covered").nonzero()[0]
    if not len(rows):
        raise cli.InputError(f"{labels.path}: these labels cover no image")
    classes = data.class_names(images)
    torch.manual_seed(job.seed)
    model = Segmenter(
        load_backbone(weights, settings.stride), settings.head, len(classes), settings.width, settings.stride
    )
    cut = data.Crops(
        images,
        settings.crop,
        settings.scale,
        settings.jitter,
        fill=data.mean_colour(images, rows),
        label=lambda i: data.labels_at(labels, images, i),
    )

    def step(net: nn.Module, batch: dict[str, Tensor]) -> train.Losses:
        return {"loss": pixel_loss(net(batch["image"]), batch["label"])}

    curves = train.fit(model, rows, cut, step, job, heads=lambda net: list(net.head.parameters()))  # type: ignore[union-attr,arg-type]
    arrays, index = pack(model.state_dict())
    meta = {
        "index": index,
        "backbone": weights.meta["backbone"],
        "gray": weights.meta["gray"],
        "stride": settings.stride,
        "head": settings.head,
        "width": settings.width,
        "classes": classes,
        "max_side": int(images["rgb"].shape[1]),
    }
    store.write_table(job.out, job.header, {**arrays, **curves}, meta)


if __name__ == "__main__":
    cli.main(run, Segment)
