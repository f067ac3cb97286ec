"""The contract every stage keeps, checked on the real commands: kinds, shapes, repeatability, resume after SIGKILL, one
image only, and bad input that loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import ENVIRONMENT, TINY, command, content, demo_settings, stage

from pipeline.core import data, demo, integrity, store
from pipeline.core.config import METHODS

ERASE = {**TINY, "scales": [1.0], "stop_recall": 0.0, "stop_loss": 9.0}
PATCHES = {"sides": [16, 48], "size": 32, "draws": 2}
# method → (stage, settings, inputs by kind → name in the `tiny` fixture)
CASES: dict[str, tuple[str, dict, dict[str, str]]] = {
    "random": ("init", {"method": "random"}, {}),
    "imagenet": ("init", {"method": "imagenet"}, {}),
    "colorization": ("proxy", {**TINY, "border": 4, "pixels": 32}, {"images": "images"}),
    "jigsaw": ("proxy", {**TINY, "task": "jigsaw", "tile": 16, "permutations": 8}, {"images": "images"}),
    "saliency": ("saliency", {}, {"images": "images"}),
    "classify": ("classify", TINY, {"images": "images", "weights": "weights"}),
    "cam": ("cam", {"scales": [1.0]}, {"images": "images", "classifier": "classifier"}),
    "erase": ("erase", ERASE, {"images": "images", "seeds": "seeds", "weights": "weights"}),
    "crf": ("crf", {}, {"images": "images", "seeds": "erased", "saliency": "saliency"}),
    "argmax": ("crf", {"refine": "argmax"}, {"images": "images", "seeds": "seeds"}),
    "masks": ("masks", {"fraction": 0.5}, {"images": "images"}),
    "patches": ("patches", PATCHES, {"images": "images", "labels": "labels"}),
    "triplet": (
        "triplet",
        {"batch": 4, "epochs": 1, "pool": 1},
        {"images": "images", "patches": "patches", "weights": "weights"},
    ),
    "segment": ("segment", {**TINY, "width": 16}, {"images": "images", "labels": "masks", "weights": "weights"}),
    "relabel": ("relabel", {"crf": True}, {"images": "images", "model": "model"}),
}


def test_every_method_has_a_case() -> None:
    stages = {METHODS[name].stage for name in METHODS}
    assert stages == {case[0] for case in CASES.values()}


@pytest.fixture(scope="module")
def made(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every case once, on demand, shared by the tests below."""
    root = tmp_path_factory.mktemp("made")

    class Made(dict):
        def __missing__(self, case: str) -> Path:
            name, settings, inputs = CASES[case]
            out = root / case / "x.json"
            out.parent.mkdir()
            stage(name, out, settings, **{kind: tiny[source] for kind, source in inputs.items()})
            self[case] = out
            return out

    return Made()


