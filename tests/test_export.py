"""Models for other programs: they label as ours do in every size, say what they are, and are not written where they do
not agree."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import planted
import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors.numpy import load_file
from torch import nn

from benchmarks import onnx as benchmark
from pipeline import export, predict
from pipeline.core import store
from pipeline.core.steps.models import Dis, Psl
from pipeline.datasets.collage import compose
from pipeline.kinds.weights import unpack
from pipeline.networks.backbones import backbone
from pipeline.networks.door import open_network
from pipeline.networks.dual import Dual, dual_meta
from pipeline.networks.graph import onnx_bytes, settle
from pipeline.networks.padding import PlacedMaxPool2d, SameConv2d
from pipeline.networks.prohibitive import Prohibitive
from pipeline.networks.segmenter import Segmenter, segmenter_meta
from pipeline.networks.states import packed

NAMES = ["background", "cat", "owl", "fish"]
DOCS = (ROOT / "docs" / "export.md").read_text()


def balanced(net: Segmenter) -> Segmenter:
    """Random weights that show every class somewhere: what all pixels have in common is taken off the scores."""
    x = torch.from_numpy(compose(0, 1)[0]).permute(2, 0, 1)[None]
    score: Any = net.head.score
    with torch.no_grad():
        for _ in range(2):
            logits = net.eval()(x)[0].flatten(1)
            score.weight /= logits.std(1)[:, None, None, None]
            score.bias /= logits.std(1)
            score.bias -= net(x)[0].flatten(1).mean(1)
    return net


def segmenter(name: str, stride: int, head: str, padding: str = "aligned") -> Segmenter:
    torch.manual_seed(0)
    return balanced(Segmenter(backbone(name, stride, padding), head, len(NAMES), 8, stride))


def made(path: Path, net: nn.Module, settings: Any, **meta: object) -> Path:
    arrays, index = packed(net.state_dict())
    header = store.Header("model", settings.method, settings.model_dump(mode="json"), "test")
    return planted.table_artifact(path, "model", arrays, {**meta, "index": index}, header).path


def psl_model(path: Path, background: int | None, gate: float) -> Path:
    net = Prohibitive(segmenter("resnet18", 32, "largefov"), [k for k in range(len(NAMES)) if k != background]).eval()
    nn.init.normal_(net.branch.score.weight, std=3)
    about = segmenter_meta(net.segmenter, NAMES, background, 96)
    return made(path, net, Psl(crop=64, gate=gate), **about, gate=gate)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.json"
    return planted.model(path, segmenter("resnet18", 16, "deeplabv3+"), NAMES, max_side=96).path


def call(*arguments: object) -> int:
    try:
        export.main([str(item) for item in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def answers(content: bytes | str, rgb: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["probabilities"], {"rgb": rgb})[0]
    return found


def noise(*shape: int) -> np.ndarray:
    """Blocks of 8 pixels of random colours: uint8 [B,h,w,3]."""
    count, h, w = shape
    blocks = np.random.default_rng(h * w).integers(0, 256, (count, -(-h // 8), -(-w // 8), 3), dtype=np.uint8)
    return np.ascontiguousarray(blocks.repeat(8, 1).repeat(8, 2)[:, :h, :w])


SIZES = ((1, 32, 32), (2, 33, 47), (1, 64, 65), (3, 70, 129))


def agree(path: Path, sizes: Sequence[tuple[int, int, int]] = SIZES) -> set[int]:
    """That graph and network give the same probabilities in all sizes; returns the classes they show."""
    network, shown = open_network(store.Artifact(path)), set[int]()
    content = onnx_bytes(network)
    for size in sizes:
        rgb = noise(*size)
        expected, found = network.probabilities(rgb).numpy(), answers(content, rgb)
        assert found.dtype == np.float32 and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=2e-5)
        shown |= set(np.unique(expected.argmax(1)).tolist())
    return shown


# ------------------------------------------------------------------------------------------------- the graph


@pytest.mark.parametrize(
    ("name", "stride", "head", "padding"),
    [
        ("resnet18", 8, "deeplabv3+", "aligned"),
        ("resnet18", 32, "hypercolumn", "aligned"),
        ("efficientnet_lite0", 8, "hypercolumn", "aligned"),
        ("efficientnet_lite0", 16, "largefov", "legacy"),
    ],
)
def test_the_graph_answers_like_the_network_in_every_size(
    name: str, stride: int, head: str, padding: str, tmp_path: Path
) -> None:
    net = segmenter(name, stride, head, padding)
    net.trunk.gray = padding == "legacy"
    assert len(agree(planted.model(tmp_path / "m.json", net, NAMES).path)) > 1


def test_layers_whose_padding_is_settled_answer_as_before() -> None:
    layers: list[Any] = [PlacedMaxPool2d(3, 2, padding=1)]
    for kernel, stride, rate, start in ((3, 2, 1, None), (5, 2, 1, 2), (5, 1, 2, None), (3, 1, 2, 0), (3, 1, 1, 2)):
        layers.append(SameConv2d(4, 4, kernel, stride, dilation=rate))
        layers[-1].start = start
    for layer in layers:
        images = [torch.rand(1, 4, 32, 64), torch.rand(2, 4, 96, 32)]
        with torch.no_grad():
            before = [layer(x) for x in images]
            settle(layer)
            for x, expected in zip(images, before, strict=True):
                torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(("background", "gate"), [(2, 0.5), (None, 0.5), (None, 0.9999999)])
def test_the_gate_of_psl_is_in_the_graph(background: int | None, gate: float, tmp_path: Path) -> None:
    path = psl_model(tmp_path / "m.json", background, gate)
    agree(path)
    found = open_network(store.Artifact(path)).probabilities(noise(*SIZES[-1]))
    shut = (found.flatten(2) == 0).all(2)
    assert shut.any(), "the gate shuts classes out, or this tests nothing"
    assert background is None or not shut[:, background].any()


# ------------------------------------------------------------------------------------------------ the command


def test_onnx_says_what_it_is_and_how_far_it_agrees(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "here" / "m.onnx"
    assert call(model, "--to", "onnx", "--out", out) == 0
    said = capsys.readouterr().out
    assert re.search(r"compared with onnxruntime on 12 photographs in 1\d sizes, \d+×\d+ to \d+×\d+, in float32:", said)
    assert re.search(r"(99\.9\d+|100\.0+)% of the pixels are labelled alike; worst: .*built-in picture \d+", said)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    meta = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    assert (meta["classes"], meta["background"], meta["max_side"]) == (NAMES, 0, 96)
    assert (meta["model"], meta["method"]) == (store.Artifact(model).digest, "segment")
    (given,), (got,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("rgb", "tensor(uint8)", ["photographs", "height", "width", 3])
    assert got.type == "tensor(float)" and got.shape[1] == len(NAMES)
    before = out.read_bytes()
    assert call(model, "--to", "onnx", "--out", out) == 2
    assert "m.onnx is there already" in capsys.readouterr().err and out.read_bytes() == before


def test_photographs_of_ones_own_and_a_network_that_shows_one_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = segmenter("resnet18", 32, "largefov")
    net.head.score.bias.data[3] += 1000  # type: ignore[union-attr,operator]
    path = planted.model(tmp_path / "m.json", net, NAMES).path
    (tmp_path / "photos" / "more").mkdir(parents=True)
    Image.fromarray(noise(1, 50, 300)[0]).save(tmp_path / "photos" / "wide.png")
    Image.fromarray(noise(1, 80, 60)[0]).save(tmp_path / "photos" / "more" / "tall.png")
    monkeypatch.chdir(tmp_path)
    assert call(path, "--to", "onnx", "--photos", tmp_path / "photos") == 0
    said = capsys.readouterr().out
    assert "on 2 photographs in 2 sizes" in said and (tmp_path / "m.onnx").is_file()
    assert "shows nothing but 'fish' there, so this proves little" in said
    Image.fromarray(noise(1, 20, 300)[0]).save(tmp_path / "photos" / "narrow.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_text("no picture")
    for folder, words in (
        ("photos", "narrow.png has a side below 34 pixels"),
        ("empty", "no photographs found"),
        ("broken", "a.png cannot be decoded"),
        ("none", "no such folder"),
    ):
        assert call(path, "--to", "onnx", "--photos", tmp_path / folder, "--out", tmp_path / "x.onnx") == 2
        assert words in capsys.readouterr().err and not (tmp_path / "x.onnx").exists()


def test_what_does_not_agree_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores that differ by less than float32 can hold of a probability: two programs round them differently."""
    net = segmenter("resnet18", 32, "deeplabv3+")
    net.head.score.weight.data *= 3e-8  # type: ignore[union-attr,operator]
    net.head.score.bias.data.zero_()  # type: ignore[union-attr,operator]
    path = planted.model(tmp_path / "m.json", net, NAMES).path
    assert call(path, "--to", "onnx", "--out", tmp_path / "m.onnx") == 2
    assert re.search(r"m\.onnx is not written: of built-in picture \d+ only \d", capsys.readouterr().err)
    assert not (tmp_path / "m.onnx").exists()


