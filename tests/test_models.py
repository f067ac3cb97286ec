"""Networks: sizes, dilation as an exact replacement of striding, pretrained weights, class activation maps."""

from __future__ import annotations

import hashlib
import http.server
import io
import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import get_args

import numpy as np
import planted
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from pipeline import init
from pipeline.core import data, store
from pipeline.core.cli import InputError
from pipeline.core.config import BackboneName, Imagenet, Random
from pipeline.core.models import (
    STRIDE,
    Backbone,
    Classifier,
    SameConv2d,
    Segmenter,
    backbone,
    for_inference,
    load_backbone,
    load_classifier,
    load_segmenter,
    pack,
)

NAMES = get_args(BackboneName)
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


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("name", NAMES)
def test_every_stage_has_its_stride_and_width(name: str, stride: int) -> None:
    with torch.device("meta"), torch.no_grad():  # shapes only: no arithmetic
        net = backbone(name, stride).eval()
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


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet18", (64, 96)), ("resnet18", (70, 83)), ("resnet50", (65, 64))]
    + [("efficientnet_lite0", size) for size in ((64, 96), (65, 97), (70, 83))],
)
def test_dilation_is_striding_seen_at_every_position(name: str, size: tuple[int, int]) -> None:
    """A layer that no longer strides, with dilation behind it, computes the strided net's cells among others, exactly,
    the border included. Which of the others' cells they are depends on the padding: torchvision's puts cell i at
    position 2i; TensorFlow's at 2i + 1 where the side is even."""
    coarse, x = lively(backbone(name, 32)), picture(1, *size)
    with torch.no_grad():
        expected = coarse(x)
        for stride in (16, 8):
            net = backbone(name, stride).eval()
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


@pytest.mark.parametrize("head", ["deeplabv3+", "largefov"])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_a_segmenter_answers_at_the_size_of_its_input(head: str, stride: int) -> None:
    model = Segmenter(backbone("resnet18", stride), head, 5, 16, stride).eval()
    with torch.no_grad():
        for size in ((64, 64), (33, 70)):
            assert model(picture(0, *size)).shape == (1, 5, *size)


def test_a_segmenter_answers_the_same_at_any_size_of_what_surrounds_it() -> None:
    """Mean colour on the far side of an image is what the padding of the layers sees there anyway: near the origin the
    answer must not move with the image's size. With sizes left odd it would, by up to half a cell."""
    model = Segmenter(lively(backbone("resnet18", 16)), "largefov", 3, 16, 16).eval()
    large = torch.full((1, 3, 480, 480), 120, dtype=torch.uint8)
    large[:, :, :64, :64] = picture(0, 64, 64)
    with torch.no_grad():
        one, other = model(large[:, :, :471, :459])[..., :64, :64], model(large)[..., :64, :64]
    assert (one - other).abs().max() < 0.05 * one.std()


# ----------------------------------------------------------------------------------------- classifier, gray


def test_logits_are_the_mean_of_the_class_maps() -> None:
    model = Classifier(lively(backbone("resnet18", 16)), 4).eval()
    x = picture(0, 64, 80, batch=2)
    with torch.no_grad():
        maps, logits = model.maps(x), model(x)
        features = model.trunk(x)[-1]
    torch.testing.assert_close(logits, maps.mean((2, 3)))
    # Zhou et al. 2016: M_c(x, y) = sum_k w_k^c f_k(x, y)
    weight = model.score.weight[:, :, 0, 0].detach()
    torch.testing.assert_close(maps, torch.einsum("ck,bkhw->bchw", weight, features), rtol=1e-4, atol=1e-5)
    # and the classic order, pooling first, gives the same logits
    torch.testing.assert_close(logits, features.mean((2, 3)) @ weight.T, rtol=1e-4, atol=1e-5)


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


# ----------------------------------------------------------------------------------------- ImageNet weights


@pytest.fixture(scope="module")
def lite0() -> tuple[Backbone, nn.Linear]:
    """The trunk as the stage fills it, and the package's own classifier."""
    net = backbone("efficientnet_lite0")
    init.load_imagenet(net, None)
    state = init.read_state(init.lite0_package_file())
    head = nn.Linear(1280, 1000)
    head.load_state_dict({"weight": state["_fc.weight"], "bias": state["_fc.bias"]})
    return net.eval(), head


