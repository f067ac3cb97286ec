"""Batches on a GPU. There is none here: batches are forced on a CPU, where they must give what single photographs give,
and a device without numbers, torch's 'meta', shows that nothing is fetched from a device but the result."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
import torch
from colours import colour_detector
from PIL import Image
from torch import Tensor

from pipeline import cam, erase, evaluate, excitation, mine, predict, relabel
from pipeline.core import cli, store
from pipeline.core.processes import in_batches
from pipeline.core.steps.labels import Relabel
from pipeline.core.steps.seeds import Cam, Erase, Excitation, Mine
from pipeline.kinds import seeds
from pipeline.networks import classifier, door, pictures, tiles
from pipeline.networks import excitation as exciting
from pipeline.networks.backbones import backbone
from pipeline.networks.classifier import Classifier, activation, recall, tag_probabilities
from pipeline.networks.door import SegmenterNetwork, likely, predict_batch, predict_labels, refined_probabilities
from pipeline.networks.pictures import batch_size
from pipeline.networks.prohibitive import Prohibitive
from pipeline.networks.segmenter import Segmenter

CPU = {"device": "cpu", "precision": "f32"}
SIZES = [(40, 64), (40, 64), (64, 40), (40, 64), (40, 64), (64, 40), (64, 64), (40, 64)]  # the last two: val
TAGS = np.array([[0, 1, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0], [0] * 4, [0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 1], [0] * 4])


def noise(seed: int, *shape: int) -> np.ndarray:
    """Coarse, so that a network sees more than grey."""
    coarse = np.random.default_rng(seed).integers(0, 256, (*shape[:-3], 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(-(-shape[-3] // 8), -3).repeat(-(-shape[-2] // 8), -2)[..., : shape[-3], : shape[-2], :]


# --------------------------------------------------------------------------------------------- putting together


@pytest.mark.parametrize(("most", "ahead", "processes"), [(1, 9, 1), (1, 9, 2), (2, 2, 1), (3, 5, 1), (16, 99, 1)])
def test_batches_hold_what_is_alike_and_results_keep_the_order(most: int, ahead: int, processes: int) -> None:
    items, batches = np.random.default_rng(most).integers(0, 3, 40).tolist(), []

    def work(batch: list[tuple[int, int]]) -> Iterator[int]:
        batches.append(batch)
        yield from (10 * i + kind for i, kind in batch)

    found = list(in_batches(work, enumerate(items), lambda item: item[1], most, processes, ahead))
    assert found == [10 * i + kind for i, kind in enumerate(items)]
    if most > 1 or processes == 1:
        assert sum(map(len, batches)) == 40
    for batch in batches:
        assert len({kind for _, kind in batch}) == 1 and len(batch) <= most
        assert batch == sorted(batch) and batch[-1][0] - batch[0][0] < ahead


def test_a_batch_is_as_full_as_what_lies_ahead_allows() -> None:
    sizes: list[int] = []

    def work(batch: list[str]) -> list[str]:
        sizes.append(len(batch))
        return batch

    assert list(in_batches(work, "aabaaabab", str, 4)) == list("aabaaabab")
    assert sizes == [4, 3, 2]  # aaaa, bbb, aa


@pytest.mark.parametrize(("most", "ahead"), [(1, 8), (4, 8)])
def test_no_more_is_read_than_may_be_held(most: int, ahead: int) -> None:
    read = given = 0

    def items() -> Iterator[int]:
        nonlocal read
        for i in range(100):
            read += 1
            yield i % 7

    for _ in in_batches(lambda batch: batch, items(), int, most, ahead=ahead):
        assert read - given <= (ahead if most > 1 else 1)
        given += 1
    assert given == 100
    assert list(in_batches(lambda batch: batch, [], int, most)) == []


def test_a_batch_without_a_result_for_each_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        list(in_batches(lambda batch: batch[1:], [1, 1, 1], int, 2))


def test_a_gpu_takes_as_many_as_its_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 2**34
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2**36))
    assert batch_size("cpu", 512, (1.0,), False) == 1
    assert batch_size("cuda", 160) == 16
    assert batch_size("cuda:1", 512, (0.5, 2.0), True) == free // 2 // (1024 * 1024**2 * 2)
    assert batch_size("cuda", 512, (2.0,), False) == 2 * batch_size("cuda", 512, (2.0,), True)
    assert batch_size("cuda", 100_000) == 1


# -------------------------------------------------------------------------- one by one or together: the same


@pytest.fixture(scope="module")
def tagger() -> Classifier:
    torch.manual_seed(0)
    model = Classifier(backbone("resnet18", 16), [1, 2, 3]).eval()
    model.score.weight.data *= 30
    return model


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    model = Segmenter(backbone("resnet18", 32), "deeplabv3+", 4, 16, 32).eval()
    score: Any = model.head.score
    with torch.no_grad():
        logits = model(torch.from_numpy(noise(9, 8, 64, 64, 3)).permute(0, 3, 1, 2))
        mean, spread = logits.mean((0, 2, 3)), logits.std((0, 2, 3))
        score.weight /= spread[:, None, None, None] / 3  # each class wins somewhere, and clearly
        score.bias.copy_((score.bias - mean) / spread * 3)
    return model


def network(model: Segmenter, device: str = "cpu", **options: Any) -> SegmenterNetwork:
    settings = {"precision": "f32", "scales": (1.0, 0.5), "flip": True, **options}
    return SegmenterNetwork(model, planted.class_names(4), 0, 64, device, **settings)


@pytest.mark.parametrize(("scales", "flip"), [((1.0,), False), ((0.5, 1.0, 1.7), True)])
def test_maps_of_a_batch_are_those_of_its_photographs(
    tagger: Classifier, scales: tuple[float, ...], flip: bool
) -> None:
    rgb, ids = noise(0, 4, 50, 70, 3), [[3, 1], [], [2], [1, 2, 3]]
    options: Any = {"grid": 4, "scales": scales, "flip": flip, **CPU}
    together = activation(tagger, rgb, ids, **options)
    for one, these, found in zip(rgb, ids, together, strict=True):
        assert found.shape == (len(these), 13, 18) and found.dtype == np.float32
        (alone,) = activation(tagger, one[None], [these], **options)
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-5)
    assert together[3].std() > 0.1
    assert [found.shape for found in activation(tagger, rgb[:2], [[], []], **options)] == [(0, 13, 18)] * 2


def test_tag_probabilities_and_recall_of_a_batch(tagger: Classifier) -> None:
    rgb, ids = noise(1, 5, 50, 70, 3), [[3, 1], [], [2], [1, 2, 3], [2, 3]]
    together = tag_probabilities(tagger, rgb, ids, **CPU)
    for one, these, found in zip(rgb, ids, together, strict=True):
        np.testing.assert_allclose(found, tag_probabilities(tagger, one[None], [these], **CPU)[0], rtol=0, atol=1e-5)
    assert np.ptp(together[3]) > 0.01
    sizes = [(50, 70), (70, 50), (50, 70), (50, 70), (64, 64), (50, 70)]
    photos = [noise(i, *size, 3) for i, size in enumerate(sizes)]
    best = [int(tag_probabilities(tagger, one[None], [[1, 2, 3]], **CPU)[0].argmax()) + 1 for one in photos]
    tags = np.zeros((6, 4), bool)
    tags[np.arange(6), [best[0], best[1], 1 + best[2] % 3, best[3], 1 + best[4] % 3, 0]] = True  # three of five
    tags[5] = False
    for batch in (1, 2, 16):
        assert recall(tagger, photos.__getitem__, tags, np.arange(6), batch=batch, **CPU) == 3 / 5


@pytest.mark.parametrize(("crf", "limited"), [(False, False), (False, True), (True, True)])
def test_labels_of_a_batch_are_those_of_its_photographs(segmenter: Segmenter, crf: bool, limited: bool) -> None:
    net, rgb = network(segmenter), noise(2, 3, 44, 60, 3)
    sizes = [(44, 60), (87, 121), (30, 33)]  # photographs of one size need not have had one size
    possible = np.array([[1, 0, 1, 0], [1, 1, 1, 1], [1, 0, 0, 1]], bool) if limited else None
    together = predict_batch(net, rgb, sizes, possible, crf)
    for b, found in enumerate(together):
        assert found.shape == sizes[b] and found.dtype == np.uint8
        alone = predict_labels(net, rgb[b], sizes[b], None if possible is None else possible[b], crf)
        assert (found == alone).mean() > 0.999  # where two classes draw, rounding decides
        assert len(np.unique(found)) > 1
    for b, (ids, scores) in enumerate(likely(net, rgb, possible)):
        assert ids.tolist() == ([0, 1, 2, 3] if possible is None else np.flatnonzero(possible[b]).tolist())
        _, alone = refined_probabilities(net, rgb[b], None if possible is None else possible[b])
        np.testing.assert_allclose(scores, alone, rtol=0, atol=1e-5)


def test_a_mask_on_the_device_gates_like_one_from_outside() -> None:
    scores, possible = torch.rand(2, 4, 5, 6).softmax(1), np.array([[1, 0, 1, 0], [0, 1, 0, 0]], bool)
    torch.testing.assert_close(door.gated(scores, torch.from_numpy(possible)), door.gated(scores, possible))
    assert door.gated(scores.to("meta"), torch.from_numpy(possible).to("meta")).shape == (2, 4, 5, 6)


# --------------------------------------------------------------------------------------------- by their stages


PICTURES = [noise(i, *size, 3) for i, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, segmenter: Segmenter) -> dict[str, store.Artifact]:
    """Photographs of three sizes and what stages with a network start from."""
    folder = tmp_path_factory.mktemp("given")
    truths = [noise(20 + i, 2 * h, 2 * w, 3)[..., 0] % 4 for i, (h, w) in enumerate(SIZES)]
    given = planted.dataset(folder, PICTURES, TAGS, truths, train=range(6), side=64)
    curve, entry = {"curve_loss": np.ones(1, np.float32)}, {"loss": 1.5, "recall": 0.75, "epochs": 10.0, "stop": ""}
    header = store.Header("classifier", "classify", {"method": "classify", "epochs": 3.0}, "test")
    meta = {"classes": planted.class_names(4), "background": 0, "round": 2, "entry": entry}
    given["classifier"] = planted.table_artifact(folder / "c.json", "classifier", curve, meta, header)
    given["model"] = planted.model(folder / "m.json", segmenter, planted.class_names(4))
    slots = np.full((8, 4), 255, np.uint8)
    for i, row in enumerate(TAGS):
        slots[i, : row.sum()] = row.nonzero()[0]
    claimed = np.zeros((8, 4, 16, 16))
    claimed[:, :, 2:4, 3:5] = (slots != 255)[..., None, None]
    given["seeds"] = planted.seeds(folder / "s.json", claimed * 0.5, slots, claimed)
    return given


class World:
    """The stages with a network, in batches of a given size, on a given device."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, store.Artifact], tagger: Any):
        self.folder, self.patch, self.given, self.device = folder, monkeypatch, given, "cpu"
        self.pictures = [picture.copy() for picture in PICTURES]
        for module in (cam, mine):
            monkeypatch.setattr(module, "load_classifier", lambda artifact: colour_detector(8))
        monkeypatch.setattr(excitation, "load_classifier", lambda artifact: copy.deepcopy(tagger))

    def together(self, count: int) -> World:
        for module in (cam, excitation, mine, erase, relabel, pictures):
            self.patch.setattr(module, "batch_size", lambda *about: count)
        self.patch.setattr(cli, "pick_compute", lambda *asked: (self.device, "f32"))
        return self

    def out(self, name: str) -> Path:
        place = self.folder / f"{name}-{len(list(self.folder.iterdir()))}"
        place.mkdir()
        return place / "x.json"

    def cam(self) -> store.Artifact:
        job = planted.job(Cam(scales=(1.0, 0.5)), self.out("cam"), self.given, device=self.device)
        cam.run(job)
        return store.Artifact(job.out)

    def excitation(self) -> store.Artifact:
        settings = Excitation(scales=(1.0, 0.5), at=5)
        job = planted.job(settings, self.out("excitation"), self.given, device=self.device)
        excitation.run(job)
        return store.Artifact(job.out)

    def mine(self) -> store.Artifact:
        job = planted.job(Mine(scales=(1.0, 0.5)), self.out("mine"), self.given, device=self.device)
        mine.run(job)
        return store.Artifact(job.out)

    def relabel(self, **settings: Any) -> store.Artifact:
        job = planted.job(Relabel(**settings), self.out("relabel"), self.given, device=self.device)
        relabel.run(job)
        return store.Artifact(job.out)

    def evaluate(self) -> store.Artifact:
        paths = {role: self.given[role].path for role in ("photographs", "masks")}
        out = self.out("evaluate")
        options = {"of": self.given["model"].path, "out": out, "settings": "{}", "threads": 1}
        evaluate.run(argparse.Namespace(**paths, **options, device="auto", precision="auto"))
        return store.Artifact(out)

    def predict(self, *flags: str) -> dict[str, np.ndarray]:
        photos = self.folder / "photos"
        photos.mkdir(exist_ok=True)
        for i, rgb in enumerate(self.pictures):
            Image.fromarray(np.kron(rgb, np.ones((2, 2, 1), np.uint8))).save(photos / f"{i}.png")
        (photos / "text.png").write_text("no picture")
        out = self.out("predict").parent
        words = [str(self.given["model"].path), str(photos), "--out", str(out), "--threads", "1", *flags]
        with pytest.raises(SystemExit) as left:
            predict.main(words)
        assert left.value.code == 1, "a file is no photograph"
        return {path.name: np.asarray(Image.open(path)) for path in sorted(out.glob("*.png"))}


