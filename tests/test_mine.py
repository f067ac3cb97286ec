"""Adversarial erasing, mining: how maps add to what is claimed, and what a round costs once erasing has stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
from colours import colour_detector
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from pipeline import crf, mine
from pipeline.core import store
from pipeline.core.steps.labels import Crf
from pipeline.core.steps.seeds import Mine
from pipeline.kinds import photographs, seeds
from pipeline.networks.classifier import Classifier, activation


def before(shape: tuple[int, int, int], rng: np.random.Generator, claimed: float = 0.3) -> seeds.Seeds:
    """Seeds of a round before: maps, and cells that each class claims."""
    marks = (rng.random(shape) < claimed) * rng.integers(1, 3, shape)
    return seeds.Seeds(
        np.arange(shape[0], dtype=np.uint8) + 1, rng.random(shape).astype(np.float32), marks.astype("u1")
    )


# ------------------------------------------------------------------------------------- the rule, image by image


def test_by_hand_elsewhere_or_as_the_paper() -> None:
    """Two classes on six cells. Class 1 has claimed cell 0, class 2 cell 1; the round's maps respond there and beyond.

    Ours: what is claimed counts for nothing, so class 1's maximum is 0.8, at cell 2. The paper's: its maximum is 1, at
    cell 1, which class 2 has claimed; the threshold of 0.5 leaves cell 3 out, and cell 1 is claimed by both.
    """
    had = seeds.Seeds(
        np.array([1, 2]), np.zeros((2, 1, 6), np.float32), np.array([[[1, 0, 0, 0, 0, 0]], [[0, 1] + [0] * 4]])
    )
    found = np.array([[[0.9, 1, 0.8, 0.45, 0.3, 0]], [[0.7, 0.6, 0, 0, 0.5, 0.2]]], np.float32)
    sure = np.ones(2)

    def claimed(**changed: Any) -> list[list[int]]:
        settings = Mine(threshold=0.5, largest=1.0, **changed)
        return mine.settle(had, found, sure, 2, settings)[1][:, 0].tolist()

    assert claimed() == [[1, 0, 2, 2, 0, 0], [0, 1, 0, 0, 2, 0]]
    assert claimed(elsewhere=False) == [[1, 2, 2, 0, 0, 0], [2, 1, 0, 0, 2, 0]]
    ours, paper = (mine.settle(had, found, sure, 2, Mine(elsewhere=own))[0][0, 0].tolist() for own in (True, False))
    assert ours == pytest.approx([0, 0, 0.8, 0.45, 0.3, 0])
    assert paper == pytest.approx([0.9, 1, 0.8, 0.45, 0.3, 0])


def plain(had: seeds.Seeds, found: np.ndarray, sure: np.ndarray, number: int, settings: Mine) -> np.ndarray:
    """The rule cell by cell, for thresholds relative to the maximum."""
    out = had.claimed.copy()
    for k in range(len(found)):
        score = {
            cell: 0.0 if settings.elsewhere and had.claimed[:, *cell].any() else float(found[k][cell])
            for cell in np.ndindex(found.shape[1:])
        }
        top = max(score.values())
        for cell, value in score.items():
            enough = value > np.float32(settings.threshold * np.float32(top))
            if sure[k] >= settings.recognised and top > 0 and enough and out[(k, *cell)] == 0:
                out[(k, *cell)] = number
    return out


@examples(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([0.0, 0.5]))
def test_settling_equals_the_plain_rule(seed: int, elsewhere: bool, recognised: float) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 4)), 5, 7)
    had, found, sure = before(shape, rng), rng.random(shape).astype(np.float32), rng.random(shape[0])
    settings = Mine(elsewhere=elsewhere, recognised=recognised, threshold=0.6, largest=1.0)
    scores, claimed = mine.settle(had, found, sure, 3, settings)
    np.testing.assert_array_equal(claimed, plain(had, found, sure, 3, settings))
    assert claimed.dtype == np.uint8 and scores.dtype == np.float32
    np.testing.assert_array_equal(claimed[had.claimed > 0], had.claimed[had.claimed > 0], "what is claimed stays")
    assert (scores >= had.scores).all()
    fresh = (claimed == 3).any(0)
    if elsewhere:
        assert not (fresh & (had.claimed > 0).any(0)).any()


def test_a_class_that_is_no_longer_recognised_is_mined_no_further() -> None:
    """Maps are scaled to their maximum, so a faint response looks like any other."""
    had = before((2, 4, 4), np.random.default_rng(0), claimed=0)
    found = np.random.default_rng(1).random((2, 4, 4))

    def mined(recognised: float) -> list[bool]:
        scores, claimed = mine.settle(had, found, np.array([0.89, 0.9]), 2, Mine(recognised=recognised))
        assert ((scores == had.scores).all((1, 2)) == ~claimed.any((1, 2))).all(), "nor does its score grow"
        return claimed.any((1, 2)).tolist()

    assert mined(0.9) == [False, True]
    assert mined(0.8) == mined(0) == [True, True]


# --------------------------------------------------------------------------------------- rounds, by the stage


class Rounds:
    """Rounds on four photographs; a network that knows its classes by colour takes the place of the trained one."""

    settings = Mine(scales=(1.0,), threshold=0.8, largest=0.2, stop_mined=0.0, recognised=0)

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch):
        self.root, self.maps = root, 0
        rng = np.random.default_rng(0)
        sizes = ((48, 64, 3), (50, 42, 3), (64, 64, 3), (32, 32, 3))
        self.pictures = [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]
        self.seen = planted.photographs(root / "p.json", self.pictures, train=[0, 1, 2])
        classes, claimed = np.full((4, 4), 255), np.zeros((4, 4, 16, 16))
        classes[0, :2], classes[1, 0] = (1, 2), 3
        claimed[0, 0, 4:7, 2:6] = claimed[0, 1, 6:9, 2:6] = claimed[1, 0, 4:7, 2:6] = 1
        self.first = planted.seeds(root / "1.json", claimed * 0.5, classes, claimed)
        monkeypatch.setattr(mine, "load_classifier", lambda artifact: self.network)
        monkeypatch.setattr(mine, "activation", self.counted)
        self.network = colour_detector(8)

    def counted(self, model: Classifier, rgb: np.ndarray, classes: list, **options: Any) -> list[np.ndarray]:
        self.maps += sum(len(ids) > 0 for ids in classes)
        return activation(model, rgb, classes, **options)

    def eraser(self, number: int, stop: str = "", passed: bool = False) -> store.Artifact:
        entry = {"loss": 1.5, "recall": 0.75, "epochs": 10.0, "stop": stop}
        meta = {"round": number, **({"passed": True} if passed else {"entry": entry})}
        curve = {"curve_loss": np.ones(1, np.float32) * number}  # another round is another classifier
        header = store.Header("classifier", "erase", {"method": "erase"}, "test")
        return planted.table_artifact(self.root / f"e{number}.json", "classifier", curve, meta, header)

    def next(self, parent: store.Artifact, eraser: store.Artifact, name: str, **changed: Any) -> store.Artifact:
        inputs = {"photographs": self.seen, "seeds": parent, "classifier": eraser}
        out = self.root / f"{name}.json"
        mine.run(planted.job(self.settings.model_copy(update=changed), out, inputs))
        return store.Artifact(out, "seeds")

    def of(self, made: store.Artifact, i: int) -> seeds.Seeds:
        return seeds.on_grid(made, self.seen, i)


@pytest.fixture
def rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rounds:
    return Rounds(tmp_path, monkeypatch)


def test_regions_only_grow_and_remember_their_round(rounds: Rounds) -> None:
    made = [rounds.first]
    for number in (2, 3):
        made.append(rounds.next(made[-1], rounds.eraser(number), str(number)))
    adds = {2: 0, 3: 0}
    for i in range(3):
        one, two, three = (rounds.of(found, i).claimed for found in made)
        np.testing.assert_array_equal(two[one > 0], 1)
        np.testing.assert_array_equal(three[two > 0], two[two > 0])
        assert set(np.unique(two)) <= {0, 1, 2}
        assert set(np.unique(three)) <= {0, 1, 2, 3}
        assert not (two == 2)[:, one.any(0)].any(), "what is erased cannot be mined again"
        assert not (three == 3)[:, two.any(0)].any()
        for number in adds:
            adds[number] += int((three == number).sum())
        assert not made[2]["claimed"][i][made[2]["classes"][i] == 255].any(), "an empty slot claims nothing"
        scores = [rounds.of(found, i).scores for found in made]
        assert (scores[2] >= scores[1]).all()
        assert (scores[1] >= scores[0]).all()
    assert min(adds.values()) > 10
    assert not made[2]["claimed"][3].any(), "a validation image"
    assert [len(found.meta["rounds"]) for found in made] == [1, 2, 3]
    assert made[2].meta["rounds"][:2] == made[1].meta["rounds"]
    assert made[2].meta["grid"] == 4 and made[2].meta["classes"] == made[0].meta["classes"]


def test_the_classifier_looks_at_the_erased_image(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    fill, seen = photographs.mean_colour(rounds.seen, np.arange(3)), []

    def expected(i: int) -> np.ndarray:
        h, w = rounds.seen["size"][i]
        region = np.kron(rounds.of(rounds.first, i).claimed.any(0), np.ones((4, 4), bool))[:h, :w]
        return np.where(region[..., None], fill, rounds.pictures[i])

    def watched(model: Classifier, batch: np.ndarray, classes: list, **options: Any) -> list[np.ndarray]:
        for rgb, ids in zip(batch, classes, strict=True):
            (which,) = (i for i in range(3) if rgb.shape == expected(i).shape and (rgb == expected(i)).all())
            assert ids.tolist() == rounds.of(rounds.first, which).classes.tolist() and options["grid"] == 4
            seen.append((which, len(ids)))
        return activation(model, batch, classes, **options)

    monkeypatch.setattr(mine, "activation", watched)
    rounds.next(rounds.first, rounds.eraser(2), "2")
    assert seen == [(0, 2), (1, 1), (2, 0)], "the last has no tags and needs no maps"


def test_other_rules_compute_no_map_anew(rounds: Rounds) -> None:
    """What a round found is stored, so its rules may change; what follows is as if made from nothing."""
    eraser = rounds.eraser(2)
    before = rounds.next(rounds.first, eraser, "2")
    assert rounds.maps == 2
    old, changed = before.read("claimed"), {"elsewhere": False, "recognised": 0.5, "threshold": 0.5, "largest": 0.9}
    again = rounds.next(rounds.first, eraser, "2", **changed)
    assert rounds.maps == 2
    assert (again.read("claimed") != old).any()
    fresh = rounds.next(rounds.first, eraser, "fresh", **changed)
    assert rounds.maps == 4
    assert again.digest == fresh.digest
    other = rounds.next(rounds.first, rounds.eraser(3), "2", **changed)
    assert rounds.maps == 6, "another classifier finds other maps"
    assert other.digest != fresh.digest


def test_the_rounds_statistics(rounds: Rounds) -> None:
    second = rounds.next(rounds.first, rounds.eraser(2), "2")
    new = area = 0
    for i in range(3):
        claimed = rounds.of(second, i).claimed
        new += int((claimed == 2).any(0).sum())
        area += int(np.prod(seeds.cells(rounds.seen["size"][i], 4)))
    assert new
    assert second.meta["rounds"][1] == {
        "loss": 1.5,
        "recall": 0.75,
        "epochs": 10.0,
        "mined": pytest.approx(new / area, abs=1e-4),
        "stop": "",
    }


def test_a_round_that_mines_too_little_is_kept_and_the_last(rounds: Rounds, capsys: pytest.CaptureFixture[str]) -> None:
    second = rounds.next(rounds.first, rounds.eraser(2), "2", stop_mined=0.9)
    assert "of the image area" in second.meta["rounds"][1]["stop"]
    assert (second.read("claimed") == 2).any()
    maps = rounds.maps
    third = rounds.next(second, rounds.eraser(3, passed=True), "3")
    assert rounds.maps == maps, "no network ran"
    assert "passed through: erasing has stopped (the round mined" in capsys.readouterr().out
    assert third.meta["rounds"] == second.meta["rounds"]
    for name in ("scores", "classes", "claimed"):
        np.testing.assert_array_equal(third.read(name), second.read(name))


def test_a_round_that_was_one_too_many_leaves_what_was_claimed(rounds: Rounds) -> None:
    """And is named, so that no further round is trained; the stages behind it read the same seeds."""
    made = rounds.next(rounds.first, rounds.eraser(2, stop="loss 9 is over"), "2")
    assert not rounds.maps
    assert [entry.get("stop") for entry in made.meta["rounds"]] == [None, "loss 9 is over"]
    for name in ("scores", "classes", "claimed"):
        np.testing.assert_array_equal(made.read(name)[:3], rounds.first.read(name)[:3])
    out = {}
    for name, found in (("first", rounds.first), ("stopped", made)):
        inputs = {"photographs": rounds.seen, "seeds": found}
        crf.run(planted.job(Crf(refine="argmax"), rounds.root / f"l-{name}.json", inputs))
        out[name] = store.Artifact(rounds.root / f"l-{name}.json").read("labels")
    np.testing.assert_array_equal(out["first"], out["stopped"])
    assert set(np.unique(out["first"][0])) == {0, 1, 2, 255}


def test_another_classifier_changes_every_row(rounds: Rounds) -> None:
    """It has looked at all images, so no row may be taken over when it changes."""
    one, other = (rounds.next(rounds.first, rounds.eraser(number), str(number)) for number in (2, 3))
    keys = {bytes(key) for key in one.read("key") if key.any()}
    assert len(keys) == 3
    assert not keys & {bytes(key) for key in other.read("key")}
