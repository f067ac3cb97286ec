"""Backbones: sizes, dilation as an exact replacement of striding, and maps that lie where the picture does."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from benchmarks.shift import measured
from pipeline.networks.backbones import BACKBONES, backbone
from pipeline.networks.padding import PlacedMaxPool2d, SameConv2d, undo_strides
from pipeline.networks.trunk import IMAGENET, STRIDE, Backbone

NAMES = list(BACKBONES)
FIRST = {"vgg16": (1, 2, 4, 8)}  # strides of the first four stages; all others 2, 4, 8, 16
DEEP = {
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "vgg16": 1024,
    "efficientnet_lite0": 1280,
}


def picture(seed: int, height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (batch, 3, height, width), dtype=np.uint8))


def lively(net: Backbone, seed: int = 0) -> Backbone:
    """BatchNorm statistics away from their start, so that eval mode is a real test; weights keep signals alive."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.7, 1.3)
            module.bias.data.normal_(0, 0.2)
    return net.eval()


@cache
def shapes(name: str) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in backbone(name).state_dict().items()}


# ------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("padding", ["aligned", "legacy"])
@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("name", NAMES)
def test_every_stage_has_its_stride_and_width(name: str, stride: int, padding: str) -> None:
    with torch.device("meta"), torch.no_grad():  # shapes only: no arithmetic
        net = backbone(name, stride, padding).eval()
        features = net(torch.empty(1, 3, 96, 64))
    early = FIRST.get(name, (2, 4, 8, 16))
    for feature, channels, step in zip(features, net.channels, (*early, 32), strict=True):
        step = min(step, stride)
        assert tuple(feature.shape) == (1, channels, 96 // step, 64 // step)
    assert net.channels[-1] == DEEP[name]
    assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == shapes(name), (
        "weights fit any stride"
    )


def test_unknown_backbone() -> None:
    with pytest.raises(ValueError, match="no backbone is called 'alexnet'"):
        backbone("alexnet")
    with pytest.raises(ValueError, match="'aligned' or 'legacy' expected"):
        backbone("resnet18", 32, "centred")


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet18", (64, 96)), ("resnet18", (70, 83)), ("resnet50", (65, 64))]
    + [("efficientnet_lite0", size) for size in ((64, 96), (65, 97), (70, 83))],
)
def test_legacy_dilation_is_striding_seen_at_every_position(name: str, size: tuple[int, int]) -> None:
    """A layer that no longer strides, with dilation behind it, computes the strided net's cells among others, exactly,
    the border included. Which of the others' cells they are depends on the padding: torchvision's puts cell i at
    position 2i; TensorFlow's at 2i + 1 where the side is even."""
    coarse, x = lively(backbone(name, 32, "legacy")), picture(1, *size)
    with torch.no_grad():
        expected = coarse(x)
        for stride in (16, 8):
            net = backbone(name, stride, "legacy").eval()
            net.load_state_dict(coarse.state_dict())
            found = net(x)
            for stage, (a, b) in enumerate(zip(expected, found, strict=True)):
                picks = [slice(None)] * 2
                for axis, side in enumerate(size):
                    start, step, length = 0, 1, side
                    for level in range(stage + 1):
                        if 2 ** (level + 1) > stride:
                            start += step * (length % 2 == 0 and name.startswith("efficientnet"))
                            step *= 2
                        length = -(-length // 2)
                    picks[axis] = slice(start, None, step)
                assert b[:, :, picks[0], picks[1]].shape == a.shape
                assert (b[:, :, picks[0], picks[1]] - a).abs().max() < 1e-3 * a.std()


def same_padding(x: np.ndarray, weight: np.ndarray, stride: int, dilation: int) -> np.ndarray:
    """TensorFlow's definition, one output at a time: one channel in and out."""
    height, width = x.shape
    k = len(weight)
    out = np.zeros((-(-height // stride), -(-width // stride)))
    pads = [
        max((n - 1) * stride + (k - 1) * dilation + 1 - side, 0) // 2
        for n, side in zip(out.shape, x.shape, strict=True)
    ]
    for i, j in np.ndindex(*out.shape):
        for a, b in np.ndindex(k, k):
            y, z = i * stride + a * dilation - pads[0], j * stride + b * dilation - pads[1]
            if 0 <= y < height and 0 <= z < width:
                out[i, j] += x[y, z] * weight[a, b]
    return out


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("size", [(8, 11), (9, 6)])
def test_same_convolution(size: tuple[int, int], kernel: int, stride: int, dilation: int) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=size), rng.normal(size=(kernel, kernel))
    layer = SameConv2d(1, 1, kernel, stride, dilation=dilation, bias=False).double()
    layer.weight.data = torch.from_numpy(weight)[None, None]
    found = layer(torch.from_numpy(x)[None, None])[0, 0].detach().numpy()
    np.testing.assert_allclose(found, same_padding(x, weight, stride, dilation), atol=1e-12)


def test_whole_adds_mean_colour_below_and_to_the_right() -> None:
    net, x = backbone("efficientnet_lite0"), picture(0, 40, 64)
    padded = net.whole(x)
    assert padded.shape[2:] == (64, 64)
    torch.testing.assert_close(padded[:, :, :40], x.float(), rtol=0, atol=1e-4)
    torch.testing.assert_close(padded[:, :, 40:], torch.full((1, 3, 24, 64), 127.0), rtol=0, atol=1e-4)
    assert net.whole(padded) is padded
    assert STRIDE == 32


# ------------------------------------------------------------------------------------- where the maps lie


class Residual(nn.Module):
    """torchvision's pattern in small: a strided convolution, and a strided shortcut beside it."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.shortcut = nn.Conv2d(channels, channels, 1, stride, bias=False)
        self.after = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(torch.relu(self.conv(x) + self.shortcut(x)))


def small(kind: str, stride: int) -> Backbone:
    """Five stages of one or two layers, the same random weights at every stride, float64."""
    torch.manual_seed(1)
    channels = 4
    stages: list[nn.Module] = []
    for stage in range(5):
        cin = 3 if stage == 0 else channels
        if kind == "same":
            kernel = (3, 3, 5, 3, 5)[stage]
            first, second = SameConv2d(cin, channels, kernel, 2), SameConv2d(channels, channels, kernel)
            stages.append(nn.Sequential(first, nn.ReLU(), second))
        elif stage == 0:
            stages.append(nn.Sequential(nn.Conv2d(3, channels, 7, 2, padding=3), nn.ReLU()))
        else:
            stages.append(nn.Sequential(Residual(channels, 2), Residual(channels, 1)))
    return undo_strides(Backbone(kind, stages, (channels,) * 5, IMAGENET), stride).double().eval()


@pytest.mark.parametrize("stride", [16, 8])
@pytest.mark.parametrize("kind", ["same", "torchvision"])
def test_an_undone_stride_gives_the_strided_cells_exactly_where_they_lay(kind: str, stride: int) -> None:
    """TensorFlow's way: cell i of the strided map stands for pixels around 32i + 16; the dense map has cells half a
    stride before and after. Brought forward by half a stride, the picture gives there what the strided network gives,
    to the last bit of rounding: no layer samples its input elsewhere. torchvision's way: every strided cell is one of
    the dense map's. Borders, seen from elsewhere, are left out."""
    x = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (1, 3, 640, 640)))
    half = stride // 2 if kind == "same" else 0
    normalised = (x - 120) / 60
    coarse, dense = small(kind, 32), small(kind, stride)
    with torch.no_grad():
        expected, found = normalised, torch.roll(normalised, (-half, -half), (2, 3))
        for a, b in zip(coarse.stages, dense.stages, strict=True):
            expected, found = a(expected), b(found)
    step = 32 // stride
    start = 16 // stride - 1 if kind == "same" else 0  # the cell at 32i + 16 - half of the dense map
    shared = found[:, :, start::step, start::step]
    assert shared.shape == expected.shape
    inner = slice(7, -7)
    torch.testing.assert_close(shared[:, :, inner, inner], expected[:, :, inner, inner], rtol=1e-9, atol=1e-12)
    assert expected[:, :, inner, inner].std() > 1e-6


def test_the_undone_stages_of_a_real_backbone_keep_their_cells() -> None:
    """The same at stride 16 of the last two stages alone, whose receptive field is a part of a test picture's."""
    coarse, dense = lively(backbone("efficientnet_lite0", 32)), backbone("efficientnet_lite0", 16).eval()
    dense.load_state_dict(coarse.state_dict())
    side = 144
    torch.manual_seed(0)
    x = torch.rand(1, coarse.channels[2], side, side)
    with torch.no_grad():
        expected, found = x, torch.roll(x, (-1, -1), (2, 3))  # half of 16 pixels is one cell here
        for a, b in zip(coarse.stages[3:], dense.stages[3:], strict=True):
            expected, found = a(expected), b(found)
    middle = slice(side // 8 - 1, side // 8 + 1)
    shared = found[:, :, ::2, ::2][:, :, middle, middle]
    assert (shared - expected[:, :, middle, middle]).abs().max() < 1e-3 * expected.std()


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize(("name", "sizes"), [("efficientnet_lite0", (320, 352)), ("vgg16", (256, 288))])
def test_a_planted_object_is_found_where_it_is_at_every_stride(name: str, sizes: tuple[int, int], stride: int) -> None:
    """To within a quarter of the stride, averaged over places within a cell."""
    found = measured(name, stride, "aligned", sizes=(sizes,), positions=64 // stride).mean(0)
    assert (np.abs(found) < stride / 4).all(), found


@pytest.mark.parametrize(("stride", "moved"), [(16, 8), (8, 12)])
def test_legacy_placement_moves_the_maps(stride: int, moved: int) -> None:
    options = {"sizes": ((224, 256),), "positions": 4}
    legacy, aligned = (
        measured("efficientnet_lite0", stride, padding, **options).mean(0) for padding in ("legacy", "aligned")
    )
    np.testing.assert_allclose(legacy - aligned, moved, atol=stride / 4)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("stride", [8, 16])
def test_resnets_are_padded_evenly_as_before(name: str, stride: int) -> None:
    """Ours against torchvision's own way of undoing strides: half a cell, which training takes up (foundation.md)."""
    x = picture(0, 96, 96)
    nets = [lively(backbone(name, stride, padding)) for padding in ("aligned", "legacy")]
    nets[1].load_state_dict(nets[0].state_dict())
    with torch.no_grad():
        assert torch.equal(nets[0](x)[-1], nets[1](x)[-1])


@pytest.mark.parametrize(("name", "like"), [("resnet34", "resnet18"), ("resnet101", "resnet50")])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_deeper_resnets_are_placed_like_their_small_sisters(name: str, like: str, stride: int) -> None:
    def layout(net: Backbone) -> list[set[tuple]]:
        return [
            {
                (type(m).__name__, m.kernel_size, m.stride, m.dilation, m.padding, getattr(m, "start", None))
                for m in stage.modules()
                if isinstance(m, nn.Conv2d)
            }
            for stage in net.stages
        ]

    with torch.device("meta"):
        one, other = layout(backbone(name, stride)), layout(backbone(like, stride))
    assert one == other


def test_legacy_placement_pads_evenly() -> None:
    for name in NAMES:
        with torch.device("meta"):
            net = backbone(name, 8, "legacy")
        assert not any(isinstance(m, PlacedMaxPool2d) for m in net.modules())
        assert all(getattr(m, "start", None) is None for m in net.modules())


@pytest.mark.parametrize("size", [(8, 10), (7, 9)])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "start"), [(3, 2, 1, 0), (1, 2, 1, -1), (3, 1, 1, 2), (3, 1, 2, 3)]
)
def test_a_placed_convolution_reads_from_start_on(
    size: tuple[int, int], kernel: int, stride: int, dilation: int, start: int
) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=size), rng.normal(size=(kernel, kernel))
    layer = SameConv2d(1, 1, kernel, stride, dilation=dilation, bias=False).double()
    layer.weight.data, layer.start = torch.from_numpy(weight)[None, None], start
    found = layer(torch.from_numpy(x)[None, None])[0, 0].detach().numpy()
    assert found.shape == tuple(-(-side // stride) for side in size)
    for i, j in np.ndindex(*found.shape):
        places = [
            (i * stride - start + a * dilation, j * stride - start + b * dilation, weight[a, b])
            for a, b in np.ndindex(kernel, kernel)
        ]
        expected = sum(x[y, z] * w for y, z, w in places if 0 <= y < size[0] and 0 <= z < size[1])
        np.testing.assert_allclose(found[i, j], expected, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 10), (7, 9)])
