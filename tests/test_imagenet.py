"""ImageNet weights: the right tensors in the right place, and what is refused."""

from __future__ import annotations

import hashlib
import http.server
import io
import pickle
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from pipeline.networks import imagenet
from pipeline.networks.backbones import BACKBONES, Backbone, backbone
from pipeline.networks.pictures import resized, to_tensor


def picture(seed: int, height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (batch, 3, height, width), dtype=np.uint8))


@pytest.fixture(scope="module")
def lite0() -> tuple[Backbone, nn.Linear]:
    """The trunk as the stage fills it, and the package's own classifier."""
    net = backbone("efficientnet_lite0")
    imagenet.load_imagenet(net, None)
    state = imagenet.read_state(imagenet.lite0_package_file())
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
    x = resized(to_tensor(rgb[top : top + side, left : left + side])[None], 224, 224)
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
    reference, net = torchvision_net(name), backbone(name, 32, "legacy").eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    imagenet.load_imagenet(net, saved(reference.state_dict(), tmp_path / "w.pth"))
    x = picture(0, 64, 96)
    with torch.no_grad():
        expected = torchvision_features(reference, x.float())
        if name == "vgg16":
            found = net.embedding(x)
            assert all(torch.equal(net.state_dict()[key], before[key]) for key in list(before)[-4:]), "fc6, fc7 are new"
        else:
            found = net(x)[-1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 1e-3


def test_a_wrong_file_is_refused(tmp_path: Path) -> None:
    resnet18, resnet34 = (torchvision.models.get_model(name).state_dict() for name in ("resnet18", "resnet34"))
    vgg = dict(backbone("vgg16").state_dict())

    def refused(name: str, path: Path, message: str) -> None:
        with pytest.raises(ValueError, match=message) as error:
            imagenet.load_imagenet(backbone(name), path)
        assert str(path) in str(error.value)

    refused("resnet18", tmp_path / "none.pth", "no such weights file")
    refused("resnet18", saved(resnet34, tmp_path / "34.pth"), r"layer1\.2\.bn1\.bias.* and 93 more are unknown")
    refused(
        "resnet34",
        saved(resnet18, tmp_path / "18.pth"),
        r"not the weights of resnet34.*layer1\.2\.conv1\.weight.*missing",
    )
    refused(
        "vgg16",
        saved(resnet18, tmp_path / "18.pth"),
        "Of 26 tensors expected, features.0.weight.* and 23 more are missing",
    )
    refused("vgg16", saved({}, tmp_path / "empty.pth"), "of 0 found")
    refused("vgg16", saved(vgg, tmp_path / "own.pth"), "of 30 found, stages.0.0.bias")
    refused("efficientnet_lite0", saved(resnet18, tmp_path / "18.pth"), "_conv_stem.weight")
    refused("resnet18", saved({"model": resnet18}, tmp_path / "nested.pth"), "state dict .* is expected")
    shape = resnet18 | {"layer2.0.conv1.weight": torch.zeros(128, 64, 1, 1)}
    refused(
        "resnet18", saved(shape, tmp_path / "shape.pth"), r"layer2.0.conv1.weight has shape \[128, 64, 1, 1\]; .*3, 3\]"
    )
    text = tmp_path / "page.pth"
    text.write_text("<html>not found</html>")
    refused("resnet18", text, "not a file of tensors")
    text.write_text("")
    refused("resnet18", text, "not a file of tensors")
    refused("resnet18", saved({1: torch.zeros(1)}, tmp_path / "key.pth"), "state dict .* is expected")
    first = torch.zeros(64, 3, 7, 7)
    for value, found in (
        (first.to(torch.complex64), "conv1.weight is of complex64, strided"),
        (first.to_sparse(), "conv1.weight is of float32, sparse"),
        (first.to(torch.int32), "conv1.weight is of int32"),
        (first.to("meta"), "conv1.weight is without its numbers"),
        (first + torch.nan, r"conv1.weight is partly infinite or not a number"),
    ):
        refused("resnet18", saved(resnet18 | {"conv1.weight": value}, tmp_path / "odd.pth"), found)
    cut = saved(resnet18, tmp_path / "cut.pth")
    cut.write_bytes(cut.read_bytes()[:10000])
    refused("resnet18", cut, "not a file of tensors")


def test_code_in_a_file_is_not_run_and_nobody_is_advised_to(tmp_path: Path) -> None:
    """torch's own message says how to run it."""

    class Payload:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "run",)

    for value in (Payload(), {"conv1.weight": Payload()}):
        for file in (tmp_path / "a.pth", tmp_path / "b.pth"):
            torch.save(value, file, _use_new_zipfile_serialization=file.stem == "a")
            with pytest.raises(ValueError, match="could run code and is not opened") as error:
                imagenet.read_state(file)
            assert "weights_only" not in str(error.value)
    (tmp_path / "c.pth").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ValueError, match="could run code and is not opened"):
        imagenet.read_state(tmp_path / "c.pth")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_a_file_in_another_order_loads_right(name: str, tmp_path: Path) -> None:
    """Many layers have equal shapes, so that position and shape would take one for the other."""
    if name == "resnet18":
        state = torchvision_net(name).state_dict()
    else:
        state = imagenet.read_state(imagenet.lite0_package_file())
    one, other = backbone(name), backbone(name)
    imagenet.load_imagenet(one, saved(state, tmp_path / "a.pth"))
    imagenet.load_imagenet(other, saved(dict(sorted(state.items(), reverse=True)), tmp_path / "b.pth"))
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_older_files_without_counters_are_accepted(tmp_path: Path) -> None:
    state = {key: value for key, value in torchvision_net("resnet18").state_dict().items() if "tracked" not in key}
    net = backbone("resnet18")
    imagenet.load_imagenet(net, saved(state, tmp_path / "old.pth"))
    assert torch.equal(net.state_dict()["stages.4.1.bn2.running_var"], state["layer4.1.bn2.running_var"])
    assert net.state_dict()["stages.4.1.bn2.num_batches_tracked"] == imagenet.MANY  # the statistics are not new


def test_lite0_weights_are_the_packages_layer_by_layer(lite0: tuple[Backbone, nn.Linear]) -> None:
    """Both list their layers in forward order, which is a second way to the same mapping."""
    state = imagenet.read_state(imagenet.lite0_package_file())
    theirs = [value for name, value in state.items() if not name.startswith("_fc.")]
    for (name, ours), value in zip(lite0[0].state_dict().items(), theirs, strict=True):
        assert torch.equal(ours, torch.full_like(value, imagenet.MANY) if name.endswith("tracked") else value), name


@pytest.mark.parametrize("name", list(BACKBONES))
def test_every_tensor_has_one_foreign_name(name: str) -> None:
    with torch.device("meta"):
        names = imagenet.foreign_names(backbone(name))
        if name != "efficientnet_lite0":
            known = set(torchvision.models.get_model(name).state_dict())
            assert set(names.values()) == {key for key in known if not key.startswith(("fc.", "classifier."))}
    assert len(set(names.values())) == len(names)


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
        imagenet.load_imagenet(net, None)
        return net

    net, x = load(name), picture(0, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(x)[-1], torchvision_features(reference, x.float()), rtol=1e-4, atol=1e-4)
    assert (tmp_path / "home/hub/checkpoints" / name).is_file()
    (folder / name).unlink()
    load(name)  # from the cache
    with pytest.raises(ValueError, match=r"cannot download .*resnet18-0.pth.*set `file:`"):
        load("resnet18-0.pth")
    (folder / "resnet18-00000000.pth").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="cannot download"):  # the bytes are not those the name promises
        load("resnet18-00000000.pth")