@pytest.fixture
def world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, store.Artifact], tagger: Classifier
) -> World:
    return World(tmp_path, monkeypatch, given, tagger)


@pytest.mark.parametrize("make", [World.cam, World.excitation, World.mine])
def test_seeds_are_the_same_in_batches(world: World, make: Callable[[World], store.Artifact]) -> None:
    single, batched = make(world.together(1)), make(world.together(3))
    assert single.read("classes").tolist() == batched.read("classes").tolist()
    for name in ("scores", "claimed"):
        one, other = single.read(name).astype(float), batched.read(name).astype(float)
        assert one.any()
        np.testing.assert_allclose(other, one, atol=1e-3)  # f16
    for i in range(6):
        found = seeds.on_grid(batched, world.given["photographs"], i)
        assert len(found.classes) == TAGS[i].sum() and found.scores.shape[1:] == (SIZES[i][0] // 4, SIZES[i][1] // 4)


@pytest.mark.parametrize("settings", [{"crf": True, "flip": False}, {"foreground": 0.6, "tags": False}])
def test_labels_are_the_same_in_batches(world: World, settings: dict) -> None:
    single, batched = (world.together(count).relabel(**settings) for count in (1, 3))
    assert (single.read("labels") == batched.read("labels")).mean() > 0.999
    assert len(np.unique(batched.read("labels")[0])) > 2
    np.testing.assert_array_equal(single.read("covered"), batched.read("covered"))


def test_scores_are_the_same_in_batches(world: World) -> None:
    single, batched = (world.together(count).evaluate().read("confusion") for count in (1, 3))
    assert single.sum() == batched.sum() > 0
    assert abs(single - batched).sum() <= 0.001 * single.sum()


def test_masks_of_own_photographs_are_the_same_in_batches(world: World) -> None:
    single, batched = (world.together(count).predict("--scales", "1", "0.5") for count in (1, 3))
    assert list(single) == list(batched) == [f"{i}.png" for i in range(8)]
    for name, mask in single.items():
        assert mask.shape == batched[name].shape == tuple(2 * side for side in SIZES[int(name[0])])
        assert (mask == batched[name]).mean() > 0.999


def test_a_batch_that_fails_costs_only_the_photograph_that_is_to_blame(world: World, capsys: Any) -> None:
    asked, told = [], door.predict_batch
    world.pictures[4][:] = 255

    def fussy(net: Any, rgb: np.ndarray, *rest: Any, **options: Any) -> list[np.ndarray]:
        asked.append(len(rgb))
        if any((one == 255).all() for one in rgb):
            raise RuntimeError("out of memory")
        return told(net, rgb, *rest, **options)

    world.patch.setattr(tiles, "predict_batch", fussy)
    assert list(world.together(3).predict()) == [f"{i}.png" for i in range(8) if i != 4]
    assert max(asked) == 3
    said = capsys.readouterr().out.split("2 file(s) could not be done")[1]
    assert "4.png: RuntimeError: out of memory" in said and "text.png" in said


# ------------------------------------------------------------------- a device from which only results are fetched


@pytest.fixture
def fetched(world: World, monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.dtype, tuple[int, ...]]]:
    """All that is copied from the device, in order: the tensors of 'meta' have no numbers, so that everything else that
    would need some (`.numpy()`, `.item()`, `if tensor`) is an error. What is copied arrives as zeros."""
    copies = []

    def copy(tensor: Tensor) -> Tensor:
        if tensor.device.type == "meta":
            copies.append((tensor.dtype, tuple(tensor.shape)))
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        return tensor

    monkeypatch.setattr(Tensor, "cpu", copy)
    for module in (classifier, door, exciting):
        monkeypatch.setattr(module, "autocast", lambda device, precision: nullcontext())  # unknown to torch's
    world.device = "meta"
    return copies


