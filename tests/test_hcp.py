"""Hypotheses-CNN-pooling: means inside boxes, the maximum over hypotheses, its loss, what is shown, and two phases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import planted
import pytest
import torch
from colours import colour_detector
from conftest import content, kill_stage, stage

from pipeline import hcp
from pipeline.core import store
from pipeline.core.job import InputError
from pipeline.core.steps.seeds import Hcp
from pipeline.kinds.hypotheses import Hypotheses
from pipeline.networks.backbones import backbone
from pipeline.networks.regions import coverage, means

SHORT = {"batch": 2, "crop": 64, "lr": 0.001, "head_lr": 1.0, "epochs": 0.5, "hypothesis_epochs": 1, "per_image": 3}


def random_boxes(rng: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    start = rng.integers(0, (height, width), (count, 2))
    return np.concatenate([start, rng.integers(start + 1, (height + 1, width + 1))], 1)


def filled(boxes: np.ndarray, clusters: np.ndarray | None = None) -> Hypotheses:
    """Hypotheses whose segments are their boxes."""
    boxes = np.asarray(boxes, np.int64).reshape(-1, 4)
    parts = [np.ones((y1 - y0, x1 - x0), bool) for y0, x0, y1, x1 in boxes.tolist()]
    return Hypotheses(boxes, np.arange(len(boxes)) % 10 if clusters is None else clusters, parts)


# ------------------------------------------------------------------------------------------------ means inside boxes


@pytest.mark.parametrize("stride", [4, 7])
def test_means_inside_boxes_are_those_of_the_pixels(stride: int) -> None:
    """Each cell spread over the pixels it stands for, and each box averaged pixel by pixel."""
    rng = np.random.default_rng(stride)
    maps = rng.normal(size=(2, 3, 5, 6)).astype(np.float32)
    boxes = np.stack([random_boxes(rng, 40, 5 * stride, 6 * stride) for _ in range(2)])
    found = means(torch.from_numpy(maps), torch.from_numpy(boxes), stride).numpy()
    pixels = np.kron(maps, np.ones((stride, stride), np.float32))
    assert found.shape == (2, 40, 3)
    for b, p in np.ndindex(2, 40):
        y0, x0, y1, x1 = boxes[b, p]
        np.testing.assert_allclose(found[b, p], pixels[b, :, y0:y1, x0:x1].mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_a_box_is_a_mean_whatever_its_size() -> None:
    boxes = torch.tensor([[0, 0, 1, 1], [0, 0, 64, 48], [15, 31, 17, 33]])
    found = coverage(boxes, (4, 3), 16)
    torch.testing.assert_close(found.sum(1), torch.ones(3))
    assert found[0].nonzero().flatten().tolist() == [0]
    assert found[2].nonzero().flatten().tolist() == [1, 2, 4, 5]
    torch.testing.assert_close(found[1], torch.full((12,), 1 / 12))


def test_bf16_training_averages_in_float32() -> None:
    maps = torch.full((1, 1, 1, 2), 1.0)
    maps[..., 1] = 1 + 2**-6
    with torch.autocast("cpu", torch.bfloat16):
        found = means(maps, torch.tensor([[[0, 0, 8, 16]]]), 8)
    assert found.dtype == torch.float32
    assert float(found) == 1 + 2**-7


# ----------------------------------------------------------------------------------- the best hypothesis of each class


def test_the_score_of_a_class_is_its_best_hypothesis() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, 64, 96), dtype=np.uint8)
    boxes = np.stack([random_boxes(rng, 9, 64, 96) for _ in range(2)])
    found = hcp.pooled_scores(colour_detector(), torch.from_numpy(images), torch.from_numpy(boxes))
    # The detector's score of class k in a cell is the mean of colour k over its 16 x 16 pixels.
    cells = images.reshape(2, 3, 4, 16, 6, 16).mean((3, 5))
    pixels = np.kron(cells, np.ones((16, 16)))
    for b, k in np.ndindex(2, 3):
        each = [pixels[b, k, y0:y1, x0:x1].mean() for y0, x0, y1, x1 in boxes[b]]
        assert float(found[b, k].detach()) == pytest.approx(max(each), rel=1e-4)


def test_only_the_best_hypothesis_of_a_class_learns() -> None:
    model = colour_detector()
    images = torch.zeros(1, 3, 64, 64)
    images[:, 0, :32, :32], images[:, 0, 32:, 32:], images[:, 1, :32, 32:] = 200.0, 100.0, 150.0
    images.requires_grad_()
    boxes = torch.tensor([[[0, 0, 64, 64], [0, 0, 32, 32], [32, 32, 64, 64], [0, 32, 32, 64]]])
    hcp.pooled_scores(model, images, boxes)[0, :2].sum().backward()
    assert images.grad is not None
    told = images.grad[0].abs() > 0
    assert told[0, :32, :32].all() and told[0].sum() == 32 * 32, "red: the brightest red box"
    assert told[1, :32, 32:].all() and told[1].sum() == 32 * 32


def test_squared_loss_is_the_papers() -> None:
    rng = np.random.default_rng(0)
    scores, tags = rng.normal(size=(5, 4)) * 3, rng.random((5, 4)) < 0.5
    tags[2], tags[3] = False, [True, False, False, False]
    total, count = hcp.squared_loss(torch.from_numpy(scores), torch.from_numpy(tags))
    expected = 0.0
    for v, y in zip(scores, tags, strict=True):
        if y.any():
            for c in range(4):
                expected += (np.exp(v[c]) / sum(np.exp(v)) - y[c] / sum(y)) ** 2
    assert int(count) == tags.any(1).sum() < 5, "an image without a tag does not count"
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_a_tag_has_no_loss_and_no_gradient() -> None:
    scores = torch.randn(3, 4, requires_grad=True)
    total, count = hcp.squared_loss(scores, torch.zeros(3, 4, dtype=torch.bool))
    total.backward()
    assert float(total.detach()) == 0 and int(count) == 0
    assert scores.grad is not None and not scores.grad.any()


# ------------------------------------------------------------------------------------------------------ what is shown


def test_one_of_each_cluster_then_the_second_best() -> None:
    assert hcp.one_of_each(np.array([2, 2, 0, 2, 1, 0]), 3).tolist() == [0, 2, 4]
    assert hcp.one_of_each(np.array([2, 2, 0, 2, 1, 0]), 5).tolist() == [0, 2, 4, 1, 5]
    assert hcp.one_of_each(np.array([2, 2, 0]), 9).tolist() == [0, 2, 1]
    assert hcp.one_of_each(np.zeros(0, np.int64), 9).tolist() == []


def test_boxes_move_with_the_photograph(tmp_path: Path) -> None:
    """Each box has a colour of its own: it is found in the box, mirrored or not, and nowhere else."""
    boxes = np.array([[0, 0, 10, 21], [10, 21, 40, 50], [30, 5, 33, 6]])
    rgb = np.full((40, 50, 3), 250, np.uint8)
    for k, (y0, x0, y1, x1) in enumerate(boxes, 1):
        rgb[y0:y1, x0:x1] = 10 * k
    small = np.full((30, 20, 3), 99, np.uint8)
    table, fill = np.array([[0, 1, 0], [0, 0, 0]], bool), np.array([1, 2, 3], np.uint8)
    given = planted.dataset(tmp_path, [rgb, small], table, side=50)
    found = planted.hypotheses(tmp_path / "h.json", [filled(boxes), filled(np.zeros((0, 4)))])
    cut = hcp.Wholes(given["photographs"], found, 4, 0.0, fill, table)
    mirrored = 0
    for seed in range(8):
        sample = cut(0, np.random.default_rng(seed))
        image, placed = sample["image"].transpose(1, 2, 0), sample["boxes"]
        assert image.shape == (64, 64, 3) and placed.shape == (5, 4) and (sample["tags"] == table[0]).all()
        assert sorted(map(tuple, placed - placed[0])) == sorted(map(tuple, placed[[0, 4, 1, 2, 3]] - placed[0]))
        (y0, x0, y1, x1), *rest = placed.tolist()
        outside = np.ones((64, 64), bool)
        outside[y0:y1, x0:x1] = False
        assert (image[outside] == fill).all() and not (image[~outside] == fill).all(1).any()
        for k, (top, left, bottom, right) in enumerate(rest[:3], 1):
            inside = np.zeros((64, 64), bool)
            inside[top:bottom, left:right] = True
            np.testing.assert_array_equal(inside, (image == 10 * k).all(2))
        assert rest[3] == [y0, x0, y1, x1], "the whole photograph stands in for a hypothesis that is missing"
        mirrored += x0 != 0
    assert 0 < mirrored < 8
    alone = cut(1, np.random.default_rng(0))["boxes"]
    assert (alone == alone[0]).all() and (alone[0, 2:] - alone[0, :2]).tolist() == [30, 20]


# --------------------------------------------------------------------------------------------------------- the stage


def two_things(folder: Path, count: int = 8) -> dict[str, store.Artifact]:
    """Photographs of two things of different classes on gray, at random; class k is where colour k - 1 is.

    Their hypotheses are the two things and two empty places.
    """
    rng = np.random.default_rng(0)
    pictures, found, table = [], [], np.zeros((count, 4), bool)
    for i in range(count):
        rgb = np.full((64, 64, 3), 60, np.uint8)
        corners = rng.permutation([(0, 0), (0, 32), (32, 0), (32, 32)])
        boxes = np.concatenate([corners, corners + 32], 1)
        for k, (y0, x0, y1, x1) in zip(rng.permutation(3)[:2], boxes[:2], strict=True):
            rgb[y0:y1, x0:x1, k] = 220
            table[i, 1 + k] = True
        pictures.append(rgb)
        found.append(filled(boxes))
    given = planted.dataset(folder, pictures, table)
    given["hypotheses"] = planted.hypotheses(folder / "h.json", found)
    return given


def test_from_tags_alone_it_learns_which_hypothesis_is_which_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that sees colours and has no idea what they mean."""
    monkeypatch.chdir(tmp_path)
    given = two_things(tmp_path)
    given["weights"] = given["photographs"]  # not looked at
    for loss in ("squared", "soft_margin"):
        torch.manual_seed(1)
        model = colour_detector()
        model.trunk.std.fill_(100.0)
        torch.nn.init.normal_(model.score.weight, std=0.01)
        monkeypatch.setattr(hcp, "new_classifier", lambda *_, model=model: model)
        changes = {"batch": 8, "epochs": 1, "hypothesis_epochs": 20, "lr": 0.02, "optimizer": "adamw", "jitter": 0}
        out = tmp_path / f"{loss}.json"
        hcp.run(planted.job(Hcp(crop=64, loss=loss, **changes), out, given))  # type: ignore[arg-type]
        assert model.score.weight.detach()[:, :, 0, 0].argmax(1).tolist() == [0, 1, 2]
        curve = store.Artifact(out, "classifier").read("curve_loss")
        assert len(curve) == 21 and curve[-1] < 0.5 * curve[1]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real commands' input: eight photographs and a ResNet-18."""
    root = tmp_path_factory.mktemp("hcp")
    given = two_things(root)
    torch.manual_seed(0)
    given["weights"] = planted.weights(root / "w.json", backbone("resnet18"))
    return {role: given[role].path for role in Hcp.takes}


