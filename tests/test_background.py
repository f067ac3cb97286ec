"""A data set without a background, as street scenes are: class 0 is a class as any other in every stage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import planted
import pytest
import warm
from colours import colour_trunk
from conftest import DATA_FOLDER, ROOT, TINY, prepare, stage
from PIL import Image

from pipeline.core import metrics, store
from pipeline.datasets.pictures import read_photograph
from pipeline.kinds import classes, masks, photographs, seeds, tags
from pipeline.kinds.labels import labels_at
from pipeline.kinds.pixels import resize_nearest
from pipeline.networks.door import open_network, predict_labels

CLASSES = ["Sky", "Road", "Tree", "Car"]
COLOURS = np.array([(150, 190, 240), (90, 90, 95), (40, 130, 50), (210, 40, 40)], np.uint8)
CAMVID = DATA_FOLDER / "camvid_mini"
SEE, KNOW = ("photographs",), ("photographs", "tags")


def street(root: Path) -> dict:
    """Twelve scenes of sky over road, with a tree in two of three and a car in each other, as a devkit; two for val."""
    names = [f"s{i:02d}" for i in range(12)]
    rows = ["image,tags"]
    for i, name in enumerate(names):
        mask = np.zeros((64, 96), np.uint8)
        mask[32:] = 1
        if i % 3:
            mask[16:48, 4 * i : 4 * i + 24] = 2
        if i % 2:
            mask[40:56, 60:92] = 3
        noise = np.random.default_rng(i).normal(0, 6, (64, 96, 3))
        rgb = np.clip(COLOURS[mask] + noise, 0, 255).astype(np.uint8)
        rows.append(f"{name},{' '.join(CLASSES[k] for k in np.unique(mask))}")
        mask[:, 47:49] = 255
        for folder, picture in (("JPEGImages", Image.fromarray(rgb)), ("SegmentationClass", Image.fromarray(mask))):
            (root / folder).mkdir(parents=True, exist_ok=True)
            picture.save(root / folder / f"{name}.{'jpg' if folder == 'JPEGImages' else 'png'}")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for title, part in (("train", names[:-2]), ("val", names[-2:])):
        (root / "ImageSets" / "Segmentation" / f"{title}.txt").write_text("\n".join(part))
    (root / "classes.txt").write_text("\n".join(CLASSES))
    (root / "tags.csv").write_text("\n".join(rows))
    return {"root": str(root), "train": "train", "val": "val", "score": None, "tags": "csv"}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The data set and, by the real commands, one artifact of every kind made from it."""
    root = tmp_path_factory.mktemp("street")
    settings = {"name": "street", "max_side": 96, "background": "none", "voc": street(root / "VOC")}
    made = prepare(root, settings)
    made["weights"] = planted.weights(root / "weights.json", colour_trunk()).path

    def make(name: str, stage_name: str, given: dict, roles: tuple[str, ...] = SEE, **inputs: str) -> None:
        made[name] = root / f"{name}.json"
        paths = {role: made[source] for role, source in ({role: role for role in roles} | inputs).items()}
        stage(stage_name, made[name], given, **paths)

    make("classifier", "classify", {**TINY, "epochs": 3}, KNOW, weights="weights")
    make("seeds", "cam", {"scales": [1.0]}, KNOW, classifier="classifier")
    make("pseudo", "crf", {"keep": 0.6}, seeds="seeds")
    make("few", "masks", {"fraction": 0.5}, KNOW, masks="masks")
    make("merged", "merge", {"by": "class"}, true="few", pseudo="pseudo")
    make("patches", "patches", {"sides": [8, 24], "size": 32}, labels="merged")
    training = {**TINY, "width": 16, "head": "largefov", "stride": 32, "optimizer": "adamw", "epochs": 45}
    make("model", "segment", {**training, "lr": 1e-5, "head_lr": 2000.0, "jitter": 0}, labels="few", weights="weights")
    make("again", "relabel", {"foreground": 0.5, "images": "covered"}, KNOW, model="model", covered="pseudo")
    for name in ("pseudo", "few", "model"):
        made[f"score-{name}"] = root / f"score-{name}.json"
        inputs = {"photographs": made["photographs"], "masks": made["masks"], "of": made[name]}
        stage("evaluate", made[f"score-{name}"], {"thresholds": 3}, **inputs)
    return made


def test_every_artifact_says_so(chain: dict[str, Path]) -> None:
    silent = {"photographs", "weights"}
    for name in chain.keys() - silent:
        found = store.Artifact(chain[name])
        assert classes.meta(found) == {"classes": CLASSES, "background": None}, name
        assert classes.foreground(found).tolist() == [0, 1, 2, 3]
    assert tags.tags(store.Artifact(chain["tags"]))[:, :2].all(), "sky and road are in every scene"


def test_class_0_has_maps_claims_and_labels(chain: dict[str, Path]) -> None:
    pictures, table = store.Artifact(chain["photographs"]), tags.tags(store.Artifact(chain["tags"]))
    found, pseudo = store.Artifact(chain["seeds"]), store.Artifact(chain["pseudo"])
    for i in photographs.split(pictures, "train").tolist():
        here = seeds.at_pixels(found, pictures, i)
        assert here.classes.tolist() == np.flatnonzero(table[i]).tolist()
        assert here.scores[0].max() > 0.9 and here.claimed[0].any(), "the sky's"
        assert set(np.unique(labels_at(pseudo, pictures, i))) <= {*np.flatnonzero(table[i]).tolist(), 255}


