"""Adversarial erasing: the readings of 'top 20 %', the stop rule, what the classifier sees, and how rounds add up."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import planted
import pytest
from conftest import TINY, stage
from test_localize import colour_detector

from pipeline import crf, erase
from pipeline.core import cli, data, localize, store
from pipeline.core.config import Crf, Erase
from pipeline.core.models import Classifier


def smooth(seed: int, shape: tuple[int, int, int] = (3, 12, 10)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def plain(score: np.ndarray, settings: Erase) -> np.ndarray:
    """The reading of one map, by sorting."""
    flat = sorted(score.ravel().tolist(), reverse=True)
    t, top = settings.threshold, flat[0]
    if settings.reading == "of_max":
        region = score > t * top
    elif settings.reading == "top_of_max":
        region = score >= (1 - t) * top
    else:
        region = score >= flat[round(t * len(flat)) - 1]
    if region.mean() > settings.largest:
        region = score >= flat[round(settings.largest * len(flat)) - 1]
    return region & (score > 0)


@pytest.mark.parametrize("largest", [1.0, 0.7, 0.1])
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("reading", ["of_max", "top_of_max", "top_pixels"])
def test_the_three_readings(reading: str, threshold: float, largest: float) -> None:
    settings = Erase(reading=reading, threshold=threshold, largest=largest)  # type: ignore[arg-type]
    scores = smooth(0)
    found = erase.mine(scores, settings)
    for k, score in enumerate(scores):
        np.testing.assert_array_equal(found[k], plain(score, settings))
    assert found.any()
    assert found.mean((1, 2)).max() <= largest + 1 / scores[0].size


@pytest.mark.parametrize("reading", ["of_max", "top_of_max", "top_pixels"])
def test_an_empty_map_mines_nothing(reading: str) -> None:
    settings = Erase(reading=reading, threshold=0.9, largest=1.0)  # type: ignore[arg-type]
    scores = np.zeros((2, 6, 6), np.float32)
    scores[1, 2:4, 2:4] = 0.5
    found = erase.mine(scores, settings)
    assert not found[0].any()
    np.testing.assert_array_equal(found[1], scores[1] > 0), "zeros are never the top of anything"


def test_a_map_that_is_the_same_everywhere_claims_all_or_nothing() -> None:
    flat = np.ones((1, 5, 5), np.float32)
    assert erase.mine(flat, Erase(threshold=0.5, largest=1.0)).all()
    assert not erase.mine(flat, Erase(threshold=0.5, largest=0.7)).any(), "no threshold makes it less than everything"


def test_maps_are_relative_to_their_own_maximum() -> None:
    scores = smooth(1)
    for reading in ("of_max", "top_of_max", "top_pixels"):
        settings = Erase(reading=reading, threshold=0.3)  # type: ignore[arg-type]
        np.testing.assert_array_equal(erase.mine(scores, settings), erase.mine(scores * 0.25, settings))


def test_stop_rule() -> None:
    settings = Erase(stop_loss=2.0, stop_recall=0.6, stop_mined=0.02)
    first = {"loss": 0.1}

    def reason(**latest: float) -> str | None:
        return erase.stop_reason([first, {"loss": 0.15, "recall": 0.9, "mined": 0.1, **latest}], settings)

    assert reason() is None
    assert reason(loss=0.2) is None
    assert "loss 0.210 is over 2.0 x round 1's 0.100" in str(reason(loss=0.21))
    assert reason(recall=0.6) is None
    assert "only 59% of the images" in str(reason(recall=0.59))
    assert reason(mined=0.02) is None
    assert "mined 1.9% of the image area" in str(reason(mined=0.019))
    assert erase.stop_reason([first, {"loss": 0.1, "recall": 1.0}], settings) is None, "before anything is mined"


# ------------------------------------------------------------------------------------------ what is erased


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, store.Artifact]:
    """Two pictures with a claimed square each, of different sizes, at a grid of 4."""
    root = tmp_path_factory.mktemp("erase")
    pictures = [np.full((48, 64, 3), 200, np.uint8), np.full((30, 42, 3), 100, np.uint8)]
    images = planted.images(root / "i.json", pictures, np.array([[1, 1], [0, 1]]))
    scores, classes = np.zeros((2, 4, 16, 16)), np.full((2, 4), 255)
    scores[0, 0, 2:5, 4:8], scores[0, 1, 4:9, 4:6], scores[1, 0, 1:3, 1:3] = 1, 1, 1
    classes[0, :2], classes[1, 0] = (1, 2), 2
    first = np.zeros((2, 4, 16, 16))
    first[0, 0, 2:5, 4:8], first[1, 0, 1:3, 1:3] = 1, 2
    return {
        "images": images,
        "cam": planted.seeds(root / "c.json", scores, classes, first * 0, 4, [{"loss": 1.0}]),
        "mined": planted.seeds(root / "m.json", scores, classes, first, 4, [{"loss": 1.0}, {"loss": 1.0}]),
    }


def test_plain_cam_counts_as_round_one(world: dict[str, store.Artifact]) -> None:
    first = erase.first_rounds(world["cam"], 0, (48, 64), Erase(threshold=0.5))
    scores = erase.scores_of(world["cam"], 0, (48, 64))
    assert first.shape == scores.shape == (4, 12, 16)
    np.testing.assert_array_equal(first, (scores > 0).astype(np.uint8))
    first = erase.first_rounds(world["mined"], 0, (48, 64), Erase(threshold=0.5))
    assert set(np.unique(first[0])) == {0, 1}
    assert not first[1].any(), "what earlier rounds did not mine stays unmined"
    first = erase.first_rounds(world["mined"], 1, (30, 42), Erase(threshold=0.5))
    assert first.shape == (4, 8, 11)
    assert set(np.unique(first)) == {0, 2}


def test_erased_regions_are_filled_before_the_augmentation_and_move_with_it(world: dict[str, store.Artifact]) -> None:
    """The label marks the region that is erased: in every crop, filled pixels are just those of the label."""
    images = world["images"]
    region = np.zeros((48, 64), bool)
    region[8:20, 16:32] = True
    fill = np.array([10, 20, 30], np.uint8)
    cut = data.Crops(images, 40, (0.5, 2.0), 0.0, fill, label=lambda i: region.astype(np.uint8), erase=lambda i: region)
    met = 0
    for seed in range(20):
        sample = cut(0, np.random.default_rng(seed))
        image, label = sample["image"].transpose(1, 2, 0), sample["label"]
        filled = (image == fill).all(2)
        assert filled[label == 255].all(), "outside the picture: the same fill"
        kept = (image == 200).all(2)
        inside = label != 255
        # Pixels on the region's border mix both; away from it the image is either.
        assert not (kept & (label == 1)).any()
        assert not (filled & (label == 0)).any()
        mixed = inside & ~filled & ~kept
        assert mixed.sum() <= 8 * 40
        met += (filled & (label == 1)).sum() > 20
    assert met > 8


def test_augmentation_does_not_change_what_is_erased(world: dict[str, store.Artifact]) -> None:
    """At scale 1 without jitter the erased image is the plain image with the fill in place, mirrored or not."""
    region = np.zeros((30, 42), bool)
    region[3:9, 5:30] = True
    options = {"crop": 64, "scale": (1.0, 1.0), "jitter": 0.0, "fill": np.array([1, 2, 3], np.uint8)}
    plain_cut = data.Crops(world["images"], **options, label=lambda i: region.astype(np.uint8))  # type: ignore[arg-type]
    erasing = data.Crops(world["images"], **options, erase=lambda i: region)  # type: ignore[arg-type]
    for seed in range(4):
        a, b = (cut(1, np.random.default_rng(seed)) for cut in (plain_cut, erasing))
        expected = np.where(a["label"] == 1, np.array([1, 2, 3], np.uint8)[:, None, None], a["image"])
        np.testing.assert_array_equal(b["image"], expected)


# ------------------------------------------------------------------------------- rounds with a known classifier


class Rounds:
    """Erasing rounds by the stage itself; a network that knows its classes by colour takes the trained one's place."""

    settings = Erase(scales=(1.0,), threshold=0.8, largest=0.2, stop_recall=0.0, stop_mined=0.0)

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch):
        self.root, self.trained = root, 0
        rng = np.random.default_rng(0)
        pictures = [
            rng.integers(0, 256, size, dtype=np.uint8) for size in ((48, 64, 3), (50, 42, 3), (64, 64, 3), (32, 32, 3))
        ]
        tags = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]])
        self.images = planted.images(root / "i.json", pictures, tags, train=[0, 1, 2])
        store.write_table(root / "w.json", store.Header("weights", "test", {}, "test"), {"x": np.zeros(1)})
        slots, scores = data.tag_slots(self.images), np.zeros((4, 4, 16, 16))
        for i, (k, place) in product(range(3), enumerate((4, 6))):
            if slots[i, k] != 255:
                scores[i, k, place : place + 3, 2:6] = 1
        self.cam = planted.seeds(root / "1.json", scores, slots, scores * 0, 4, [{"loss": 1.0}])
        monkeypatch.setattr(localize, "fit_classifier", self.fit)

    def fit(self, job: cli.Job, erased: localize.Erased) -> tuple[Classifier, dict[str, np.ndarray], dict]:
        self.trained += 1
        return colour_detector(8), {"curve_loss": np.array([9, self.loss], np.float32)}, {}

    def next(self, parent: store.Artifact, name: str, loss: float = 1.0, **settings: float) -> store.Artifact:
        self.loss = loss
        inputs = {"images": self.images, "seeds": parent, "weights": store.Artifact(self.root / "w.json")}
        out = self.root / f"{name}.json"
        erase.run(planted.job(self.settings.model_copy(update=settings), out, inputs))
        return store.Artifact(out, "seeds")

    def region(self, seeds: store.Artifact, i: int) -> np.ndarray:
        return erase.first_rounds(seeds, i, self.images["size"][i], self.settings)


