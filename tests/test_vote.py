"""Votes of hypotheses: who is confident, what recurs in other images of the class, and where the votes fall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
import torch
from colours import colour_detector
from test_hcp import filled, random_boxes

from pipeline import vote
from pipeline.core import store
from pipeline.core.steps.seeds import Vote
from pipeline.kinds import seeds
from pipeline.kinds.hypotheses import Hypotheses
from pipeline.networks.classifier import Classifier

# ------------------------------------------------------------------------------------------------------- the rules


def test_the_confident_are_the_best_and_not_far_below_the_best() -> None:
    scores = np.array([0.1, 0.8, 0.45, 0.39, 0.8, 0.4])
    assert vote.confident(scores, 0.5).tolist() == [1, 4, 2, 5]
    assert vote.confident(scores, 1.0).tolist() == [1, 4]
    assert vote.confident(scores, 0.0).tolist() == [1, 4, 2, 5, 3, 0]
    assert vote.confident(np.array([1e-9]), 1.0).tolist() == [0]


def unit(rng: np.random.Generator, count: int, length: int = 5) -> np.ndarray:
    found = rng.normal(size=(count, length))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def test_distances_are_means_over_images_of_the_nearest() -> None:
    rng = np.random.default_rng(0)
    own, partners = unit(rng, 7), [unit(rng, count) for count in (1, 4, 9)]
    expected = []
    for h in own.astype(np.float64):
        nearest = [min(1 - float(h @ other) for other in partner.astype(np.float64)) for partner in partners]
        expected.append(sum(nearest) / len(nearest))
    found = vote.distances(torch.from_numpy(own), map(torch.from_numpy, partners))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert vote.distances(torch.from_numpy(own), []).tolist() == [0] * 7, "with nothing to compare with"


def test_votes_by_hand() -> None:
    """Two boxes on 4 x 6 pixels in cells of 2 x 2: weight 0.5 above, left; weight 1 in the middle, of which the mask
    is the lower row."""
    boxes, weights = np.array([[0, 0, 2, 4], [1, 2, 3, 4]]), np.array([0.2, 0.4])
    mask = [np.ones((2, 4), bool), np.array([[False, False], [True, True]])]
    found = vote.votes(boxes, None, weights, (4, 6), 2)
    np.testing.assert_allclose(found, [[0.5, 1, 0], [0, 0.5, 0]])
    found = vote.votes(boxes, mask, weights, (4, 6), 2)
    np.testing.assert_allclose(found, [[1, 1, 0], [0, 1, 0]])


def test_cells_at_the_edge_are_means_of_what_they_hold() -> None:
    boxes = np.array([[0, 0, 3, 5], [2, 0, 3, 5]])
    found = vote.votes(boxes, None, np.array([1.0, 1.0]), (3, 5), 2)
    np.testing.assert_allclose(found, [[0.5] * 3, [1] * 3])


def test_weights_however_small_are_votes() -> None:
    assert vote.votes(np.array([[0, 0, 4, 4]]), None, np.array([1e-300]), (4, 4), 4).tolist() == [[1]]
    empty = [np.zeros((4, 4), bool)]
    assert vote.votes(np.array([[0, 0, 4, 4]]), empty, np.array([1.0]), (4, 4), 4).tolist() == [[0]]


def test_a_sample_is_evenly_spaced() -> None:
    rows = np.arange(100, 111)
    assert vote.evenly(rows, 3).tolist() == [100, 105, 110]
    assert vote.evenly(rows, 1).tolist() == [100]
    assert vote.evenly(rows, 11).tolist() == vote.evenly(rows, 99).tolist() == rows.tolist()
    assert vote.evenly(rows[:0], 5).tolist() == vote.evenly(rows, 0).tolist() == []


# --------------------------------------------------------------------------------------------------------- the stage


class World:
    """Photographs with planted hypotheses, and a network that sees classes 1, 2, 3 as red, green and blue."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, loss: str = "soft_margin"):
        self.folder, self.planted = folder, 0
        about = {"method": "hcp", "epochs": 3.0, "loss": loss}
        header = store.Header("classifier", "hcp", about, "test")
        meta = {"classes": planted.class_names(4), "background": 0}
        curve = {"curve_loss": np.array([0.5, 0.25], np.float32)}
        self.classifier = planted.table_artifact(folder / "c.json", "classifier", curve, meta, header)
        monkeypatch.setattr(vote, "load_classifier", lambda artifact: self.network())

    @staticmethod
    def network() -> Classifier:
        model = colour_detector(8)
        model.trunk.std.fill_(255.0)
        return model

    def plant(self, pictures: list, table: np.ndarray, found: list[Hypotheses], **options: Any) -> None:
        self.planted += 1
        place = self.folder / str(self.planted)  # or rows of the world before would be taken over
        place.mkdir()
        self.given = planted.dataset(place, pictures, table, **options)
        self.given["hypotheses"] = planted.hypotheses(place / "h.json", found)
        self.given["classifier"] = self.classifier

    def run(self, **settings: Any) -> store.Artifact:
        out = self.folder / "s.json"
        vote.run(planted.job(Vote(**settings), out, self.given))
        return store.Artifact(out, "seeds")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


