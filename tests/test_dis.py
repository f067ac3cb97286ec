"""Dual image segmentation: losses against plain formulas, promises of the descent, planted heads that a tag helps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import planted
import pytest
import torch
import torch.nn.functional as F
from colours import LIFT, colour_segmenter, colour_trunk, plain
from PIL import Image
from torch import Tensor, nn

from benchmarks import systems
from pipeline import dis, evaluate, infer, predict
from pipeline.core import metrics, store
from pipeline.core.job import InputError
from pipeline.core.loop import quotients
from pipeline.core.steps.labels import Infer
from pipeline.core.steps.models import Dis
from pipeline.kinds.labels import labels_at
from pipeline.networks import dual
from pipeline.networks.backbones import backbone
from pipeline.networks.door import Descending, open_network, predict_batch, predict_labels
from pipeline.networks.dual import Answer, Dual, DualNetwork, Heads, Latents
from pipeline.networks.states import packed, state_of
from pipeline.networks.trunk import Backbone
from pipeline.report.ladder import chosen_levels

VOID, STRIDE, DEEP, COUNT = 255, 16, 6, 4
NAMES = planted.class_names(COUNT)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # TensorBoard's files


def small(seed: int = 0) -> Dual:
    """A random network whose trunk is one layer: a cell sees 16 x 16 pixels."""
    torch.manual_seed(seed)
    trunk = Backbone(
        "planted", [nn.Conv2d(3, DEEP, STRIDE, STRIDE), nn.ReLU()], (DEEP, DEEP), ((120.0,) * 3, (60.0,) * 3)
    )
    return Dual(trunk, COUNT, STRIDE).eval()


def noise(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Soft blots of colour, uint8 [B,3,h,w]."""
    coarse = torch.rand(count, 3, 4, 5, generator=torch.Generator().manual_seed(seed)) * 255
    return F.interpolate(coarse, (height, width), mode="bilinear").byte()


# ----------------------------------------------------------------------------------------------------- the network


def test_the_published_shapes() -> None:
    """ResNet-101, a crop of 353 pixels, 21 classes: section 3 of the paper."""
    with torch.device("meta"):
        net, x = Dual(backbone("resnet101", 8), 21, 8).eval(), torch.empty(1, 3, 353, 353, dtype=torch.uint8)
        with torch.no_grad():
            latents = net.encode(x)
            answer = net.heads(latents)
    assert [tuple(part.shape[1:]) for part in latents] == [(2048, 45, 45), (2048,)]
    assert tuple(answer.u3.shape) == tuple(answer.final.shape) == (1, 21, 45, 45)
    assert tuple(answer.z3.shape) == tuple(dual.picture_of(x, 8).shape) == (1, 3, 45, 45)
    assert tuple(answer.v3.shape) == (1, 21)
    assert tuple(dual.enlarged(answer.final, 8, (353, 353)).shape) == (1, 21, 353, 353)
    assert tuple(net.heads.map.weight.shape) == (21, 2048, 3, 3)
    convs = [tuple(layer.weight.shape) for layer in net.heads.image if isinstance(layer, nn.Conv2d)]
    assert convs == [(21, 21, 5, 5), (16, 21, 3, 3), (3, 16, 3, 3)]