@pytest.mark.parametrize("case", CASES)
def test_the_artifact_is_what_its_kind_promises(case: str, made: dict[str, Path], tiny: dict[str, Path]) -> None:
    artifact, images = store.Artifact(made[case]), store.Artifact(tiny["images"])
    assert integrity.verify(made[case]) == []
    assert not store.part_of(made[case]).exists()
    count, side = images["rgb"].shape[:2]
    match artifact.kind:
        case "weights" | "classifier" | "model":
            assert set(artifact.manifest["arrays"]) >= {"float32", "int64"}
            assert np.isfinite(artifact.read("float32")).all()
            if artifact.manifest["stage"] != "init":
                assert np.isfinite(artifact.read("curve_loss")).all()
        case "saliency":
            assert artifact["saliency"].shape == (count, side, side)
            assert artifact.read("saliency").max() > 128
        case "seeds":
            scores, first = artifact.read("scores"), artifact.read("first")
            assert scores.shape == first.shape == (count, 4, side // 4, side // 4)
            assert scores.min() >= 0
            assert scores.max() <= 1
            val = data.split(images, "val")
            assert not scores[val].any(), "validation images must not be touched"
            rounds = artifact.meta["rounds"]
            assert len(rounds) == (2 if case == "erase" else 1)
            assert first.max() <= len(rounds) if case == "erase" else not first.any()
        case "labels":
            labels, covered = artifact.read("labels"), artifact.read("covered")
            assert labels.shape == (count, side, side)
            allowed = {0, 255} | set(range(len(artifact.meta["classes"])))
            assert set(np.unique(labels[covered])) <= allowed
            assert not covered[data.split(images, "val")].any()
            for i in covered.nonzero()[0]:  # tags, and only tags, can be in the labels
                inside = set(np.unique(data.labels_at(artifact, images, i))) - {0, 255}
                assert inside <= set(np.flatnonzero(images["tags"][i]) + 1)
        case "patches":
            assert artifact["box"].shape == (len(artifact.read("class")), 4)
        case kind:
            pytest.fail(f"no promise is written down for {kind}")


@pytest.mark.parametrize("case", CASES)
def test_same_seed_same_bytes(case: str, made: dict[str, Path], tiny: dict[str, Path], tmp_path: Path) -> None:
    name, settings, inputs = CASES[case]
    stage(name, tmp_path / "x.json", settings, **{kind: tiny[source] for kind, source in inputs.items()})
    assert content(tmp_path / "x.json") == content(made[case])


@pytest.mark.parametrize("case", ["colorization", "classify", "triplet", "segment"])
def test_another_seed_gives_other_weights(
    case: str, made: dict[str, Path], tiny: dict[str, Path], tmp_path: Path
) -> None:
    name, settings, inputs = CASES[case]
    stage(name, tmp_path / "x.json", settings, seed=7, **{kind: tiny[source] for kind, source in inputs.items()})
    assert store.Artifact(tmp_path / "x.json").digest != store.Artifact(made[case]).digest


@pytest.mark.parametrize("case", ["imagenet", "cam", "erase", "crf", "segment"])
def test_a_second_run_computes_nothing_and_restores_the_manifest(
    case: str, made: dict[str, Path], tiny: dict[str, Path]
) -> None:
    name, settings, inputs = CASES[case]
    before = made[case].read_bytes()
    made[case].unlink()
    said = stage(name, made[case], settings, **{kind: tiny[source] for kind, source in inputs.items()})
    assert "complete already" in said
    assert made[case].read_bytes() == before


# ------------------------------------------------------------------------------------------------ SIGKILL


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """More than one shard of pictures, so that a kill finds some work done."""
    root = tmp_path_factory.mktemp("long")
    kinds = ("images", "weights", "classifier", "seeds", "masks", "patches", "model")
    made = {name: root / f"{name}.json" for name in kinds}
    stage("prepare", made["images"], demo_settings(train=store.SHARD + 16, val=2))
    stage("init", made["weights"], {"method": "random"})
    images = made["images"]
    stage("classify", made["classifier"], {**TINY, "epochs": 0.2}, images=images, weights=made["weights"])
    stage("cam", made["seeds"], {"scales": [1.0], "flip": False}, images=images, classifier=made["classifier"])
    stage("masks", made["masks"], images=images)
    stage("patches", made["patches"], PATCHES, images=images, labels=made["masks"])
    short = {**TINY, "epochs": 0.1, "width": 16}
    stage("segment", made["model"], short, images=images, labels=made["masks"], weights=made["weights"])
    return made


KILLED = {
    # case: stage, settings, inputs, when to kill
    "rows": ("saliency", {"algorithm": "rbd"}, ["images"], "journal"),
    "crf": ("crf", {}, ["images", "seeds"], "journal"),
    "cam": ("cam", {"scales": [1.0, 0.5]}, ["images", "classifier"], "journal"),
    "relabel": ("relabel", {}, ["images", "model"], "journal"),
    "masks": ("masks", {}, ["images"], "journal"),
    "proxy": ("proxy", {**TINY, "epochs": 2, "pixels": 16, "hidden": 16}, ["images"], "checkpoint"),
    "classify": ("classify", {**TINY, "epochs": 2}, ["images", "weights"], "checkpoint"),
    "triplet": ("triplet", {"batch": 4, "epochs": 1, "pool": 1}, ["images", "patches", "weights"], "checkpoint"),
    "training": ("segment", {**TINY, "epochs": 2, "width": 16}, ["images", "masks", "weights"], "checkpoint"),
    "erase": ("erase", {**ERASE, "epochs": 0.2, "flip": False}, ["images", "seeds", "weights"], "journal"),
}


@pytest.mark.parametrize("case", KILLED)
def test_sigkill_in_the_middle_then_the_same_command_gives_the_same_bytes(
    case: str, long: dict[str, Path], tmp_path: Path
) -> None:
    name, settings, names, when = KILLED[case]
    inputs = {("labels" if kind == "masks" else kind): long[kind] for kind in names}
    straight, broken = tmp_path / "straight" / "x.json", tmp_path / "broken" / "x.json"
    straight.parent.mkdir()
    broken.parent.mkdir()
    stage(name, straight, settings, **inputs)

    flags = [part for kind, path in inputs.items() for part in (f"--{kind}", path)]
    words = command(
        name, *flags, "--settings", json.dumps(settings), "--out", broken, "--precision", "f32", "--threads", "2"
    )
    process = subprocess.Popen(
        words,
        env={**ENVIRONMENT, "CHECKPOINT_SECONDS": "0.2"},
        cwd=broken.parent,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    part = store.part_of(broken)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        journal = part / "shards.jsonl"
        if when == "journal" and journal.is_file() and journal.read_text().count("\n") >= 1:
            break
        if when == "checkpoint" and (part / "checkpoint.pt").is_file():
            break
        time.sleep(0.01)
    assert process.poll() is None, "the stage ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not broken.exists()
    assert part.exists()

    said = stage(name, broken, settings, **inputs)
    assert content(straight) == content(broken)
    if when == "journal":
        done = int(said.split("x.json: ")[1].split(" of ")[0])
        assert done <= 16 + 2, f"{done} images computed again"
    else:
        assert "going on after iteration" in said
    if case == "erase":
        assert "going on after iteration" in said, "the finished training was repeated"


# ---------------------------------------------------------------------------------------------- incremental


def test_rows_that_did_not_change_are_not_computed_again(tmp_path: Path) -> None:
    """Five more pictures: saliency computes five."""
    images, out = tmp_path / "images.json", tmp_path / "saliency.json"
    stage("prepare", images, demo_settings(train=50, val=7))
    stage("saliency", out, {"algorithm": "ft"}, images=images)
    stage("prepare", images, demo_settings(train=55, val=2))
    said = stage("saliency", out, {"algorithm": "ft"}, images=images)
    assert "5 of 55 images computed" in said


def test_another_file_of_weights_under_the_same_name_is_noticed(tmp_path: Path) -> None:
    file, out = tmp_path / "my.pth", tmp_path / "w.json"
    digests = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(torchvision.models.resnet18().state_dict(), file)
        stage("init", out, {"method": "imagenet", "backbone": "resnet18", "file": str(file)})
        digests.append(store.Artifact(out).digest)
    assert digests[0] != digests[1]


# -------------------------------------------------------------------------------------------- one image, bad input


def test_the_chain_works_on_one_training_image(tmp_path: Path) -> None:
    made = {name: tmp_path / f"{name}.json" for name in ("images", "w", "c", "s", "e", "l", "p", "t", "m")}
    one = {**TINY, "epochs": 2}
    demo.write(tmp_path / "photos", train=1, val=1, seed=0)
    _, _, tags = demo.compose(0, 0)
    source = {"format": "folder", "max_side": 96, "folder": {"root": str(tmp_path / "photos")}}
    stage("prepare", made["images"], {**source, "classes": tags, "other": "background"})
    images = made["images"]
    stage("init", made["w"], {"method": "random"})
    stage("classify", made["c"], one, images=images, weights=made["w"])
    stage("cam", made["s"], {"scales": [1.0]}, images=images, classifier=made["c"])
    stage("erase", made["e"], {**ERASE, "batch": 1}, images=images, seeds=made["s"], weights=made["w"])
    stage("crf", made["l"], images=images, seeds=made["e"])
    stage("patches", made["p"], PATCHES, images=images, labels=made["l"])
    stage(
        "triplet", made["t"], {"batch": 4, "epochs": 1, "pool": 1}, images=images, patches=made["p"], weights=made["w"]
    )
    stage("segment", made["m"], {**one, "width": 16}, images=images, labels=made["l"], weights=made["t"])
    assert integrity.verify(made["m"]) == []


def test_bad_input_is_one_clear_message_and_loses_nothing(tiny: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    said = stage("classify", out, TINY, fails=True, images=tiny["images"], weights=tiny["labels"])
    assert "this is labels, weights expected" in said
    assert "Traceback" not in said
    said = stage("classify", out, {"epoch": 1}, fails=True, images=tiny["images"], weights=tiny["weights"])
    assert "epoch: unknown key" in said
    said = stage("cam", out, {}, fails=True, images=tiny["images"], classifier=tmp_path / "none.json")
    assert "no such artifact" in said
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_keeps_the_artifact_that_was_there(tiny: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    stage("init", out, {"method": "random"})
    before = content(out)
    stage("init", out, {"method": "imagenet", "file": str(tmp_path / "missing.pth")}, fails=True)
    assert content(out) == before
