"""Adversarial erasing, training: what the classifier is shown, when a round is one too many, and what that costs."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
from colours import colour_detector

from pipeline import erase
from pipeline.core import store
from pipeline.core.job import Job
from pipeline.core.steps.seeds import Erase
from pipeline.kinds import photographs
from pipeline.kinds.crops import Crops
from pipeline.networks.backbones import backbone
from pipeline.networks.classifier import Classifier, recall


def test_stop_rule() -> None:
    settings, first = Erase(stop_loss=2.0, stop_recall=0.6), {"loss": 0.1}

    def reason(**latest: float) -> str:
        return erase.stop_reason({"loss": 0.15, "recall": 0.9, **latest}, first, settings)

    assert reason() == ""
    assert reason(loss=0.2) == ""
    assert "loss 0.210 is over 2.0 x round 1's 0.100" in reason(loss=0.21)
    assert reason(recall=0.6) == ""
    assert "only 59% of the images" in reason(recall=0.59)
    first.clear()
    assert reason(loss=9.0) == "", "a maker that trained nothing has no loss to compare with"


# ------------------------------------------------------------------------------------------ what is erased


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> store.Artifact:
    parts = [np.full((48, 64, 3), 200, np.uint8), np.full((30, 42, 3), 100, np.uint8)]
    return planted.photographs(tmp_path_factory.mktemp("erase") / "p.json", parts)


def test_erased_regions_are_filled_before_the_augmentation_and_move_with_it(pictures: store.Artifact) -> None:
    """The label marks the region that is erased: in every crop, filled pixels are just those of the label."""
    region = np.zeros((48, 64), bool)
    region[8:20, 16:32] = True
    fill = np.array([10, 20, 30], np.uint8)
    cut = Crops(pictures, 40, (0.5, 2.0), 0.0, fill, label=lambda i: region.astype(np.uint8), erase=lambda i: region)
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


def test_augmentation_does_not_change_what_is_erased(pictures: store.Artifact) -> None:
    """At scale 1 without jitter the erased image is the plain image with the fill in place, mirrored or not."""
    region = np.zeros((30, 42), bool)
    region[3:9, 5:30] = True
    options: dict[str, Any] = {"crop": 64, "scale": (1.0, 1.0), "jitter": 0.0, "fill": np.array([1, 2, 3], np.uint8)}
    plain_cut = Crops(pictures, **options, label=lambda i: region.astype(np.uint8))
    erasing = Crops(pictures, **options, erase=lambda i: region)
    for seed in range(4):
        a, b = (cut(1, np.random.default_rng(seed)) for cut in (plain_cut, erasing))
        expected = np.where(a["label"] == 1, np.array([1, 2, 3], np.uint8)[:, None, None], a["image"])
        np.testing.assert_array_equal(b["image"], expected)


# ------------------------------------------------------------------------------- a round with a known classifier


class Round:
    """The stage on four photographs; a network that knows its classes by colour takes the place of the trained one."""

    settings = Erase(crop=64, stop_recall=0.0)

    def __init__(self, root: Path, weights: store.Artifact, monkeypatch: pytest.MonkeyPatch):
        self.root, self.cuts, self.loss = root, [], 1.0
        rng = np.random.default_rng(0)
        sizes = ((48, 64, 3), (50, 42, 3), (64, 64, 3), (32, 32, 3))
        table = np.array([[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]])
        pictures = [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]
        self.inputs = planted.dataset(root, pictures, table, train=[0, 1, 2])
        self.inputs["weights"] = weights
        self.seeds()
        monkeypatch.setattr(erase, "new_classifier", lambda weights, tags, stride: colour_detector(8))
        monkeypatch.setattr(erase.train, "fit", self.fit)

    def seeds(self, *rounds: dict) -> None:
        """Each tag claims a square; rounds: what the makers before say of theirs."""
        classes, claimed = np.full((4, 4), 255), np.zeros((4, 4, 16, 16))
        classes[0, :2], classes[1, 0] = (1, 2), 3
        for i, (k, place) in product(range(2), enumerate((4, 6))):
            if classes[i, k] != 255:
                claimed[i, k, place : place + 3, 2:6] = k + 1
        given = rounds or ({"loss": 1.0, "epochs": 10.0},)
        self.inputs["seeds"] = planted.seeds(self.root / "s.json", claimed > 0, classes, claimed, rounds=given)

    def fit(self, model: Classifier, rows: np.ndarray, cut: Crops, *rest: Any, **heads: Any) -> dict[str, np.ndarray]:
        assert rows.tolist() == [0, 1, 2]
        self.cuts.append(cut)
        return {"curve_loss": np.array([9, self.loss], np.float32)}

    def run(self, **changed: Any) -> store.Artifact:
        out = self.root / "eraser.json"
        job: Job = planted.job(self.settings.model_copy(update=changed), out, self.inputs)
        erase.run(job)
        return store.Artifact(out, "classifier")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> store.Artifact:
    return planted.weights(tmp_path_factory.mktemp("weights") / "w.json", backbone("resnet18"))


@pytest.fixture
def a_round(tmp_path: Path, weights: store.Artifact, monkeypatch: pytest.MonkeyPatch) -> Round:
    return Round(tmp_path, weights, monkeypatch)


def test_the_classifier_sees_the_erased_image(a_round: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training and for its recall: the claimed regions of all classes together, in mean colour."""
    pictures, made = a_round.inputs["photographs"], a_round.inputs["seeds"]
    fill, looked = photographs.mean_colour(pictures, np.arange(3)), []

    def expected(i: int) -> np.ndarray:
        h, w = pictures["size"][i]
        claimed = np.asarray(made["claimed"][i]).any(0)
        region = np.kron(claimed, np.ones((4, 4), bool))[:h, :w]
        return np.where(region[..., None], fill, photographs.image(pictures, i))

    def watched(model: Classifier, image: Any, tags: np.ndarray, rows: np.ndarray, **on: Any) -> float:
        for i in rows.tolist():
            np.testing.assert_array_equal(image(i), expected(i))
            looked.append(i)
        return recall(model, image, tags, rows, **on)

    monkeypatch.setattr(erase, "recall", watched)
    a_round.run()
    assert looked == [0, 1, 2]
    (cut,) = a_round.cuts
    assert (expected(0) != photographs.image(pictures, 0)).any()
    np.testing.assert_array_equal(cut.fill, fill)
    for i in range(3):
        assert cut.erase is not None
        cleared = np.where(cut.erase(i)[..., None], fill, photographs.image(pictures, i))
        np.testing.assert_array_equal(cleared, expected(i))
    np.testing.assert_array_equal(cut.tags, a_round.inputs["tags"].read("tags"))


