"""Prohibitive segmentation learning: its loss against plain loops, and the gate of planted networks behind the door."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import planted
import pytest
import torch
from colours import PALETTE, colour_segmenter, colour_trunk, plain
from PIL import Image
from torch import nn

from pipeline import evaluate, predict, psl, relabel
from pipeline.core import store
from pipeline.core.job import InputError
from pipeline.core.loop import objective, quotients
from pipeline.core.steps.labels import Relabel
from pipeline.core.steps.models import Psl
from pipeline.kinds.labels import labels_at
from pipeline.networks.backbones import backbone
from pipeline.networks.door import ProhibitiveNetwork, open_network, predict_labels, refined_probabilities
from pipeline.networks.prohibitive import Answer, Prohibitive, load_prohibitive
from pipeline.networks.segmenter import Segmenter, segmenter_meta
from pipeline.networks.states import packed
from pipeline.networks.trunk import Backbone

VOID = 255


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # TensorBoard's files


# ---------------------------------------------------------------------------------------------- the masks and the loss

BATCH, CLASSES, CELLS, SIDE = 3, 5, 8, 32


def foreground_of(background: int | None) -> list[int]:
    return [k for k in range(CLASSES) if k != background]


def drawn(background: int | None, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random answers of a network, and a batch. The last image has no tag; the upper rows are not the photographs'."""
    rng, count = np.random.default_rng(seed), len(foreground_of(background))
    tags = torch.from_numpy(rng.random((BATCH, CLASSES)) < 0.5)
    tags[0, 1], tags[-1] = True, False
    if background is not None:
        tags[:, background] = False
    label = torch.from_numpy(rng.choice([0, 1, 2, 3, 4, VOID, VOID], (BATCH, SIDE, SIDE)).astype(np.uint8))
    inside = torch.ones(BATCH, SIDE, SIDE, dtype=torch.bool)
    inside[0, :5], inside[1, :8, :16] = False, False
    label[~inside] = VOID
    return {
        "logits": torch.from_numpy(rng.normal(0, 2, (BATCH, CLASSES, SIDE, SIDE))),
        "cells": torch.from_numpy(rng.normal(0, 2, (BATCH, CLASSES, CELLS, CELLS))),
        "scores": torch.from_numpy(rng.normal(0, 2, (BATCH, count))),
        "tags": tags,
        "label": label,
        "inside": inside,
    }


def slow_mask(world: dict[str, torch.Tensor], background: int | None) -> np.ndarray:
    """Ŝ as the paper writes it, cell by cell."""
    foreground, stride = foreground_of(background), SIDE // CELLS
    out = np.full((BATCH, CELLS, CELLS), VOID)
    for b in range(BATCH):
        v = dict.fromkeys(range(CLASSES), 0.0)
        for column, k in enumerate(foreground):
            if world["tags"][b, k]:
                v[k] = 1 / (1 + np.exp(-world["scores"][b, column].item()))
        if background is not None:
            v[background] = 1.0
        for y in range(CELLS):
            for x in range(CELLS):
                pixels = world["inside"][b, y * stride : (y + 1) * stride, x * stride : (x + 1) * stride]
                e = np.exp(world["cells"][b, :, y, x].detach().numpy())
                weighted = [v[k] * e[k] / e.sum() for k in range(CLASSES)]
                if pixels.all() and max(weighted) > 0:
                    out[b, y, x] = int(np.argmax(weighted))
    return out


class Fixed(nn.Module):
    """A network that says what it was given."""

    def __init__(self, world: dict[str, torch.Tensor]):
        super().__init__()
        self.answer = Answer(*(world[name].requires_grad_() for name in Answer._fields))
        self.iterations = torch.zeros((), dtype=torch.int64)

    def forward(self, image: torch.Tensor) -> Answer:
        """image: which rows of it."""
        return Answer(*(part[image] for part in self.answer))


def step_of(world: dict[str, torch.Tensor], background: int | None, first: int = 0, rows: Sequence[int] = range(BATCH)):
    batch = {name: world[name][list(rows)] for name in ("tags", "label", "inside")}
    step = psl.psl_step(foreground_of(background), first)
    return step(Fixed(world), {**batch, "image": torch.tensor(list(rows))})


