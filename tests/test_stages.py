"""The contract every method keeps, checked on the real commands: kinds, shapes, repeatability, resume after SIGKILL,
one image only, and bad input that loses nothing. A method without a case fails."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import planted
import pytest
import torch
import torchvision
from conftest import (
    CAM,
    ENVIRONMENT,
    ERASE,
    MINE,
    PATCHES,
    TINY,
    TRIPLET,
    content,
    demo_settings,
    kill_stage,
    prepare,
    stage,
    words,
)

from pipeline.core import cli, integrity, store
from pipeline.core.steps import METHODS
from pipeline.core.steps.seeds import Hcp
from pipeline.datasets import collage
from pipeline.kinds import classes, hypotheses, labels, photographs, tags
from pipeline.kinds.pixels import VOID

SEE = ("photographs",)
KNOW = ("photographs", "tags")


class Case(NamedTuple):
    """A method with some settings. inputs: by role, each an artifact of the `tiny` fixture or another case."""

    method: str
    settings: dict
    inputs: dict[str, str]
    same: str = ""  # the artifact of `tiny` that the same command made

    @property
    def stage(self) -> str:
        return METHODS[self.method].stage


def case(method: str, settings: dict | None = None, roles: tuple[str, ...] = (), same: str = "", **inputs: str) -> Case:
    return Case(method, settings or {}, {role: role for role in roles} | inputs, same)


PROXY, SEGMENT = {**TINY, "border": 4, "pixels": 32}, {**TINY, "width": 16}
BAG = {"variant": "batch", "form": "paper", "distortion": False}
HCP = {**TINY, "hypothesis_epochs": 1, "per_image": 4}
CASES = {
    "imagenet": case("imagenet"),
    "random": case("random", same="weights"),
    "colorization": case("proxy", PROXY, SEE),
    "jigsaw": case("proxy", {**TINY, "task": "jigsaw", "tile": 16, "permutations": 8}, SEE),
    "saliency-rbd": case("saliency", {}, SEE, same="saliency"),
    "hypotheses": case("hypotheses", {"clusters": 5}, SEE),
    "classify": case("classify", TINY, KNOW, same="classifier", weights="weights"),
    "cam": case("cam", CAM, KNOW, same="seeds", classifier="classifier"),
    "excitation": case("excitation", CAM, KNOW, classifier="classifier"),
    "erase": case("erase", ERASE, KNOW, same="eraser", seeds="seeds", weights="weights"),
    "erase-planted": case("erase", {**ERASE, "epochs": 0.5}, KNOW, seeds="planted", weights="weights"),
    "erase-stopped": case("erase", ERASE, KNOW, seeds="mine-last", weights="weights"),
    "hcp": case("hcp", HCP, KNOW, hypotheses="hypotheses", weights="weights"),
    "vote": case("vote", {}, KNOW, hypotheses="hypotheses", classifier="hcp"),
    "vote-cut": case("vote", {"look": "cut", "most": 5}, KNOW, hypotheses="hypotheses", classifier="hcp"),
    "mine": case("mine", MINE, SEE, same="mined", seeds="seeds", classifier="eraser"),
    "mine-planted": case("mine", MINE, SEE, seeds="planted", classifier="erase-planted"),
    "mine-last": case("mine", {**MINE, "stop_mined": 1.0}, SEE, seeds="seeds", classifier="eraser"),
    "mine-stopped": case("mine", MINE, SEE, seeds="mine-last", classifier="erase-stopped"),
    "crf": case("crf", {}, SEE, same="labels", seeds="mined", saliency="saliency"),
    "crf-alone": case("crf", {}, SEE, seeds="seeds"),
    "argmax": case("crf", {"refine": "argmax"}, SEE, seeds="seeds", saliency="saliency"),
    "masks-half": case("masks", {"fraction": 0.5}, KNOW, same="few", masks="masks"),
    "merge": case("merge", {}, SEE, true="few", pseudo="labels"),
    "merge-classes": case("merge", {"by": "class"}, SEE, true="few", pseudo="labels"),
    "patches-few": case("patches", PATCHES, SEE, same="patches", labels="few"),
    "triplet": case("triplet", TRIPLET, SEE, same="tuned", patches="patches", weights="weights"),
    "triplet-all": case("triplet", {**TRIPLET, "match": "all"}, SEE, patches="patches", weights="weights"),
    "contrast": case("contrast", {**SEGMENT, "batch": 2}, SEE, labels="few", weights="weights"),
    "contrast-again": case("contrast", {**SEGMENT, **BAG}, SEE, labels="few", weights="contrast"),
    "segment-contrast": case("segment", SEGMENT, SEE, labels="few", weights="contrast"),
    "segment": case("segment", SEGMENT, SEE, same="model", labels="labels", weights="tuned"),
    "segment-soft": case("segment", SEGMENT, SEE, labels="soft", weights="weights"),
    "psl": case("psl", {**SEGMENT, "prohibit_after": 0.5}, KNOW, labels="labels", weights="weights"),
    "dis": case("dis", TINY, KNOW, labels="few", weights="weights"),
    "infer": case("infer", {"steps": 3}, KNOW, model="dis"),
    "infer-all": case("infer", {"steps": 0, "least": 0}, KNOW, model="dis"),
    "dis-again": case("dis", TINY, KNOW, labels="merge", true="few", weights="weights", model="dis"),
    "relabel": case("relabel", {"crf": True, "rescue": 0.001}, KNOW, model="model"),
    "relabel-covered": case("relabel", {"images": "covered"}, KNOW, model="model", covered="few"),
    "simple": case("simple", {}, KNOW, saliency="saliency"),
    "soften": case("soften", {}, SEE, seeds="mined"),
    "harden": case("harden", {}, SEE, soft="simple"),
    "harden-crf": case("harden", {"crf": True}, SEE, soft="soften"),
}
EVERY = {"tags": 9, "area": [0, 1], "border": 1}  # to `simple` every image is


def test_every_method_has_a_case() -> None:
    assert {case.method for case in CASES.values()} == set(METHODS)


def given(name: str, made: dict[str, Path]) -> dict[str, Path]:
    return {role: made[source] for role, source in CASES[name].inputs.items()}


@pytest.fixture(scope="module")
def made(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The artifacts of `tiny`, two planted ones, and every case once, on demand, shared by the tests below."""
    root = tmp_path_factory.mktemp("made")
    assert not set(CASES) & set(tiny), "a case would be taken for an artifact of `tiny`"

    class Made(dict):
        def __missing__(self, name: str) -> Path:
            out = root / name / "x.json"
            out.parent.mkdir()
            stage(CASES[name].stage, out, {"method": CASES[name].method, **CASES[name].settings}, **given(name, self))
            self[name] = out
            return out

    return Made(tiny, soft=plant_soft(root / "soft.json", tiny), planted=plant_seeds(root / "planted.json", tiny))