def test_a_model_that_descends_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = Dual(backbone("resnet18", 32), len(NAMES), 32).eval()
    path = made(tmp_path / "m.json", net, Dis(crop=64), **dual_meta(net, NAMES, 0, 64, 2))
    assert call(path, "--to", "onnx", "--out", tmp_path / "m.onnx") == 2
    said = capsys.readouterr().err
    assert "a model of 'dis' goes on from its first answer by descending" in said and "export that" in said
    assert not (tmp_path / "m.onnx").exists()
    assert call(path, "--to", "safetensors", "--out", tmp_path / "m.safetensors") == 0, "weights are weights"
    assert json.loads((tmp_path / "m.config.json").read_text())["method"] == "dis"


def test_what_cannot_work_is_said(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = planted.tags(tmp_path / "tags.json", np.zeros((1, 2)))
    assert call(tags.path, "--to", "onnx") == 2
    assert "this is tags, model expected" in capsys.readouterr().err
    assert call(model, "--to", "safetensors", "--photos", tmp_path) == 2
    assert "only ONNX is compared" in capsys.readouterr().err
    assert call(model, "--to", "onnx", "--out", model, "--overwrite") == 2
    assert "is the model's own manifest" in capsys.readouterr().err
    for to, module in (("onnx", "onnxruntime"), ("safetensors", "safetensors")):
        with monkeypatch.context() as without:
            for name in [name for name in sys.modules if name.partition(".")[0] == module]:
                without.delitem(sys.modules, name)
            without.setattr(sys, "meta_path", [Missing(module), *sys.meta_path])
            assert call(model, "--to", to, "--out", tmp_path / "x") == 2
        assert f"needs {module}, which is not installed: pip install 'tagmask[export]'" in capsys.readouterr().err


class Missing:
    """A finder that finds a package not installed."""

    def __init__(self, name: str):
        self.name = name

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == self.name:
            raise ModuleNotFoundError(f"No module named '{name}'", name=self.name)


# ------------------------------------------------------------------------------------------- as the page says


def test_the_table_is_the_benchmarks() -> None:
    rows = json.loads(benchmark.JSON.read_text())
    assert benchmark.table(rows) in DOCS and min(row["worst"] for row in rows) >= export.LEAST


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)