def same(x: np.ndarray, layer: nn.Conv2d) -> np.ndarray:
    """A convolution with zeros around, window by window: [C,h,w] → [C',h,w]."""
    weight, bias = layer.weight.detach().numpy().astype(float), layer.bias.detach().numpy()  # type: ignore[union-attr]
    k = weight.shape[2]
    wide = np.pad(x, ((0, 0), (k // 2,) * 2, (k // 2,) * 2))
    out = np.zeros((len(weight), *x.shape[1:]))
    for y, column in np.ndindex(*x.shape[1:]):
        out[:, y, column] = (weight * wide[None, :, y : y + k, column : column + k]).sum((1, 2, 3)) + bias
    return out


def test_heads_against_their_equations() -> None:
    torch.manual_seed(0)
    heads, u1, v1 = Heads(DEEP, COUNT), torch.randn(2, DEEP, 4, 5), torch.randn(2, DEEP)
    with torch.no_grad():
        fresh = heads(Latents(u1, v1))
        assert torch.equal(fresh.final, fresh.u3), "the last layer begins as the label map"
        nn.init.normal_(heads.final.weight)
        found = heads(Latents(u1, v1))
    for b in range(2):
        u, v = u1[b].double().numpy(), v1[b].double().numpy()
        u3 = same(u + v[:, None, None], heads.map)
        v3 = heads.tags.weight.detach().numpy() @ (u.mean((1, 2)) + v) + heads.tags.bias.detach().numpy()
        first, second, third = (layer for layer in heads.image if isinstance(layer, nn.Conv2d))
        z3 = same(np.maximum(same(np.maximum(same(u3, first), 0), second), 0), third)
        final = same(np.concatenate([u3, np.broadcast_to(v3[:, None, None], u3.shape)]), heads.final)
        for name, expected in {"u3": u3, "v3": v3, "z3": z3, "final": final}.items():
            np.testing.assert_allclose(getattr(found, name)[b], expected, atol=2e-5, err_msg=name)


def test_what_fills_an_image_up_is_in_no_latent() -> None:
    """A picture of one colour has the same latents in every cell and the same v1, whatever it lacks of 32 pixels."""
    net = small()
    with torch.no_grad():
        found = [
            net.encode(torch.full((1, 3, *size), 90, dtype=torch.uint8)) for size in ((64, 64), (48, 80), (16, 112))
        ]
    for latents, grid in zip(found, ((4, 4), (3, 5), (1, 7)), strict=True):
        assert tuple(latents.u1.shape[2:]) == grid
        torch.testing.assert_close(latents.v1, found[0].v1)
        torch.testing.assert_close(latents.u1, found[0].u1[:, :, :1, :1].expand_as(latents.u1))


def test_the_picture_is_the_mean_colour_of_the_pixels_there_are() -> None:
    x = noise(2, 40, 33)
    found = dual.picture_of(x, STRIDE)
    assert tuple(found.shape) == (2, 3, 3, 3)
    for b, c, y, column in np.ndindex(*found.shape):
        part = x[b, c, STRIDE * y : STRIDE * (y + 1), STRIDE * column : STRIDE * (column + 1)]
        assert found[b, c, y, column].item() == pytest.approx(part.float().mean().item() / 127.5 - 1, abs=1e-5)


# ----------------------------------------------------------------------------------------------------- the losses


@pytest.mark.parametrize("background", [0, 2, None])
def test_the_losses_against_plain_formulas(background: int | None) -> None:
    net, x, rng = small(), noise(3, 40, 48), np.random.default_rng(0)
    nn.init.normal_(net.heads.final.weight, std=0.3)
    tags = torch.from_numpy(rng.random((3, COUNT)) < 0.3)
    tags[:, 1] = False
    if background is not None:
        tags[:, background] = False
    label = torch.from_numpy(rng.choice([0, 2, 3, VOID, VOID], (3, 40, 48)).astype(np.uint8))
    label[0], label[1, 0, 0] = 0, 1  # of class 1 one pixel in one image, which has no tag for it
    with torch.no_grad():
        found = dis.dis_step(background)(net, {"image": x, "label": label, "tags": tags})
        answer = net(x)
    expected = dict.fromkeys(("loss", "deep", "tags", "image"), 0.0)
    known = int((label != VOID).sum())
    for b in range(3):
        for name, cells, weight in (("loss", answer.final, 1.0), ("deep", answer.u3, 0.4)):
            wide = F.interpolate(cells[b : b + 1], (48, 48), mode="bilinear")[0, :, :40].double().numpy()
            p = np.exp(wide) / np.exp(wide).sum(0)
            for y, column in zip(*np.nonzero(label[b].numpy() != VOID), strict=True):
                expected[name] -= weight * np.log(p[label[b, y, column], y, column]) / known
        for k in range(COUNT):
            s = 1 / (1 + np.exp(-answer.v3[b, k].item()))
            there = bool(tags[b, k]) or k == background or k in label[b].unique().tolist()
            expected["tags"] -= np.log(s if there else 1 - s) / 3
        picture = dual.picture_of(x, STRIDE)[b]
        expected["image"] += 0.1 * 0.5 * ((answer.z3[b] - picture) ** 2).mean().item() / 3
    assert {name: value.item() for name, value in quotients(found).items()} == pytest.approx(expected, rel=1e-4)


def test_shown_classes_are_those_of_the_label_map() -> None:
    label = torch.full((2, 3, 3), VOID, dtype=torch.uint8)
    label[0, 0, :2] = torch.tensor([3, 1], dtype=torch.uint8)
    assert dis.shown(label, COUNT).tolist() == [[False, True, False, True], [False] * 4]


def test_images_of_both_kinds_come_in_turns_and_as_often() -> None:
    assert dis.evenly(np.array([7, 9]), np.arange(5)).tolist() == [7, 0, 9, 1, 7, 2, 9, 3, 7, 4]
    assert dis.evenly(np.arange(3), np.array([8])).tolist() == [0, 8, 1, 8, 2, 8]
    assert dis.evenly(np.arange(3), np.array([], int)).tolist() == dis.evenly(np.array([], int), np.arange(3)).tolist()


# ---------------------------------------------------------------------------------------------------- the descent


def begun(net: Dual, x: Tensor) -> tuple[dual.State, Tensor]:
    with torch.no_grad():
        return dual.begin(net.encode(x)), dual.picture_of(x, STRIDE)


TAGS = torch.tensor([[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0]], dtype=torch.bool)


@pytest.mark.parametrize("tags", [None, TAGS], ids=["image", "image and tags"])
def test_every_step_lowers_the_loss_of_every_image_that_moves(tags: Tensor | None) -> None:
    net = small()
    state, picture = begun(net, noise(3, 64, 72))
    moved = 0
    for _ in range(12):
        with torch.no_grad():
            before = dual.misfit(net.heads, state.latents, picture, tags)
        after_step = dual.descend(net.heads, state, picture, 1, tags)
        with torch.no_grad():
            after = dual.misfit(net.heads, after_step.latents, picture, tags)
        there = (after_step.latents.u1 != state.latents.u1).flatten(1).any(1)
        assert (after < before)[there].all() and torch.equal(after[~there], before[~there])
        assert not (there & ~state.going).any(), "who has stopped stays"
        state, moved = after_step, moved + int(there.sum())
    assert moved > 20
    if tags is not None:
        with torch.no_grad():
            first, last = (net.heads(part.latents).v3 for part in (begun(net, noise(3, 64, 72))[0], state))
        assert (dual.tag_loss(last, tags) < 0.9 * dual.tag_loss(first, tags)).all()


def test_the_first_length_moves_u1_by_a_tenth_and_is_halved_until_the_loss_falls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, tried = small(), []
    state, picture = begun(net, noise(1, 64, 64))
    u1, misfit = state.latents.u1, dual.misfit

    def watched(heads: Heads, latents: Latents, *rest: Tensor | None) -> Tensor:
        tried.append(float((latents.u1.detach() - u1).norm() / u1.norm()))
        loss = misfit(heads, latents, *rest)  # type: ignore[arg-type]
        return loss + 1 if tried[-1] > 0.03 else loss  # longer steps are made bad

    monkeypatch.setattr(dual, "misfit", watched)
    dual.descend(net.heads, state, picture, 1)
    np.testing.assert_allclose(tried, [0, 0.1, 0.05, 0.025], rtol=1e-3)


def test_an_image_that_no_length_helps_is_given_up_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    net = small()
    state, picture = begun(net, noise(3, 64, 64))
    misfit, calls = dual.misfit, []

    def stubborn(heads: Heads, latents: Latents, picture: Tensor, tags: Tensor | None) -> Tensor:
        loss, calls_of = misfit(heads, latents, picture, tags), latents.u1.shape[0]
        calls.append(calls_of)
        hopeless = (picture == 0).all(3).all(2).all(1)
        return torch.where(hopeless & ~torch.tensor(latents.u1.requires_grad), loss.detach() + 9, loss)

    monkeypatch.setattr(dual, "misfit", stubborn)
    picture[1] = 0
    after = dual.descend(net.heads, state, picture, 2)
    assert after.going.tolist() == [True, False, True]
    assert torch.equal(after.latents.u1[1], state.latents.u1[1]) and torch.equal(
        after.latents.v1[1], state.latents.v1[1]
    )
    assert (after.latents.u1[[0, 2]] != state.latents.u1[[0, 2]]).flatten(1).any(1).all()
    assert calls.count(1) >= dual.HALVINGS, "it was tried long enough"


def test_an_image_that_fits_does_not_move() -> None:
    net = small()
    state, picture = begun(net, noise(2, 64, 64))
    with torch.no_grad():
        picture[0] = net.heads(state.latents).z3[0]
    after = dual.descend(net.heads, state, picture, 3)
    assert after.going.tolist() == [False, True]
    torch.testing.assert_close(after.latents.u1[0], state.latents.u1[0])


@pytest.mark.parametrize("tags", [None, TAGS], ids=["image", "image and tags"])
def test_images_are_independent_of_each_other(tags: Tensor | None) -> None:
    net = small()
    x = noise(3, 48, 64)
    together = dual.descend(net.heads, *begun(net, x), 8, tags)
    for b in range(3):
        alone = dual.descend(net.heads, *begun(net, x[b : b + 1]), 8, None if tags is None else tags[b : b + 1])
        assert bool(alone.going) == bool(together.going[b])
        for one, all_ in zip(alone.latents, together.latents, strict=True):
            torch.testing.assert_close(one[0], all_[b], rtol=1e-3, atol=1e-4)


def test_going_on_is_the_same_as_going_at_once() -> None:
    net = small()
    state, picture = begun(net, noise(2, 64, 64))
    once = dual.descend(net.heads, state, picture, 7)
    twice = dual.descend(net.heads, dual.descend(net.heads, state, picture, 3), picture, 4)
    for one, other in zip(once.latents, twice.latents, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(dual.descend(net.heads, state, picture, 0).latents.u1, state.latents.u1)


def test_steps_cost_passes_of_the_heads_and_none_of_the_trunk() -> None:
    net = small()
    trunk: list[int] = []
    heads: list[int] = []
    net.trunk.register_forward_hook(lambda *_: trunk.append(1))
    net.heads.register_forward_hook(lambda *_: heads.append(1))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    said = dual.answers(net, noise(2, 64, 64), [0, 4, 12], "f32", "cpu")
    assert len(said) == 3 and len(trunk) == 1
    assert 3 + 2 * 4 <= len(heads) <= 3 + 12 * (2 + dual.HALVINGS)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items()), "the weights are frozen"


# --------------------------------------------------------------------------------- a tag that the network did not see


def planted_heads() -> Heads:
    """A latent is the evidence of three classes: the label map reads it cell by cell, the tags read its mean. What it
    draws is grey, so the image says nothing."""
    heads = Heads(3, 3)
    for layer in heads.image:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    for layer in (heads.map, heads.tags):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    heads.map.weight.data[:, :, 1, 1] = torch.eye(3)
    heads.tags.weight.data = 4 * torch.eye(3)
    return heads


def missed() -> Latents:
    """Two thirds background beyond doubt; in the last third class 2 is nearly as likely, but not quite."""
    u1 = torch.zeros(1, 3, 6, 6)
    u1[:, 0], u1[:, 0, :, 4:], u1[:, 2, :, 4:] = 2.0, 1.0, 0.9
    u1[:, 1:, :, :4], u1[:, 1, :, 4:] = -2.0, -1.0
    return Latents(u1, torch.zeros(1, 3))


def test_the_tag_brings_back_a_label_that_was_missed() -> None:
    """Where its class was most probable, and nowhere else."""
    heads, grey = planted_heads(), torch.zeros(1, 3, 6, 6)
    state = dual.begin(missed())
    truth = torch.zeros(1, 6, 6, dtype=torch.int64)
    truth[:, :, 4:] = 2
    with torch.no_grad():
        assert (heads(state.latents).final.argmax(1) == 0).all()
        assert heads(state.latents).v3[0, 2] < 0
        alone = dual.descend(heads, state, grey, 10)
        assert (heads(alone.latents).final.argmax(1) == 0).all(), "the image alone does not tell"
        found = heads(dual.descend(heads, state, grey, 10, torch.tensor([[True, False, True]])).latents)
    assert torch.equal(found.final.argmax(1), truth)
    assert torch.equal(found.v3[0] > 0, torch.tensor([True, False, True]))


def test_only_tags_and_what_is_surer_than_nine_tenths_are_possible() -> None:
    v3 = torch.tensor([[9.0, 2.19, 2.20, -3.0]] * 2).repeat(2, 1)[:3]  # σ(2.197) = 0.9
    tags = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)
    assert infer.possible(v3, tags).tolist() == [
        [True, False, True, False],
        [True, False, True, True],
        [True, False, True, False],
    ]
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    assert infer.possible(torch.full((1, 4), -5.0), nothing).all(), "without any, the network alone decides"


def test_inferred_labels_forbid_other_classes_and_leave_open_what_is_unsure() -> None:
    logits = torch.tensor([[0.05, 0.6, 0.3, 0.05], [0.2, 0.5, 0.2, 0.1], [0.6, 0.1, 0.1, 0.2]]).log()
    final = logits.T.reshape(1, 4, 1, 3)
    tags, no = torch.tensor([[True, False, True, False]]), torch.full((1, 4), -9.0)
    answer = Answer(final, final, torch.zeros(1, 3, 1, 3), no)
    found = infer.inferred(answer, tags, 1, (1, 3), 0.6)
    assert found.dtype == torch.uint8
    assert found.tolist() == [[[2, VOID, 0]]], "0.3 / 0.35; 0.2 / 0.4; 0.6 / 0.7"
    sure = answer._replace(v3=torch.tensor([[-9.0, 3.0, -9.0, -9.0]]))
    assert infer.inferred(sure, tags, 1, (1, 3), 0.6).tolist() == [[[1, VOID, 0]]]
    assert infer.inferred(sure, tags, 1, (1, 3), 0.0).tolist() == [[[1, 1, 0]]]


# --------------------------------------------------------------------------------------------------- the two stages

COLOURS = [(20, 20, 20), (220, 40, 40), (40, 60, 220)]
SETTINGS = Dis(
    stride=32,
    crop=64,
    scale=(1.0, 1.0),
    jitter=0,
    batch=6,
    epochs=14,
    lr=1e-5,  # the backbone knows colours already
    head_lr=500.0,
    optimizer="adamw",
    weight_decay=0,
    schedule="cosine",
)
PAIRS = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)]


