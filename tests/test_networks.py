"""Networks: classifier and segmenter, what artifacts keep of them, and what is taken over from weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core import store
from pipeline.kinds import weights
from pipeline.networks.backbones import Backbone, backbone, load_backbone
from pipeline.networks.classifier import Classifier, classifier_meta, load_classifier, new_classifier
from pipeline.networks.heads import HEADS
from pipeline.networks.segmenter import Segmenter, load_segmenter, segmenter_meta, take_over
from pipeline.networks.states import for_inference, packed, state_of


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


# --------------------------------------------------------------------------------------- answers


def test_logits_are_the_mean_of_the_class_maps() -> None:
    model = Classifier(lively(backbone("resnet18", 16)), range(1, 5)).eval()
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


@pytest.mark.parametrize("head", HEADS)
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


def test_what_follows_a_subclass_of_batchnorm_is_kept() -> None:
    """Some networks' normalisation brings its activation along; folding would drop it without a word."""

    class NormAct(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).relu()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), NormAct(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = model(x)
        folded = for_inference(model, "cpu")
        torch.testing.assert_close(folded(x), expected)
        assert (folded[:2](x) >= 0).all()
    assert isinstance(folded[1], NormAct) and isinstance(folded[3], nn.Identity)


# --------------------------------------------------------------------------------------- kept and opened


def keep(path: Path, kind: str, model: nn.Module | dict[str, torch.Tensor], meta: dict) -> store.Artifact:
    arrays, index = packed(model.state_dict() if isinstance(model, nn.Module) else model)
    store.write_table(path, store.Header(kind, "test", {}, "test"), arrays, {**meta, "index": index})
    return store.Artifact(path, kind)


def test_networks_survive_an_artifact(tmp_path: Path) -> None:
    x = picture(0, 64, 64)
    trunk: Callable[[], Backbone] = lambda: lively(backbone("efficientnet_lite0", 16))  # noqa: E731
    meta: dict = {"backbone": "efficientnet_lite0", "stride": 16, "gray": True, "padding": "aligned"}
    meta["classes"] = ["background", "a", "b"]
    classifier = Classifier(trunk(), [1, 2])
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


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    state = {
        "a.weight": rng.normal(size=(2, 3, 1)).astype(np.float32),
        "count": np.array(7),
        "empty": np.zeros((0, 2), np.float32),
        "a.bias": rng.normal(size=2).astype(np.float32),
    }
    arrays, index = weights.pack(state)
    assert sorted(arrays) == ["float32", "int64"] and arrays["float32"].shape == (8,)
    store.write_table(tmp_path / "w.json", store.Header("weights", "test", {}, "c"), arrays, {"index": index})
    found = weights.unpack(store.Artifact(tmp_path / "w.json"))
    assert list(found) == list(state)
    for name, array in state.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    net = backbone("resnet18")
    wrong = keep(tmp_path / "w.json", "weights", net, {"backbone": "resnet34", "gray": False})
    with pytest.raises(store.ArtifactError, match=r"w.json: its weights do not fit .*Missing"):
        load_backbone(wrong, 32)
    later = keep(tmp_path / "l.json", "weights", net, {"backbone": "resnet19", "gray": False})
    with pytest.raises(store.ArtifactError, match=r"l.json: no backbone is called 'resnet19'.*later version"):
        load_backbone(later, 32)
    store.write_table(tmp_path / "n.json", store.Header("weights", "test", {}, "c"), {}, {"backbone": "resnet18"})
    with pytest.raises(store.ArtifactError, match="its manifest has no index"):
        state_of(store.Artifact(tmp_path / "n.json"))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "vgg16"])
def test_networks_of_before_keep_the_placement_they_were_trained_with(name: str, tmp_path: Path) -> None:
    """Their meta does not speak of padding; weights are free of any stride, and open aligned."""
    x, trunk = picture(0, 64, 96), backbone(name, 16, "legacy")
    model = Segmenter(lively(trunk), "largefov", 3, 8, 16).eval()
    meta = segmenter_meta(model, ["background", "a", "b"], 0, 64)
    assert meta["padding"] == "legacy"
    del meta["padding"]
    old = load_segmenter(keep(tmp_path / "old.json", "model", model, meta))
    new = load_segmenter(keep(tmp_path / "new.json", "model", model, {**meta, "padding": "aligned"}))
    with torch.no_grad():
        assert torch.equal(old(x), model(x))
        assert torch.equal(new(x), model(x)) == (name == "resnet18")  # padded evenly, then as now
    bare = load_backbone(keep(tmp_path / "w.json", "weights", trunk, {"backbone": name, "gray": False}), 16)
    assert bare.padding == new.trunk.padding == "aligned"