@pytest.mark.parametrize("background", [0, 2, None])
def test_the_masks_are_the_papers_cell_by_cell(background: int | None) -> None:
    world, foreground = drawn(background), foreground_of(background)
    inside = psl.whole_cells(world["inside"], (CELLS, CELLS))
    found = psl.prohibitive_mask(world["cells"], world["scores"], world["tags"][:, foreground], inside, foreground)
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found.numpy(), slow_mask(world, background))
    assert (found[-1] == (VOID if background is None else background)).all(), "without a tag nothing else is possible"
    assert len(found[0].unique()) >= 3


def test_a_class_the_image_does_not_have_is_never_in_its_mask() -> None:
    """However sure both branches are of it: here so sure that nothing is left of the others in float32."""
    cells = torch.zeros(1, 4, 6, 6)
    cells[:, 3], cells[:, 2, :3] = 500, 1
    scores, tags = torch.tensor([[0.0, 9.0, 99.0]]), torch.tensor([[True, True, False]])
    found = psl.prohibitive_mask(cells, scores, tags, torch.ones(1, 6, 6, dtype=torch.bool), [1, 2, 3])
    assert (found[:, :3] == 2).all() and (found[:, 3:] == 0).all()
    unsure = psl.prohibitive_mask(cells, -scores, tags, torch.ones(1, 6, 6, dtype=torch.bool), [1, 2, 3])
    assert (unsure == 0).all(), "v of class 2 is 0.0001"


@pytest.mark.parametrize("background", [0, 2, None])
def test_the_loss_is_the_sum_of_three_means_pixel_by_pixel(background: int | None) -> None:
    world, foreground = drawn(background), foreground_of(background)
    losses = step_of(world, background)
    log = world["logits"].log_softmax(1).detach().numpy()
    at = [(b, y, x) for b, y, x in np.ndindex(BATCH, SIDE, SIDE) if world["label"][b, y, x] != VOID]
    labelled = -np.mean([log[b, int(world["label"][b, y, x]), y, x] for b, y, x in at])
    mask, log = slow_mask(world, background), world["cells"].log_softmax(1).detach().numpy()
    own = -np.mean([log[b, mask[b, y, x], y, x] for b, y, x in np.ndindex(mask.shape) if mask[b, y, x] != VOID])
    tags, v = world["tags"][:, foreground].double(), world["scores"].sigmoid().detach()
    tagged = -(tags * v.log() + (1 - tags) * (1 - v).log()).mean()
    found = {name: float(value.detach()) for name, value in quotients(losses).items()}
    assert found == pytest.approx({"loss": labelled, "tags": float(tagged), "prohibitive": own})
    assert objective(losses).item() == pytest.approx(labelled + float(tagged) + own)


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    world = drawn(0)
    whole, parts = step_of(world, 0), [step_of(world, 0, rows=rows) for rows in ([0], [1, 2])]
    for name, (total, count) in whole.items():
        assert total.item() == pytest.approx(sum(part[name][0].item() for part in parts))
        assert int(count) == sum(int(part[name][1]) for part in parts)


def test_the_masks_teach_where_the_labels_are_silent_but_not_beyond_the_photograph() -> None:
    """And they teach the pixels alone: v decides what is possible, and is not moved by it."""
    world = drawn(0)
    world["label"][:] = VOID
    losses = step_of(world, 0)
    assert [part.item() for part in losses["loss"]] == [0, 0]
    losses["prohibitive"][0].backward()
    assert world["scores"].grad is None
    mask = torch.from_numpy(slow_mask(world, 0))
    assert int(losses["prohibitive"][1]) == (mask != VOID).sum() > 0
    hot = nn.functional.one_hot(mask.where(mask != VOID, 0), CLASSES).permute(0, 3, 1, 2)
    expected = (world["cells"].detach().softmax(1) - hot) * (mask != VOID)[:, None]
    torch.testing.assert_close(world["cells"].grad, expected)
    # Image 0 lacks 5 rows of pixels, a row of cells and a quarter of the next; image 1 two rows of four cells.
    assert not world["cells"].grad[0, :, :2].any() and world["cells"].grad[0, :, 2:].any(0).all()
    assert not world["cells"].grad[1, :, :2, :4].any() and world["cells"].grad[1, :, :2, 4:].any(0).all()