def halves(*pair: int) -> np.ndarray:
    return np.concatenate([plain(64, 32, COLOURS[k]) for k in pair], 1)


def world(folder: Path, background: int | None = 0) -> dict[str, store.Artifact]:
    """Halves of two colours, and one picture of split val with its mask. Class k is colour k; a background is the dark
    one."""
    table, names = np.zeros((7, 3), bool), planted.class_names(3, background)
    for i, pair in enumerate([*PAIRS, (2, 0)]):
        table[i, [k for k in pair if k != background]] = True
    maps = [np.repeat(pair, 32)[None].repeat(64, 0).astype(np.uint8) for pair in [*PAIRS, (2, 0)]]
    pictures = [halves(*pair) for pair in [*PAIRS, (2, 0)]]
    given = planted.dataset(folder, pictures, table, [*[None] * 6, maps[6]], background, names, train=range(6))
    given["weights"] = planted.weights(folder / "w.json", colour_trunk())
    given["labels"] = planted.labels(folder / "l.json", [*maps[:6], None], 64, 3, background, names)
    return given


def at_middles(found: np.ndarray) -> list[int]:
    return [int(np.median(found[:, 8:24])), int(np.median(found[:, 40:56]))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, store.Artifact]:
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        given = world(folder)
        dis.run(planted.job(SETTINGS, folder / "m.json", given))
    return {**given, "model": store.Artifact(folder / "m.json", "model")}