def test_the_placed_pool_begins_at_its_own_cells(size: tuple[int, int]) -> None:
    x = torch.rand(1, 2, *size)
    found = PlacedMaxPool2d(3, 2, padding=1)(x)
    assert found.shape[2:] == tuple(-(-side // 2) for side in size)
    for i, j in np.ndindex(*found.shape[2:]):
        assert torch.equal(found[0, :, i, j], x[0, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].amax((1, 2)))


# ------------------------------------------------------------------------------------------------ what it sees


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_gray_networks_do_not_see_colour(name: str) -> None:
    net = lively(backbone(name))
    x = picture(0, 64, 64).float()
    gray = x.mean(1, keepdim=True).expand_as(x)
    with torch.no_grad():
        assert not torch.allclose(net(x)[-1], net(gray)[-1])
        net.gray = True
        torch.testing.assert_close(net(x[:, [2, 0, 1]])[-1], net(x)[-1])
        torch.testing.assert_close(net(gray)[-1], net(x)[-1])


def test_networks_normalise_by_themselves() -> None:
    """uint8 in, torchvision's features out."""
    net = lively(backbone("resnet18"))
    reference = torchvision.models.resnet18()
    reference.load_state_dict({**reference.state_dict(), **_foreign(net, reference)})
    reference.fc = nn.Identity()
    x = picture(0, 64, 64)
    preset = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    normalised = torchvision.transforms.functional.normalize(x.float() / 255, preset.mean, preset.std)
    with torch.no_grad():
        torch.testing.assert_close(net(x)[-1].mean((2, 3)), reference.eval()(normalised), rtol=1e-4, atol=1e-4)


def _foreign(net: Backbone, reference: nn.Module) -> dict[str, torch.Tensor]:
    return dict(zip(reference.state_dict(), net.state_dict().values(), strict=False))


def test_vgg16_is_compared_by_what_pool5_gives() -> None:
    """The released networks of Mix-and-Match embed pool5; our two layers after it have dropout."""
    torch.manual_seed(0)
    net, x = backbone("vgg16", 32).train(), picture(0, 64, 96)
    with torch.no_grad():
        one, other = net.embedding(x), net.embedding(x)
        assert not torch.equal(net(x)[-1], net(x)[-1])
        pool5 = net(x)[3]
        for layer in list(net.stages[4])[:8]:
            pool5 = layer(pool5)
    assert torch.equal(one, other), "the same patch is the same twice"
    assert one.shape == (1, 512, 2, 3) and torch.equal(one, pool5)
    assert isinstance(list(net.stages[4])[7], nn.MaxPool2d)


def test_other_backbones_are_compared_by_their_last_map() -> None:
    net, x = lively(backbone("resnet18")), picture(0, 64, 64)
    with torch.no_grad():
        assert torch.equal(net.embedding(x), net(x)[-1])


def test_wide_kernels_train_in_float32_where_autocast_is_on() -> None:
    seen: list[tuple[bool, torch.dtype]] = []
    model = backbone("efficientnet_lite0", 16).train()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda layer, _, y: seen.append((layer.kernel_size[0] > 1, y.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        model(picture(0, 64, 64))
        assert set(seen) == {(True, torch.float32), (False, torch.bfloat16)}
        seen.clear()
        with torch.no_grad():
            model(picture(0, 64, 64))
    assert {dtype for _, dtype in seen} == {torch.bfloat16}