def plant_soft(path: Path, tiny: dict[str, Path]) -> Path:
    """Half of the probability for the background, the rest shared by the tags; two photographs are not covered."""
    table = tags.slots(store.Artifact(tiny["tags"]))[:, :3]
    slots = np.concatenate([np.zeros((len(table), 1), np.uint8), table], 1)
    counts = (table != VOID).sum(1)
    maps = np.zeros((*slots.shape, 12, 12), np.float32)
    maps[:, 0] = 0.5
    for i, count in enumerate(counts):
        maps[i, 1 : 1 + count] = 0.5 / count
    covered = np.arange(len(slots)) < 10
    names = classes.names(store.Artifact(tiny["tags"]))
    planted.soft(path, maps, slots, grid=8, classes=len(names), covered=covered, names=names)
    return path


def plant_seeds(path: Path, tiny: dict[str, Path]) -> Path:
    """Seeds that no stage made, on a coarser grid than CAM's: each tag claims one corner."""
    slots = tags.slots(store.Artifact(tiny["tags"]))
    scores = np.zeros((*slots.shape, 12, 12), np.float32)
    scores[..., :3, :3] = (slots != VOID)[..., None, None]
    names = classes.names(store.Artifact(tiny["tags"]))
    planted.seeds(path, scores, slots, scores > 0, grid=8, names=names)
    return path


# ---------------------------------------------------------------------------------------------- what is promised


