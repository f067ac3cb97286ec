"""Excitation backprop: its rules against loops over neurons, conserved mass, planted classes, and the stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import planted
import pytest
import torch
from test_cam import scene, world
from torch import Tensor, nn

from pipeline import excitation as stage
from pipeline.core import store
from pipeline.core.steps.seeds import Excitation
from pipeline.kinds import seeds
from pipeline.networks import excitation as eb
from pipeline.networks.backbones import backbone
from pipeline.networks.classifier import Classifier
from pipeline.networks.efficientnet import MBConv
from pipeline.networks.imagenet import load_imagenet
from pipeline.networks.padding import PlacedMaxPool2d, SameConv2d
from pipeline.networks.states import for_inference
from pipeline.networks.trunk import Backbone

# ------------------------------------------------------------------------------------------- one rule, neuron by neuron


def dense(layer: nn.Module, shape: tuple[int, ...]) -> np.ndarray:
    """A linear layer without its bias as a matrix [outputs, inputs]: what it makes of each unit alone."""
    units = torch.eye(int(np.prod(shape)), dtype=torch.float64).view(-1, *shape)
    nothing = layer(torch.zeros_like(units[:1]))
    return (layer(units) - nothing).flatten(1).T.detach().numpy()


def by_neurons(weights: np.ndarray, x: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, float]:
    """Zhang et al. 2016, equation 3, for every pair of neurons: mass of the inputs, and what was lost."""
    below, lost = np.zeros(len(x)), 0.0
    for i, p in enumerate(mass):
        excited = sum(max(x[j], 0) * max(weights[i, j], 0) for j in range(len(x)))
        if excited == 0:
            lost += p
            continue
        for j in range(len(x)):
            below[j] += p * max(x[j], 0) * max(weights[i, j], 0) / excited
    return below, lost


def placed(layer: SameConv2d, start: int) -> SameConv2d:
    layer.start = start
    return layer


LINEAR = {
    "3x3": (nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4)),
    "1x1": (nn.Conv2d(4, 2, 1), (4, 3, 3)),
    "stride 2": (nn.Conv2d(2, 2, 3, 2, padding=1), (2, 6, 5)),
    "stride 2, 1x1": (nn.Conv2d(2, 3, 1, 2), (2, 5, 6)),
    "dilated": (nn.Conv2d(1, 2, 3, padding=2, dilation=2), (1, 6, 5)),
    "depthwise": (nn.Conv2d(3, 3, 3, padding=1, groups=3), (3, 4, 5)),
    "groups": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 4, 3)),
    "same, even": (SameConv2d(2, 2, 3, 2), (2, 6, 4)),
    "same, odd": (SameConv2d(2, 2, 5, 2), (2, 5, 7)),
    "same, depthwise, stride 2": (SameConv2d(3, 3, 5, 2, groups=3), (3, 6, 7)),
    "same, depthwise, stride undone": (placed(SameConv2d(2, 2, 5, dilation=2, groups=2), 3), (2, 6, 5)),
    "same, begins late": (placed(SameConv2d(2, 2, 3, 2), -1), (2, 6, 5)),
    "average": (nn.AvgPool2d(2), (2, 4, 6)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_mass_goes_down_as_from_neuron_to_neuron(name: str) -> None:
    """Two classes of the first photograph, one of the second; a channel that nothing excites; signed inputs."""
    torch.manual_seed(0)
    layer, shape = LINEAR[name]
    layer = layer.double().eval()
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight)
        layer.weight.data[-1].clamp_(max=0)
    x = torch.randn(2, *shape, dtype=torch.float64)
    with torch.no_grad():
        owner, mass = torch.tensor([0, 0, 1]), torch.rand(3, *layer(x).shape[1:], dtype=torch.float64)
        found, kept = eb.down(eb.positive(layer), x, mass, owner)
    weights, lossy = dense(layer, shape), 0
    for pair, image in enumerate(owner):
        expected, lost = by_neurons(weights, x[image].flatten().numpy(), mass[pair].flatten().numpy())
        np.testing.assert_allclose(found[pair].flatten().numpy(), expected, atol=1e-12)
        assert float(1 - kept[pair]) == pytest.approx(lost / float(mass[pair].sum()), abs=1e-12)
        lossy += lost > 0
    assert lossy == 3 or name == "average"


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2, padding=1), PlacedMaxPool2d(3, 2, padding=1)])
def test_maximum_pooling_hands_all_to_the_largest(pool: nn.MaxPool2d) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 2, 5, 6, dtype=torch.float64)
    owner, z = torch.tensor([1, 0, 1]), pool(x)
    mass = torch.rand(3, *z.shape[1:], dtype=torch.float64)
    found, kept = eb.down(pool, x, mass, owner)
    expected = torch.zeros(3, *x.shape[1:], dtype=torch.float64)
    for pair, channel, row, column in np.ndindex(*mass.shape):
        image = owner[pair]
        at = (x[image, channel] == z[image, channel, row, column]).nonzero()[0]
        expected[pair, channel, at[0], at[1]] += mass[pair, channel, row, column]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(kept, torch.ones(3, dtype=torch.float64))


def test_mass_of_one_photograph_is_that_of_a_batch() -> None:
    """Several classes of one photograph take another way through the code than several photographs."""
    torch.manual_seed(0)
    layer, x, mass = eb.positive(nn.Conv2d(3, 4, 3, padding=1)), torch.rand(2, 3, 6, 6), torch.rand(3, 4, 6, 6)
    both, _ = eb.down(layer, x, mass, torch.tensor([0, 0, 1]))
    one, _ = eb.down(layer, x[:1], mass[:2], torch.tensor([0, 0]))
    other, _ = eb.down(layer, x[1:], mass[2:], torch.tensor([0]))
    torch.testing.assert_close(torch.cat([one, other]), both)


class Sum(nn.Module):
    """A block such as torchvision's."""

    def __init__(self, downsample: nn.Module | None):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(2, 3, 3, padding=1), nn.Identity(), nn.ReLU(inplace=True)
        self.conv2, self.downsample = nn.Conv2d(3, 2, 1), downsample

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.relu(self.bn1(self.conv1(x))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def by_layers(layers: list[nn.Module], x: Tensor, mass: np.ndarray) -> np.ndarray:
    """Mass at the input x of these convolutions and activations, neuron by neuron."""
    inputs = [x]
    for layer in layers:
        inputs.append(layer(inputs[-1].clone()))
    for layer, before in zip(layers[::-1], inputs[-2::-1], strict=True):
        if isinstance(layer, nn.Conv2d):
            mass, _ = by_neurons(dense(layer, before.shape[1:]), before.flatten().numpy(), mass)
    return mass


@pytest.mark.parametrize("kind", ["identity", "convolution", "bottleneck", "no sum"])
@torch.no_grad()
def test_a_residual_sum_shares_in_proportion_to_what_is_positive(kind: str) -> None:
    torch.manual_seed(3)
    if kind in ("identity", "convolution"):
        block: nn.Module = Sum(nn.Sequential(nn.Conv2d(2, 2, 1), nn.Identity()) if kind == "convolution" else None)
        body, shortcut = [block.conv1, block.relu, block.conv2], list(block.downsample or [])
    else:
        block = for_inference(MBConv(2, 2 if kind == "bottleneck" else 3, 3, 1, 2), "cpu")
        body, shortcut = list(block.body), []
    block, x, owner = block.double().eval(), torch.randn(1, 2, 4, 4, dtype=torch.float64), torch.tensor([0])
    out, shown = eb.seen([block], lambda: block(x))
    mass = torch.rand(out.shape, dtype=torch.float64) * (out > 0)
    found, kept = eb.descend([block], mass, owner, shown)
    if kind == "no sum":
        expected = by_layers(body, x, mass.flatten().numpy())
    else:
        computed, skipped = (nn.Sequential(*layers)(x.clone()).clamp(min=0) for layers in (body, shortcut))
        aside = (mass * skipped / (skipped + computed).clamp(min=1e-9)).flatten().numpy()
        assert 0 < aside.sum() < mass.sum()
        expected = by_layers(body, x, mass.flatten().numpy() - aside) + by_layers(shortcut, x, aside)
    np.testing.assert_allclose(found.flatten().numpy(), expected, atol=1e-12)
    assert float(kept) == pytest.approx(expected.sum() / float(mass.sum()), abs=1e-12)


def test_a_layer_without_a_rule_is_named() -> None:
    torch.manual_seed(0)
    model = Classifier(backbone("resnet18", 16), [1]).eval()  # its BatchNorm is not folded
    with pytest.raises(ValueError, match="BatchNorm2d found on the way down"), torch.no_grad():
        mass_of(model, torch.zeros(1, 3, 64, 64), [0])


def test_the_top_is_the_difference_of_what_speaks_for_and_against() -> None:
    torch.manual_seed(0)
    last, weights = torch.rand(1, 3, 2, 2, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    weights[1] = weights[1].abs()  # nothing speaks against it
    owner = torch.tensor([0, 0])
    plain = [by_neurons(sign * np.kron(weights, np.ones(4)) / 4, last.flatten().numpy(), np.eye(2)[k])[0]
             for k in range(2) for sign in (1, -1)]  # fmt: skip
    found = eb.top(last, weights, owner, contrast=True).flatten(1).numpy()
    np.testing.assert_allclose(found, [plain[0] - plain[1], plain[2]], atol=1e-12)
    found = eb.top(last, weights, owner, contrast=False).flatten(1).numpy()
    np.testing.assert_allclose(found, [plain[0], plain[2]], atol=1e-12)


# --------------------------------------------------------------------------------------------------- whole networks


def mass_of(model: Classifier, x: Tensor, columns: list[int], at: int = 3, contrast: bool = False) -> tuple:
    owner = torch.zeros(len(columns), dtype=torch.long)
    return eb.masses(model, x, torch.tensor(columns), owner, at=at, contrast=contrast, precision="f32")


def lively(name: str, stride: int) -> Classifier:
    """Random weights, and BatchNorm as after training."""
    torch.manual_seed(0)
    model = Classifier(backbone(name, stride), [1, 2, 3]).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return for_inference(model, "cpu")


@pytest.mark.parametrize(
    ("name", "stride", "size"),
    [
        ("vgg16", 16, (64, 64)),
        ("vgg16", 8, (45, 39)),
        ("resnet18", 16, (64, 64)),
        ("resnet18", 8, (50, 35)),
        ("resnet34", 32, (45, 39)),
        ("resnet50", 16, (45, 39)),
        ("resnet101", 16, (64, 64)),
    ],
)
def test_mass_is_conserved(name: str, stride: int, size: tuple[int, int]) -> None:
    """Down to the first level at odd sizes too, and to the third after these are brought to whole cells."""
    model = lively(name, stride)
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, *size), dtype=np.uint8))
    with torch.no_grad():
        for at, given in [(1, x), (3, model.trunk.whole(x))]:
            mass, lost = mass_of(model, given, [0, 2], at)
            assert mass.shape[1:] == model.trunk(given)[at - 1].shape[2:]
            assert mass.min() >= 0
            np.testing.assert_allclose(mass.sum((1, 2)), 1, atol=2e-5)
            np.testing.assert_allclose(lost, 0, atol=2e-5)


