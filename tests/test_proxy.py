"""Proxy tasks: colours, hypercolumns, orders and tiles against plain references; both tasks learn; resume."""

from __future__ import annotations

import colorsys
import itertools
import json
import math
import signal
import subprocess
from pathlib import Path

import numpy as np
import planted
import pytest
import torch
from conftest import ENVIRONMENT, THREADS, command, content, stage
from torch import Tensor

from pipeline import proxy
from pipeline.core import store
from pipeline.core.job import InputError
from pipeline.core.steps.weights import Proxy
from pipeline.kinds.crops import Crops
from pipeline.networks import backbones

# ------------------------------------------------------------------------------------------------- colorization


def test_hue_and_chroma_equal_a_plain_reference() -> None:
    corners = list(itertools.product((0, 127, 254, 255), repeat=3))  # every order of channels, every tie, all grays
    rng = np.random.default_rng(0)
    rgb = np.concatenate([np.array(corners, np.uint8), rng.integers(0, 256, (500, 3), np.uint8)])
    hue, chroma = proxy.hue_and_chroma(torch.from_numpy(rgb.T.copy())[None])
    for k, (red, green, blue) in enumerate(rgb / 255):
        assert float(hue[0, k]) == pytest.approx(colorsys.rgb_to_hsv(red, green, blue)[0], abs=1e-5)
        assert float(chroma[0, k]) == pytest.approx(max(red, green, blue) - min(red, green, blue), abs=1e-6)


def test_bins_are_uniform_and_their_ends_belong_somewhere() -> None:
    values = torch.tensor([0.0, 1 / 32 - 1e-4, 1 / 32, 0.5, 1 - 1e-4, 1.0])
    assert proxy.bins(values).tolist() == [0, 0, 1, 16, 31, 31]


def test_the_colour_loss_is_the_published_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    chroma_scores, hue_scores = (torch.randn(2, 7, 32, generator=generator) for _ in range(2))
    rgb = torch.randint(0, 256, (2, 3, 7), generator=generator)
    terms = proxy.colour_loss(chroma_scores, hue_scores, rgb)
    expected = {"chroma": 0.0, "hue": 0.0}
    for b, k in itertools.product(range(2), range(7)):
        red, green, blue = (rgb[b, :, k] / 255).tolist()
        hue, chroma = colorsys.rgb_to_hsv(red, green, blue)[0], max(red, green, blue) - min(red, green, blue)
        expected["chroma"] -= float(chroma_scores[b, k].log_softmax(0)[min(int(chroma * 32), 31)]) / 14
        expected["hue"] -= 5 * chroma * float(hue_scores[b, k].log_softmax(0)[min(int(hue * 32), 31)]) / 14
    assert {name: float(total / count) for name, (total, count) in terms.items()} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("side", "border", "kept"), [(224, 32, 32), (64, 32, 16), (33, 4, 4), (32, 0, 0)])
def test_positions_keep_off_the_edge_but_never_run_out(side: int, border: int, kept: int) -> None:
    position = proxy.random_positions(4, 5000, side, border, torch.device("cpu"))
    assert position.shape == (4, 5000, 2)
    assert (position.amin((0, 1)) == kept).all() and (position.amax((0, 1)) == side - kept - 1).all()


def test_colours_are_those_of_the_positions() -> None:
    image = torch.randint(0, 256, (2, 3, 9, 11), dtype=torch.uint8)
    position = torch.tensor([[[0, 0], [8, 10], [3, 7]], [[1, 2], [8, 0], [0, 10]]])
    found = proxy.colours(image, position)
    for b, k in itertools.product(range(2), range(3)):
        y, x = position[b, k].tolist()
        assert (found[b, :, k] == image[b, :, y, x]).all()


def plain_bilinear(feature: Tensor, y: float, x: float) -> Tensor:
    """[C,h,w] at a place in cells, clamped at the rim: [C]."""
    h, w = feature.shape[1:]
    y, x = min(max(y, 0.0), h - 1.0), min(max(x, 0.0), w - 1.0)
    top, left = int(y), int(x)
    below, right = min(top + 1, h - 1), min(left + 1, w - 1)
    upper = feature[:, top, left] * (left + 1 - x) + feature[:, top, right] * (x - left)
    lower = feature[:, below, left] * (left + 1 - x) + feature[:, below, right] * (x - left)
    return upper * (top + 1 - y) + lower * (y - top)


