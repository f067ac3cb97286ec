"""Corrected masks laid over a data set: they replace its masks, and nothing but masks is made again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from exported import H, W, drawn, problems, write_photographs
from PIL import Image

from pipeline.core.data import Data
from pipeline.core.store import Artifact
from pipeline.datasets.fingerprint import fingerprints
from pipeline.kinds.pixels import VOID

CLASSES = ["background", "cat", "dog"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eight photographs with tags, p0 with a mask."""
    where = tmp_path / "photos"
    names = write_photographs(where / "images", 8)
    (where / "tags.csv").write_text(
        "image,tags\n" + "".join(f"{n},{CLASSES[1 + i % 2]}\n" for i, n in enumerate(names))
    )
    (where / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    save(where / "masks/p0.png", 1)
    return where


def save(path: Path, value: int) -> np.ndarray:
    mask = np.zeros((H, W), np.uint8)
    mask[3:20, 5:30] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return mask


def predicted(folder: Path, **values: int) -> dict[str, np.ndarray]:
    """Masks as predict writes them, edited; and what else it writes."""
    found = {name: save(folder / f"{name}.png", value) for name, value in values.items()}
    save(folder / "overlays/p7.png", 1)
    (folder / "predict.json").write_text(json.dumps({"classes": CLASSES}))
    return found


def coco(path: Path, name: str, category: str) -> Path:
    about = {
        "images": [{"id": 1, "file_name": f"{name}.jpg", "height": H, "width": W}],
        "categories": [{"id": 5, "name": category}],
        "annotations": [{"image_id": 1, "category_id": 5, "segmentation": [[0, 0, 8, 0, 8, 8, 0, 8]]}],
    }
    path.write_text(json.dumps(about))
    return path


def data_of(root: Path, *corrections: Path, **more: object) -> Data:
    given = {"name": "own", "folder": {"root": str(root)}, "corrections": [str(path) for path in corrections]}
    return Data.model_validate({**given, "max_side": 64, **more})


def test_they_replace_masks_and_add_to_them_and_nothing_else_changes(root: Path, tmp_path: Path) -> None:
    before = drawn(data_of(root), tmp_path / "out")
    made = {make: Artifact(tmp_path / f"out/{make}.json", make).digest for make in ("photographs", "tags", "masks")}
    edited = predicted(tmp_path / "edited", p0=1, p2=1, p3=VOID)
    edited["p0"][0, 0] = 1
    Image.fromarray(edited["p0"]).save(tmp_path / "edited/p0.png")
    data = data_of(root, tmp_path / "edited")
    after = drawn(data, tmp_path / "out")
    assert set(before) == {"p0"} and set(after) == {"p0", "p2", "p3"}
    for name, mask in edited.items():
        np.testing.assert_array_equal(after[name], mask)
    again = {make: Artifact(tmp_path / f"out/{make}.json", make).digest for make in made}
    assert again["photographs"] == made["photographs"] and again["tags"] == made["tags"]
    assert again["masks"] != made["masks"]
    plain, laid = fingerprints(data_of(root)), fingerprints(data)
    assert plain.photographs == laid.photographs and plain.tags == laid.tags and plain.masks != laid.masks
    assert laid.masked == 1 + 3


def test_an_edit_is_noticed_and_a_later_file_counts(root: Path, tmp_path: Path) -> None:
    predicted(tmp_path / "edited", p2=1)
    first = data_of(root, tmp_path / "edited")
    seen = fingerprints(first).masks
    save(tmp_path / "edited/p2.png", 2)
    assert fingerprints(first).masks != seen
    both = drawn(data_of(root, tmp_path / "edited", coco(tmp_path / "c.json", "p2", "cat")), tmp_path / "out")
    np.testing.assert_array_equal(np.argwhere(both["p2"] == 1).max(0), [7, 7])
    assert 2 not in both["p2"]


def test_where_tags_come_from_masks_a_correction_corrects_them(root: Path, tmp_path: Path) -> None:
    (root / "tags.csv").unlink()
    for number in range(1, 8):
        save(root / f"masks/p{number}.png", 1 + number % 2)
    predicted(tmp_path / "edited", p1=1)
    assert fingerprints(data_of(root)).tags != fingerprints(data_of(root, tmp_path / "edited")).tags


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda where: coco(where / "c.json", "p2", "horse"), "class horse is none of the data set's"),
        (lambda where: coco(where / "c.json", "nobody", "cat"), "'nobody' has no photograph"),
        (lambda where: where / "gone", "no such file or folder; correct data.corrections"),
        (
            lambda where: (where / "text.json").write_text("{}") and where / "text.json",
            "nothing that somebody drew",
        ),
        (lambda where: predicted(where / "e", p2=7) and where / "e", "holds value 7"),
    ],
)
def test_what_cannot_be_a_correction_is_named(make, says: str, root: Path, tmp_path: Path) -> None:
    assert says in problems(data_of(root, make(tmp_path)))