def test_the_device_without_numbers_tells() -> None:
    with pytest.raises(TypeError, match="meta"):
        torch.zeros(2, device="meta").numpy()
    with pytest.raises(RuntimeError, match="meta"):
        bool(torch.zeros(2, device="meta").any())


def test_of_maps_only_their_grid_is_fetched(world: World, fetched: list) -> None:
    world.together(3).cam()
    # 0, 1 and 4 are alike and have 2 + 1 + 3 tags, 2 and 5 one each; 3 has none.
    assert fetched == [(torch.float32, (6, 10, 16)), (torch.float32, (2, 16, 10))]


def test_of_mining_only_maps_and_probabilities_are_fetched(world: World, fetched: list) -> None:
    world.together(3).mine()
    assert fetched[::2] == [(torch.float32, (6, 10, 16)), (torch.float32, (2, 16, 10))]
    assert fetched[1::2] == [(torch.float32, (3, 3)), (torch.float32, (2, 3))]


def test_of_excitation_only_maps_and_losses_are_fetched(world: World, fetched: list) -> None:
    world.together(3).excitation()
    # Those without tags are among the others here: 0, 1 and 3; 2 and 5; 4.
    assert fetched[::2] == [(torch.float32, size) for size in ((3, 10, 16), (2, 16, 10), (3, 10, 16))]
    assert fetched[1::2] == [(torch.float32, (count,)) for count in (3, 2, 3)]