@pytest.mark.parametrize(("background", "foreground"), [(0, (1, 2)), (1, (0, 2)), (None, (0, 1, 2))])
def test_a_classifier_knows_the_foreground_of_its_data(
    background: int | None, foreground: tuple[int, ...], tmp_path: Path
) -> None:
    net = backbone("resnet18")
    start = keep(tmp_path / "w.json", "weights", net, {"backbone": "resnet18", "gray": True})
    store.write_table(
        tmp_path / "t.json",
        store.Header("tags", "test", {}, "c"),
        {},
        {"classes": ["x", "y", "z"], "background": background},
    )
    tags = store.Artifact(tmp_path / "t.json")
    made = new_classifier(start, tags, 16)
    assert made.foreground == foreground and made.score.out_channels == len(foreground)
    meta = classifier_meta(made, tags, 16)
    opened = load_classifier(keep(tmp_path / "c.json", "classifier", made, meta))
    assert opened.foreground == foreground and opened.trunk.gray and opened.trunk.padding == "aligned"


# ------------------------------------------------------------------------------------------- taken over


META = {"backbone": "resnet18", "gray": False}


def both(seed: int, head: str = "deeplabv3+", classes: int = 3, width: int = 8) -> tuple[Segmenter, dict]:
    """A network, and its state as a method that trains backbone and decoder leaves it."""
    torch.manual_seed(seed)
    model = Segmenter(lively(backbone("resnet18", 16), seed), head, classes, width, 16)
    trunk = dict(model.trunk.state_dict())
    return model, {**trunk, **{f"head.{name}": value for name, value in model.head.state_dict().items()}}


@pytest.mark.parametrize("head", HEADS)
def test_backbone_and_decoder_are_taken_over(head: str, tmp_path: Path) -> None:
    one, state = both(1, head)
    meta = {**META, "head": head, "width": 8, "stride": 16, "classes": ["background", "a", "b"]}
    artifact = keep(tmp_path / "w.json", "weights", state, meta)
    other, _ = both(2, head)
    said, new = take_over(other, artifact, ["background", "a", "b"])
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    count = len(one.head.state_dict())
    assert said == (
        f"taken over from {artifact.path}: the backbone, resnet18; {count} of {count} tensors of the head, {head}"
    )
    assert not new
    alone = load_backbone(artifact, 8)
    assert all(torch.equal(value, alone.state_dict()[name]) for name, value in one.trunk.state_dict().items())


@pytest.mark.parametrize("classes", [3, 5])
def test_scores_of_other_classes_are_not_taken_over(classes: int, tmp_path: Path) -> None:
    one, state = both(1, classes=classes)
    meta = {**META, "head": "deeplabv3+", "width": 8, "stride": 8, "classes": [f"c{k}" for k in range(classes)]}
    artifact = keep(tmp_path / "w.json", "weights", state, meta)
    other, _ = both(2)
    before = other.head.score.weight.clone()
    said, new = take_over(other, artifact, ["background", "a", "b"])
    assert torch.equal(other.head.score.weight, before)
    assert torch.equal(other.head.fuse[0][0].weight, one.head.fuse[0][0].weight)
    why = "of other classes" if classes == 3 else "[5, 8, 1, 1] there, [3, 8, 1, 1] here"
    assert new == {"score.weight", "score.bias"}
    assert f"not score.weight ({why}), score.bias" in said and "(trained at stride 8)" in said


def test_a_part_of_a_decoder_and_what_it_does_not_bring(tmp_path: Path) -> None:
    _, state = both(1)
    state = {name: value for name, value in state.items() if not name.startswith("head.score")}
    state["head.projection.weight"] = torch.zeros(4, 8)
    artifact = keep(tmp_path / "w.json", "weights", state, {**META, "head": "deeplabv3+", "width": 8})
    model = both(2)[0]
    taken = take_over(model, artifact)
    said = taken.said
    assert [id(p) for p in taken.fresh(model.head)] == [id(p) for p in model.head.score.parameters()]
    assert "not projection.weight (unknown here)" in said
    assert said.endswith("new: score.weight, score.bias")


def test_another_kind_of_head_is_left_alone(tmp_path: Path) -> None:
    """largefov's last layer has the same name and shape, and means something else."""
    one, state = both(1, "largefov")
    artifact = keep(tmp_path / "w.json", "weights", state, {**META, "head": "largefov", "width": 8})
    other, _ = both(2)
    before = other.head.score.weight.clone()
    assert take_over(other, artifact).said.endswith("not its head, which is largefov where this is deeplabv3+")
    assert torch.equal(other.head.score.weight, before)
    assert torch.equal(other.trunk.stages[4][1].conv2.weight, one.trunk.stages[4][1].conv2.weight)
    bare = keep(tmp_path / "b.json", "weights", one.trunk, META)
    taken = take_over(other, bare)
    assert taken.said.endswith("the backbone, resnet18; it brings no head")
    assert len(taken.fresh(other.head)) == len(list(other.head.parameters())), "all of it is new"
