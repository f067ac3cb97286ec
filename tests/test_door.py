"""One door from a model to its masks: what it answers, at any scale, mirrored, gated, and read out as labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import planted
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core import store
from pipeline.kernels.densecrf import DeepLabKernels, dense_crf
from pipeline.networks import door, pictures
from pipeline.networks.backbones import backbone
from pipeline.networks.door import SegmenterNetwork, labels_of, open_network, predict_labels, refined_probabilities
from pipeline.networks.pictures import resized, to_tensor
from pipeline.networks.segmenter import Segmenter, segmenter_meta
from pipeline.networks.states import packed

CLASSES = ["background", "red", "green", "blue"]


class Colours(nn.Module):
    """Scores are the colour channels, and 60 for the background: labels are known by hand."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return torch.cat([torch.full_like(x[:, :1], 60), x], 1) / 10


def colours(**options: object) -> SegmenterNetwork:
    settings = {"device": "cpu", "precision": "f32", "scales": (1.0,), "flip": False, **options}
    return SegmenterNetwork(Colours(), CLASSES, 0, 64, **settings)  # type: ignore[arg-type]


def scene(height: int = 40, width: int = 56) -> tuple[np.ndarray, np.ndarray]:
    """A photograph with a red box and a blue one, and its label map."""
    rgb, labels = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    for k, rows, columns in ((1, slice(4, 20), slice(8, 24)), (3, slice(16, 36), slice(32, 52))):
        rgb[rows, columns, k - 1], labels[rows, columns] = 200, k
    return rgb, labels


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def network() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(backbone("resnet18", 32), "largefov", len(CLASSES), 16, 32).eval()


def artifact(network: Segmenter, path: Path, settings: dict | None = None, **meta: object) -> store.Artifact:
    arrays, index = packed(network.state_dict())
    header = store.Header("model", "segment", {"method": "segment"} if settings is None else settings, "c")
    store.write_table(path, header, arrays, {"index": index, **segmenter_meta(network, CLASSES, 0, 64), **meta})
    return store.Artifact(path)


# ------------------------------------------------------------------------------------------------- opening


def test_the_opened_network_answers_like_the_one_that_was_trained(network: Segmenter, tmp_path: Path) -> None:
    opened = open_network(artifact(network, tmp_path / "m.json", background=2))
    assert (opened.classes, opened.background, opened.max_side, opened.device) == (CLASSES, 2, 64, "cpu")
    rgb = noise(0, 2, 50, 70, 3)
    with torch.no_grad():
        expected = network(to_tensor(rgb)).softmax(1)
    found = opened.probabilities(rgb)
    assert found.shape == (2, 4, 50, 70) and found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(opened.probabilities(to_tensor(rgb)), found), "arrays and tensors are the same photographs"


@pytest.mark.parametrize(
    "lie",
    [
        {"head": "../x"},
        {"backbone": "os.system"},
        {"width": -1},
        {"width": "w"},
        {"stride": 7},
        {"classes": [1, None, 2, "x"]},
    ],
)
def test_a_manifest_that_describes_no_network(network: Segmenter, tmp_path: Path, lie: dict) -> None:
    with pytest.raises(store.ArtifactError, match=rf"m\.json: .*{next(iter(lie))}"):
        open_network(artifact(network, tmp_path / "m.json", **lie))


@pytest.mark.parametrize(
    "lie",
    [
        {"shape": [-64, -3, 7, 7]},
        {"offset": -5},
        {"offset": "x"},
        {"shape": None},
        {"dtype": "../x"},
        {"shape": [10**15]},
    ],
)
def test_an_index_that_lies(network: Segmenter, tmp_path: Path, lie: dict) -> None:
    path = artifact(network, tmp_path / "m.json").path
    content = json.loads(path.read_text())
    content["meta"]["index"][0].update(lie)
    planted.forge(path, content)
    with pytest.raises(
        store.ArtifactError, match=r"m\.json: (its index is no list|.* numbers in the store|model without)"
    ):
        open_network(store.Artifact(path))