@pytest.mark.parametrize(
    ("loss", "changed", "stop"),
    [
        (1.5, {}, ""),
        (2.01, {}, "loss 2.010 is over 2.0 x round 1's 1.000"),
        (1.5, {"stop_recall": 0.6}, "only 50% of the images are still recognised"),
    ],
)
def test_a_round_says_how_it_went_and_whether_it_was_one_too_many(
    a_round: Round, loss: float, changed: dict, stop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The planted network's best class is a tag of the first photograph and not of the second; the third has none."""
    a_round.loss = loss
    made = a_round.run(**changed)
    expected = {"loss": loss, "recall": 0.5, "epochs": 10.0, "stop": stop}
    assert made.meta["entry"] == pytest.approx(expected) and made.meta["round"] == 2
    assert made.read("curve_loss").tolist() == pytest.approx([9, loss]), "the training that showed it is kept"
    assert "warning" not in capsys.readouterr().out


def test_rounds_are_numbered_after_those_before(a_round: Round) -> None:
    a_round.seeds({"loss": 1.0, "epochs": 10.0}, {"loss": 0.5, "epochs": 10.0, "stop": ""})
    a_round.loss = 1.2
    made = a_round.run()
    assert made.meta["round"] == 3
    assert made.meta["entry"]["stop"] == "", "the loss is compared with round 1's, not with the round before's"


def test_after_a_stop_nothing_is_trained(a_round: Round, capsys: pytest.CaptureFixture[str]) -> None:
    a_round.seeds({"loss": 1.0, "epochs": 10.0}, {"loss": 9.0, "epochs": 10.0, "stop": "loss 9 is over"})
    made = a_round.run()
    assert not a_round.cuts
    assert "nothing to train: erasing stopped at round 2 (loss 9 is over)" in capsys.readouterr().out
    assert made.meta == {
        "classes": planted.class_names(4),
        "background": 0,
        "round": 3,
        "passed": True,
    }
    assert "curve_loss" not in made


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ({"loss": 1.0, "epochs": 10.0}, False),
        ({"loss": 1.0, "epochs": 30.0}, True),
        ({"loss": 1.0, "epochs": 5.0}, True),
        ({"loss": 1.0}, False),  # a maker that trains nothing
    ],
)
def test_rounds_that_train_longer_or_shorter_than_the_first_classifier_are_named(
    a_round: Round, first: dict, said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    a_round.seeds(first)
    a_round.run()
    out = capsys.readouterr().out
    assert ("warning: this round trains for 10 epochs, the first classifier for" in out) == said