def test_patches_of_class_0_are_drawn_as_those_of_any(chain: dict[str, Path]) -> None:
    bank, merged = store.Artifact(chain["patches"]), store.Artifact(chain["merged"])
    shares = np.bincount(bank.read("class"), minlength=4) / len(bank.read("class"))
    labels = merged.read("labels")
    known = np.bincount(labels[labels != 255], minlength=4) / (labels != 255).sum()
    assert abs(shares - known).max() < 0.15 and shares[0] > 0.15, "in proportion to the pixels, no fixed tenth"


@pytest.mark.parametrize("name", ["pseudo", "few"])
def test_what_labels_leave_open_is_missed(name: str, chain: dict[str, Path]) -> None:
    pictures, truths, of = (store.Artifact(chain[role]) for role in ("photographs", "masks", name))
    expected = np.zeros((4, 5), int)
    for i in np.flatnonzero(of.read("covered")).tolist():
        truth, label = masks.true_mask(truths, i), labels_at(of, pictures, i)
        for t, p in zip(truth.ravel().tolist(), resize_nearest(label, *truth.shape).ravel().tolist(), strict=True):
            if t != 255:
                expected[t, 4 if p == 255 else p] += 1
    score = store.Artifact(chain[f"score-{name}"])
    np.testing.assert_array_equal(score.read("confusion")[0, 0], expected)
    iou = [expected[k, k] / (expected[k].sum() + expected[:, k].sum() - expected[k, k]) for k in range(4)]
    assert metrics.miou(expected, background=classes.background(score)) == pytest.approx(np.mean(iou))
    assert (expected[:, 4].sum() > 0) == (name == "pseudo")
    assert iou == [1] * 4 or name == "pseudo", "true masks are right where they say anything"


def test_the_network_learns_class_0_and_predicts_it(chain: dict[str, Path], tmp_path: Path) -> None:
    score = store.Artifact(chain["score-model"])
    matrix = score.read("confusion")[0, 0]
    assert not matrix[:, 4].any() and metrics.per_class_iou(matrix, background=None)[0] > 0.6
    scenes = chain["photographs"].parent / "VOC" / "JPEGImages"
    said = stage_predict(chain["model"], scenes / "s10.jpg", tmp_path / "out")
    assert "Sky, Road" in said and "background" not in said
    with Image.open(tmp_path / "out" / "s10.png") as picture:
        found = np.asarray(picture)
    rgb = read_photograph(scenes / "s10.jpg")
    np.testing.assert_array_equal(found, predict_labels(open_network(store.Artifact(chain["model"])), rgb, (64, 96)))
    assert (found[:8] == 0).mean() > 0.9
    assert json.loads((tmp_path / "out" / "predict.json").read_text())["classes"] == CLASSES


def stage_predict(model: Path, photo: Path, out: Path) -> str:
    words = [str(model), str(photo), "--out", str(out), "--device", "cpu", "--precision", "f32"]
    status, said = warm.run("pipeline.predict", words, out.parent, server=warm.server_of(ROOT))
    assert status == 0, said
    return said


def test_relabelling_keeps_class_0_above_the_foregrounds_threshold(chain: dict[str, Path]) -> None:
    again, pictures = store.Artifact(chain["again"]), store.Artifact(chain["photographs"])
    rows = np.flatnonzero(again.read("covered")).tolist()
    assert rows == photographs.split(pictures, "train").tolist()
    assert all((labels_at(again, pictures, i)[:8] == 0).mean() > 0.8 for i in rows)


# ------------------------------------------------------------------------------------------------- real frames


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"no street scenes: {CAMVID} is missing")
def test_real_street_scenes(tmp_path: Path) -> None:
    """Their true masks, reduced and scored at full size, are right; the sky is drawn from and scored as any class."""
    block = {"root": str(CAMVID), "train": "val", "val": "test", "score": None, "tags": "csv"}
    made = prepare(tmp_path, {"name": "camvid", "max_side": 160, "background": "none", "share": 0.1, "voc": block})
    names = (CAMVID / "classes.txt").read_text().split()
    roles = {role: made[role] for role in KNOW}
    stage("masks", tmp_path / "few.json", {"fraction": 1.0}, **roles, masks=made["masks"])
    see = {"photographs": made["photographs"]}
    stage("patches", tmp_path / "patches.json", {}, **see, labels=tmp_path / "few.json")
    said = stage("evaluate", tmp_path / "score.json", **see, masks=made["masks"], of=tmp_path / "few.json")
    score, bank = store.Artifact(tmp_path / "score.json"), store.Artifact(tmp_path / "patches.json")
    assert classes.meta(score) == classes.meta(bank) == {"classes": names, "background": None}
    iou = metrics.per_class_iou(score.read("confusion")[0, 0], background=None)
    assert iou[names.index("Sky")] > 0.9 and iou[names.index("Road")] > 0.9
    assert f"mIoU {100 * np.nanmean(iou):.1f}" in said
    drawn = np.bincount(bank.read("class"), minlength=len(names)) / len(bank.read("class"))
    labels = store.Artifact(tmp_path / "few.json").read("labels")
    known = np.bincount(labels[labels != 255], minlength=len(names)) / (labels != 255).sum()
    assert abs(drawn - known).max() < 0.1