def test_of_a_network_with_a_gate_only_labels_are_fetched(segmenter: Segmenter, fetched: list) -> None:
    """It says itself which classes are possible, on the device."""
    for background in (0, None):
        foreground = [k for k in range(4) if k != background]
        model = Prohibitive(copy.deepcopy(segmenter), foreground).eval().to("meta")
        names = planted.class_names(4, background)
        net = door.ProhibitiveNetwork(model, names, background, 64, "meta", "f32", (1.0, 0.5), True, gate=0.5)
        predict_batch(net, noise(0, 2, 40, 64, 3), [(80, 128), (40, 64)])
    assert fetched == [(torch.uint8, (80, 128)), (torch.uint8, (40, 64))] * 2


def test_of_recall_only_the_best_classes_are_fetched(world: World, fetched: list) -> None:
    model, on = colour_detector(8).to("meta"), {"device": "meta", "precision": "f32"}
    recall(model, world.pictures.__getitem__, TAGS, np.arange(6), batch=3, **on)
    assert fetched == [(torch.int64, (3,)), (torch.int64, (2,))]


@pytest.mark.parametrize("tags", [True, False])
def test_of_new_labels_only_the_labels_are_fetched(world: World, fetched: list, tags: bool) -> None:
    world.together(3).relabel(tags=tags, foreground=0.4, scales=(1.0, 0.5))
    assert fetched == [(torch.uint8, (3, 40, 64)), (torch.uint8, (2, 64, 40)), (torch.uint8, (1, 40, 64))]


