"""start: what is there, what is wrong, and a file of settings that a run accepts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT
from exported import H, W, write_photographs
from PIL import Image
from snakemake.utils import update_config

from pipeline import start
from pipeline.core.config import parse

SQUARE = [10, 4, 30, 4, 30, 24, 10, 24]


def call(capsys: pytest.CaptureFixture[str], where: Path, *arguments: object) -> tuple[int, str]:
    """Exit code, and what was said."""
    fixed = ("--out", where / "mine.yaml", "--results", where / "results")
    try:
        start.main([str(item) for item in (*arguments, *fixed)])
    except SystemExit as stop:
        said = capsys.readouterr()
        return int(stop.code or 0), said.out + said.err
    said = capsys.readouterr()
    return 0, said.out + said.err


def settings(where: Path) -> dict:
    """The file as written, after a look at whether a run would take it."""
    found = yaml.safe_load((where / "mine.yaml").read_text())
    raw: dict = {}
    for file in (ROOT / "config.yaml", ROOT / "configs/photographs.yaml", where / "mine.yaml"):
        update_config(raw, yaml.safe_load(file.read_text()))
    parse(raw)
    return found


def coco(path: Path, names: list[str], marked: int) -> Path:
    images = [{"id": n, "file_name": f"{name}.jpg", "height": H, "width": W} for n, name in enumerate(names)]
    marks = [{"id": n, "image_id": n, "category_id": 1 + n % 2, "segmentation": [SQUARE]} for n in range(marked)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "unicorn"}]
    path.write_text(json.dumps({"images": images, "annotations": marks, "categories": categories}))
    return path


def folder(where: Path, masked: int) -> Path:
    names = write_photographs(where / "photos/images", 12)
    lines = [f"{name},{['cat', 'dog'][n % 2]}" for n, name in enumerate(names)]
    (where / "photos/tags.csv").write_text("\n".join(["image,tags", *lines]) + "\n")
    if masked:
        (where / "photos/masks").mkdir()
        (where / "photos/classes.txt").write_text("background\ncat\ndog\n")
    for n, name in enumerate(names[:masked]):
        values = np.zeros((H, W), np.uint8)
        values[5:20, 5:20] = 1 + n % 2
        Image.fromarray(values).save(where / f"photos/masks/{name}.png")
    return where / "photos"


def test_an_export_beside_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_photographs(tmp_path / "my photos", 12)
    labels = coco(tmp_path / "labels.json", names, 12)
    code, said = call(capsys, tmp_path, tmp_path / "my photos", "--labels", labels)
    assert code == 0, said
    found = settings(tmp_path)
    assert found["run"] == ["supervised"]
    assert found["data"]["format"] == "coco" and found["data"]["name"] == "my-photos"
    assert found["data"]["export"] == {"root": str(tmp_path / "my photos"), "labels": [str(labels)]}
    assert found["data"]["max_side"] == 64  # the photographs are smaller
    assert "1 classes that no photograph shows left out: unicorn" in said
    assert "cat" in said and "About 1 minute" in said and "snakemake --cores all --configfile" in said
    assert (tmp_path / "results/my-photos/inventory.npz").is_file()  # the run need not look again
    assert sorted(path.name for path in (tmp_path / "my photos").iterdir()) == [f"{name}.jpg" for name in sorted(names)]


def test_what_nobody_has_labelled_is_dropped_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_photographs(tmp_path / "photos", 12)
    code, said = call(capsys, tmp_path, tmp_path / "photos", "--labels", coco(tmp_path / "l.json", names, 8))
    assert code == 0, said
    assert settings(tmp_path)["data"]["untagged"] == "drop"
    assert "says nothing about 4 photographs" in said


@pytest.mark.parametrize(("masked", "recipe"), [(0, "tags"), (4, "tags-few"), (12, "supervised")])
def test_the_recipe_fits_the_labels(
    masked: int, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = folder(tmp_path, masked)
    code, said = call(capsys, tmp_path, where)
    assert code == 0, said
    found = settings(tmp_path)
    assert found["results"] == str(tmp_path / "results")
    assert found["run"] == [recipe] and found["data"]["folder"] == {"root": str(where)}
    assert ("no scores" in said) == (masked == 0)


def test_all_that_is_wrong_is_said_at_once_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = folder(tmp_path, 4)
    (where / "images/p3.jpg").write_bytes(b"broken")
    with open(where / "tags.csv", "a") as file:
        file.write("nowhere,cat\n")
    code, said = call(capsys, tmp_path, where)
    assert code == 2 and "p3.jpg" in said and "nowhere" in said and "2 problem(s)" in said
    assert not (tmp_path / "mine.yaml").exists()


def test_settings_that_a_problem_asks_for_are_given_with_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = folder(tmp_path, 12)
    (where / "classes.txt").write_text("background\ncat\ndog\nunicorn\n")
    code, said = call(capsys, tmp_path, where)
    assert code == 2 and "leave them out: `data: {classes: [cat, dog]}`" in said and "--data" in said
    code, said = call(capsys, tmp_path, where, "--data", "{classes: [cat, dog]}")
    assert code == 0, said
    assert settings(tmp_path)["data"]["classes"] == ["cat", "dog"]


def test_folders_by_class_are_tags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(("cat", "dog", "great tit")):
        write_photographs(tmp_path / "photos" / name, 4, number * 4)
    code, said = call(capsys, tmp_path, tmp_path / "photos")
    assert code == 0 and "The folders are taken for tags: cat, dog, great tit" in said, said
    found = settings(tmp_path)
    assert found["data"]["folder"] == {"root": str(tmp_path / "photos"), "tags": "folders"} and found["run"] == ["tags"]


def test_another_data_set_of_the_same_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, tmp_path, folder(tmp_path / "one", 0))[0] == 0
    other = folder(tmp_path / "two", 0)
    for path in (other / "images").iterdir():
        path.rename(path.with_stem(f"other-{path.stem}"))
    (other / "tags.csv").write_text((other / "tags.csv").read_text().replace("\np", "\nother-p"))
    code, said = call(capsys, tmp_path, other, "--overwrite")
    assert code == 2 and "the results of another data set (p0, p1" in said and "--name" in said, said
    assert call(capsys, tmp_path, other, "--overwrite", "--name", "second")[0] == 0


def test_with_corrections_the_file_keeps_what_was_written_into_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = write_photographs(tmp_path / "photos", 12)
    labels = coco(tmp_path / "l.json", names, 12)
    assert call(capsys, tmp_path, tmp_path / "photos", "--labels", labels)[0] == 0
    with open(tmp_path / "mine.yaml", "a") as file:
        file.write("steps: {ce: {epochs: 3}}\n")
    before = settings(tmp_path)
    more = coco(tmp_path / "more.json", names[:2], 2)
    code, said = call(capsys, tmp_path, tmp_path / "photos", "--corrections", more, "--overwrite")
    assert code == 0, said
    assert settings(tmp_path) == {**before, "data": {**before["data"], "corrections": [str(more)]}}
    assert before["run"] == ["supervised"], "and all masks stay all masks"


def test_corrections_of_what_has_masks_alone_do_not_ask_for_tags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half an export is labelled, the other half left out: with corrections it is the labelled half still."""
    names = write_photographs(tmp_path / "photos", 12)
    labels, more = coco(tmp_path / "l.json", names, 6), coco(tmp_path / "more.json", names[:2], 2)
    given = (tmp_path / "photos", "--labels", labels, "--corrections", more)
    code, said = call(capsys, tmp_path, *given)
    assert code == 0, said
    assert settings(tmp_path)["run"] == ["supervised"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda where: where / "gone", "not there"),
        (lambda where: (where / "empty").mkdir() or where / "empty", "no photographs here"),
        (lambda where: where / "photos/images/p0.jpg", "name the folder"),
        (lambda where: (where / "photos/tags.csv").unlink() or where / "photos", "nothing here says what"),
    ],
)
def test_what_cannot_be_started_from(make, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(tmp_path, 0)
    code, said = call(capsys, tmp_path, make(tmp_path))
    assert code == 2 and says in said, said


def test_a_file_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = folder(tmp_path, 0)
    (tmp_path / "mine.yaml").write_text("mine\n")
    code, said = call(capsys, tmp_path, where)
    assert code == 2 and "--overwrite" in said and (tmp_path / "mine.yaml").read_text() == "mine\n"
    assert call(capsys, tmp_path, where, "--overwrite")[0] == 0