@pytest.mark.parametrize("side", [64, 56, 33])
def test_hypercolumns_are_the_features_at_the_positions(side: int) -> None:
    """Also for sides that are no multiple of the strides, where maps reach beyond the image."""
    strides = (1, 2, 4, 8, 16, 32)
    features = [torch.randn(2, 3, *2 * [-(-side // stride)]) for stride in strides]
    position = proxy.random_positions(2, 20, side, 0, torch.device("cpu"))
    column = proxy.hypercolumn(features, position, side)
    for b, k in itertools.product(range(2), range(20)):
        y, x = position[b, k].tolist()
        torch.testing.assert_close(column[b, :3, k], features[0][b, :, y, x], rtol=1e-3, atol=1e-4)
        plain = [
            plain_bilinear(feature[b], (y + 0.5) / stride - 0.5, (x + 0.5) / stride - 0.5)
            for feature, stride in zip(features, strides, strict=True)
        ]
        torch.testing.assert_close(column[b, :, k], torch.cat(plain), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "efficientnet_lite0"])
def test_every_backbone_gives_a_hypercolumn_of_all_its_stages(name: str) -> None:
    net = proxy.Colorizer(backbones.backbone(name), 16)
    chroma, hue = net(torch.zeros(2, 3, 40, 40), proxy.random_positions(2, 6, 40, 4, torch.device("cpu")))
    assert net.hidden.in_features == sum(net.trunk.channels)
    assert chroma.shape == hue.shape == (2, 6, 32)


def test_the_network_sees_gray_alone() -> None:
    net, _ = proxy.colorization(backbones.backbone("resnet18"), Proxy())
    image = torch.randint(0, 256, (2, 3, 64, 64)).float()
    position = proxy.random_positions(2, 8, 64, 8, image.device)
    net.eval()
    with torch.inference_mode():
        torch.testing.assert_close(net(image, position), net(image.flip(1), position), rtol=1e-3, atol=1e-3)


# ------------------------------------------------------------------------------------------------------- jigsaw


def spread(orders: np.ndarray) -> int:
    """The smallest Hamming distance between two of them."""
    return min(int((one != two).sum()) for one, two in itertools.combinations(orders, 2))


@pytest.mark.parametrize("count", [2, 9, 100])
def test_orders_are_unique_and_farther_apart_than_by_chance(count: int) -> None:
    orders = proxy.permutations(count)
    assert orders.shape == (count, 9)
    assert (np.sort(orders, axis=1) == np.arange(9)).all()
    assert len({tuple(order) for order in orders.tolist()}) == count
    rng = np.random.default_rng(0)
    chance = max(spread(np.array([rng.permutation(9) for _ in range(count)])) for _ in range(3))
    assert spread(orders) >= chance
    assert spread(orders) >= {2: 9, 9: 9, 100: 6}[count]
    assert (orders == proxy.permutations(count)).all()


def windows(side: int) -> Tensor:
    """Three pictures of nine windows, each pixel (window, y, x): uint8 [3,3,side,side]."""
    window = side // 3
    y, x = np.mgrid[:side, :side]
    which = np.minimum(y // window, 2) * 3 + np.minimum(x // window, 2)
    return torch.from_numpy(np.stack([which, y, x]).astype(np.uint8))[None].repeat(3, 1, 1, 1)


@pytest.mark.parametrize(("side", "tile"), [(60, 17), (64, 21), (65, 8)])
def test_tiles_are_squares_within_their_windows(side: int, tile: int) -> None:
    tiles = proxy.cut_tiles(windows(side), tile)
    assert tiles.shape == (3, 9, 3, tile, tile) and tiles.dtype == torch.uint8
    assert (tiles[:, :, 0] == torch.arange(9).view(1, 9, 1, 1)).all(), "a tile left its window"
    y, x = tiles[:, :, 1].int(), tiles[:, :, 2].int()
    assert (y.diff(dim=2) == 1).all() and (x.diff(dim=3) == 1).all()
    assert (y.diff(dim=3) == 0).all() and (x.diff(dim=2) == 0).all()


def test_tiles_reach_every_place_of_their_window() -> None:
    torch.manual_seed(0)
    corners = torch.stack([proxy.cut_tiles(windows(60), 17)[:, :, 1:, 0, 0] for _ in range(40)])
    shift = corners.int() % 20
    assert shift.unique().tolist() == [0, 1, 2, 3]
    assert not (shift[..., 0, 0] == shift[..., 1, 0]).all(), "all tiles moved alike"


def test_shuffled_tiles_stand_where_the_order_says_and_undoing_it_brings_them_back() -> None:
    tiles = proxy.cut_tiles(windows(60), 17)
    orders = torch.from_numpy(proxy.permutations(20))
    chosen = orders[torch.randint(20, (3, 4))]
    shuffled = proxy.shuffle(tiles, chosen)
    assert shuffled.shape == (3, 4, 9, 3, 17, 17)
    assert (shuffled[:, :, :, 0, 0, 0] == chosen).all()
    for k in range(4):
        back = proxy.shuffle(shuffled[:, k], chosen[:, k].argsort(1)[:, None])[:, 0]
        assert (back == tiles).all()


def test_shuffling_codes_is_shuffling_tiles() -> None:
    net = proxy.Jigsaw(backbones.backbone("resnet18"), 5, 8, 16).eval()
    tiles = torch.randint(0, 256, (2, 9, 3, 32, 32)).float()
    order = torch.from_numpy(proxy.permutations(5))[torch.tensor([[3], [1]])]
    with torch.inference_mode():
        moved = net(proxy.shuffle(tiles, order)[:, 0], torch.arange(9).expand(2, 1, 9))
        torch.testing.assert_close(net(tiles, order), moved, rtol=1e-3, atol=1e-4)


def test_the_backbone_sees_tiles_of_mean_0_and_deviation_1() -> None:
    trunk = backbones.backbone("resnet18")
    tiles = torch.randint(0, 60, (2, 9, 3, 16, 16), dtype=torch.uint8)
    tiles[0, 0] = 200  # a flat tile has no deviation to divide by
    seen = (proxy.normalise(tiles, trunk) - trunk.mean) / trunk.std
    torch.testing.assert_close(seen.mean((-2, -1)), torch.zeros(2, 9, 3), rtol=0, atol=1e-5)
    deviation = torch.ones(2, 9, 3)
    deviation[0, 0] = 0
    torch.testing.assert_close(seen.std((-2, -1)), deviation, rtol=1e-4, atol=1e-4)


def test_the_default_tile_keeps_the_published_gap_and_a_larger_one_is_refused() -> None:
    assert proxy.tile_side(Proxy(crop=255)) == 75
    assert proxy.tile_side(Proxy(crop=224)) == 65
    assert proxy.tile_side(Proxy(crop=96, tile=32)) == 32
    with pytest.raises(InputError, match=r"tile: 33 found.* 32 px.*Leave `tile` out for 28"):
        proxy.tile_side(Proxy(crop=96, tile=33))


# ------------------------------------------------------------------------------------------------------ training


def test_crops_show_nothing_but_the_photograph(tmp_path: Path) -> None:
    small = [np.full((h, w, 3), 200, np.uint8) for h, w in ((20, 50), (63, 40), (5, 90))]
    images = planted.photographs(tmp_path / "images.json", small)
    cut = proxy.photograph_only(Crops(images, 64, (0.7, 1.5), 0.0, np.zeros(3, np.uint8)))
    for i, seed in itertools.product(range(3), range(20)):
        assert (cut(i, np.random.default_rng(seed))["image"] == 200).all()


def meadows(path: Path, count: int = 16, side: int = 64) -> store.Artifact:
    """Blue above, striped; green below, checked; so colour follows texture, and tiles follow place."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    pictures = []
    for _ in range(count):
        line, phase = rng.integers(side // 3, 2 * side // 3), rng.integers(0, 8)
        above = (y < line)[..., None]
        stripes, checks = ((x + phase) // 4 % 2)[..., None], ((x + phase) // 4 % 2 ^ y // 4 % 2)[..., None]
        shade = 0.5 + 0.5 * np.where(above, stripes, checks) - 0.3 * x[..., None] / side
        colour = np.where(above, (90, 120, 250), (60, 200, 50))
        pictures.append(np.clip(colour * shade + rng.normal(0, 6, (side, side, 1)), 0, 255).astype(np.uint8))
    return planted.photographs(path, pictures)


def constant_cost(images: store.Artifact) -> float:
    """Cross-entropy of chroma for the best answer that ignores the picture: the entropy of its bins."""
    rgb = torch.from_numpy(images.read("rgb")).permute(0, 3, 1, 2).flatten(2)
    share = np.bincount(proxy.bins(proxy.hue_and_chroma(rgb)[1]).flatten().numpy(), minlength=32) / (rgb.numel() / 3)
    return float(-sum(p * math.log(p) for p in share if p))


LEARN: dict[str, dict[str, object]] = {
    "colorization": {"epochs": 24, "lr": 0.05, "pixels": 64, "hidden": 128},
    "jigsaw": {"task": "jigsaw", "epochs": 12, "lr": 0.05, "permutations": 8, "hidden": 128, "code": 32},
}


@pytest.mark.parametrize("task", LEARN)
def test_each_task_learns(task: str, tmp_path: Path) -> None:
    images = meadows(tmp_path / "images.json")
    settings = Proxy.model_validate({"batch": 8, "crop": 48, "scale": (1.0, 1.2), **LEARN[task]})
    job = planted.job(settings, tmp_path / "weights.json", {"photographs": images})
    proxy.run(job)
    weights = store.Artifact(job.out, "weights")
    curves = {name: weights.read(f"curve_{name}") for name in ("loss", "chroma" if task == "colorization" else "order")}
    assert all(np.isfinite(curve).all() and len(curve) == settings.epochs for curve in curves.values())
    if task == "colorization":
        # A constant answer already costs less than log 32; only what lies below it was seen in the picture.
        assert curves["chroma"][-1] < 0.85 * constant_cost(images), (curves["chroma"], constant_cost(images))
        terms = [weights.read(f"curve_{name}") for name in ("chroma", "hue", "decay")]
        np.testing.assert_allclose(np.sum(terms, axis=0), curves["loss"], rtol=1e-6)
    else:
        assert curves["order"][-1] < 0.7 * math.log(8), ("guessing costs log 8", curves["order"])
    assert weights.meta["gray"] == (task == "colorization")
    net = backbones.load_backbone(weights, 8)
    assert net.gray == weights.meta["gray"]
    torch.manual_seed(0)
    start = backbones.backbone("resnet18").state_dict()
    assert any((start[name] != value).any() for name, value in net.state_dict().items() if name.startswith("stages.4"))


def test_colour_can_be_kept_for_what_follows(tmp_path: Path) -> None:
    images = meadows(tmp_path / "images.json", 4)
    settings = Proxy(epochs=1, batch=4, crop=32, pixels=8, hidden=8, gray=False)
    proxy.run(planted.job(settings, tmp_path / "weights.json", {"photographs": images}))
    assert store.Artifact(tmp_path / "weights.json").meta["gray"] is False


@pytest.mark.parametrize("task", LEARN)
def test_a_run_stopped_by_sigterm_and_resumed_gives_the_bytes_of_a_straight_one(task: str, tmp_path: Path) -> None:
    meadows(tmp_path / "images.json", 8)
    settings = {"task": task, "epochs": 6, "batch": 4, "crop": 32, "pixels": 16, "hidden": 32, "permutations": 8}
    outs = [tmp_path / name / "weights.json" for name in ("straight", "stopped")]
    for out in outs:
        out.parent.mkdir()
    images = tmp_path / "images.json"
    stage("proxy", outs[0], settings, photographs=images)

    flags = ("--photographs", images, "--settings", json.dumps(settings), "--out", outs[1], "--precision", "f32")
    process = subprocess.Popen(
        command("proxy", *flags, "--threads", THREADS), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    assert process.stdout is not None
    said = process.stdout.readline()  # the first epoch has ended
    process.send_signal(signal.SIGTERM)
    _, complaint = process.communicate(timeout=60)
    assert said.startswith(b"epoch 1/6")
    assert process.returncode != 0 and b"run again to go on" in complaint
    assert not outs[1].exists()

    assert "going on after iteration" in stage("proxy", outs[1], settings, photographs=images)
    assert content(outs[0]) == content(outs[1])
