"""Networks: backbones by name, the tag classifier with its CAM, and the two segmentation heads.

Every network takes images as they are stored (RGB, 0..255, [B,3,H,W]) and normalises them itself, so no stage can
feed a backbone the wrong statistics. Any `nn.Module` with `channels` and a list of feature maps can stand in for
`Backbone`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.core.store import Artifact

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # torchvision's statistics in 0..255
LITE = ((127.0,) * 3, (128.0,) * 3)  # EfficientNet-Lite was trained on (x - 127) / 128


STRIDE = 32  # of the coarsest feature map


class Backbone(nn.Module):
    """Five stages; `forward` returns the feature map of each, fine to coarse.

    channels: width of each feature map. gray: the network sees the mean of the colour channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        stages: Sequence[nn.Module],
        channels: Sequence[int],
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
    ):
        super().__init__()
        self.name, self.channels, self.gray = name, tuple(channels), False
        self.stages = nn.ModuleList(stages)
        self.register_buffer("mean", torch.tensor(statistics[0]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(statistics[1]).view(1, 3, 1, 1), persistent=False)

    def whole(self, x: Tensor) -> Tensor:
        """Images with mean colour added below and to the right, up to multiples of the largest stride.

        Then every stage has exactly its stride's share of cells, at the same places as in a training crop. Otherwise
        they shift by up to half a cell from one image size to the next, and maps brought to pixels shift with them.
        """
        below, right = (-side % STRIDE for side in x.shape[2:])
        return F.pad(x.float() - self.mean, (0, right, 0, below)) + self.mean if below or right else x

    def forward(self, x: Tensor) -> list[Tensor]:
        x = x.float()
        if self.gray:
            x = x.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def backbone(name: str, stride: int = 32) -> Backbone:
    """A randomly initialised backbone whose last feature map has this output stride (8, 16 or 32).

    Raises ValueError for an unknown name.
    """
    if name.startswith("resnet"):
        return _limit_stride(_resnet(name), stride)
    if name == "vgg16":
        return _vgg16(stride)
    if name == "efficientnet_lite0":
        return _limit_stride(_efficientnet_lite0(), stride)
    raise ValueError(f"no backbone is called '{name}'; resnet18/34/50/101, vgg16, efficientnet_lite0")


def _resnet(name: str) -> Backbone:
    import torchvision

    net = torchvision.models.get_model(name)
    stages = [
        nn.Sequential(net.conv1, net.bn1, net.relu),
        nn.Sequential(net.maxpool, net.layer1),
        net.layer2,
        net.layer3,
        net.layer4,
    ]
    wide = 4 if name in ("resnet50", "resnet101") else 1
    return Backbone(name, stages, (64, 64 * wide, 128 * wide, 256 * wide, 512 * wide), IMAGENET)


def _vgg16(stride: int) -> Backbone:
    """DeepLab-LargeFOV's trunk: pool4 and pool5 without stride at stride 8, conv5 dilated, fc6 and fc7 with 1,024
    channels as convolutions (Chen et al. 2015, and the classifier of Ahn & Kwak 2018)."""

    def block(cin: int, cout: int, count: int, dilation: int = 1) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for k in range(count):
            layers += [nn.Conv2d(cin if k == 0 else cout, cout, 3, padding=dilation, dilation=dilation), nn.ReLU(True)]
        return layers

    def pool(step: int) -> nn.MaxPool2d:
        return nn.MaxPool2d(3, step, padding=1)

    dilation = 2 if stride == 8 else 1
    fov = {8: 12, 16: 6, 32: 3}[stride]
    fc6 = nn.Conv2d(512, 1024, 3, padding=fov, dilation=fov)
    fc = [fc6, nn.ReLU(True), nn.Dropout2d(0.5), nn.Conv2d(1024, 1024, 1), nn.ReLU(True), nn.Dropout2d(0.5)]
    stages = [
        nn.Sequential(*block(3, 64, 2)),
        nn.Sequential(pool(2), *block(64, 128, 2)),
        nn.Sequential(pool(2), *block(128, 256, 3)),
        nn.Sequential(pool(2), *block(256, 512, 3)),
        nn.Sequential(pool(2 if stride > 8 else 1), *block(512, 512, 3, dilation), pool(2 if stride > 16 else 1), *fc),
    ]
    for module in stages:
        for layer in module:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return Backbone("vgg16", stages, (64, 128, 256, 512, 1024), IMAGENET)


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's 'same' padding, which puts the odd pixel at the end; the weights expect that.

    Trained on a CPU under bf16 autocast, kernels wider than one pixel stay in float32: oneDNN's bf16 gradients of
    strided and dilated depthwise convolutions are slow (EfficientNet-Lite0 at 160 px, two cores with AVX512-BF16:
    37 to 45 images/s this way, 28 all bf16, 31 to 33 all float32).
    """

    def forward(self, x: Tensor) -> Tensor:
        wide, trained = self.kernel_size[0] > 1, torch.is_grad_enabled()
        if wide and trained and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self._convolve(x.float())
        return self._convolve(x)

    def _convolve(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, k, s, d in zip(
            x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], self.dilation[::-1], strict=True
        ):
            total = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
            pads += [total // 2, total - total // 2]
        if pads[0] != pads[1] or pads[2] != pads[3]:
            x, pads = F.pad(x, pads), [0, 0, 0, 0]
        return F.conv2d(x, self.weight, self.bias, self.stride, (pads[2], pads[0]), self.dilation, self.groups)


class MBConv(nn.Module):
    """Inverted residual without squeeze-and-excite, ReLU6 (EfficientNet-Lite's variant of Tan & Le 2019)."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, expand: int):
        super().__init__()
        wide = cin * expand
        self.residual = stride == 1 and cin == cout
        expansion = [] if expand == 1 else _conv(cin, wide, 1)
        depthwise = _conv(wide, wide, kernel, stride, groups=wide)
        self.body = nn.Sequential(*expansion, *depthwise, *_conv(wide, cout, 1)[:2])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def _conv(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        SameConv2d(cin, cout, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(cout, eps=1e-3, momentum=0.01),
        nn.ReLU6(inplace=True),
    ]


def _efficientnet_lite0() -> Backbone:
    def blocks(cin: int, cout: int, kernel: int, stride: int, count: int, expand: int = 6) -> list[nn.Module]:
        return [MBConv(cin if k == 0 else cout, cout, kernel, stride if k == 0 else 1, expand) for k in range(count)]

    stages = [
        nn.Sequential(*_conv(3, 32, 3, 2), *blocks(32, 16, 3, 1, 1, expand=1)),
        nn.Sequential(*blocks(16, 24, 3, 2, 2)),
        nn.Sequential(*blocks(24, 40, 5, 2, 2)),
        nn.Sequential(*blocks(40, 80, 3, 2, 3), *blocks(80, 112, 5, 1, 3)),
        nn.Sequential(*blocks(112, 192, 5, 2, 4), *blocks(192, 320, 3, 1, 1), *_conv(320, 1280, 1)),
    ]
    return Backbone("efficientnet_lite0", stages, (16, 24, 40, 112, 1280), LITE)


def _limit_stride(net: Backbone, limit: int) -> Backbone:
    """Replace the striding of late stages by dilation until the output stride is `limit` (Chen et al. 2017)."""
    stride, dilation = 1, 1
    for stage in net.stages:
        spatial = [m for m in stage.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d) and _pair(m.stride)[0] == 2]
        factor = 2 if spatial else 1  # a stage strides once; a second strided layer is its shortcut
        wanted = dilation
        if stride * factor <= limit:
            stride *= factor
        else:
            wanted = dilation * factor
        for module in stage.modules():
            if isinstance(module, nn.Conv2d):
                strided = module in spatial
                if strided and wanted != dilation:
                    module.stride = (1, 1)
                # The layer that used to stride still sees its input at the old spacing.
                rate = dilation if strided else wanted
                if module.kernel_size[0] > 1 and rate > 1:
                    module.dilation = (rate, rate)
                    if not isinstance(module, SameConv2d):
                        module.padding = (rate * (module.kernel_size[0] // 2),) * 2
        dilation = wanted
    return net


def _pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


# -------------------------------------------------------------------------------------------------- classifier


class Classifier(nn.Module):
    """Tags from an image: backbone → 1x1 convolution without bias → global average pooling.

    Pooling after the linear layer makes its maps the class activation maps (Zhou et al. 2016; Ahn & Kwak 2018).
    """

    def __init__(self, trunk: Backbone, classes: int):
        super().__init__()
        self.trunk = trunk
        self.score = nn.Conv2d(trunk.channels[-1], classes, 1, bias=False)
        nn.init.normal_(self.score.weight, std=0.01)

    def maps(self, x: Tensor) -> Tensor:
        """[B,3,H,W] → class maps [B,C,h,w] before pooling, without ReLU."""
        return self.score(self.trunk(x)[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x).float().mean((2, 3))


# -------------------------------------------------------------------------------------------------- segmenters


def _cbr(cin: int, cout: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    pad = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, padding=pad, dilation=dilation, bias=False), nn.BatchNorm2d(cout), nn.ReLU(True)
    )


class LargeFov(nn.Module):
    """DeepLab-LargeFOV's classifier: 3x3 dilated, 1x1, 1x1 (Chen et al. 2015, arXiv 1412.7062).

    vgg16 brings the first two itself (fc6 and fc7), so only the last is added to it.
    """

    def __init__(self, trunk: Backbone, classes: int, width: int, stride: int):
        super().__init__()
        fov, deep = {8: 12, 16: 6, 32: 3}[stride], trunk.channels[-1]
        self.layers = nn.Sequential()
        if trunk.name == "vgg16":
            width = deep
        else:
            self.layers.extend([_cbr(deep, width, 3, fov), nn.Dropout2d(0.5), _cbr(width, width, 1), nn.Dropout2d(0.5)])
        self.score = nn.Conv2d(width, classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.score(self.layers(features[-1]))


class DeepLabV3Plus(nn.Module):
    """ASPP with image pooling, and a decoder that takes up stage 2 (Chen et al. 2018, arXiv 1802.02611)."""

    def __init__(self, trunk: Backbone, classes: int, width: int, stride: int):
        super().__init__()
        rates = [max(1, rate * 16 // stride) for rate in (6, 12, 18)]
        deep = trunk.channels[-1]
        self.branches = nn.ModuleList([_cbr(deep, width, 1), *(_cbr(deep, width, 3, rate) for rate in rates)])
        # No BatchNorm on the pooled branch: it has one value per image, and batches may be small.
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(deep, width, 1), nn.ReLU(True))
        self.project = nn.Sequential(_cbr(5 * width, width, 1), nn.Dropout2d(0.1))
        self.low = _cbr(trunk.channels[1], 48, 1)
        self.fuse = nn.Sequential(_cbr(width + 48, width, 3), _cbr(width, width, 3))
        self.score = nn.Conv2d(width, classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        deep, low = features[-1], self.low(features[1])
        context = [branch(deep) for branch in self.branches]
        context.append(self.pooled(deep).expand(-1, -1, *deep.shape[2:]))
        x = F.interpolate(self.project(torch.cat(context, 1)), low.shape[2:], mode="bilinear", align_corners=False)
        return self.score(self.fuse(torch.cat([x, low], 1)))


HEADS = {"deeplabv3+": DeepLabV3Plus, "largefov": LargeFov}


class Segmenter(nn.Module):
    """Backbone and head; `forward` gives logits [B,C,H,W] at the input's size."""

    def __init__(self, trunk: Backbone, head: str, classes: int, width: int, stride: int):
        super().__init__()
        self.trunk = trunk
        self.head = HEADS[head](trunk, classes, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = self.trunk.whole(x)
        logits = self.head(self.trunk(x))
        full = F.interpolate(logits.float(), x.shape[2:], mode="bilinear", align_corners=False)
        return full[..., :height, :width]


# ------------------------------------------------------------------------------------------ weights ↔ artifacts


def pack(state: dict[str, Tensor]) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """State dict → one flat array per dtype, and the index of names and shapes that undoes it."""
    flat: dict[str, list[np.ndarray]] = {}
    index: list[dict[str, Any]] = []
    offsets: dict[str, int] = {}
    for name, tensor in state.items():
        array = tensor.detach().cpu().contiguous().numpy()
        kind = str(array.dtype)
        offset = offsets.get(kind, 0)
        index.append({"name": name, "dtype": kind, "shape": list(array.shape), "offset": offset})
        flat.setdefault(kind, []).append(array.ravel())
        offsets[kind] = offset + array.size
    return {kind: np.concatenate(parts) for kind, parts in flat.items()}, index


def unpack(artifact: Artifact) -> dict[str, Tensor]:
    """The state dict that `pack` stored; the index lies in the manifest's meta."""
    flat = {
        str(artifact[kind].dtype): artifact.read(kind) for kind in {item["dtype"] for item in artifact.meta["index"]}
    }
    state = {}
    for item in artifact.meta["index"]:
        size = math.prod(item["shape"])
        values = flat[item["dtype"]][item["offset"] : item["offset"] + size].reshape(item["shape"])
        state[item["name"]] = torch.from_numpy(values.copy())
    return state


def load_backbone(weights: Artifact, stride: int) -> Backbone:
    """The backbone of a `weights` artifact at this output stride."""
    net = backbone(weights.meta["backbone"], stride)
    net.gray = weights.meta["gray"]
    net.load_state_dict(unpack(weights))
    return net


def load_classifier(artifact: Artifact) -> Classifier:
    """The network of a `classifier` artifact, in eval mode."""
    meta = artifact.meta
    net = backbone(meta["backbone"], meta["stride"])
    net.gray = meta["gray"]
    model = Classifier(net, len(meta["classes"]) - 1)
    model.load_state_dict(unpack(artifact))
    return model.eval()


def load_segmenter(artifact: Artifact) -> Segmenter:
    """The network of a `model` artifact, in eval mode."""
    meta = artifact.meta
    net = backbone(meta["backbone"], meta["stride"])
    net.gray = meta["gray"]
    model = Segmenter(net, meta["head"], len(meta["classes"]), meta["width"], meta["stride"])
    model.load_state_dict(unpack(artifact))
    return model.eval()


Model = TypeVar("Model", bound=nn.Module)


def for_inference(model: Model, device: str) -> Model:
    """The same network on this device, in eval mode and with each BatchNorm folded into the convolution before it.

    Changes the model given. The results differ by rounding alone.
    """
    for module in list(model.eval().modules()):
        children = list(module.named_children())
        for (first, conv), (second, norm) in pairwise(children):  # in these networks one follows the other
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, first, fuse_conv_bn_eval(conv, norm))
                setattr(module, second, nn.Identity())
    return model.to(device)