# ImageNet's numbers: tabby, tiger cat, Egyptian cat, lynx; espresso, cup, mug; missile, projectile, space shuttle
@pytest.mark.parametrize(
    ("photograph", "likely", "possible"),
    [
        ("chelsea", {281, 282, 285}, {281, 282, 285, 287}),
        ("coffee", {967}, {967, 968, 504, 925}),
        ("rocket", {657, 744, 812}, {657, 744, 812, 833}),
    ],
)
def test_efficientnet_lite0_knows_what_it_sees(
    photograph: str, likely: set[int], possible: set[int], lite0: tuple[Backbone, nn.Linear]
) -> None:
    skimage_data = pytest.importorskip("skimage.data")
    net, head = lite0
    rgb = getattr(skimage_data, photograph)()
    side = min(rgb.shape[:2])
    top, left = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
    x = data.to_tensor(data.resize_image(rgb[top : top + side, left : left + side], 224, 224))[None]
    with torch.no_grad():
        score = head(net(x)[-1].mean((2, 3))).softmax(1)[0]
    assert int(score.argmax()) in likely
    assert float(score[list(possible)].sum()) > 0.4


def torchvision_features(reference: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The last feature map of torchvision's own network in eval mode."""
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = (x / 255 - mean) / std
    if isinstance(reference, torchvision.models.VGG):
        for layer in reference.features:
            # The papers' VGG16 pools over 3 x 3 with padding, torchvision's over 2 x 2.
            x = F.max_pool2d(x, 3, 2, padding=1) if isinstance(layer, nn.MaxPool2d) else layer(x)
        return x
    for name, layer in reference.named_children():
        if name not in ("avgpool", "fc"):
            x = layer(x)
    return x


def torchvision_net(name: str) -> nn.Module:
    torch.manual_seed(3)
    reference = torchvision.models.get_model(name).eval()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    if name == "vgg16":
        reference.classifier = nn.Sequential(nn.Linear(2, 2))  # 120 M weights that play no part
    return reference


def saved(state: dict[str, torch.Tensor], path: Path) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_a_torchvision_file_gives_torchvisions_features(name: str, tmp_path: Path) -> None:
    reference, net = torchvision_net(name), backbone(name).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    init.load_imagenet(net, saved(reference.state_dict(), tmp_path / "w.pth"))
    x = picture(0, 64, 96)
    with torch.no_grad():
        expected = torchvision_features(reference, x.float())
        if name == "vgg16":
            found = net.stages[3](net(x)[2])
            for layer in list(net.stages[4])[:8]:  # pool4, conv5, pool5
                found = layer(found)
            assert all(torch.equal(net.state_dict()[key], before[key]) for key in list(before)[-4:]), "fc6, fc7 are new"
        else:
            found = net(x)[-1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 1e-3


def test_a_wrong_file_is_an_input_error(tmp_path: Path) -> None:
    resnet18, resnet34 = (torchvision.models.get_model(name).state_dict() for name in ("resnet18", "resnet34"))
    vgg = dict(backbone("vgg16").state_dict())

    def refused(name: str, path: Path, message: str) -> None:
        with pytest.raises(InputError, match=message) as error:
            init.load_imagenet(backbone(name), path)
        assert str(path) in str(error.value)

    refused("resnet18", tmp_path / "none.pth", "no such weights file")
    refused("resnet18", saved(resnet34, tmp_path / "34.pth"), "found.*resnet18 has")
    refused("resnet34", saved(resnet18, tmp_path / "18.pth"), "tensors found, resnet34 has")
    refused("vgg16", saved(resnet18, tmp_path / "18.pth"), "tensors found, vgg16 has 26")
    refused("vgg16", saved({}, tmp_path / "empty.pth"), "0 tensors found")
    refused("vgg16", saved(vgg, tmp_path / "own.pth"), "30 tensors found")
    refused("efficientnet_lite0", saved(resnet18, tmp_path / "18.pth"), "tensors found")
    refused("resnet18", saved({"model": resnet18}, tmp_path / "nested.pth"), "state dict .* is expected")
    text = tmp_path / "page.pth"
    text.write_text("<html>not found</html>")
    refused("resnet18", text, "not a file of tensors")
    cut = saved(resnet18, tmp_path / "cut.pth")
    cut.write_bytes(cut.read_bytes()[:10000])
    refused("resnet18", cut, "not a file of tensors")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address it is served at."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_torchvision_weights_are_downloaded_checked_and_cached(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    reference = torchvision_net("resnet18")
    buffer = io.BytesIO()
    torch.save(reference.state_dict(), buffer)
    name = f"resnet18-{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(buffer.getvalue())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    weights = torchvision.models.ResNet18_Weights.DEFAULT

    def load(file: str) -> Backbone:
        monkeypatch.setattr(weights.value, "url", f"{address}/{file}")
        net = backbone("resnet18").eval()
        init.load_imagenet(net, None)
        return net

    net, x = load(name), picture(0, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(x)[-1], torchvision_features(reference, x.float()), rtol=1e-4, atol=1e-4)
    assert (tmp_path / "home/hub/checkpoints" / name).is_file()
    (folder / name).unlink()
    load(name)  # from the cache
    with pytest.raises(InputError, match=r"cannot download .*resnet18-0.pth.*set `file:`"):
        load("resnet18-0.pth")
    (folder / "resnet18-00000000.pth").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="cannot download"):  # the bytes are not those the name promises
        load("resnet18-00000000.pth")


def test_imagenet_weights_do_not_follow_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their header names no seed, so VGG16's two new layers must not depend on one either."""
    made: list[dict[str, np.ndarray]] = []
    monkeypatch.setattr(init.store, "write_table", lambda out, header, arrays, meta: made.append(arrays))
    monkeypatch.setattr(init, "load_imagenet", lambda net, file: None)
    for seed in (0, 5):
        init.run(planted.job(Imagenet(backbone="vgg16"), tmp_path / "x.json", seed=seed))
    assert np.array_equal(made[0]["float32"], made[1]["float32"])


# ------------------------------------------------------------------------------------------------ artifacts


def keep(path: Path, kind: str, model: nn.Module, meta: dict) -> store.Artifact:
    arrays, index = pack(model.state_dict())
    store.write_table(path, store.Header(kind, "test", {}, "test"), arrays, {**meta, "index": index})
    return store.Artifact(path, kind)


def test_networks_survive_an_artifact(tmp_path: Path) -> None:
    x = picture(0, 64, 64)
    trunk: Callable[[], Backbone] = lambda: lively(backbone("efficientnet_lite0", 16))  # noqa: E731
    meta = {"backbone": "efficientnet_lite0", "stride": 16, "gray": True, "classes": ["background", "a", "b"]}
    classifier = Classifier(trunk(), 2)
    segmenter = Segmenter(trunk(), "largefov", 3, 8, 16)
    cases: list[tuple[nn.Module, nn.Module]] = [
        (classifier, load_classifier(keep(tmp_path / "c.json", "classifier", classifier, meta))),
        (
            segmenter,
            load_segmenter(keep(tmp_path / "m.json", "model", segmenter, {**meta, "head": "largefov", "width": 8})),
        ),
    ]
    net = trunk()
    cases.append((net, load_backbone(keep(tmp_path / "w.json", "weights", net, meta), 16).eval()))
    for made, loaded in cases:
        for module in made.modules():
            if isinstance(module, Backbone):
                module.gray = True
        assert list(loaded.state_dict()) == list(made.state_dict())
        for a, b in zip(made.state_dict().values(), loaded.state_dict().values(), strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
        with torch.no_grad():
            one, other = made.eval()(x), loaded(x)
            assert torch.equal(one[-1], other[-1])
    assert not cases[0][1].training


def test_largefov_over_vgg16_adds_the_score_layer_alone() -> None:
    head = Segmenter(backbone("vgg16", 8), "largefov", 3, 128, 8).head
    assert {name: tuple(value.shape) for name, value in head.state_dict().items()} == {
        "score.weight": (3, 1024, 1, 1),
        "score.bias": (3,),
    }


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet_lite0"])
def test_networks_for_inference_have_no_batchnorm_and_answer_the_same(name: str) -> None:
    x = picture(0, 64, 80)
    model = Segmenter(lively(backbone(name, 16)), "deeplabv3+", 3, 8, 16).eval()
    with torch.no_grad():
        expected = model(x)
        folded = for_inference(model, "cpu")
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        torch.testing.assert_close(folded(x), expected, rtol=1e-3, atol=1e-3)


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


def test_random_weights_follow_their_seed(tmp_path: Path) -> None:
    made = {}
    for number, seed in enumerate((0, 0, 1)):
        init.run(planted.job(Random(), tmp_path / f"{number}.json", seed=seed))
        made[number] = store.Artifact(tmp_path / f"{number}.json").digest
    assert made[0] == made[1] != made[2]