def test_the_page_uses_onnx_as_predict_does(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photograph twice as large as in training, turned by its EXIF entry."""
    monkeypatch.chdir(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(1, 150, 200)[0]).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    assert call(model, "--to", "onnx") == 0
    exec(examples()[0], {})
    predict.main([str(word) for word in (model, "photo.jpg", "--out", "out", "--device", "cpu", "--precision", "f32")])
    with Image.open("mask.png") as theirs, Image.open("out/photo.png") as ours:
        found, expected = np.asarray(theirs), np.asarray(ours)
    assert found.shape == expected.shape == (200, 150) and len(np.unique(expected)) > 1
    assert (found == expected).mean() > 0.98, "Pillow reduces pictures in a grey level of ours"


def test_the_page_builds_the_network_from_safetensors(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(model, "--to", "safetensors") == 0
    artifact, there = store.Artifact(model), load_file(tmp_path / "model.safetensors")
    assert set(there) == {item["name"] for item in artifact.meta["index"]}
    for name, array in unpack(artifact).items():
        np.testing.assert_array_equal(there[name], array)
    config = json.loads((tmp_path / "model.config.json").read_text())
    assert config["model"] == artifact.digest and "index" not in config
    assert (config["mean"], config["std"]) == ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    scope: dict[str, Any] = {}
    exec(examples()[1], scope)
    assert scope["config"] == config
    rgb = noise(1, 70, 90)
    with torch.no_grad():
        found = scope["network"](torch.from_numpy(rgb).permute(0, 3, 1, 2)).argmax(1).numpy()
    np.testing.assert_array_equal(found, open_network(artifact).probabilities(rgb).numpy().argmax(1))