def test_training_learns_the_map_the_tags_and_the_image(trained: dict[str, store.Artifact]) -> None:
    made = trained["model"]
    assert made.meta["classes"] == planted.class_names(3)
    assert (made.meta["background"], made.meta["max_side"], made.meta["steps"]) == (0, 64, 10)
    for name in ("loss", "deep", "tags", "image"):
        curve = made.read(f"curve_{name}")
        assert len(curve) == SETTINGS.epochs and curve[-3:].mean() < 0.85 * curve[0], name
    assert isinstance(open_network(made), DualNetwork)


def colour_dual(overlooked: float = 0.0) -> Dual:
    """A network that gives each cell the class whose colour is nearest, as `colour_segmenter` does, and draws grey.
    Class 2 has to be nearer by so much; the tags follow the mean evidence, and miss class 2 in half a picture of it."""
    net = Dual(colour_trunk(), 3, 32).eval()
    with torch.no_grad():
        for parameter in (*net.second.parameters(), *net.heads.image.parameters(), *net.heads.map.parameters()):
            parameter.zero_()
        mean, std = (part.flatten() for part in (net.trunk.mean, net.trunk.std))
        colours = (torch.tensor(COLOURS, dtype=torch.float32) - mean) / std + LIFT
        net.heads.map.weight[:, :3, 1, 1] = 2 * colours
        net.heads.map.bias.copy_(-colours.square().sum(1) - torch.tensor([0, 0, overlooked]))  # type: ignore[union-attr]
        net.heads.tags.weight.zero_()
        net.heads.tags.weight[:, :3] = colours
        seen = colours @ (colours[0] + colours[2]) / 2
        net.heads.tags.bias.copy_(torch.tensor([3.0, -4.0, -2.0]) - seen)
    return net


