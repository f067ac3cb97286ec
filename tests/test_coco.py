"""COCO exports, written by hand from the format's documentation, and read as a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import H, W, data_of, drawn, prepared, problems, write_photographs
from PIL import Image
from pycocotools import mask as pycoco

from pipeline.core.store import Artifact
from pipeline.datasets import shapes
from pipeline.datasets.fingerprint import fingerprints
from pipeline.datasets.pictures import Unusable
from pipeline.kinds import classes
from pipeline.kinds.masks import has_mask
from pipeline.kinds.photographs import ids, split
from pipeline.kinds.pixels import VOID
from pipeline.kinds.tags import tags

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
SQUARE = [10, 4, 30, 4, 30, 24, 10, 24]  # x 10 to 30, y 4 to 24


def write(path: Path, annotations: list[dict[str, Any]], names: list[str], **more: object) -> Path:
    images = [{"id": n, "file_name": f"{name}.jpg", "height": H, "width": W} for n, name in enumerate(names)]
    numbered = [{"id": n, **annotation} for n, annotation in enumerate(annotations)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "categories": CATEGORIES, "annotations": numbered, **more}))
    return path


def annotation(image: int, category: int, segmentation: object, **more: object) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "segmentation": segmentation, **more}


def square(value: int, x: slice = slice(10, 30), y: slice = slice(4, 24)) -> np.ndarray:
    mask = np.zeros((H, W), np.uint8)
    mask[y, x] = value
    return mask


def test_polygons_run_lengths_and_what_leaves_the_picture(tmp_path: Path) -> None:
    names = write_photographs(tmp_path / "photos", 5)
    ring = square(1)
    ring[10:14, 15:20] = 0
    bridged = [*[10, 4, 30, 4, 30, 24, 10, 24, 10, 4], *[15, 10, 15, 14, 20, 14, 20, 10, 15, 10]]  # along a bridge
    packed = pycoco.encode(np.asfortranarray(ring))
    flat = ring.T.ravel()
    runs = np.diff(np.flatnonzero(np.diff(flat, prepend=2, append=2)), prepend=0)[1:].tolist()
    marks = [
        annotation(0, 3, [SQUARE]),
        annotation(1, 3, {"size": [H, W], "counts": packed["counts"].decode()}),
        annotation(2, 3, {"size": [H, W], "counts": runs}, iscrowd=1),
        annotation(3, 3, [bridged]),
        annotation(4, 7, [[-20, -20, 8, -20, 8, 8, -20, 8], [50, 30, 90, 30, 90, 90, 50, 90]]),
    ]
    data = data_of("coco", tmp_path / "photos", write(tmp_path / "labels.json", marks, names))
    masks = drawn(data, tmp_path / "out")
    assert [*np.unique(masks["p2"])] == [0, 1]
    np.testing.assert_array_equal(masks["p0"], square(1))
    for name in ("p1", "p2", "p3"):
        np.testing.assert_array_equal(masks[name], ring, err_msg=name)
    np.testing.assert_array_equal(
        masks["p4"], square(2, slice(0, 8), slice(0, 8)) + square(2, slice(50, W), slice(30, H))
    )
    assert classes.names(Artifact(tmp_path / "out/tags.json", "tags")) == ["background", "cat", "dog"]


def test_the_smaller_object_lies_on_the_larger_and_crowds_below_all(tmp_path: Path) -> None:
    names = write_photographs(tmp_path / "photos", 2)
    small = [12, 6, 20, 6, 20, 12, 12, 12]
    whole = {"size": [H, W], "counts": [0, H * W]}
    marks = [annotation(0, 7, [small]), annotation(0, 3, [SQUARE]), annotation(0, 7, whole, iscrowd=1, area=1)]
    marks += [annotation(1, 3, [SQUARE])]
    masks = drawn(data_of("coco", tmp_path / "photos", write(tmp_path / "l.json", marks, names)), tmp_path / "out")
    wanted = np.full((H, W), 2, np.uint8)
    wanted[4:24, 10:30] = 1
    wanted[6:12, 12:20] = 2
    np.testing.assert_array_equal(masks["p0"], wanted)


def test_a_photograph_that_exif_turns(tmp_path: Path) -> None:
    """Tools that show it unturned give sizes and points unturned: the mask is turned with the photograph."""
    names = write_photographs(tmp_path / "photos", 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to the right
    stored = tmp_path / "photos/p0.jpg"
    with Image.open(stored) as picture:
        picture.save(stored, exif=exif)
    labels = write(tmp_path / "l.json", [annotation(n, 3, [SQUARE]) for n in range(3)], names)
    masks = drawn(data_of("coco", tmp_path / "photos", labels, classes=["cat"]), tmp_path / "out")
    np.testing.assert_array_equal(masks["p0"], np.rot90(square(1), -1))
    upright = [16, 10, 36, 10, 36, 30, 16, 30]  # y of the turned picture is x, x is H - y
    about = json.loads(labels.read_text())
    about["images"][0] |= {"height": W, "width": H}
    about["annotations"][0]["segmentation"] = [upright]
    labels.write_text(json.dumps(about))
    again = drawn(data_of("coco", tmp_path / "photos", labels, classes=["cat"]), tmp_path / "out")
    np.testing.assert_array_equal(again["p0"], masks["p0"])


def test_lists_boxes_and_photographs_nobody_has_labelled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_photographs(tmp_path / "photos", 6)
    box = {"image_id": 1, "category_id": 7, "bbox": [1, 1, 5, 5]}
    one = write(tmp_path / "in/instances_train.json", [annotation(0, 3, [SQUARE]), box], names[:3])
    two = write(tmp_path / "in/instances_val.json", [annotation(0, 7, [SQUARE])], names[3:5])
    data = data_of("coco", tmp_path / "photos", one, two, untagged="drop")
    out = prepared(data, tmp_path / "out")
    pictures = Artifact(out / "photographs.json", "photographs")
    assert ids(pictures) == ["p0", "p1", "p3", "p4"]  # nobody has labelled p2, a training image; p5 is in no file
    assert [ids(pictures)[row] for row in split(pictures, "val")] == ["p3", "p4"]
    np.testing.assert_array_equal(
        tags(Artifact(out / "tags.json", "tags")), [[0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]]
    )
    np.testing.assert_array_equal(has_mask(Artifact(out / "masks.json", "masks")), [True, False, True, False])
    said = capsys.readouterr().out
    assert "1 boxes draw no mask and count as tags" in said
    assert "says nothing about 2 photographs (p2, p4); they are unlabelled, not empty" in said
    assert "1 photographs of" in said and "are not used: p5" in said


def test_a_correction_makes_one_row_of_masks(tmp_path: Path) -> None:
    names = write_photographs(tmp_path / "photos", 6)
    marks = [annotation(n, 3 + 4 * (n % 2), [SQUARE]) for n in range(6)]
    labels = write(tmp_path / "l.json", marks, names)
    data = data_of("coco", tmp_path / "photos", labels)
    before = drawn(data, tmp_path / "out")
    first, made = fingerprints(data), Artifact(tmp_path / "out/masks.json", "masks").manifest
    marks[2]["segmentation"] = [[10, 4, 31, 4, 31, 24, 10, 24]]
    write(labels, marks, names)
    after = drawn(data, tmp_path / "out")
    second = fingerprints(data)
    assert first.photographs == second.photographs and first.masks != second.masks
    assert [name for name in names if not np.array_equal(before[name], after[name])] == ["p2"]
    assert made["digest"] != Artifact(tmp_path / "out/masks.json", "masks").manifest["digest"]


def test_no_background_and_classes_not_kept(tmp_path: Path) -> None:
    names = write_photographs(tmp_path / "photos", 4)
    marks = [annotation(n, c, [SQUARE]) for n in range(4) for c in ((3, 7) if n == 3 else (3,))]
    marks[-1]["segmentation"] = [[40, 4, 50, 4, 50, 24, 40, 24]]
    labels = write(tmp_path / "l.json", marks, names)
    free = drawn(data_of("coco", tmp_path / "photos", labels, background="none"), tmp_path / "free")
    assert {*np.unique(free["p0"])} == {0, VOID} and {*np.unique(free["p3"])} == {0, 1, VOID}
    assert "data.other" in problems(data_of("coco", tmp_path / "photos", labels, classes=["cat"]))
    kept = drawn(data_of("coco", tmp_path / "photos", labels, classes=["cat"], other="void"), tmp_path / "kept")
    np.testing.assert_array_equal(kept["p3"], square(1) + square(VOID, slice(40, 50)))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda about: about.pop("categories"), "no COCO file"),
        (lambda about: about["annotations"][0].update(category_id=99), "annotation 0 of an image or a category"),
        (lambda about: about["images"][0].update(file_name="gone.jpg"), "'gone' has no photograph"),
        (lambda about: about["images"][0].pop("file_name"), "without an id or a file_name"),
        (lambda about: about["images"][0].update(height=H + 9), "mask for a 56×40 photograph"),
        (lambda about: about["annotations"][0].update(segmentation={"size": [H, W], "counts": [3, 4]}), "run lengths"),
        (lambda about: about["annotations"][0].update(segmentation={"size": [H, W], "counts": "zz~"}), "run lengths"),
        (
            lambda about: about["annotations"][0].update(segmentation={"size": [9, 9], "counts": [0, 81]}),
            "a 9×9 mask",
        ),
        (lambda about: about["categories"].append({"id": 9}), "without an id or a name"),
        (lambda about: about["categories"].append({"id": float("inf"), "name": "x"}), "without an id or a name"),
        (lambda about: about["images"][0].update(id=[1]), "without an id or a file_name"),
        (
            lambda about: about["annotations"][0].update(category_id=float("inf")),
            "annotation 0 of an image or a category",
        ),
        (lambda about: about["annotations"][0].update(segmentation=[["a", {}, 1, 2, 3, 4]]), "no pairs of numbers"),
        (lambda about: about["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "no pairs of numbers"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(edit: Any, says: str, tmp_path: Path) -> None:
    names = write_photographs(tmp_path / "photos", 4)
    labels = write(tmp_path / "l.json", [annotation(n, 3, [SQUARE]) for n in range(4)], names)
    about = json.loads(labels.read_text())
    edit(about)
    labels.write_text(json.dumps(about))
    said = problems(data_of("coco", tmp_path / "photos", labels))
    assert says in said and "l.json" in said, said


def test_run_lengths_are_read_as_pycocotools_writes_them() -> None:
    for seed in range(40):
        random = np.random.default_rng(seed)
        h, w = random.integers(1, 40, 2).tolist()
        mask = np.asfortranarray(random.random((h, w)) < random.random(), np.uint8)
        packed = pycoco.encode(mask)
        np.testing.assert_array_equal(shapes.coco_bitmap(packed["counts"].decode(), packed["size"]), mask)
    with pytest.raises(Unusable, match="do not make a picture"):
        shapes.coco_bitmap("0" * 50, [4, 4])