@pytest.fixture(scope="module")
def lite() -> Classifier:
    net = backbone("efficientnet_lite0", 16)
    load_imagenet(net, None)
    torch.manual_seed(0)
    return for_inference(Classifier(net, [1, 2]).eval(), "cpu")


def test_what_is_lost_in_depthwise_convolutions_is_reported(lite: Classifier) -> None:
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 64, 96), dtype=np.uint8))
    with torch.no_grad():
        before = 0.0
        for at in (5, 4, 3, 2, 1):
            mass, lost = mass_of(lite, x, [0, 1], at)
            np.testing.assert_allclose(mass.sum((1, 2)) + lost, 1, atol=1e-5)
            assert before <= float(lost.min()) < 1
            before = float(lost.min())
        assert before > 0.1
        _, lost = mass_of(lite, x, [0, 1], 3, contrast=True)
    assert float(lost.min()) > 0 and float(lost.max()) < 1


@pytest.mark.parametrize(("stride", "at"), [(16, 4), (16, 3), (8, 3), (32, 4)])
def test_maps_lie_where_the_class_lies(stride: int, at: int) -> None:
    """A class that a patch makes, at levels which lie half a cell aside and others: to within four pixels."""
    net, rng, patch = backbone("efficientnet_lite0", stride), np.random.default_rng(0), 24
    load_imagenet(net, None)
    model, found = for_inference(Classifier(net, [1]).eval(), "cpu"), []
    for top, left in ((74, 90), (90, 66)):
        ground = rng.normal(120, 12, (160, 192, 3))
        shown = ground.copy()
        shown[top : top + patch, left : left + patch] = rng.normal(0, 30, (patch, patch, 3)) + rng.uniform(0, 255, 3)
        rgb = np.stack([ground, shown]).clip(0, 255).astype(np.uint8)
        with torch.no_grad():
            without, with_it = model.trunk(torch.from_numpy(rgb).permute(0, 3, 1, 2))[-1].mean((2, 3))
        model.score.weight.data[0, :, 0, 0] = with_it - without
        score = maps(model, rgb[1:], [[1]], at=at, scales=(1.0,), flip=False, grid=1)[0][0]
        peak = np.unravel_index(score.argmax(), score.shape)
        assert top - 8 <= peak[0] < top + patch + 8 and left - 8 <= peak[1] < left + patch + 8
        score = (score - 0.3).clip(0)
        rows, columns = (np.arange(side) + 0.5 for side in score.shape)
        middle = np.array([score.sum(1) @ rows, score.sum(0) @ columns]) / score.sum()
        found.append(middle - (top + patch / 2, left + patch / 2))
    assert (abs(np.mean(found, 0)) < 4).all(), found


