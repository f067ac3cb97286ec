"""Backbones by name: ResNets, VGG16, EfficientNet-Lite0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pipeline.core.store import Artifact, ArtifactError
from pipeline.networks.efficientnet import efficientnet_lite0
from pipeline.networks.padding import PlacedMaxPool2d, undo_strides
from pipeline.networks.states import fill, state_of
from pipeline.networks.trunk import IMAGENET, Backbone


def resnet18(stride: int, padding: str) -> Backbone:
    return _resnet("resnet18", 1, stride, padding)


def resnet34(stride: int, padding: str) -> Backbone:
    return _resnet("resnet34", 1, stride, padding)


def resnet50(stride: int, padding: str) -> Backbone:
    return _resnet("resnet50", 4, stride, padding)


def resnet101(stride: int, padding: str) -> Backbone:
    return _resnet("resnet101", 4, stride, padding)


def _resnet(name: str, wide: int, stride: int, padding: str) -> Backbone:
    import torchvision

    net = torchvision.models.get_model(name)
    stages = [
        nn.Sequential(net.conv1, net.bn1, net.relu),
        nn.Sequential(net.maxpool, net.layer1),
        net.layer2,
        net.layer3,
        net.layer4,
    ]
    channels = (64, 64 * wide, 128 * wide, 256 * wide, 512 * wide)
    return undo_strides(Backbone(name, stages, channels, IMAGENET, padding), stride)


def vgg16(stride: int, padding: str) -> Backbone:
    """DeepLab-LargeFOV's trunk: pool4 and pool5 without stride at stride 8, conv5 dilated, fc6 and fc7 with 1,024
    channels as convolutions (Chen et al. 2015, and the classifier of Ahn & Kwak 2018).

    Its weights come from pools over 2x2, which stand in the middle; those over 3x3 stand half a cell to the left. In
    'aligned' the last one that strides stands to the right instead, which makes up for all before it.
    """

    def block(cin: int, cout: int, count: int, dilation: int = 1) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for k in range(count):
            layers += [nn.Conv2d(cin if k == 0 else cout, cout, 3, padding=dilation, dilation=dilation), nn.ReLU(True)]
        return layers

    def pool(out: int) -> nn.MaxPool2d:
        """The pool that brings the map to this stride, where that is wanted."""
        if out == stride and padding == "aligned":
            return PlacedMaxPool2d(3, 2, padding=1)
        return nn.MaxPool2d(3, 2 if out <= stride else 1, padding=1)

    dilation = 2 if stride == 8 else 1
    fov = {8: 12, 16: 6, 32: 3}[stride]
    fc6 = nn.Conv2d(512, 1024, 3, padding=fov, dilation=fov)
    fc = [fc6, nn.ReLU(True), nn.Dropout2d(0.5), nn.Conv2d(1024, 1024, 1), nn.ReLU(True), nn.Dropout2d(0.5)]
    conv5 = [pool(16), *block(512, 512, 3, dilation), pool(32)]
    stages = [
        nn.Sequential(*block(3, 64, 2)),
        nn.Sequential(pool(2), *block(64, 128, 2)),
        nn.Sequential(pool(4), *block(128, 256, 3)),
        nn.Sequential(pool(8), *block(256, 512, 3)),
        nn.Sequential(*conv5, *fc),
    ]
    for module in stages:
        for layer in module:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return Backbone("vgg16", stages, (64, 128, 256, 512, 1024), IMAGENET, padding, embedded=len(conv5))


# A literal, so that a stage's code digest follows the chosen backbone alone.
BACKBONES: dict[str, Callable[[int, str], Backbone]] = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "vgg16": vgg16,
    "efficientnet_lite0": efficientnet_lite0,
}


def backbone(name: str, stride: int = 32, padding: str = "aligned") -> Backbone:
    """A randomly initialised backbone whose last feature map has this output stride (8, 16 or 32).

    padding: 'aligned', or 'legacy' for networks trained before the placement of maps was mended.
    Raises ValueError for an unknown name or padding.
    """
    if name not in BACKBONES:
        raise ValueError(f"no backbone is called '{name}'; {', '.join(BACKBONES)} are")
    if padding not in ("aligned", "legacy"):
        raise ValueError(f"padding '{padding}' found; 'aligned' or 'legacy' expected")
    return BACKBONES[name](stride, padding)


HEAD = "head."  # a `weights` artifact may hold a decoder beside the backbone, under these names


def load_backbone(weights: Artifact, stride: int) -> Backbone:
    """The backbone of a `weights` artifact at this output stride; a decoder in it is left alone."""
    net = _named(weights, stride, "aligned")
    fill(net, {name: value for name, value in state_of(weights).items() if not name.startswith(HEAD)}, weights)
    return net


def trained_backbone(artifact: Artifact) -> Backbone:
    """The backbone that a `classifier` or `model` was trained with, still without its weights.

    Those made before maps were mended say nothing about padding.
    """
    return _named(artifact, artifact.meta["stride"], artifact.meta.get("padding", "legacy"))


def backbone_meta(net: Backbone) -> dict[str, Any]:
    """What `weights` say of their backbone."""
    return {"backbone": net.name, "gray": net.gray}


def _named(artifact: Artifact, stride: int, padding: str) -> Backbone:
    try:
        net = backbone(artifact.meta["backbone"], stride, padding)
    except ValueError as error:
        raise ArtifactError(f"{artifact.path}: {error}; was it made by a later version?") from None
    net.gray = artifact.meta["gray"]
    return net