def test_the_first_iterations_know_the_labels_and_the_tags_alone() -> None:
    world, names = drawn(0), []
    net, step = Fixed(world), psl.psl_step(foreground_of(0), first=2)
    batch = {name: world[name] for name in ("tags", "label", "inside")}
    for _ in range(4):
        names.append(set(step(net, {**batch, "image": torch.arange(BATCH)})))
    assert names == [{"loss", "tags"}] * 2 + [{"loss", "tags", "prohibitive"}] * 2
    assert int(net.iterations) == 4


@pytest.mark.parametrize(("side", "grid"), [(64, 4), (64, 16), (50, 2), (50, 8), (50, 16), (33, 16)])
def test_cells_count_where_all_their_pixels_are_the_photographs(side: int, grid: int) -> None:
    """Sides that are no multiple of 32 are filled up by the network, and the cells there are not the photograph's."""
    inside = torch.from_numpy(np.random.default_rng(side).random((2, side, side)) < 0.9)
    inside[0] = True
    cell = -(-side // 32) * 32 // grid
    found = psl.whole_cells(inside, (grid, grid))
    for b, y, x in np.ndindex(2, grid, grid):
        part = inside[b, y * cell : (y + 1) * cell, x * cell : (x + 1) * cell]
        assert found[b, y, x] == (part.shape == (cell, cell) and bool(part.all()))


# ----------------------------------------------------------------------------------------------------- the network

NAMES = ["background", "red", "green", "blue"]
RGB = plain(40, 40, (90, 90, 90))[None]


def small(probabilities: Sequence[float]) -> Segmenter:
    """A network that says the same of every pixel; a cell of its trunk is the mean colour of 16 x 16 pixels / 200."""
    trunk = Backbone("planted", [nn.AvgPool2d(16)], (3,), ((0.0,) * 3, (200.0,) * 3))
    model = Segmenter(trunk, "largefov", len(probabilities), 8, 16).eval()
    nn.init.zeros_(model.head.score.weight)
    model.head.score.bias.data = torch.tensor(probabilities).log()
    return model


def sure_of(segmenter: Segmenter, v: Sequence[float], background: int | None = 0) -> Prohibitive:
    """This segmenter, with a branch that gives the foreground classes these probabilities in any image."""
    foreground = [k for k in range(segmenter.head.score.out_channels) if k != background]
    net = Prohibitive(segmenter, foreground).eval()
    nn.init.zeros_(net.branch.score.weight)
    net.branch.score.bias.data = torch.tensor(v).logit()
    return net


def seeing(tap: int = 1) -> Prohibitive:
    """A branch that looks: v of class k follows colour k. tap: which of three cells in a row it looks at."""
    net = Prohibitive(small([0.1, 0.15, 0.25, 0.5]), [1, 2, 3]).eval()
    for parameter in net.branch.parameters():
        nn.init.zeros_(parameter)
    for k in range(3):
        net.branch.conv.weight.data[k, k, 1, tap] = 1
        net.branch.score.weight.data[k, k] = 4
    net.branch.score.bias.data[:] = -2
    return net


def opened(net: Prohibitive, background: int | None = 0, **options: object) -> ProhibitiveNetwork:
    names = planted.class_names(net.segmenter.head.score.out_channels, background)
    settings = {"device": "cpu", "precision": "f32", "scales": (1.0,), "flip": False, "gate": 0.1, **options}
    return ProhibitiveNetwork(net, names, background, 64, **settings)  # type: ignore[arg-type]


def kept(path: Path, net: Prohibitive, background: int | None = 0, gate: float = 0.1) -> store.Artifact:
    """The `model` that `psl` would make of it."""
    arrays, index = packed(net.state_dict())
    meta = {**segmenter_meta(net.segmenter, NAMES, background, 64), "gate": gate, "index": index}
    header = store.Header("model", "psl", Psl(crop=64, gate=gate).model_dump(mode="json"), "test")
    return planted.table_artifact(path, "model", arrays, meta, header)


@pytest.mark.parametrize("head", ["deeplabv3+", "largefov", "hypercolumn"])
def test_one_pass_of_the_backbone_answers_like_the_segmenter(head: str) -> None:
    torch.manual_seed(0)
    net = Prohibitive(Segmenter(backbone("efficientnet_lite0", 16), head, 4, 16, 16), [1, 2, 3]).eval()
    passes: list[int] = []
    net.segmenter.trunk.register_forward_hook(lambda *_: passes.append(1))
    for number, size in enumerate(((64, 64), (33, 70))):
        x = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
        with torch.no_grad():
            answer = net(x)
            assert len(passes) == 2 * number + 1
            assert torch.equal(answer.logits, net.segmenter(x))
        assert answer.logits.shape == (2, 4, *size) and answer.scores.shape == (2, 3)
        full = [-(-side // 32) * 32 // (16 if head == "largefov" else 4) for side in size]
        assert list(answer.cells.shape) == [2, 4, *full]


def test_what_fills_an_image_up_does_not_thin_out_its_tags() -> None:
    """A picture of one colour has the same v, whatever its sides are short of a multiple of 32 pixels."""
    net = seeing()
    with torch.no_grad():
        found = [
            net(torch.from_numpy(plain(*size, PALETTE[2])).permute(2, 0, 1)[None]).scores
            for size in ((64, 64), (48, 80), (16, 112))
        ]
    np.testing.assert_allclose(found[0][0], [4 * 0.15 - 2, 4 - 2, 4 * 0.15 - 2], atol=1e-5)
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_the_opened_network_answers_like_the_one_that_was_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Prohibitive(Segmenter(backbone("efficientnet_lite0", 16), "largefov", 4, 16, 16), [0, 1, 3]).eval()
    made = kept(tmp_path / "m.json", net, background=2, gate=0.3)
    network = open_network(made)
    assert isinstance(network, ProhibitiveNetwork)
    assert (network.classes, network.background, network.max_side, network.gate) == (NAMES, 2, 64, 0.3)
    x = torch.randint(0, 256, (2, 3, 40, 64), dtype=torch.uint8)
    with torch.no_grad():
        for found, expected in zip(load_prohibitive(made)(x), net(x), strict=True):
            assert torch.equal(found, expected)
        found = network.probabilities(x, np.ones((2, 4), bool))
        torch.testing.assert_close(found, net(x).logits.softmax(1), rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------- the gate


def test_an_improbable_class_is_impossible_and_known_tags_bring_it_back() -> None:
    """Class 3 has half of every pixel, but v = 0.05."""
    network = opened(sure_of(small([0.1, 0.15, 0.25, 0.5]), [0.2, 0.11, 0.05]))
    found = network.probabilities(RGB)
    np.testing.assert_allclose(found[0, :, 5, 5], [0.2, 0.3, 0.5, 0], atol=1e-4)
    torch.testing.assert_close(found.sum(1), torch.ones(1, 40, 40))
    known = network.probabilities(RGB, np.array([[True, False, False, True]]))
    np.testing.assert_allclose(known[0, :, 5, 5], [1 / 6, 0, 0, 5 / 6], atol=1e-4)
    everything = network.probabilities(RGB, np.ones((1, 4), bool))
    np.testing.assert_allclose(everything[0, :, 5, 5], [0.1, 0.15, 0.25, 0.5], atol=1e-4)
    with pytest.raises(ValueError, match="scales is empty"):
        opened(network.model, scales=()).probabilities(RGB)


@pytest.mark.parametrize(
    ("background", "gate", "v", "passed"),
    [
        (0, 0.1, [0.05, 0.0999, 0.01], [0]),  # the background always passes: where nothing else does it is all there is
        (0, 0.1, [0.05, 0.1001, 0.01], [0, 2]),
        (0, 0.0, [1e-6, 1e-6, 1e-6], [0, 1, 2, 3]),
        (2, 0.8, [0.9, 0.7, 0.95], [0, 2, 3]),
        (None, 0.1, [0.01, 0.02, 0.09, 0.03], [2]),  # where there is none, the most probable class
        (None, 0.1, [0.5, 0.01, 0.2, 0.0], [0, 2]),
    ],
)
def test_what_passes_the_gate(background: int | None, gate: float, v: list[float], passed: list[int]) -> None:
    network = opened(sure_of(small([0.1, 0.15, 0.25, 0.5]), v, background), background, gate=gate)
    assert network.probabilities(RGB)[0].amax((1, 2)).nonzero().flatten().tolist() == passed
    ids, scores = refined_probabilities(network, RGB[0], crf=True)
    assert ids.tolist() == passed and scores.shape == (len(passed), 40, 40), "the CRF cannot bring a class back"


def test_each_photograph_has_its_own_gate_averaged_over_scales_and_mirror_images() -> None:
    two, one = (np.concatenate([plain(64, 64, PALETTE[k]) for k in order], 1) for order in ((1, 3), (2, 2)))
    net, scales, rows = seeing(tap=0), (0.5, 1.0), []
    with torch.no_grad():
        for rgb in (two, one):
            x, looks = torch.from_numpy(rgb).permute(2, 0, 1)[None], []
            for scale in scales:
                size = [round(side * scale) for side in x.shape[2:]]
                reduced = nn.functional.interpolate(x, size, mode="bilinear", antialias=True) if scale != 1 else x
                looks += [net(reduced).scores.sigmoid(), net(reduced.flip(3)).scores.sigmoid()]
            rows.append(torch.cat(looks).mean(0))
            assert (looks[0] - looks[1]).abs().max() > 0.05 or rgb is one, "the branch tells left from right"
    v = torch.stack(rows)
    levels = v.flatten().unique()
    for gate in ((levels[1:] + levels[:-1]) / 2).tolist():
        found = opened(net, scales=scales, flip=True, gate=gate).probabilities(np.stack([two, one])).amax((2, 3)) > 0
        assert found[:, 1:].tolist() == (v >= gate).tolist() and found[:, 0].all()


# ------------------------------------------------------------------------------------ others know nothing of it


def middles(labels: np.ndarray) -> list[int]:
    """The class in the middle of each stripe, 64 pixels wide."""
    return [int(np.median(labels[:, 64 * k + 20 : 64 * k + 44])) for k in range(labels.shape[1] // 64)]


def test_evaluate_relabel_and_predict_go_through_the_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The network tells colours apart, and thinks green improbable: what it holds for green becomes background."""
    net = sure_of(colour_segmenter(PALETTE), [0.9, 0.05, 0.9])
    picture = np.concatenate([plain(64, 64, PALETTE[k]) for k in (1, 2, 3)], 1)
    truth = np.repeat([1, 2, 3], 64)[None].repeat(64, 0)
    table = np.array([[0, 1, 1, 0], [0, 1, 1, 1]])
    given = planted.dataset(tmp_path, [picture, picture], table, [truth, truth], names=NAMES, train=[0])
    given["model"] = kept(tmp_path / "model.json", net)
    compute = ["--device", "cpu", "--precision", "f32", "--threads", "1"]

    files = [f"--{role}={given[role].path}" for role in ("photographs", "masks")]
    evaluate.main([*files, "--of", str(given["model"].path), "--out", str(tmp_path / "x.json"), *compute])
    matrix = store.Artifact(tmp_path / "x.json").read("confusion")[0, 0]
    assert not matrix[:, 2].any() and matrix[2, 0] > 0.6 * matrix[2].sum()
    assert matrix[1, 1] > 0.9 * matrix[1].sum() and matrix[3, 3] > 0.9 * matrix[3].sum()

    for settings, expected in ((Relabel(tags=False), [1, 0, 3]), (Relabel(crf=True, flip=False), [1, 2, 0])):
        relabel.run(planted.job(settings, tmp_path / "l.json", given))
        assert middles(labels_at(store.Artifact(tmp_path / "l.json"), given["photographs"], 0)) == expected

    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        Image.fromarray(picture).save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "tags.csv").write_text('image,tags\nb,"red green blue"\n')
    call = [str(given["model"].path), str(tmp_path / "photos"), "--max-side", "0", *compute]
    predict.main([*call, "--out", str(tmp_path / "plain")])
    predict.main([*call, "--out", str(tmp_path / "tagged"), "--tags", str(tmp_path / "tags.csv")])
    for file, green in (("plain/a", 0), ("plain/b", 0), ("tagged/a", 0), ("tagged/b", 2)):
        assert middles(np.asarray(Image.open(tmp_path / f"{file}.png"))) == [1, green, 3], file
    assert "1 photos are not in" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------- the training

COLOURS = [(20, 20, 20), (220, 40, 40), (40, 60, 220)]
SETTINGS = Psl(
    head="largefov",
    stride=32,
    width=32,
    crop=64,
    scale=(1.0, 1.0),
    jitter=0,
    batch=6,
    epochs=16,
    lr=1e-5,  # the backbone knows colours already
    head_lr=2000.0,
    optimizer="adamw",
    weight_decay=0,
    schedule="cosine",
    prohibit_after=4,
)


PAIRS = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)]


def world(folder: Path, background: int | None) -> dict[str, store.Artifact]:
    """Halves of two colours, and one picture of split val. Class k is colour k; a background is the dark one. The
    labels are void in places."""
    pictures = [np.concatenate([plain(64, 32, COLOURS[k]) for k in pair], 1) for pair in PAIRS]
    table, names = np.zeros((7, 3), bool), planted.class_names(3, background)
    maps = []
    for i, pair in enumerate(PAIRS):
        table[i, [k for k in pair if k != background]] = True
        maps.append(np.repeat(pair, 32)[None].repeat(64, 0).astype(np.uint8))
        maps[-1][:, 8:24], maps[-1][16:48, 40:] = VOID, VOID
    pictures.append(plain(64, 64, (0, 255, 0)))
    given = planted.dataset(folder, pictures, table, background=background, names=names, train=range(6))
    given["weights"] = planted.weights(folder / "w.json", colour_trunk())
    given["labels"] = planted.labels(folder / "l.json", [*maps, None], 64, 3, background, names)
    return given


def test_training_learns_pixels_and_tags(tmp_path: Path) -> None:
    psl.run(planted.job(SETTINGS, tmp_path / "m.json", world(tmp_path, 0)))
    made = store.Artifact(tmp_path / "m.json", "model")
    assert made.meta["classes"] == planted.class_names(3)
    assert (made.meta["background"], made.meta["max_side"], made.meta["gate"]) == (0, 64, 0.1)
    curves = {name: made.read(f"curve_{name}") for name in ("loss", "tags", "prohibitive")}
    assert all(len(curve) == SETTINGS.epochs for curve in curves.values())
    for name in ("loss", "tags"):
        assert curves[name][-1] < 0.6 * curves[name][0], name
    own = curves["prohibitive"]
    assert np.isnan(own[:4]).all() and np.isfinite(own[4:]).all(), "it begins after four epochs"
    rgb = np.concatenate([plain(64, 32, COLOURS[k]) for k in (2, 0)], 1)
    found = predict_labels(open_network(made), rgb, (64, 64))
    assert [int(np.median(found[:, 8:24])), int(np.median(found[:, 40:56]))] == [2, 0]
    net = load_prohibitive(made)
    assert int(net.iterations) == SETTINGS.epochs, "one an epoch"
    with torch.no_grad():
        red, blue = net(torch.from_numpy(rgb).permute(2, 0, 1)[None]).scores[0].sigmoid().tolist()
    assert blue > 0.9 and red < 0.4


def test_without_a_background_every_class_is_a_tag(tmp_path: Path) -> None:
    short = SETTINGS.model_copy(update={"epochs": 2, "prohibit_after": 0})
    psl.run(planted.job(short, tmp_path / "m.json", world(tmp_path, None)))
    made = store.Artifact(tmp_path / "m.json", "model")
    assert (made.meta["background"], load_prohibitive(made).foreground) == (None, (0, 1, 2))
    assert np.isfinite(made.read("curve_prohibitive")).all()
    assert open_network(made).probabilities(plain(64, 64, COLOURS[0])[None]).amax() > 0


def test_what_it_cannot_learn_from_is_a_message(tmp_path: Path) -> None:
    given = world(tmp_path, 0)
    given["labels"] = planted.labels(tmp_path / "none.json", [None] * 7, 64, 3)
    with pytest.raises(InputError, match=r"none.json: these labels cover no image"):
        psl.run(planted.job(SETTINGS, tmp_path / "m.json", given))
    given["labels"] = planted.labels(tmp_path / "other.json", [np.zeros((64, 64))] * 7, 64, 4)
    with pytest.raises(InputError, match=r"other.json has .*class3.*, .*tags.json .*"):
        psl.run(planted.job(SETTINGS, tmp_path / "m.json", given))