# ------------------------------------------------------------------------------------------------- planted classes


def colours(signs: float = 0.0, foreground: tuple[int, ...] = (1, 2, 3)) -> Classifier:
    """Classes are colours: red, green, blue. Five levels of strides 2, 4, 8, 16, 16, which change nothing but size.

    signs: how much each colour speaks against the two other classes.
    """
    last = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
    last[0].weight.data = torch.zeros(3, 3, 3, 3)
    last[0].weight.data[:, :, 1, 1] = torch.eye(3)
    nn.init.zeros_(last[0].bias)
    stages = [*(nn.Sequential(nn.AvgPool2d(2), nn.ReLU()) for _ in range(4)), last]
    model = Classifier(Backbone("planted", stages, (3,) * 5, ((0.0,) * 3, (1.0,) * 3)), foreground).eval()
    model.score.weight.data = ((1 + signs) * torch.eye(3) - signs)[:, :, None, None]
    return model


def maps(model: Classifier, rgb: np.ndarray, classes: list, grid: int = 4, **settings: object) -> list[np.ndarray]:
    """The maps of each photograph uint8 [B,h,w,3], without the shares lost."""
    settings = {"at": 3, "contrast": True, "scales": (0.5, 1.0, 1.5), "flip": True} | settings
    found = eb.excitation(model, rgb, classes, grid=grid, device="cpu", precision="f32", **settings)
    assert [len(lost) for _, lost in found] == [len(ids) for ids in classes]
    return [score for score, _ in found]