@pytest.fixture
def rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rounds:
    return Rounds(tmp_path, monkeypatch)


def test_regions_only_grow_and_remember_their_round(rounds: Rounds) -> None:
    made = [rounds.cam, rounds.next(rounds.cam, "2")]
    made.append(rounds.next(made[-1], "3"))
    adds = {2: 0, 3: 0}
    for i in range(3):
        one, two, three = (rounds.region(seeds, i) for seeds in made)
        np.testing.assert_array_equal(two[one > 0], 1)
        np.testing.assert_array_equal(three[two > 0], two[two > 0])
        assert set(np.unique(two)) <= {0, 1, 2}
        assert set(np.unique(three)) <= {0, 1, 2, 3}
        assert not (two == 2)[:, one.any(0)].any(), "what is erased cannot be mined again"
        assert not (three == 3)[:, two.any(0)].any()
        for number in adds:
            adds[number] += int((three == number).sum())
        assert not three[made[2]["classes"][i] == 255].any(), "an empty slot claims nothing"
        scores = [seeds["scores"][i] for seeds in made]
        assert (scores[2] >= scores[1]).all()
        assert (scores[1] >= scores[0]).all()
    assert min(adds.values()) > 10
    assert not made[2]["first"][3].any(), "a validation image"
    assert [len(seeds.meta["rounds"]) for seeds in made] == [1, 2, 3]
    assert made[2].meta["rounds"][:2] == made[1].meta["rounds"]