def test_inferring_covers_the_training_images_with_what_their_tags_allow(tmp_path: Path) -> None:
    given = world(tmp_path)
    given["model"] = kept(tmp_path / "m.json", colour_dual(), planted.class_names(3))
    infer.run(planted.job(Infer(steps=0), tmp_path / "l.json", given))
    found = store.Artifact(tmp_path / "l.json", "labels")
    assert found.read("covered").tolist() == [True] * 6 + [False]
    assert [at_middles(labels_at(found, given["photographs"], i)) for i in range(6)] == [list(pair) for pair in PAIRS]
    given["tags"] = planted.tags(tmp_path / "t.json", np.eye(3)[[1] * 7], names=planted.class_names(3))
    infer.run(planted.job(Infer(steps=0, least=0), tmp_path / "o.json", given))
    assert np.unique(store.Artifact(tmp_path / "o.json").read("labels")[:6]).tolist() == [0, 1]


def test_inferring_descends_towards_the_tags(tmp_path: Path) -> None:
    """Class 2 is overlooked, in the half that has its colour by a little: the descent brings it back there alone."""
    given, at = world(tmp_path), PAIRS.index((0, 2))
    net = colour_dual(overlooked=13.5)
    with torch.no_grad():
        final = net(torch.from_numpy(halves(0, 2)).permute(2, 0, 1)[None]).final[0]
    margin = final[0] - final[2]
    assert 0 < margin[0, 1] < 1 < 10 < margin[0, 0]
    given["model"] = kept(tmp_path / "m.json", net, planted.class_names(3))
    for steps, expected in ((0, [0, 0]), (20, [0, 2])):
        infer.run(planted.job(Infer(steps=steps, least=0), tmp_path / f"{steps}.json", given))
        found = store.Artifact(tmp_path / f"{steps}.json")
        assert at_middles(labels_at(found, given["photographs"], at)) == expected