@pytest.fixture(scope="module")
def straight(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two iterations of the first phase, four of the second."""
    out = tmp_path_factory.mktemp("straight") / "x.json"
    assert "going on" not in stage("hcp", out, SHORT, **inputs)
    return out


def test_a_run_killed_in_either_phase_gives_the_same_bytes(
    straight: Path, inputs: dict[str, Path], tmp_path: Path
) -> None:
    """After the first iteration of the first phase, after its last, after the first of the second."""
    out = tmp_path / "x.json"
    for phases in ({"images"}, {"images"}, {"images", "hypotheses"}):
        kill_stage("hcp", "pipeline.core.loop:Checkpoint.save", out, SHORT, **inputs)
        assert {path.parent.stem for path in store.part_of(out).rglob("checkpoint.pt")} == phases
    said = stage("hcp", out, SHORT, **inputs)
    assert "going on after iteration 2\n" in said and "going on after iteration 1\n" in said
    assert content(straight) == content(out)
    assert not store.part_of(out).exists()


def test_both_phases_are_in_the_curve_and_the_number_of_hypotheses_counts(
    straight: Path, inputs: dict[str, Path], tmp_path: Path
) -> None:
    stage("hcp", tmp_path / "x.json", {**SHORT, "per_image": 2}, **inputs)
    curves = [store.Artifact(path, "classifier").read("curve_loss") for path in (straight, tmp_path / "x.json")]
    assert curves[0].shape == (2,) and np.isfinite(curves[0]).all()
    assert curves[0][0] == curves[1][0] and curves[0][1] != curves[1][1]


def test_one_class_is_refused_where_classes_are_to_be_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The softmax over one class is 1: loss and gradient would be 0 throughout. A soft margin learns it."""
    monkeypatch.chdir(tmp_path)
    rgb = np.zeros((64, 64, 3), np.uint8)
    given = planted.dataset(tmp_path, [rgb] * 2, np.array([[0, 1], [0, 0]], bool))
    given["hypotheses"] = planted.hypotheses(tmp_path / "h.json", [filled(np.array([[0, 0, 32, 32]]))] * 2)
    given["weights"] = planted.weights(tmp_path / "w.json", backbone("resnet18"))
    with pytest.raises(InputError, match="1 class that can be tagged found; the squared loss tells classes apart"):
        hcp.run(planted.job(Hcp(**SHORT), tmp_path / "x.json", given))
    hcp.run(planted.job(Hcp(**SHORT, loss="soft_margin"), tmp_path / "y.json", given))
    assert (store.Artifact(tmp_path / "y.json", "classifier").read("curve_loss") > 0).all()


def test_an_empty_training_list_is_one_message(inputs: dict[str, Path], tmp_path: Path) -> None:
    given = planted.dataset(tmp_path, [np.zeros((64, 64, 3), np.uint8)], np.zeros((1, 4), bool), train=[])
    given["hypotheses"] = planted.hypotheses(tmp_path / "h.json", [filled(np.zeros((0, 4)))])
    paths = {role: artifact.path for role, artifact in given.items() if role in Hcp.takes}
    said = stage("hcp", tmp_path / "x.json", SHORT, fails=True, **paths, weights=inputs["weights"])
    assert "split train is empty" in said and "Traceback" not in said