def test_the_classifier_sees_the_erased_image(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training, for its maps and for its recall: the mined region of all classes together, in mean colour."""
    fill, seen = data.mean_colour(rounds.images, np.arange(3)), []
    known, activation, recall = rounds.fit, localize.activation, localize.recall

    def expected(i: int) -> np.ndarray:
        h, w = rounds.images["size"][i]
        region = np.kron(rounds.region(rounds.cam, i).any(0), np.ones((4, 4), bool))[:h, :w]
        return np.where(region[..., None], fill, data.image(rounds.images, i))

    def fit(job: cli.Job, erased: localize.Erased) -> tuple:
        for i in range(3):
            cleared = np.where(erased(i)[..., None], fill, data.image(rounds.images, i))
            np.testing.assert_array_equal(cleared, expected(i))
        return known(job, erased)

    def watched(model: Classifier, rgb: np.ndarray, *rest: object) -> np.ndarray:
        assert any(rgb.shape == expected(i).shape and (rgb == expected(i)).all() for i in range(3))
        seen.append("activation")
        return activation(model, rgb, *rest)  # type: ignore[arg-type]

    def recalled(model: Classifier, image: object, *rest: object) -> float:
        for i in range(3):
            np.testing.assert_array_equal(image(i), expected(i))  # type: ignore[operator]
        seen.append("recall")
        return recall(model, image, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(localize, "fit_classifier", fit)
    monkeypatch.setattr(localize, "activation", watched)
    monkeypatch.setattr(localize, "recall", recalled)
    rounds.next(rounds.cam, "2")
    assert seen == ["recall", "activation", "activation"], "the image without tags needs no maps"


def test_a_class_that_is_no_longer_recognised_is_mined_no_further(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Maps are scaled to their maximum, so a faint response looks like any other."""
    usual = rounds.next(rounds.cam, "usual")
    assert (usual["first"][:] == 2).any()

    def unsure(job: cli.Job, erased: localize.Erased) -> tuple:
        model, curves, meta = rounds.fit(job, erased)
        model.score.weight.data *= 1e-3
        return model, curves, meta

    monkeypatch.setattr(localize, "fit_classifier", unsure)
    np.testing.assert_array_equal(rounds.next(rounds.cam, "all", recognised=0)["first"][:], usual["first"][:])
    assert not (rounds.next(rounds.cam, "none", recognised=0.9)["first"][:] == 2).any()


def test_the_rounds_statistics(rounds: Rounds) -> None:
    second = rounds.next(rounds.cam, "2", loss=1.5)
    new = area = 0
    for i in range(3):
        first = rounds.region(second, i)
        new += int((first == 2).any(0).sum())
        area += first[0].size
    entry = second.meta["rounds"][1]
    assert entry == {"loss": 1.5, "recall": 0.5, "mined": pytest.approx(new / area, abs=1e-4), "stop": ""}
    assert second.read("curve_loss").tolist() == [9, 1.5]


def test_a_round_that_stops_hands_its_parent_on_and_later_rounds_cost_nothing(
    rounds: Rounds, capsys: pytest.CaptureFixture[str]
) -> None:
    second = rounds.next(rounds.cam, "2")
    stopped = rounds.next(second, "3", loss=2.01)
    assert "loss 2.010 is over" in stopped.meta["rounds"][2]["stop"]
    assert "curve_loss" in stopped, "the training that showed it is kept"
    assert rounds.trained == 2
    capsys.readouterr()
    later = rounds.next(stopped, "4")
    assert rounds.trained == 2
    assert "passed through: erasing stopped at round 3 (loss 2.010" in capsys.readouterr().out
    assert later.meta["rounds"] == stopped.meta["rounds"]
    for name in ("scores", "classes", "first", "digest"):
        np.testing.assert_array_equal(stopped.read(name), second.read(name))
        np.testing.assert_array_equal(later.read(name), second.read(name))


def test_a_round_that_mines_too_little_is_kept_and_the_last(rounds: Rounds) -> None:
    second = rounds.next(rounds.cam, "2", stop_mined=0.9)
    assert "of the image area" in second.meta["rounds"][1]["stop"]
    assert (second.read("first") == 2).any()
    third = rounds.next(second, "3")
    assert rounds.trained == 1
    np.testing.assert_array_equal(third.read("first"), second.read("first"))


def test_a_second_round_that_stops_leaves_the_regions_of_plain_cam(rounds: Rounds) -> None:
    """Seeds that went through erasing name their regions: the stages after them rely on it."""
    made = rounds.next(rounds.cam, "2", loss=9.0)
    assert made.meta["rounds"][-1]["stop"]
    np.testing.assert_array_equal(made.read("first"), (rounds.cam.read("scores") > 0).astype(np.uint8))
    out = rounds.root / "l.json"
    crf.run(planted.job(Crf(refine="argmax"), out, {"images": rounds.images, "seeds": made}))
    labels = store.Artifact(out).read("labels")
    assert set(np.unique(labels[0])) == {0, 1, 2, 255}


def test_another_training_set_changes_every_row(rounds: Rounds) -> None:
    """One classifier looks at all images, so no row may be taken over when any of them has changed."""
    second = rounds.next(rounds.cam, "2")
    keys = {bytes(key) for key in second.read("key") if key.any()}
    pictures = [np.asarray(data.image(rounds.images, i)) for i in range(4)]
    pictures[2] = 255 - pictures[2]
    rounds.images = planted.images(rounds.root / "j.json", pictures, rounds.images.read("tags"), train=[0, 1, 2])
    other = rounds.next(rounds.cam, "other")
    assert len(keys) == 3
    assert not keys & {bytes(key) for key in other.read("key")}


# ------------------------------------------------------------------------------------------- as real commands


def test_a_stopped_round_as_a_command(tiny: dict[str, Path], tmp_path: Path) -> None:
    inputs = {"images": tiny["images"], "weights": tiny["weights"]}
    always = {**TINY, "scales": [1.0], "stop_recall": 1.0, "stop_loss": 1.0001, "lr": 1e-6}
    stage("erase", tmp_path / "a.json", always, seeds=tiny["seeds"], **inputs)
    said = stage("erase", tmp_path / "b.json", always, seeds=tmp_path / "a.json", **inputs)
    assert "passed through: erasing stopped at round 2" in said
    assert "epoch" not in said, "no training"
    one, other = (store.Artifact(tmp_path / name) for name in ("a.json", "b.json"))
    np.testing.assert_array_equal(one.read("digest"), other.read("digest"))
    assert (one.read("first") == 1).any()