def test_the_second_stage_goes_on_from_the_first(trained: dict[str, store.Artifact], tmp_path: Path) -> None:
    """At no speed its heads stay what they were; without the model before it they are new."""
    still = SETTINGS.model_copy(update={"epochs": 1, "lr": 1e-12, "head_lr": 1.0})
    given = {role: artifact for role, artifact in trained.items() if role != "model"}
    dis.run(planted.job(still, tmp_path / "on.json", trained))
    dis.run(planted.job(still, tmp_path / "new.json", given))
    dis.run(planted.job(SETTINGS.model_copy(update={"epochs": 1, "head_lr": 1e-9}), tmp_path / "learns.json", trained))
    before, on, new, learns = (
        state_of(a)
        for a in (trained["model"], *(store.Artifact(tmp_path / f"{n}.json") for n in ("on", "new", "learns")))
    )
    for name in ("heads.map.weight", "heads.tags.weight", "second.weight", "heads.final.weight"):
        torch.testing.assert_close(on[name], before[name], rtol=0, atol=1e-6)
        assert (new[name] - before[name]).abs().max() > 1e-3, name
        assert (learns[name] - before[name]).abs().max() > 1e-5, "no layer is new, `head_lr` concerns none"


def test_true_and_inferred_images_are_drawn_as_often(
    trained: dict[str, store.Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names, first = planted.class_names(3), np.zeros((64, 64), np.uint8)
    true = planted.labels(tmp_path / "true.json", [None, first, *[None] * 5], 64, 3, names=names)
    rows = dis.training_rows(trained["labels"], true)
    assert rows[::2].tolist() == [1] * 5 and rows[1::2].tolist() == [0, 2, 3, 4, 5]
    assert "1 images with labels as given, 5 with inferred ones" in capsys.readouterr().out
    assert dis.training_rows(trained["labels"], None).tolist() == list(range(6))
    short = SETTINGS.model_copy(update={"epochs": 1})
    dis.run(planted.job(short, tmp_path / "m.json", {**trained, "true": true}))
    assert np.isfinite(store.Artifact(tmp_path / "m.json").read("curve_loss")).all()


def test_without_a_background_every_class_is_a_tag(tmp_path: Path) -> None:
    given = world(tmp_path, None)
    dis.run(planted.job(SETTINGS.model_copy(update={"epochs": 2}), tmp_path / "m.json", given))
    given["model"] = store.Artifact(tmp_path / "m.json")
    assert given["model"].meta["background"] is None
    infer.run(planted.job(Infer(), tmp_path / "l.json", given))
    assert store.Artifact(tmp_path / "l.json").meta["background"] is None


def test_what_it_cannot_learn_from_is_a_message(trained: dict[str, store.Artifact], tmp_path: Path) -> None:
    empty = planted.labels(tmp_path / "none.json", [None] * 7, 64, 3)
    other = planted.labels(tmp_path / "other.json", [np.zeros((64, 64))] * 7, 64, 4)
    for labels, said in (
        (empty, "none.json: these labels cover no image"),
        (other, "other.json has .*class3.*, .*tags"),
    ):
        with pytest.raises(InputError, match=said):
            dis.run(planted.job(SETTINGS, tmp_path / "m.json", {**trained, "labels": labels}))
    strange = {**trained, "tags": planted.tags(tmp_path / "t.json", np.zeros((7, 4)))}
    with pytest.raises(InputError, match=r"t.json has .*class3"):
        infer.run(planted.job(Infer(), tmp_path / "l.json", strange))


# ---------------------------------------------------------------------------------------------------- behind the door


def kept(path: Path, net: Dual, names: Sequence[str] = NAMES, steps: int = 3) -> store.Artifact:
    """The `model` that `dis` would make of it."""
    arrays, index = packed(net.state_dict())
    meta = {**dual.dual_meta(net, names, 0, 96, steps), "index": index}
    header = store.Header("model", "dis", Dis(crop=64, steps=steps).model_dump(mode="json"), "test")
    return planted.table_artifact(path, "model", arrays, meta, header)


def random_model(path: Path, steps: int = 3) -> store.Artifact:
    torch.manual_seed(1)
    net = Dual(backbone("resnet18", 16), COUNT, 16).eval()
    nn.init.normal_(net.heads.map.weight, std=0.05)  # its latents matter
    return kept(path, net, steps=steps)


def test_the_opened_network_descends_by_its_own_steps_or_those_given(tmp_path: Path) -> None:
    made, x = random_model(tmp_path / "m.json"), noise(2, 48, 72)
    network = open_network(made)
    assert isinstance(network, DualNetwork) and isinstance(network, Descending)
    assert (network.classes, network.background, network.max_side, network.steps) == (NAMES, 0, 96, 3)
    net = dual.load_dual(made)
    for steps in (None, 0, 5):
        count = 3 if steps is None else steps
        answer = dual.answers(net, x, [count], "f32", "cpu")[0]
        expected = dual.enlarged(answer.final, 16, (48, 72)).softmax(1)
        torch.testing.assert_close(open_network(made, steps=steps).probabilities(x), expected, rtol=1e-2, atol=1e-3)
    zero, three, five = network.after(x, [0, 3, 5])
    assert torch.equal(three, network.probabilities(x))
    assert (zero - three).abs().max() > 1e-4 and (five - three).abs().max() > 1e-4
    possible = np.array([[True, False, True, False]] * 2)
    assert not network.probabilities(x, possible)[:, [1, 3]].any()


def test_looks_descend_each_for_itself(tmp_path: Path) -> None:
    """A mirror image is answered as its own picture, and the mean of both does not tell left from right."""
    x = noise(1, 64, 64)
    network = open_network(random_model(tmp_path / "m.json"), scales=(1.0, 0.5), flip=True)
    torch.testing.assert_close(network.probabilities(x), network.probabilities(x.flip(3)).flip(3), rtol=1e-3, atol=1e-4)


def test_a_model_that_descends_is_scored_after_each_number_of_steps(tmp_path: Path) -> None:
    rgb = noise(2, 64, 80).permute(0, 2, 3, 1).numpy()
    truths = [np.random.default_rng(i).integers(0, COUNT, (64, 80)).astype(np.uint8) for i in range(2)]
    given = planted.dataset(tmp_path, list(rgb), np.zeros((2, COUNT)), truths, names=NAMES, train=[])
    made = random_model(tmp_path / "m.json")
    files = [f"--{role}={given[role].path}" for role in ("photographs", "masks")]
    compute = ["--device", "cpu", "--precision", "f32", "--threads", "1"]
    evaluate.main([*files, "--of", str(made.path), "--out", str(tmp_path / "x.json"), *compute])
    found = store.Artifact(tmp_path / "x.json", "metrics")
    assert found.meta["thresholds"] == [0, 1, None, 5, 10, 20] and found.meta["steps"] == [0, 1, 3, 5, 10, 20]
    matrices = found.read("confusion")[0]
    for steps, matrix in zip(found.meta["steps"], matrices, strict=True):
        labels = predict_batch(open_network(made, steps=steps), rgb, [(64, 80)] * 2)
        expected = sum(metrics.confusion(t, p, COUNT) for t, p in zip(truths, labels, strict=True))
        np.testing.assert_array_equal(matrix, expected, str(steps))
    assert (matrices[0] != matrices[-1]).any(), "the descent changes labels"
    assert systems.best(found)[0] is None
    np.testing.assert_array_equal(systems.best(found)[1], matrices[2])
    assert [(k, look) for k, _, look in chosen_levels("model", found.meta["thresholds"], [0.5] * 6)] == [(2, "main")]


def test_predict_takes_steps_of_models_that_descend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = random_model(tmp_path / "m.json")
    (tmp_path / "photos").mkdir()
    rgb = noise(1, 64, 80)[0].permute(1, 2, 0).numpy()
    Image.fromarray(rgb).save(tmp_path / "photos" / "a.png")
    compute = ["--device", "cpu", "--precision", "f32", "--threads", "1", "--max-side", "0"]

    def call(model: store.Artifact, out: str, *more: str) -> np.ndarray:
        predict.main([str(model.path), str(tmp_path / "photos"), "--out", str(tmp_path / out), *compute, *more])
        return np.asarray(Image.open(tmp_path / out / "a.png"))

    for out, steps in (("own", None), ("zero", 0), ("many", 15)):
        expected = predict_labels(open_network(made, steps=steps), rgb, (64, 80))
        np.testing.assert_array_equal(call(made, out, *([] if steps is None else ["--steps", str(steps)])), expected)
    with pytest.raises(SystemExit):
        call(made, "own", "--steps", "2")
    assert "made with another steps" in capsys.readouterr().err
    plain_model = planted.model(tmp_path / "s.json", colour_segmenter(COLOURS), planted.class_names(3))
    with pytest.raises(SystemExit) as left:
        call(plain_model, "none", "--steps", "2")
    said = capsys.readouterr().err
    assert left.value.code == 2 and "s.json: a model of 'segment' does not descend" in said
    assert not (tmp_path / "none").exists()
    with pytest.raises(SystemExit):
        call(made, "bad", "--steps", "-1")