@pytest.mark.parametrize("size", [(128, 160), (121, 150)])
@pytest.mark.parametrize("settings", [{"scales": (1.0,), "flip": False}, {"scales": (0.5,)}, {"at": 1}, {"at": 5}, {}])
def test_the_map_lies_where_the_object_lies(size: tuple[int, int], settings: dict) -> None:
    boxes = {1: (16, 32, 48, 64), 2: (64, 96, 112, 128)}
    found = maps(colours(), scene(*size, boxes)[None], [[2, 1]], **settings)[0]
    assert found.shape == (2, -(-size[0] // 4), -(-size[1] // 4)) and found.dtype == np.float32
    assert found.min() >= 0
    np.testing.assert_allclose(found.max((1, 2)), 1, atol=1e-6)
    for score, k in zip(found, (2, 1), strict=True):
        y0, x0, y1, x1 = boxes[k]
        rows, columns = (np.arange(side) * 4 + 1.5 for side in score.shape)
        middle = (score.sum(1) @ rows / score.sum(), score.sum(0) @ columns / score.sum())
        np.testing.assert_allclose(middle, ((y0 + y1 - 1) / 2, (x0 + x1 - 1) / 2), atol=3)


def test_contrast_takes_away_what_speaks_for_both() -> None:
    """White is for every class as much as against it: with contrast nothing is left of it, and red stays."""
    rgb = scene(96, 96, {1: (8, 8, 40, 40)})
    rgb[56:88, 56:88] = 120
    plain, contrasted = (
        maps(colours(signs=0.5), rgb[None], [[1]], contrast=contrast, scales=(1.0,), flip=False)[0][0]
        for contrast in (False, True)
    )
    assert plain[14:22, 14:22].mean() > 0.5 and plain[3:9, 3:9].mean() > 0.9
    assert contrasted[14:22, 14:22].max() < 1e-3 and contrasted[3:9, 3:9].mean() > 0.9


def test_photographs_together_get_what_each_gets_alone() -> None:
    """One has two classes, one none, one a class that nothing speaks for."""
    rng = np.random.default_rng(0)
    rgb = np.stack([rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(3)])
    rgb[2, ..., 0] = 0
    model, ids = colours(signs=0.3, foreground=(0, 4, 9)), [[9, 0], [], [0]]
    together = maps(model, rgb, ids)
    assert together[1].shape == (0, 12, 16)
    assert not together[2].any()
    for i, classes in enumerate(ids):
        alone = maps(model, rgb[i : i + 1], [classes])[0]
        np.testing.assert_allclose(together[i], alone, atol=1e-6)
    with pytest.raises(ValueError, match=r"class \[7\] asked for"):
        maps(model, rgb[:1], [[7]])


def test_a_mirrored_photograph_gives_the_mirrored_map() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (1, 96, 128, 3), dtype=np.uint8)
    model = colours(signs=0.3)
    one, other = (maps(model, np.ascontiguousarray(x), [[1, 2, 3]])[0] for x in (rgb, rgb[:, :, ::-1]))
    np.testing.assert_allclose(other, one[:, :, ::-1], atol=2e-3)


# ------------------------------------------------------------------------------------------------------- the stage


@pytest.mark.parametrize("background", [0, None])
def test_the_stage_claims_what_its_maps_exceed(
    background: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given, shift = world(tmp_path, background), 0 if background is None else 1
    model = colours(foreground=(shift, 1 + shift, 2 + shift))
    monkeypatch.setattr(stage, "load_classifier", lambda artifact: model)
    settings = Excitation(scales=(1.0,), threshold=0.6, at=2)
    stage.run(planted.job(settings, tmp_path / "s.json", given))
    made = store.Artifact(tmp_path / "s.json", "seeds")
    assert made.meta["rounds"] == [{"loss": 0.25, "epochs": 3.0}], "what later rounds compare with"
    assert (made.meta["background"], made.meta["classes"]) == (background, planted.class_names(3 + shift, background))
    assert made.meta["lost"] == 0 and "0.0% of the mass was lost" in capsys.readouterr().out
    assert made.read("classes")[:, :2].tolist() == [[shift, 1 + shift], [2 + shift, 255], [255] * 2, [255] * 2]
    for i, count in enumerate((2, 1, 0)):
        found = seeds.on_grid(made, given["photographs"], i)
        assert len(found.classes) == count
        np.testing.assert_array_equal(found.claimed, seeds.claim(found.scores, settings).astype(np.uint8))
    first = seeds.at_pixels(made, given["photographs"], 0)
    assert first.claimed[0, 4:24, 4:24].all() and not first.claimed[0, 40:].any()
    assert first.claimed[1, 40:60, 56:92].all() and not first.claimed[1, :, :40].any()