OBJECT, OTHER = [8, 8, 24, 24], [32, 32, 56, 56]


def recurring(count: int) -> tuple[list, np.ndarray, list[Hypotheses]]:
    """The same red thing in every photograph; beside it something as red and more, but of a colour of its own."""
    pictures = []
    for i in range(count):
        rgb = np.zeros((64, 64, 3), np.uint8)
        for (y0, x0, y1, x1), colour in ((OBJECT, (150, 40, 0)), (OTHER, (250, 250 * (i % 2), 250 * (i // 2 % 2)))):
            rgb[y0:y1, x0:x1] = colour
        pictures.append(rgb)
    return pictures, np.tile([False, True, False, False], (count, 1)), [filled(np.array([OTHER, OBJECT]))] * count


def test_a_hypothesis_cut_out_is_seen_by_itself() -> None:
    """Four columns of red, the rest is green: pooled, a box around the red ones is the cell of 8 px they are in."""
    rgb = np.zeros((16, 32, 3), np.uint8)
    rgb[:, :4, 0] = rgb[:, 4:, 1] = 255
    boxes, half = np.array([[0, 0, 16, 4], [0, 8, 16, 32]]), 0.5**0.5
    scores, features = vote.seen(World.network(), rgb, boxes, 32, "cpu", "f32")
    np.testing.assert_allclose(features, [[1, 0, 0], [0, 1, 0]], atol=1e-3)
    assert (scores.argmax(1) == [0, 1]).all()
    pooled = vote.seen(World.network(), rgb, boxes, None, "cpu", "f32")[1]
    np.testing.assert_allclose(pooled, [[half, half, 0], [0, 1, 0]], atol=1e-3)


def test_what_recurs_in_other_images_wins_over_a_better_score(world: World) -> None:
    """And without re-ranking the score decides."""
    world.plant(*recurring(4))
    cells = np.zeros((2, 16, 16))
    for k, (y0, x0, y1, x1) in enumerate((OBJECT, OTHER)):
        cells[k, y0 // 4 : y1 // 4, x0 // 4 : x1 // 4] = 1
    best = world.run(keep=1, confident=0.1).read("scores")
    for row in best:
        np.testing.assert_array_equal(row[0], cells[0])
        assert not row[1:].any()
    alone = world.run(keep=1, confident=0.1, partners=0).read("scores")
    np.testing.assert_array_equal(alone[:, 0], np.stack([cells[1]] * 4))
    both = world.run(keep=2, confident=0.1, sigma=0.1).read("scores")[0, 0]
    assert set(np.unique(both[cells[0] > 0])) == {1} and 0 < both[cells[1] > 0].min() < 1


def test_hypotheses_far_from_all_others_still_vote(world: World) -> None:
    """Of a red, a yellow, a purple and a white thing none is near another: exp(-D / sigma) is 0 for each."""
    pictures, table, _ = recurring(4)
    world.plant(pictures, table, [filled(np.array([OTHER]))] * 4)
    scores = world.run(sigma=1e-4).read("scores")[:, 0]
    assert (scores[:, 8:14, 8:14] == 1).all() and scores.sum() == 4 * 36


def test_an_image_alone_of_its_class_votes_by_score(world: World) -> None:
    """Nothing is compared with itself, nor with a photograph that is the same."""
    pictures, table, found = recurring(1)
    for count in (1, 3):
        world.plant(pictures * count, np.repeat(table, count, 0), found * count)
        scores = world.run(keep=1, confident=0.1).read("scores")[:, 0]
        assert (scores[:, 8:14, 8:14] == 1).all() and not scores[:, :6].any()


@pytest.mark.parametrize("loss", ["squared", "soft_margin"])
def test_the_stage_does_what_the_rules_say(loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything at once on random photographs, against plain loops: two tags, a sample, segments, odd sizes."""
    world, rng = World(tmp_path, monkeypatch, loss), np.random.default_rng(0)
    sizes = [(64, 64), (50, 64), (64, 42), (40, 40), (64, 64), (33, 64)]
    pictures = [rng.integers(0, 256, (h // 8 + 1, w // 8 + 1, 3), dtype=np.uint8) for h, w in sizes]
    pictures = [p.repeat(8, 0).repeat(8, 1)[:h, :w] for p, (h, w) in zip(pictures, sizes, strict=True)]
    found = []
    for h, w in sizes:
        boxes = random_boxes(rng, 12, h, w)
        masks = [rng.random((y1 - y0, x1 - x0)) < 0.6 for y0, x0, y1, x1 in boxes.tolist()]
        found.append(Hypotheses(boxes, np.zeros(12, np.int64), masks))
    table = np.array([[0, 1, 1, 0], [0, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], bool)
    world.plant(pictures, table, found)
    settings = Vote(most=9, confident=0.9, partners=3, keep=4, sigma=0.05)
    made = world.run(**settings.model_dump(exclude={"method"}))

    model, pixels = World.network(), []
    for rgb in pictures:
        x = model.trunk.whole(torch.from_numpy(rgb).permute(2, 0, 1)[None])
        cells = model.trunk(x)[-1][0].detach().numpy()
        pixels.append(np.kron(cells, np.ones((8, 8), np.float32)))

    def feature(i: int, h: int) -> np.ndarray:
        y0, x0, y1, x1 = found[i].boxes[h]
        return pixels[i][:, y0:y1, x0:x1].mean((1, 2))

    def score(i: int, h: int, c: int) -> float:
        s = feature(i, h).astype(np.float64)
        return float(np.log(1 + np.exp(s[c])))

    def good(i: int, c: int) -> list[int]:
        ranked = sorted(range(9), key=lambda h: -score(i, h, c))
        return [h for h in ranked if score(i, h, c) > 0.9 * score(i, ranked[0], c)]

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    compared = {0: [0, 2, 4], 1: [0, 5], 2: [2]}  # of 0, 1, 2, 4 those evenly spaced; all of the others
    for i, (h, w) in enumerate(sizes):
        for slot, c in enumerate(np.flatnonzero(table[i]) - 1):
            others = [j for j in compared[int(c)] if j != i]
            near = {
                k: np.mean([min(1 - cosine(feature(i, k), feature(j, m)) for m in good(j, c)) for j in others] or [0.0])
                for k in good(i, c)
            }
            total = np.zeros((h, w))
            for k in sorted(near, key=lambda k: near[k])[:4]:
                y0, x0, y1, x1 = found[i].boxes[k]
                total[y0:y1, x0:x1] += score(i, k, c) * np.exp(-near[k] / 0.05) * found[i].segments[k]
            cells = np.array([[total[y : y + 4, x : x + 4].mean() for x in range(0, w, 4)] for y in range(0, h, 4)])
            stored = made["scores"][i, slot, : len(cells), : len(cells[0])]
            np.testing.assert_allclose(stored, cells / cells.max(), atol=0.01)
            assert stored.max() == 1
    assert not made["scores"][3].any(), "without a tag there is nothing to find"
    first = {} if loss == "squared" else {"loss": 0.25, "epochs": 3.0}
    assert made.meta == {"classes": planted.class_names(4), "background": 0, "grid": 4, "rounds": [first]}


def test_a_photograph_without_hypotheses_is_one_itself(world: World) -> None:
    pictures, table, found = recurring(2)
    nothing = filled(np.zeros((0, 4)))
    world.plant([pictures[0], pictures[1][:50, :42]], table, [found[0], nothing], side=64)
    for by in ("segments", "boxes"):
        made = world.run(by=by)
        whole = np.zeros((16, 16))
        whole[:13, :11] = 1
        np.testing.assert_array_equal(made["scores"][1, 0], whole)
        assert seeds.on_grid(made, world.given["photographs"], 1).classes.tolist() == [1]


def test_segments_vote_or_boxes(world: World) -> None:
    pictures, table, found = recurring(2)
    corner = np.zeros((16, 16), bool)
    corner[:8, :8] = True
    found = [Hypotheses(np.array([OBJECT]), np.zeros(1, np.int64), [corner])] * 2
    world.plant(pictures, table, found)
    for by, size in (("segments", 4), ("boxes", 16)):
        assert world.run(by=by).read("scores")[0].sum() == size


def test_rows_rest_on_their_photograph_and_on_the_sample(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Of five, two are compared with (first and last); the middle one's change concerns nobody else."""
    pictures, table, found = recurring(5)

    def computed(**settings: Any) -> int:
        world.plant(pictures, table, found)
        capsys.readouterr()
        world.run(partners=2, **settings)
        said = capsys.readouterr().out
        return int(said.split("s.json: ")[-1].split(" of 5")[0])

    assert computed() == 5
    assert computed(threshold=0.2) == 0
    pictures[2] = 255 - pictures[2]
    assert computed() == 1
    after = world.run(partners=2).read("scores")
    pictures[4] = 255 - pictures[4]
    assert computed() == 5
    assert (world.run(partners=2).read("scores")[1] != after[1]).any()