def test_for_the_crf_probabilities_are_fetched_once(world: World, fetched: list) -> None:
    world.together(3).relabel(crf=True)
    assert fetched == [
        (torch.float32, (3, 4, 40, 64)),
        (torch.float32, (2, 4, 64, 40)),
        (torch.float32, (1, 4, 40, 64)),
    ]


def test_of_scoring_only_labels_are_fetched(world: World, fetched: list) -> None:
    world.together(3).evaluate()
    assert fetched == [(torch.uint8, (128, 128)), (torch.uint8, (80, 128))]


def test_of_prediction_only_masks_are_fetched(world: World, fetched: list) -> None:
    world.together(3).predict()
    wide, tall = (torch.uint8, (80, 128)), (torch.uint8, (128, 80))
    assert sorted(fetched, key=str) == sorted([wide] * 5 + [tall] * 2 + [(torch.uint8, (128, 128))], key=str)


def test_an_eraser_measures_recall_in_batches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def measured(*arguments: Any, **options: Any) -> float:
        asked.update(options)
        return 1.0

    monkeypatch.setattr(erase, "recall", measured)
    monkeypatch.setattr(erase, "new_classifier", lambda *about: colour_detector(8))
    monkeypatch.setattr(erase.train, "fit", lambda *about, **rest: {"curve_loss": np.ones(2, np.float32)})
    weights = planted.weights(world.folder / "w.json", backbone("resnet18"))
    erase.run(planted.job(Erase(crop=64), world.together(5).out("erase"), {**world.given, "weights": weights}))
    assert asked["batch"] == 5