@pytest.mark.parametrize("name", CASES)
def test_the_artifact_is_what_its_kind_promises(name: str, made: dict[str, Path], tiny: dict[str, Path]) -> None:
    artifact = store.Artifact(made[name])
    pictures, table = store.Artifact(tiny["photographs"]), tags.tags(store.Artifact(tiny["tags"]))
    assert artifact.kind == METHODS[CASES[name].method].makes
    assert artifact.manifest["stage"] == CASES[name].stage
    parents = {role: store.Artifact(path).digest for role, path in given(name, made).items()}
    assert artifact.manifest["parents"] == parents
    assert integrity.verify(made[name]) == []
    assert not store.part_of(made[name]).exists()
    count, side = pictures["rgb"].shape[:2]
    val = photographs.split(pictures, "val")
    if artifact.kind in ("classifier", "seeds", "labels", "soft", "patches", "model"):
        assert classes.meta(artifact) == classes.meta(store.Artifact(tiny["tags"]))
    match artifact.kind:
        case "classifier" if artifact.meta.get("passed"):
            assert artifact.manifest["arrays"] == {}
        case "weights" | "classifier" | "model":
            assert set(artifact.manifest["arrays"]) >= {"float32", "int64"}
            assert np.isfinite(artifact.read("float32")).all()
            if artifact.manifest["stage"] != "init":
                assert np.isfinite(artifact.read("curve_loss")).all()
        case "saliency":
            assert artifact["saliency"].shape == (count, side, side)
            assert artifact.read("saliency").max() > 128
        case "seeds":
            scores, claimed, slots = (artifact.read(array) for array in ("scores", "claimed", "classes"))
            assert scores.shape == claimed.shape == (count, 4, *2 * [-(-side // artifact.meta["grid"])])
            assert (scores.dtype, claimed.dtype, slots.dtype) == (np.float16, np.uint8, np.uint8)
            assert scores.min() >= 0 and scores.max() <= 1
            assert (slots[val] == VOID).all() and not scores[val].any() and not claimed[val].any()
            assert not scores[slots == VOID].any() and not claimed[slots == VOID].any()
            for i in photographs.split(pictures, "train"):
                assert slots[i][slots[i] != VOID].tolist() == np.flatnonzero(table[i]).tolist()
            rounds = len(artifact.meta["rounds"])
            assert rounds == (1 if CASES[name].method in ("cam", "excitation", "vote") else 2)
            assert set(np.unique(claimed)) == set(range(rounds + 1)), "each round has claimed something"
        case "labels":
            found, covered = artifact.read("labels"), artifact.read("covered")
            assert found.shape == (count, side, side)
            assert covered.any() and not covered[val].any()
            assert (found[~covered] == VOID).all()
            for i in covered.nonzero()[0]:  # tags, and only tags, can be in the labels
                inside = set(np.unique(labels.labels_at(artifact, pictures, i))) - {0, VOID}
                assert inside <= set(np.flatnonzero(table[i]))
        case "soft":
            maps, slots, covered = (artifact.read(array) for array in ("probabilities", "slots", "covered"))
            grid = artifact.meta["grid"]
            assert maps.shape == (*slots.shape, *2 * [-(-side // grid)])
            assert (maps.dtype, slots.dtype) == (np.float16, np.uint8)
            assert covered.any() and not covered[val].any()
            assert (slots[~covered] == VOID).all() and not maps[~covered].any() and not maps[slots == VOID].any()
            for i in covered.nonzero()[0]:
                assert slots[i][slots[i] != VOID].tolist() == [0, *np.flatnonzero(table[i])]
                gh, gw = (-(-length // grid) for length in photographs.size(pictures, i))
                np.testing.assert_allclose(maps[i, :, :gh, :gw].sum(0, np.float32), 1, atol=2e-3)
                assert not maps[i, :, gh:].any() and not maps[i, :, :, gw:].any()
        case "hypotheses":
            for i in range(count):
                found, numbers = hypotheses.boxes(artifact, i), hypotheses.clusters(artifact, i)
                masks = hypotheses.segments(artifact, i)
                assert 1 <= len(found) == len(numbers) == len(masks)
                assert (found[:, 2:] <= photographs.size(pictures, i)).all() and (found[:, :2] >= 0).all()
                assert numbers[0] == 0 and numbers.max() < artifact.meta["clusters"] == 5
                assert all(mask.any(0).all() and mask.any(1).all() for mask in masks), "boxes are tight"
        case "patches":
            assert artifact["box"].shape == (len(artifact.read("class")), 4)
            assert len(artifact.read("class")) > 0
        case kind:
            pytest.fail(f"no promise is written down for {kind}")


# A killed run that goes on gives the bytes of an undisturbed one (KILLED, below): what two undisturbed ones of the same
# method and about the same settings give needs no run of its own.
KILLED_TOO = (
    *("colorization", "hypotheses", "excitation", "erase-planted", "hcp", "vote", "mine-planted", "crf-alone", "merge"),
    *("contrast", "psl", "dis", "dis-again", "infer", "simple", "soften", "harden"),
)


@pytest.mark.parametrize("name", [name for name in CASES if name not in KILLED_TOO])
def test_same_seed_same_bytes(name: str, made: dict[str, Path], tiny: dict[str, Path], tmp_path: Path) -> None:
    again = tmp_path / "x.json"
    if CASES[name].same:
        again = tiny[CASES[name].same]
    else:
        settings = {"method": CASES[name].method, **CASES[name].settings}
        stage(CASES[name].stage, again, settings, **given(name, made))
    assert content(again) == content(made[name])


@pytest.mark.parametrize("name", ["colorization", "classify", "triplet", "segment-soft"])
def test_another_seed_gives_other_weights(name: str, made: dict[str, Path], tmp_path: Path) -> None:
    stage(CASES[name].stage, tmp_path / "x.json", CASES[name].settings, seed=7, **given(name, made))
    assert store.Artifact(tmp_path / "x.json").digest != store.Artifact(made[name]).digest


@pytest.mark.parametrize("name", ["imagenet", "cam", "erase", "mine", "crf", "segment"])
def test_a_second_run_computes_nothing_and_restores_the_manifest(name: str, made: dict[str, Path]) -> None:
    before = made[name].read_bytes()
    made[name].unlink()
    said = stage(CASES[name].stage, made[name], CASES[name].settings, **given(name, made))
    assert "complete already" in said
    assert made[name].read_bytes() == before


# ------------------------------------------------------------------------------------------------- single methods


def test_a_round_after_the_stop_passes_on_what_it_was_given(made: dict[str, Path]) -> None:
    last, passed = store.Artifact(made["mine-last"]), store.Artifact(made["mine-stopped"])
    assert "the round mined" in last.meta["rounds"][-1]["stop"]
    assert store.Artifact(made["erase-stopped"]).meta["passed"] is True
    assert passed.meta == last.meta
    for name in ("scores", "classes", "claimed"):
        np.testing.assert_array_equal(passed.read(name), last.read(name))


def test_erasing_works_on_seeds_of_any_maker(made: dict[str, Path]) -> None:
    """Planted ones: what they claim stays claimed, and the next round claims more, on their grid."""
    before, after = store.Artifact(made["planted"]), store.Artifact(made["mine-planted"])
    rows = after.read("claimed").reshape(len(after.read("claimed")), -1).any(1)
    assert after.meta["grid"] == before.meta["grid"]
    np.testing.assert_array_equal(after.read("claimed")[rows] == 1, before.read("claimed")[rows] == 1)
    assert (after.read("claimed") == 2).any()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("cam", {"threshold": 0.2}),
        ("cam", {"reading": "top_pixels", "largest": 0.3}),
        ("vote", {"threshold": 0.2}),
        ("excitation", {"threshold": 0.5}),
        ("mine", {"threshold": 0.2, "recognised": 0.5}),
        ("mine", {"elsewhere": False, "stop_mined": 0.9}),
    ],
)
def test_another_claim_recomputes_no_map(name: str, change: dict, made: dict[str, Path], tmp_path: Path) -> None:
    """And gives what a run from nothing gives."""
    shutil.copytree(made[name].parent, tmp_path / "changed")
    changed, fresh = tmp_path / "changed" / "x.json", tmp_path / "fresh" / "x.json"
    fresh.parent.mkdir()
    settings = {**CASES[name].settings, **change}
    said = stage(CASES[name].stage, changed, settings, **given(name, made))
    assert "x.json: 0 of 12 images computed" in said
    assert "x.json: 12 of 12 images computed" in stage(CASES[name].stage, fresh, settings, **given(name, made))
    assert content(changed) == content(fresh)
    assert (store.Artifact(changed).read("claimed") != store.Artifact(made[name]).read("claimed")).any()


def test_merging_loses_no_true_mask(made: dict[str, Path], tiny: dict[str, Path]) -> None:
    true, pseudo = store.Artifact(tiny["few"]), store.Artifact(tiny["labels"])
    known = true.read("covered")
    for name in ("merge", "merge-classes"):
        merged = store.Artifact(made[name])
        found, drawn = merged.read("labels"), true.read("labels")
        object_ = known[:, None, None] & (drawn != 0) & (drawn != VOID)
        assert object_.any()
        np.testing.assert_array_equal(found[object_], drawn[object_])
        np.testing.assert_array_equal(merged.read("covered"), known | pseudo.read("covered"))
        np.testing.assert_array_equal(found[~known], pseudo.read("labels")[~known])
    np.testing.assert_array_equal(store.Artifact(made["merge"]).read("labels")[known], true.read("labels")[known])


def test_relabelling_covers_all_training_images_or_those_covered_before(
    made: dict[str, Path], tiny: dict[str, Path]
) -> None:
    train = photographs.split(store.Artifact(tiny["photographs"]), "train")
    few = store.Artifact(tiny["few"]).read("covered").nonzero()[0]
    assert 0 < len(few) < len(train)
    assert store.Artifact(made["relabel"]).read("covered").nonzero()[0].tolist() == train.tolist()
    assert store.Artifact(made["relabel-covered"]).read("covered").nonzero()[0].tolist() == few.tolist()


def test_hard_and_soft_labels_cover_the_same_images(made: dict[str, Path], tiny: dict[str, Path]) -> None:
    """Of one tag each the simple ones, of seeds all."""
    train = photographs.split(store.Artifact(tiny["photographs"]), "train")
    some = store.Artifact(made["simple"]).read("covered").nonzero()[0]
    assert 0 < len(some) < len(train)
    assert (tags.tags(store.Artifact(tiny["tags"]))[some].sum(1) == 1).all()
    assert store.Artifact(made["soften"]).read("covered").nonzero()[0].tolist() == train.tolist()
    for hard, soft in (("harden", "simple"), ("harden-crf", "soften")):
        covered, found = (store.Artifact(made[hard]).read(array) for array in ("covered", "labels"))
        np.testing.assert_array_equal(covered, store.Artifact(made[soft]).read("covered"))
        assert len(np.unique(found[covered])) > 2, "objects, background, and what is unsure"


# -------------------------------------------------------------------------------------------------------- SIGKILL


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """More than one shard of photographs, small ones, so that a kill finds some work done."""
    root = tmp_path_factory.mktemp("long")
    made = prepare(root, demo_settings(train=store.SHARD + 2, val=2, side=64))
    pictures = store.Artifact(made["photographs"])
    table, count = tags.tags(store.Artifact(made["tags"])), len(pictures["size"])
    for name in ("weights", "classifier", "seeds", "eraser", "few", "patches", "model", "saliency", "soft"):
        made[name] = root / f"{name}.json"
    short = {**TINY, "epochs": 0.05}
    see, know = ({role: made[role] for role in roles} for roles in (SEE, KNOW))
    stage("init", made["weights"], {"method": "random"})
    stage("classify", made["classifier"], short, **know, weights=made["weights"])
    # Planted, since nothing here asks where the objects are: a corner each.
    slots = tags.slots(store.Artifact(made["tags"]))
    scores = np.zeros((*slots.shape, 16, 16), np.float32)
    scores[..., 3:8, 3:8] = (slots != VOID)[..., None, None]
    names = classes.names(store.Artifact(made["tags"]))
    assert table.shape == (count, len(names))
    planted.seeds(made["seeds"], scores, slots, scores > 0, names=names)
    planted.saliency(made["saliency"], np.repeat(np.repeat(200 * scores[:, 0], 4, 1), 4, 2).astype(np.uint8), 64)
    maps = np.concatenate([1 - scores[:, :1], scores[:, :1]], 1)
    covered = np.isin(np.arange(count), photographs.split(pictures, "train"))
    first = np.stack([np.zeros(count), slots[:, 0]], 1)
    planted.soft(made["soft"], maps, first, 4, len(names), covered=covered, names=names)
    made["corners"], made["hcp"] = root / "corners.json", root / "hcp.json"
    corners = np.array([[0, 0, 16, 16], [10, 10, 32, 32]])
    masks = [np.ones((16, 16), bool), np.ones((22, 22), bool)]
    planted.hypotheses(made["corners"], [hypotheses.Hypotheses(corners, np.arange(2), masks)] * count)
    plain = store.Artifact(made["classifier"])
    arrays = {name: plain.read(name) for name in plain.manifest["arrays"]}
    planted.table_artifact(made["hcp"], "classifier", arrays, plain.meta, planted.header(Hcp(crop=64)))
    stage("erase", made["eraser"], {**ERASE, **short}, **know, seeds=made["seeds"], weights=made["weights"])
    stage("masks", made["few"], **know, masks=made["masks"])
    stage("patches", made["patches"], PATCHES, **see, labels=made["few"])
    stage("segment", made["model"], {**short, "width": 16}, **see, labels=made["few"], weights=made["weights"])
    made["dis"] = root / "dis.json"
    stage("dis", made["dis"], short, **know, labels=made["few"], weights=made["weights"])
    return made


JOURNAL, CHECKPOINT = "pipeline.core.store:log", "pipeline.core.loop:Checkpoint.save"
SHORT = {**TINY, "epochs": 0.2}
LATER = {**SHORT, "width": 16, "prohibit_after": 0.13}  # its own masks teach in the last of three iterations alone
# What dies at the first finished shard, and what at the first checkpoint.
KILLED = {
    "saliency": (JOURNAL, case("saliency", {}, SEE)),
    "hypotheses": (JOURNAL, case("hypotheses", {"regions": [300]}, SEE)),
    "crf": (JOURNAL, case("crf", {"iterations": 2}, SEE, seeds="seeds")),
    "cam": (JOURNAL, case("cam", {"scales": [1.0, 0.5], "flip": False}, KNOW, classifier="classifier")),
    "vote": (JOURNAL, case("vote", {}, KNOW, hypotheses="corners", classifier="hcp")),
    "excitation": (JOURNAL, case("excitation", CAM, KNOW, classifier="classifier")),
    "mine": (JOURNAL, case("mine", MINE, SEE, seeds="seeds", classifier="eraser")),
    "masks": (JOURNAL, case("masks", {}, KNOW, masks="masks")),
    "merge": (JOURNAL, case("merge", {}, SEE, true="few", pseudo="few")),
    "relabel": (JOURNAL, case("relabel", {"flip": False, "rescue": 0.001}, KNOW, model="model")),
    "simple": (JOURNAL, case("simple", EVERY, KNOW, saliency="saliency")),
    "soften": (JOURNAL, case("soften", {}, SEE, seeds="seeds")),
    "harden": (JOURNAL, case("harden", {}, SEE, soft="soft")),
    "proxy": (CHECKPOINT, case("proxy", {**SHORT, "pixels": 16, "hidden": 16}, SEE)),
    "classify": (CHECKPOINT, case("classify", SHORT, KNOW, weights="weights")),
    "hcp": (
        CHECKPOINT,
        case("hcp", {**HCP, **SHORT, "hypothesis_epochs": 0.1}, KNOW, hypotheses="corners", weights="weights"),
    ),
    "erase": (CHECKPOINT, case("erase", {**ERASE, **SHORT}, KNOW, seeds="seeds", weights="weights")),
    "triplet": (CHECKPOINT, case("triplet", {**TRIPLET, "epochs": 0.5}, SEE, patches="patches", weights="weights")),
    "contrast": (CHECKPOINT, case("contrast", {**SHORT, "width": 16}, SEE, labels="few", weights="weights")),
    "segment": (CHECKPOINT, case("segment", {**SHORT, "width": 16}, SEE, labels="few", weights="weights")),
    "psl": (CHECKPOINT, case("psl", LATER, KNOW, labels="few", weights="weights")),
    "dis": (CHECKPOINT, case("dis", SHORT, KNOW, labels="few", true="few", weights="weights", model="dis")),
    "infer": (JOURNAL, case("infer", {"steps": 1}, KNOW, model="dis")),
}


def test_every_method_that_can_go_on_is_killed() -> None:
    """The others write one small table: they begin anew."""
    assert {case.method for _, case in KILLED.values()} == set(METHODS) - {"imagenet", "random", "patches"}
    assert {CASES[name].method for name in KILLED_TOO} <= {case.method for _, case in KILLED.values()}


@pytest.mark.parametrize("name", KILLED)
def test_sigkill_in_the_middle_then_the_same_command_gives_the_same_bytes(
    name: str, long: dict[str, Path], tmp_path: Path
) -> None:
    where, about = KILLED[name]
    inputs = {role: long[source] for role, source in about.inputs.items()}
    straight, broken = tmp_path / "straight" / "x.json", tmp_path / "broken" / "x.json"
    straight.parent.mkdir()
    broken.parent.mkdir()
    stage(about.stage, straight, about.settings, **inputs)

    kill_stage(about.stage, where, broken, about.settings, **inputs)
    assert not broken.exists()
    assert store.part_of(broken).exists()

    said = stage(about.stage, broken, about.settings, **inputs)
    assert content(straight) == content(broken)
    if where == JOURNAL:
        assert ("4 of 68" if name == "hypotheses" else "2 of 66") + " images computed" in said, (
            "val counts where it has rows"
        )
    else:
        assert "going on after iteration 1\n" in said


# -------------------------------------------------------------------------------------------------- a quick start

# Neither trains nor runs a network. `init` makes one.
PLAIN = [
    name
    for name, about in CASES.items()
    if not (METHODS[about.method].trains or METHODS[about.method].infers or about.stage == "init")
]
ALONE = """
import json, runpy, sys
for name, module, words in json.load(sys.stdin):
    before, sys.argv = set(sys.modules), [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as left:
        assert not left.code, (name, left.code)
    print(json.dumps([name, sorted({"torch", "torchvision"} & set(sys.modules) - before)]))
"""


@pytest.fixture(scope="module")
def loaded(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Command → what it was the first to load, of commands run one after the other in one fresh process."""
    root = tmp_path_factory.mktemp("alone")
    commands = []

    def add(name: str, module: str, arguments: list[str]) -> None:
        commands.append((name, f"pipeline.{module}", arguments))

    collage.write(root / "photos", train=1, val=1, seed=0)  # larger than they are stored
    source = {"format": "folder", "max_side": 80, "folder": {"root": str(root / "photos")}}
    source |= {"classes": collage.compose(0, 0)[2], "other": "background"}
    for kind in ("photographs", "tags", "masks"):
        parents = {} if kind == "photographs" else {"photographs": root / "photographs.json"}
        arguments = words("prepare", root / f"{kind}.json", source, **parents)
        add(f"prepare-{kind}", "prepare", [*arguments, "--make", kind])
    for name in PLAIN:
        settings = {"method": CASES[name].method, **CASES[name].settings}
        arguments = words(CASES[name].stage, root / f"{name}.json", settings, **given(name, made))
        add(name, CASES[name].stage, [*arguments, "--threads", "1"])  # a process of its own would hide what it loads
    see = {kind: made[kind] for kind in ("photographs", "masks")}
    for kind in ("seeds", "labels"):
        arguments = words("evaluate", root / f"{kind}.metrics.json", **see, of=made[kind])
        add(f"evaluate-{kind}", "evaluate", [*arguments, "--threads", "1"])
    shown = [
        {"step": name, "method": CASES[name].method, "folder": name, "kind": kind, "manifest": str(made[name])}
        for name in PLAIN
        if (kind := METHODS[CASES[name].method].makes)
    ]
    shown.append({"step": "cam", "method": "cam", "folder": "cam", "kind": "seeds", "manifest": str(made["seeds"])})
    flags = [word for kind in ("photographs", "tags", "masks") for word in (f"--{kind}", str(made[kind]))]
    page = ["--recipe", "x", *flags, "--stages", json.dumps(shown), "--threads", "1", "--out", str(root / "x.html")]
    add("report", "report", page)
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        input=json.dumps(commands),
        cwd=root,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


@pytest.mark.parametrize(
    "name",
    ["prepare-photographs", "prepare-tags", "prepare-masks", *PLAIN, "evaluate-seeds", "evaluate-labels", "report"],
)
def test_what_runs_no_network_loads_no_torch(name: str, loaded: dict[str, list[str]]) -> None:
    """To its end. Torch takes two seconds of CPU to load, more than all else that these commands need to start."""
    assert loaded[name] == []


# ---------------------------------------------------------------------------------------------------- incremental


def test_rows_that_did_not_change_are_not_computed_again(tmp_path: Path) -> None:
    """Five more pictures: saliency computes five."""
    out = tmp_path / "saliency.json"
    before = prepare(tmp_path, demo_settings(train=10, val=7))
    stage("saliency", out, {"algorithm": "ft"}, photographs=before["photographs"])
    after = prepare(tmp_path, demo_settings(train=15, val=2))
    said = stage("saliency", out, {"algorithm": "ft"}, photographs=after["photographs"])
    assert "5 of 15 images computed" in said


def test_another_file_of_weights_under_the_same_name_is_noticed(tmp_path: Path) -> None:
    file, out = tmp_path / "my.pth", tmp_path / "w.json"
    digests = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(torchvision.models.resnet18().state_dict(), file)
        stage("init", out, {"method": "imagenet", "backbone": "resnet18", "file": str(file)})
        digests.append(store.Artifact(out).digest)
    assert digests[0] != digests[1]


# ----------------------------------------------------------------------------------------- one image, bad input


def test_the_chain_works_on_one_training_image(tmp_path: Path) -> None:
    one = {**TINY, "epochs": 2, "batch": 1}
    chain = {
        "random": case("random"),
        "proxy": case("proxy", {**one, "pixels": 16, "hidden": 16}, SEE),
        "saliency": case("saliency", {}, SEE),
        "boxes": case("hypotheses", {}, SEE),
        "classifier": case("classify", one, KNOW, weights="proxy"),
        "seeds": case("cam", CAM, KNOW, classifier="classifier"),
        "excited": case("excitation", CAM, KNOW, classifier="classifier"),
        "eraser": case("erase", {**ERASE, **one}, KNOW, seeds="excited", weights="random"),
        "hcp": case("hcp", {**HCP, **one}, KNOW, hypotheses="boxes", weights="random"),
        "voted": case("vote", {}, KNOW, hypotheses="boxes", classifier="hcp"),
        "mined": case("mine", MINE, SEE, seeds="excited", classifier="eraser"),
        "pseudo": case("crf", {}, SEE, seeds="mined", saliency="saliency"),
        "true": case("masks", {}, KNOW, masks="masks"),
        "labels": case("merge", {"by": "class"}, SEE, true="true", pseudo="pseudo"),
        "patches": case("patches", PATCHES, SEE, labels="labels"),
        "tuned": case("triplet", TRIPLET, SEE, patches="patches", weights="random"),
        "alike": case("contrast", {**one, "width": 16}, SEE, labels="true", weights="tuned"),
        "model": case("segment", {**one, "width": 16}, SEE, labels="labels", weights="alike"),
        "again": case("relabel", {"rescue": 0.001}, KNOW, model="model"),
        "simple": case("simple", EVERY, KNOW, saliency="saliency"),
        "soft": case("soften", {}, SEE, seeds="seeds"),
        "hard": case("harden", {}, SEE, soft="simple"),
        "enhanced": case("relabel", {"images": "covered"}, KNOW, model="model", covered="simple"),
        "psl": case("psl", {**one, "width": 16}, KNOW, labels="again", weights="random"),
        "dis": case("dis", one, KNOW, labels="true", weights="random"),
        "inferred": case("infer", {}, KNOW, model="dis"),
    }
    assert {about.method for about in chain.values()} == set(METHODS) - {"imagenet"}
    collage.write(tmp_path / "photos", train=1, val=1, seed=0)
    _, _, names = collage.compose(0, 0)
    source = {"format": "folder", "max_side": 96, "folder": {"root": str(tmp_path / "photos")}}
    made = prepare(tmp_path, {**source, "classes": names, "other": "background"})
    for name, about in chain.items():
        made[name] = tmp_path / f"{name}.json"
        inputs = {role: made[source] for role, source in about.inputs.items()}
        stage(about.stage, made[name], {"method": about.method, **about.settings}, **inputs)
    for name in ("again", "simple", "soft", "hard", "enhanced", "inferred"):
        assert store.Artifact(made[name]).read("covered").tolist() == [True, False]
        assert integrity.verify(made[name]) == []


def test_bad_input_is_one_clear_message_and_loses_nothing(tiny: dict[str, Path], tmp_path: Path) -> None:
    out, know = tmp_path / "x.json", {role: tiny[role] for role in KNOW}
    said = stage("classify", out, TINY, fails=True, **know, weights=tiny["labels"])
    assert "this is labels, weights expected" in said
    assert "Traceback" not in said
    said = stage("classify", out, {"epoch": 1}, fails=True, **know, weights=tiny["weights"])
    assert "epoch: unknown key" in said
    said = stage("cam", out, {}, fails=True, **know, classifier=tmp_path / "none.json")
    assert "no such artifact" in said
    said = stage("mine", out, MINE, fails=True, photographs=tiny["photographs"], seeds=tiny["seeds"],
                 classifier=tiny["classifier"])  # fmt: skip
    assert "made by 'classify', classifier made by 'erase' expected" in said
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_input_is_named_with_what_makes_it_anew(tiny: dict[str, Path], tmp_path: Path) -> None:
    """Also where a process of a pool reads it. An error of another kind blames no input."""
    for path in (tiny["photographs"], store.store_of(tiny["photographs"])):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    pictures, out = tmp_path / "photographs.json", tmp_path / "x.json"
    chunk = store.store_of(pictures) / "rgb" / "c" / "0" / "0" / "0" / "0"
    raw = bytearray(chunk.read_bytes())
    raw[len(raw) // 2] ^= 1
    chunk.write_bytes(raw)
    said = stage("saliency", out, {}, fails=True, photographs=pictures)
    assert "photographs.json: row" in said and f"snakemake --cores all {pictures}" in said
    assert f"rm -r {pictures} {store.store_of(pictures)}" in said
    assert "Traceback" not in said
    with pytest.raises(ZeroDivisionError), integrity.blaming([pictures]):
        1 / 0  # noqa: B018


def test_a_failed_run_keeps_the_artifact_that_was_there(tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    stage("init", out, {"method": "random"})
    before = content(out)
    stage("init", out, {"method": "imagenet", "file": str(tmp_path / "missing.pth")}, fails=True)
    assert content(out) == before


# --------------------------------------------------------------------------------------- artifacts of older versions


def aged(path: Path) -> Path:
    """The artifact as the version before made it: its manifest says less."""
    manifest = json.loads(path.read_text())
    del manifest["choices"]
    path.write_text(json.dumps(manifest))
    return path


@pytest.fixture(scope="module")
def old_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact `images`, which held photographs, tags and masks in one."""
    path = tmp_path_factory.mktemp("old") / "images.json"
    arrays = {"rgb": np.zeros((2, 32, 32, 3), np.uint8), "size": np.full((2, 2), 32, np.int32)}
    planted.rows_artifact(path, "images", arrays, {"classes": ["background", "cat"]})
    return aged(path)


@pytest.mark.parametrize("method", [name for name, about in METHODS.items() if "photographs" in about.takes])
def test_images_of_an_older_version_are_refused_with_a_message(
    method: str, old_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = METHODS[method]
    words = [part for role in about.takes for part in (f"--{role}", str(old_images))]
    words += ["--settings", json.dumps({"method": method}), "--out", str(tmp_path / "x.json")]
    with pytest.raises(SystemExit) as left:
        cli.main(importlib.import_module(f"pipeline.{about.stage}").run, about, argv=words)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "images.json: this is images, photographs expected" in said
    assert "older version" in said and "snakemake clean" in said
    assert list(tmp_path.iterdir()) == []


def test_seeds_of_an_older_version_are_refused_with_a_message(tiny: dict[str, Path], tmp_path: Path) -> None:
    """They said `first` where seeds say `claimed` now."""
    source = store.Artifact(tiny["seeds"])
    arrays = {"scores": source.read("scores"), "classes": source.read("classes"), "first": source.read("claimed")}
    planted.rows_artifact(tmp_path / "seeds.json", "seeds", arrays, source.meta)
    old = aged(tmp_path / "seeds.json")
    said = stage("crf", tmp_path / "x.json", {}, fails=True, photographs=tiny["photographs"], seeds=old)
    assert "seeds.json: seeds without the array 'claimed'" in said and "older version" in said
    assert "Traceback" not in said
