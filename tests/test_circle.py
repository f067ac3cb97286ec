"""The tutorials' commands, run as they stand there: from photographs to masks, and the circle, in which masks are
corrected and only what follows from the corrections is computed again."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import warm
import yaml
from conftest import ROOT
from PIL import Image
from test_workflow import TINY, checkout, environment, jobs

from pipeline.annotations import brush
from pipeline.core.store import Artifact
from pipeline.datasets import collage
from pipeline.kinds import classes
from pipeline.kinds.masks import has_mask, true_mask
from pipeline.kinds.photographs import ids

pytestmark = pytest.mark.workflow


def commands(page: str) -> list[str]:
    text = (ROOT / "docs/tutorials" / page).read_text()
    return re.findall(r"^    ((?:python -m|snakemake) .+)$", text, re.M)


FIRST, CIRCLE = commands("photographs.md"), commands("corrections.md")


def correct(predicted: Path, corrected: Path, truth: dict[str, np.ndarray], names: list[str]) -> None:
    """What Label Studio exports after somebody has corrected every task: the true masks, brush by brush."""
    tasks = json.loads(predicted.read_text())
    for task in tasks:
        mask = truth[Path(task["data"]["photograph"]).stem]
        regions = []
        for value in np.unique(mask[(mask > 0) & (mask < 255)]):
            region = {"format": "rle", "rle": brush.encode(mask == value).tolist(), "brushlabels": [names[value]]}
            size = {"original_width": mask.shape[1], "original_height": mask.shape[0], "image_rotation": 0}
            regions.append({"type": "brushlabels", "from_name": "mask", "to_name": "image", "value": region, **size})
        task["annotations"] = [{"id": 1, "result": regions, "was_cancelled": False}]
    corrected.write_text(json.dumps(tasks))


def test_the_tutorials_commands_do_what_they_say(tmp_path: Path) -> None:
    where = checkout(tmp_path)
    stock = where / "configs/photographs.yaml"  # as it is, on the schedule of the tests
    settings = yaml.safe_load(stock.read_text())
    for key, value in yaml.safe_load(Path(TINY).read_text()).items():
        settings[key] = {**settings.get(key, {}), **value}
    stock.write_text(yaml.safe_dump(settings))
    collage.write(where / "photos", train=12, val=4, seed=0)
    names = (where / "photos/classes.txt").read_text().split("\n")
    truth = {path.stem: np.asarray(Image.open(path)) for path in (where / "photos/masks").iterdir()}
    for name in ("masks", "classes.txt", "splits"):
        path = where / "photos" / name
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
    given = environment(where, warm.stand_in(where / "bin"))
    said = []
    assert CIRCLE[:2] == FIRST[:2]
    for command in [*FIRST, *CIRCLE[2:]]:
        program, *rest = shlex.split(command)
        if "--corrections" in command:
            correct(where / "next/label-studio.json", where / "corrected.json", truth, names)
        if program == "snakemake":
            rest = ["--nocolor", *rest]
        module = "snakemake" if program == "snakemake" else rest[1]
        status, text = warm.run(module, rest if program == "snakemake" else rest[2:], where, given)
        assert status == 0, f"{command}\n{text[-5000:]}"
        said.append(text)
    begun, _, predicted, suggested, laid, again_said = said
    assert "recipe `tags`" in begun and "recipe `tags-few`" in laid
    assert {path.stem for path in (where / "masks").glob("*.png")} == set(truth) and "coco.json" in predicted
    assert (where / "next/sheet.jpg").is_file() and f"{len(truth)} of {len(truth)} unlabelled" in suggested
    assert "compared with the masks: " in suggested and "imagenet/classify/classifier.json" in suggested
    again = jobs(again_said)
    assert not {"classify", "cam", "saliency", "crf", "init", "imagenet", "prepare_photographs"} & again.keys(), again
    assert again["prepare_masks"] == again["merge"] == again["segment"] == 1, again
    assert re.search(r"\d+ of \d+ results are there already and stay: .*classify", again_said)
    masks = Artifact(where / "results/photos/masks.json", "masks")
    rows = dict(enumerate(ids(Artifact(where / "results/photos/photographs.json", "photographs"))))
    assert has_mask(masks).all()
    own = np.array([classes.names(masks).index(name) for name in names if name] + [0] * 256)[
        :256
    ]  # by name, not number
    for row, name in rows.items():
        np.testing.assert_array_equal(true_mask(masks, row), own[truth[name]], err_msg=name)
    place = where / "results/photos/seed0"
    scores = (next(place.rglob(f"{step}/labels.metrics.json")) for step in ("crf", "merge"))
    before, after = (Artifact(path, "metrics").read("confusion")[0, 0] for path in scores)
    right = [matrix.trace() / matrix.sum() for matrix in (before, after)]
    assert right[0] < 0.95 < 0.98 < right[1], f"the corrected labels are the true ones, but for their size: {right}"
    index = (where / "results/photos/report/index.html").read_text()
    assert all(f">{recipe}<" in index for recipe in ("tags", "tags-few")) and all(name in index for name in names[1:4])