def test_models_of_before_open(network: Segmenter, tmp_path: Path) -> None:
    """Their manifest says nothing of padding and background, and their background is class 0."""
    made = artifact(network, tmp_path / "m.json")
    for key in ("padding", "background"):
        del made.manifest["meta"][key]
    opened = open_network(made)
    assert isinstance(opened, SegmenterNetwork)
    assert opened.background == 0 and opened.model.trunk.padding == "legacy"


def test_what_has_no_door_is_named(network: Segmenter, tmp_path: Path) -> None:
    for settings in ({"method": "hologram"}, {}):
        with pytest.raises(store.ArtifactError, match=rf"m.json: made by method '{settings.get('method')}'; .*segment"):
            open_network(artifact(network, tmp_path / "m.json", settings))
    store.write_table(tmp_path / "w.json", store.Header("weights", "test", {}, "c"), {}, {})
    with pytest.raises(store.ArtifactError, match="this is weights, a model is expected"):
        open_network(store.Artifact(tmp_path / "w.json"))


def test_gradients_pass_outside_the_door(network: Segmenter, tmp_path: Path) -> None:
    """A method that descends on its inputs opens models too: what the door leaves behind are ordinary tensors."""
    scores = open_network(artifact(network, tmp_path / "m.json")).probabilities(noise(0, 1, 32, 32, 3))
    shift = torch.zeros(4, requires_grad=True)
    (scores + shift[None, :, None, None]).square().sum().backward()
    assert shift.grad is not None and shift.grad.abs().sum() > 0
    assert torch.is_grad_enabled()


# ------------------------------------------------------------------------------------------- probabilities


def plain(rgb: np.ndarray, scales: tuple[float, ...], flip: bool) -> Tensor:
    """The average, one photograph and one look at a time."""
    looks = []
    for scale in scales:
        x = resized(to_tensor(rgb)[None], *(max(32, round(side * scale)) for side in rgb.shape[:2]))
        for mirror in (False, True)[: 1 + flip]:
            y = Colours()(x.flip(3) if mirror else x).softmax(1)
            y = F.interpolate(y, rgb.shape[:2], mode="bilinear", align_corners=False)
            looks.append(y.flip(3) if mirror else y)
    return torch.stack(looks).mean(0)[0]


@pytest.mark.parametrize("size", [(30, 40), (45, 33), (100, 160)])
def test_devices_that_do_not_resize_bytes_come_within_one_grey_level(size: tuple[int, int]) -> None:
    x = to_tensor(noise(4, 2, 50, 80, 3))
    found = resized(x, *size)
    assert found.dtype == torch.uint8 and found.shape == (2, 3, *size)
    floats = pictures._antialiased(x.float(), *size).round().clamp(0, 255)
    assert (found.float() - floats).abs().max() <= 1
    assert resized(x, 50, 80) is x


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.7)])
def test_scales_and_mirror_images_are_averaged(scales: tuple[float, ...], flip: bool) -> None:
    batch = noise(1, 3, 44, 61, 3)
    found = colours(scales=scales, flip=flip).probabilities(batch)
    for one, rgb in zip(found, batch, strict=True):
        torch.testing.assert_close(one, plain(rgb, scales, flip), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.sum(1), torch.ones(3, 44, 61))


def test_impossible_classes_get_nothing_and_the_rest_is_shared_out() -> None:
    batch = noise(2, 2, 40, 40, 3)
    possible = np.array([[True, False, True, False], [True, True, True, True]])
    everything, found = colours().probabilities(batch), colours().probabilities(batch, possible)
    assert not found[0, [1, 3]].any()
    kept = everything[0, [0, 2]]
    torch.testing.assert_close(found[0, [0, 2]], kept / kept.sum(0))
    torch.testing.assert_close(found.sum(1), torch.ones(2, 40, 40))
    torch.testing.assert_close(found[1], everything[1])
    assert torch.equal(colours().probabilities(batch, np.ones((2, 4), bool)), everything)
    assert torch.equal(colours().probabilities(batch, torch.from_numpy(possible)), found)


