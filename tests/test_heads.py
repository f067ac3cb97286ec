"""The hypercolumn: sizes over every backbone, the same as columns put together one by one, and answers in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from pipeline import contrast, segment
from pipeline.core import recipe, store
from pipeline.core.config import parse
from pipeline.core.job import InputError
from pipeline.core.steps.models import Segment
from pipeline.core.steps.weights import Contrast
from pipeline.networks.backbones import BACKBONES, backbone
from pipeline.networks.heads import Hypercolumn
from pipeline.networks.padding import offset
from pipeline.networks.segmenter import Segmenter
from pipeline.networks.trunk import Backbone
from pipeline.proxy import hypercolumn

CASES = [(name, stride) for name in BACKBONES for stride in (8, 16, 32)]


def cell(name: str) -> int:
    """Pixels from one column to the next."""
    return 2 if name == "vgg16" else 4


def strides(name: str, stride: int) -> list[int]:
    early = (1, 2, 4, 8, 16) if name == "vgg16" else (2, 4, 8, 16, 32)
    return [min(step, stride) for step in early[:-1]] + [stride]


@pytest.mark.parametrize(("name", "stride"), CASES)
def test_every_backbone_gives_a_column_at_each_cell_of_its_second_stage(name: str, stride: int) -> None:
    with torch.device("meta"), torch.no_grad():  # shapes only: no arithmetic
        model = Segmenter(backbone(name, stride), "hypercolumn", 5, 16, stride).eval()
        for height, width in ((64, 96), (33, 70)):
            assert model(torch.empty(2, 3, height, width)).shape == (2, 5, height, width)
        columns = model.head.decode(model.trunk(torch.empty(2, 3, 64, 96)))
    assert columns.shape == (2, 16, 64 // cell(name), 96 // cell(name))
    assert model.head.score.in_channels == 16


def random_features(net: Backbone, stride: int, side: int) -> list[Tensor]:
    return [
        torch.rand(2, channels, side // step, side // step)
        for channels, step in zip(net.channels, strides(net.name, stride), strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "stride"), [("resnet18", 32), ("resnet50", 8), ("vgg16", 8), ("vgg16", 16)]
    + [("efficientnet_lite0", stride) for stride in (8, 16, 32)],
)  # fmt: skip
def test_the_head_is_one_layer_over_whole_columns(name: str, stride: int) -> None:
    """What the sum of small parts gives, against columns read off at each place, put side by side and multiplied.

    Of the 96 px, the deepest map of stride 32 has three cells, which the blocks above make two and one of: they reach
    beyond the picture.
    """
    torch.manual_seed(0)
    side, net = 96, backbone(name, stride)
    head = Hypercolumn(net, 3, 8, stride).eval()
    for level in head.levels:
        level.running_mean.normal_(0.5, 0.2)
        level.running_var.uniform_(0.1, 2)
    features = random_features(net, stride, side)
    maps = [level(feature) for level, feature in zip(head.levels, features, strict=True)]
    for block in head.wider:
        maps.append(block(maps[-1]))
    step = cell(name)
    along = torch.arange(side // step) * step + (step - 1) / 2  # middles of the cells
    places = torch.cartesian_prod(along, along).expand(2, -1, -1)
    off = [offset(net, level) // step * step for level in range(1, 6)] + [0, 0]
    columns = torch.cat([hypercolumn([each], places + far, side) for each, far in zip(maps, off, strict=True)], 1)
    weight = torch.cat([part.weight for part in head.hidden], 1)[:, :, 0, 0]
    expected = (torch.einsum("ck,bkp->bcp", weight, columns) + head.hidden[0].bias[:, None]).relu()
    with torch.no_grad():
        found = head.decode(features)
    assert len(maps) == 7 and found.std() > 0.1
    torch.testing.assert_close(found.flatten(2), expected, rtol=1e-4, atol=1e-4)


def listens(head: Hypercolumn, level: int) -> None:
    """Class 1 is what the first channel of this level (0 to 4) says; of all else nothing is heard."""
    for part in [*head.hidden, head.score]:
        assert isinstance(part, nn.Conv2d)
        nn.init.zeros_(part.weight)
        if part.bias is not None:
            nn.init.zeros_(part.bias)
    head.hidden[level].weight.data[0, 0] = 1
    head.score.weight.data[1, 0] = 1


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16", "efficientnet_lite0"])
def test_a_planted_square_answers_where_it_stands(name: str, stride: int) -> None:
    """In each level's map it is drawn where that map has it (`padding.offset`); its centre of mass must come back."""
    with torch.device("meta"):
        net = backbone(name, stride)
    head = Hypercolumn(net, 2, 8, stride).eval()
    picture = torch.zeros(1, 1, 256, 224)
    picture[..., 96:160, 64:128] = 1  # whole cells of every map, or as much of the first as of the last
    rows, columns = (torch.arange(n, dtype=torch.float64) + 0.5 for n in picture.shape[2:])
    for level, step in enumerate(strides(name, stride)):
        features = [
            torch.zeros(1, channels, 256 // each, 224 // each)
            for channels, each in zip(net.channels, strides(name, stride), strict=True)
        ]
        moved = torch.roll(picture, (offset(net, level + 1),) * 2, (2, 3))
        features[level][:, :1] = F.avg_pool2d(moved, step)
        listens(head, level)
        with torch.no_grad():
            answer = F.interpolate(head(features), (256, 224), mode="bilinear", align_corners=False)[0, 1].double()
        centre = [float(answer.sum(1) @ rows / answer.sum()), float(answer.sum(0) @ columns / answer.sum())]
        assert centre == pytest.approx([128, 96], abs=0.01), level


@pytest.mark.parametrize("level", [0, 1])
def test_a_bright_square_of_the_picture_is_marked_to_the_pixel(level: int) -> None:
    """Through a whole network whose layers are plain means, for a picture that has to be filled up to 128 x 160."""
    trunk = Backbone("means", [nn.AvgPool2d(2) for _ in range(5)], (3,) * 5, ((0.0,) * 3, (255.0,) * 3))
    model = Segmenter(trunk, "hypercolumn", 2, 8, 32).eval()
    listens(model.head, level)  # type: ignore[arg-type]
    model.head.score.bias.data[0] = 0.5
    picture = torch.zeros(1, 3, 100, 150, dtype=torch.uint8)
    picture[..., 24:64, 80:120] = 255
    with torch.no_grad():
        marked = model(picture)[0].argmax(0).bool()
    expected = picture[0, 0] > 0
    corners = [(y, x) for y in (24, 63) for x in (80, 119)]  # rounded off by the enlargement
    for y, x in corners:
        assert not marked[y, x]
        marked[y, x] = True
    assert torch.equal(marked, expected)


@pytest.mark.parametrize("name", ["vgg16", "efficientnet_lite0"])
def test_every_part_of_the_hypercolumn_and_every_stage_is_taught(name: str) -> None:
    torch.manual_seed(0)
    model = Segmenter(backbone(name, 16), "hypercolumn", 3, 8, 16).train()
    logits = model(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    F.cross_entropy(logits, torch.randint(0, 3, (2, 64, 64))).backward()
    silent = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert silent == []


def test_it_goes_from_contrast_to_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`contrast` trains all of it but the scores, `segment` begins with that and learns two halves."""
    monkeypatch.chdir(tmp_path)  # TensorBoard's files
    torch.manual_seed(0)
    halves = [np.full((64, 64, 3), 30, np.uint8) for _ in range(4)]
    for picture in halves:
        picture[:, 32:] = 220
    labels = [(picture[..., 0] > 100).astype(np.uint8) for picture in halves]
    given = {
        "photographs": planted.photographs(tmp_path / "p.json", halves),
        "labels": planted.labels(tmp_path / "l.json", labels, 64, 2),
        "weights": planted.weights(tmp_path / "w.json", backbone("resnet18")),
    }
    shared: dict[str, Any] = {"head": "hypercolumn", "width": 16, "crop": 64, "scale": (1.0, 1.0), "batch": 4}
    contrast.run(planted.job(Contrast(**shared, epochs=1, spacing=16), tmp_path / "c.json", given))
    given["weights"] = store.Artifact(tmp_path / "c.json", "weights")
    settings = Segment(**shared, epochs=10, optimizer="adamw", lr=1e-3, head_lr=10)
    segment.run(planted.job(settings, tmp_path / "m.json", given))
    said = capsys.readouterr().out
    tensors = len(Hypercolumn(backbone("resnet18", 16), 2, 16, 16).state_dict())
    assert f"{tensors - 2} of {tensors} tensors of the head, hypercolumn; new: score.weight, score.bias" in said
    curve = store.Artifact(tmp_path / "m.json", "model").read("curve_loss")
    assert curve[-1] < 0.3 < curve[0]


def test_the_recipe_of_the_page_runs_on_voc() -> None:
    """docs/methods/mix-and-match.md gives the released settings as a block to paste; it must parse and resolve."""
    from test_repo import DEFAULT, ROOT, VOC, merged, read

    text = (ROOT / "docs" / "methods" / "mix-and-match.md").read_text()
    own = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    config = parse(merged(merged(DEFAULT, read(VOC)), own))
    settings: dict[str, Any] = {node.name: node.settings for node in recipe.recipe_nodes(config, config.run[0], 0)}
    assert settings["colorize-vgg"].backbone == "vgg16" and settings["colorize-vgg"].gray
    bank, tuned, net = (settings[name] for name in ("patches-vgg", "tune-vgg", "hypercolumn"))
    for step, iterations, images in ((tuned, 8_000, 64), (net, 42_000, 48)):
        assert step.epochs * 10_582 / images == pytest.approx(iterations, rel=0.01)
        assert step.lr / step.batch == pytest.approx(0.01 / images)
    assert (bank.per_image, bank.sides, bank.size, tuned.pool, tuned.stride) == (9, (64, 256), 128, 4, 32)
    assert (net.head, net.width, net.crop, net.weight_decay) == ("hypercolumn", 1024, 512, 5e-4)
    assert [share * 42 for share in net.milestones] == pytest.approx([24, 36, 40], abs=0.01)


def test_a_crop_alone_that_is_too_small_for_batch_norm_is_named() -> None:
    model = Segmenter(backbone("resnet18", 16), "hypercolumn", 2, 8, 16).train()
    with pytest.raises(InputError, match=r"hypercolumn: one crop alone, whose last map is 2 x 2.*batch to at least 2"):
        model(torch.rand(1, 3, 32, 32))
    assert model(torch.rand(2, 3, 32, 32)).isfinite().all() and model(torch.rand(1, 3, 48, 48)).isfinite().all()
    assert model.eval()(torch.rand(1, 3, 32, 32)).isfinite().all()