def test_a_network_sure_of_impossible_classes_leaves_an_even_choice() -> None:
    scores = torch.tensor([1.0, 0.0, 0.0, 0.0])[None, :, None, None]
    found = door.gated(scores, np.array([[False, True, False, True]]))
    assert found.flatten().tolist() == [0, 0.5, 0, 0.5]


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((1, 40, 40, 3)),
        np.zeros((40, 40, 3), np.uint8),
        np.zeros((1, 40, 40, 4), np.uint8),
        torch.zeros(1, 3, 40, 40),
    ],
)
def test_photographs_of_another_kind_are_refused(rgb: np.ndarray | Tensor) -> None:
    with pytest.raises(ValueError, match=r"uint8 .* expected, 0 to 255"):
        colours().probabilities(rgb)


def test_possible_classes_that_do_not_fit_are_refused() -> None:
    rgb = noise(0, 1, 40, 40, 3)
    for possible in (np.ones((1, 3), bool), np.ones((1, 4)), np.ones(4, bool)):
        with pytest.raises(ValueError, match=r"bool \[1, 4\] expected"):
            colours().probabilities(rgb, possible)
    with pytest.raises(ValueError, match="at least one"):
        colours().probabilities(rgb, np.zeros((1, 4), bool))
    with pytest.raises(ValueError, match="scales is empty"):
        colours(scales=()).probabilities(rgb)


# -------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("size", [(40, 56), (80, 112), (47, 50), (13, 7)])
def test_labels_are_the_argmax_of_bilinear_scores(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.rand(5, 40, 56, generator=torch.Generator().manual_seed(0))
    wide = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
    found = labels_of(scores, *size)
    assert found.dtype == np.uint8 and found.shape == size
    order = wide.sort(0).values
    clear = (order[-1] - order[-2] > 1e-5).numpy()  # two orders of the same sums may settle a tie differently
    assert (found == wide.argmax(0).numpy())[clear].all() and clear.mean() > 0.99
    monkeypatch.setattr(door, "BAND_BYTES", 4 * 5 * size[1] * 3)
    np.testing.assert_array_equal(labels_of(scores, *size), found)  # bands of three rows


def test_a_photograph_becomes_its_label_map() -> None:
    rgb, labels = scene()
    np.testing.assert_array_equal(predict_labels(colours(), rgb, (40, 56)), labels)
    double = predict_labels(colours(), rgb, (80, 112))
    np.testing.assert_array_equal(double[1::2, 1::2][5:-5, 5:-5], labels[5:-5, 5:-5])
    possible = np.array([True, True, False, False])
    np.testing.assert_array_equal(predict_labels(colours(), rgb, (40, 56), possible), np.where(labels == 3, 0, labels))
    no_background = np.array([False, True, True, True])
    found = predict_labels(colours(), rgb, (40, 56), no_background)
    assert (found[labels > 0] == labels[labels > 0]).all() and found.min() == 1


def test_the_crf_runs_at_the_photographs_size_over_the_possible_classes() -> None:
    rgb, _ = scene()
    rgb = np.clip(rgb + noise(3, 40, 56, 3) // 8, 0, 255).astype(np.uint8)
    possible = np.array([True, False, True, True])
    scores = colours().probabilities(rgb[None], possible[None])[0].numpy()[possible]
    expected = dense_crf(rgb, scores, DeepLabKernels())
    ids, found = refined_probabilities(colours(), rgb, possible, crf=True)
    assert ids.tolist() == [0, 2, 3]
    np.testing.assert_array_equal(found, expected)
    labels = predict_labels(colours(), rgb, (60, 84), possible, crf=True)
    np.testing.assert_array_equal(labels, ids.astype(np.uint8)[labels_of(torch.from_numpy(expected), 60, 84)])
    ids, found = refined_probabilities(colours(), rgb)
    assert ids.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(found, colours().probabilities(rgb[None])[0].numpy())
